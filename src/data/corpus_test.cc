#include "data/corpus.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "base/test_util.h"
#include "text/utf8.h"

namespace rhetor {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Documents = std::vector<std::string>;

class CorpusTest : public ::testing::Test {
 protected:
  std::filesystem::path write(const std::string& name, const std::string& content) {
    write_file_atomic(folder_ / name, content);
    return folder_ / name;
  }
  static Documents all(Corpus& corpus) {
    Documents out;
    std::string document;
    while (corpus.next(document)) out.push_back(document);
    return out;
  }
  Documents of(const std::string& name, const std::string& content, CorpusOptions options = {}) {
    Corpus corpus({write(name, content)}, options);
    return all(corpus);
  }
  std::string error_of(const std::string& name, const std::string& content, CorpusOptions options = {}) {
    try {
      of(name, content, options);
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr(name));
      return error.what();
    }
    return "accepted";
  }
  testing::ScratchFolder scratch_;
  const std::filesystem::path folder_ = scratch_.path();
};

TEST_F(CorpusTest, SplitsPlainTextAtSeparatorLines) {
  EXPECT_THAT(of("a.txt", "one\ntwo\n<|endoftext|>\nthree <|endoftext|> same\n<|endoftext|>\n\n  \n<|endoftext|>\nlast"),
              ElementsAre("one\ntwo", "three <|endoftext|> same", "last"));
  EXPECT_THAT(of("a.txt", "one\r\n<|endoftext|>\r\ntwo\r\n"), ElementsAre("one", "two"));
  EXPECT_THAT(of("a.txt", "one\n<|endoftext|>\ntwo\n", {.separator = ""}), ElementsAre("one\n<|endoftext|>\ntwo"));
  EXPECT_THAT(of("a.txt", "one\n---\ntwo\n", {.separator = "---"}), ElementsAre("one", "two"));
  EXPECT_THAT(of("a.txt", "\xEF\xBB\xBFmarked"), ElementsAre("marked"));
  EXPECT_THAT(of("a.md", "any name\xFF is plain"), ElementsAre("any name\xFF is plain"));
}

TEST_F(CorpusTest, ReadsRecordsAndConversations) {
  EXPECT_THAT(
      of("a.jsonl",
         "{\"text\": \"one\"}\n\n{\"id\": 3, \"text\": \"t\\u00e4o\", \"x\": {\"text\": \"no\"}, \"l\": [1, \"text\"]}\n"),
      ElementsAre("one", "t\xC3\xA4o"));
  EXPECT_THAT(of("a.jsonl", R"({"body": "b", "text": "t"})", {.text_field = "body"}), ElementsAre("b"));
  EXPECT_THAT(
      of("a.jsonl",
         R"({"messages": [{"role": "user", "content": "hi <|end|>", "n": [{"role": "x"}]}, {"content": "yes", "role": "assistant"}]})"),
      ElementsAre("<|user|>hi < |end|><|end|><|assistant|>yes<|end|>"));
  CorpusOptions gemma;
  gemma.chat_template = std::make_shared<const ChatTemplate>(chat_template("gemma"));
  gemma.specials = {"<eos>"};
  EXPECT_THAT(of("a.jsonl", R"({"messages": [{"role": "user", "content": "hi<eos>"}]})", gemma),
              ElementsAre("<bos><start_of_turn>user\nhi< eos><end_of_turn>\n"));
  EXPECT_THAT(of("a.jsonl", "{\"text\": \"bad \xFF byte\"}"), ElementsAre("bad \xEF\xBF\xBD byte"));
}

