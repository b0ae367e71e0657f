// Examples from every format, and what is refused.
#include "data/examples.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "base/test_util.h"

namespace rhetor {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class Examples : public ::testing::Test {
 protected:
  fs::path write(const std::string& name, const std::string& text) const {
    write_file_atomic(folder_ / name, text);
    return folder_ / name;
  }
  std::string error_of(const fs::path& file, std::string_view kind, const ExampleFields& fields = {}) const {
    return testing::error_of([&] { read_examples({file}, kind, fields); });
  }
  testing::ScratchFolder scratch_;
  const fs::path folder_ = scratch_.path();
};

TEST_F(Examples, TablesWithAndWithoutHeading) {
  const auto heading = write("a.tsv", "\xef\xbb\xbfsentence\tlabel\r\ngood \"film\"\t1\r\n\r\nbad\t0\r\n");
  const auto a = read_examples({heading}, "classification", {.text = "sentence"});
  ASSERT_EQ(a.size(), 2u);
  EXPECT_EQ(a[0].first, "good \"film\"");
  EXPECT_EQ(a[0].label, "1");
  EXPECT_EQ(a[0].second, "");
  const auto plain = write("b.tsv", "x\t4.5\tone\ttwo\nx\t0\tthree\tfour\textra\n");
  const auto b = read_examples({plain}, "regression", {.text = "3", .pair = "4", .label = "2"});
  ASSERT_EQ(b.size(), 2u);
  EXPECT_EQ(b[1].second, "four");
  EXPECT_EQ(label_number(b[0].label, "here"), 4.5);
  const auto comma = write("c.csv", "text,label\n\"a, \"\"b\"\"\nc\",x\n");
  EXPECT_EQ(read_examples({comma}, "classification")[0].first, "a, \"b\"\nc");
}

TEST_F(Examples, TablesSayWhatIsMissing) {
  const auto file = write("a.tsv", "sentence\tlabel\nshort\n");
  EXPECT_THAT(error_of(file, "classification"), HasSubstr("no column 'text'; its first line has 'sentence', 'label'"));
  EXPECT_THAT(error_of(file, "classification", {.text = "sentence"}), HasSubstr("line 2: the column 'label' is missing"));
  EXPECT_THAT(error_of(write("e.tsv", "text\tlabel\n"), "classification"), HasSubstr("holds no examples"));
  EXPECT_THAT(error_of(write("z.tsv", std::string("text\0x", 6)), "classification"), HasSubstr("NUL"));
  EXPECT_THAT(error_of(folder_ / "nowhere.tsv", "classification"), HasSubstr("nowhere.tsv"));
  EXPECT_THROW(label_number("4.5x", "here"), Error);
  EXPECT_THROW(label_number("nan", "here"), Error);
}

TEST_F(Examples, RecordsReachIntoObjects) {
  const auto file = write(
      "a.jsonl", R"({"q": {"stem": "why?", "choices": [{"label": "A", "text": "x"}, {"label": "B", "text": "y"}]}, "key": "B"}
{"q": {"stem": "who?", "choices": ["p", "q", "r"]}, "key": 0}
)");
  const auto e = read_examples({file}, "choice", {.text = "q.stem", .label = "key", .choices = {"q.choices"}});
  ASSERT_EQ(e.size(), 2u);
  EXPECT_EQ(e[0].choices[1], "y");
  EXPECT_EQ(e[0].right, 1);
  EXPECT_EQ(e[1].right, 0);
  const auto two = write("b.json", R"([{"goal": "g", "sol1": "one", "sol2": "two", "label": "two"}])");
  EXPECT_EQ(read_examples({two}, "choice", {.text = "goal", .choices = {"sol1", "sol2"}})[0].right, 1);
  EXPECT_THAT(error_of(write("c.jsonl", "{\"text\": \"t\", \"choices\": [\"a\"], \"label\": 7}"), "choice"),
              HasSubstr("none of the 1 choices"));
  EXPECT_THAT(error_of(write("d.jsonl", "{\"text\": [1]}\n"), "classification"), HasSubstr("must be a text"));
  EXPECT_THAT(error_of(write("f.jsonl", "{\"text\": \"x\"\n"), "classification"), HasSubstr("line 1: not valid JSON"));
  EXPECT_THAT(error_of(write("g.jsonl", "{\"words\": \"x\"}\n"), "classification"), HasSubstr("fields there: words"));
}

TEST_F(Examples, SquadPlacesAnswersInBytes) {
  const auto file = write("s.json", R"({"data": [{"paragraphs": [{"context": "Zoë met Zoë in Rome.", "qas": [
    {"id": "1", "question": "Where?", "answers": [{"text": "Rome", "answer_start": 15}]},
    {"id": "2", "question": "Whom?", "answers": [{"text": "Zoë", "answer_start": 8}]},
    {"id": "3", "question": "Why?", "is_impossible": true, "answers": []},
    {"id": "4", "question": "Off by two?", "answers": [{"text": "met", "answer_start": 6}]},
    {"id": "5", "question": "Not there?", "answers": [{"text": "Paris", "answer_start": 0}]}]}]}]})");
  const auto e = read_examples({file}, "span");
  ASSERT_EQ(e.size(), 5u);
  EXPECT_EQ(e[0].second.substr(static_cast<std::size_t>(e[0].answers[0].begin), 4), "Rome");
  EXPECT_EQ(e[1].answers[0].begin, 9);  // after a character of two bytes
  EXPECT_TRUE(e[2].answers.empty());
  EXPECT_EQ(e[3].answers[0].begin, 5);
  EXPECT_EQ(e[4].answers[0].begin, -1);
  const auto flat = write("s.jsonl", R"({"question": "q", "context": "c d", "answers": {"text": ["d"], "answer_start": [2]}})");
  EXPECT_EQ(read_examples({flat}, "span")[0].answers[0].begin, 2);
  EXPECT_THAT(error_of(write("bad.json", R"({"data": [{"paragraphs": 3}]})"), "span"), HasSubstr("must be a list"));
  EXPECT_THAT(error_of(write("s.tsv", "question\n"), "span"), HasSubstr("SQuAD"));
}

TEST_F(Examples, WordsAndRankings) {
  const auto words = write("t.conll", "-DOCSTART- O\n\nAnna NNP B-PER\nsleeps VBZ O\n\nRome\tB-LOC\n");
  const auto t = read_examples({words}, "tagging");
  ASSERT_EQ(t.size(), 2u);
  EXPECT_EQ(t[0].words, (std::vector<std::string>{"Anna", "sleeps"}));
  EXPECT_EQ(t[0].tags[0], "B-PER");
  EXPECT_EQ(t[1].tags[0], "B-LOC");
  EXPECT_THAT(error_of(write("u.conll", "lonely\n"), "tagging"), HasSubstr("expected a word and its tag"));
  EXPECT_THAT(error_of(write("t.jsonl", R"({"words": ["a", "b"], "tags": ["O"]})"), "tagging"), HasSubstr("2 words but 1 tags"));
  const auto lists = write("r.jsonl", R"({"query": "q", "document": ["d", "e"], "label": [1, 0]})");
  const auto r = read_examples({lists}, "ranking");
  ASSERT_EQ(r.size(), 2u);
  EXPECT_EQ(r[1].second, "e");
  EXPECT_EQ(r[1].label, "0");
}

}  // namespace
}  // namespace rhetor