TEST_F(CorpusTest, NamesLineAndFaultOfRecords) {
  const struct { const char *content, *expected; } cases[] = {
      {"{\"text\": \"a\"}\n{\"text\": ", "line 2: not valid JSON"},
      {"{\"text\": \"a\"}\n\n[1]\n", "line 3: expected a JSON object"},
      {"\"text\"\n", "line 1: expected a JSON object"},
      {"{\"body\": \"a\", \"id\": 1}\n", "no field \"text\" (fields there: body, id)"},
      {"{\"text\": 5}\n", "\"text\" is not a string"},
      {"{\"text\": null}\n", "\"text\" is not a string"},
      {"{\"text\": {\"text\": \"x\"}}\n", "\"text\" is not a string"},
      {"{\"text\": \"a\"} trailing\n", "not valid JSON near byte"},
      {"{\"messages\": [{\"role\": \"user\"}]}\n", "lacks the string"},
      {"{\"messages\": [\"hi\"]}\n", "not an object"},
      {"{\"messages\": []}\n", "no messages"},
      {"{\"messages\": [{\"role\": \"pirate\", \"content\": \"arr\"}]}\n", "role 'pirate' is unknown"},
  };
  for (const auto& c : cases) EXPECT_THAT(error_of("bad.jsonl", c.content), HasSubstr(c.expected));
  // Ten megabytes of brackets cost nothing.
  EXPECT_THAT(error_of("deep.jsonl", std::string(10 << 20, '[')), HasSubstr("not valid JSON"));
}

TEST_F(CorpusTest, RefusesBinaryAndEmpty) {
  EXPECT_THAT(error_of("b.txt", std::string("text\nmore \0 x", 12)), HasSubstr("NUL byte in line 2"));
  EXPECT_THAT(error_of("u16.txt", std::string("\xFF\xFEh\0i\0", 6)), HasSubstr("UTF-16"));
  EXPECT_THAT(error_of("e.txt", ""), HasSubstr("no text"));
  EXPECT_THAT(error_of("e.txt", " \n\n<|endoftext|>\n \n"), HasSubstr("no text"));
  EXPECT_THAT(error_of("e.jsonl", "{\"text\": \"\"}\n"), HasSubstr("no text"));
  EXPECT_THROW(Corpus({}), Error);
  EXPECT_THROW(Corpus({folder_ / "absent"}), Error);
}

TEST_F(CorpusTest, ReadsFoldersInNameOrderAndRewinds) {
  write("b.txt", "second");
  write("a.jsonl", "{\"text\": \"first\"}");
  write("notes.pdf", "no");
  write(".hidden.txt", "no");
  const auto extra = write("z.log", "third");
  Corpus corpus({folder_, extra});
  EXPECT_THAT(all(corpus), ElementsAre("first", "second", "third"));
  std::string document;
  EXPECT_FALSE(corpus.next(document));
  corpus.rewind();
  EXPECT_THAT(all(corpus), ElementsAre("first", "second", "third"));
  std::filesystem::create_directories(folder_ / "empty");
  EXPECT_THROW(Corpus({folder_ / "empty"}), Error);
}

TEST_F(CorpusTest, CutsLongDocumentsAtLinesOrCharacters) {
  const Documents lines = of("l.txt", "aaaa bbbb\ncccc dddd\neeee ffff\ngggg", {.max_document_bytes = 24});
  EXPECT_THAT(lines, ElementsAre("aaaa bbbb\ncccc dddd\n", "eeee ffff\ngggg"));
  std::string sea;
  for (int i = 0; i < 50; ++i) sea += "\xE6\xB5\xB7";
  std::string joined;
  for (const auto& piece : of("u.txt", sea, {.max_document_bytes = 20})) {
    EXPECT_LE(piece.size(), 20u);
    EXPECT_EQ(utf8_valid_prefix(piece), piece.size());
    joined += piece;
  }
  EXPECT_EQ(joined, sea);
}

TEST_F(CorpusTest, HugeLinesCostBoundedMemory) {
  // 64 MB without a newline, as pieces of 1 MB; a line of a JSONL file that long is refused.
  const auto path = write("huge.txt", std::string(64 << 20, 'x'));
  Corpus corpus({path}, {.max_document_bytes = 1 << 20});
  std::string document;
  std::size_t total = 0, largest = 0;
  while (corpus.next(document)) {
    total += document.size();
    largest = std::max(largest, document.capacity());
  }
  EXPECT_EQ(total, std::size_t{64} << 20);
  EXPECT_LE(largest, std::size_t{8} << 20);
  std::filesystem::rename(path, folder_ / "huge.jsonl");
  Corpus records({folder_ / "huge.jsonl"}, {.max_document_bytes = 1 << 20});
  EXPECT_THROW(records.next(document), Error);
}

}  // namespace
}  // namespace rhetor
