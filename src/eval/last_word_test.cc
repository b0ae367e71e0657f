#include "eval/last_word.h"

#include <gmock/gmock.h>

#include <cmath>

#include "eval/test_encoders.h"
#include "generate/test_models.h"

namespace rhetor::testing {
namespace {

using ::testing::HasSubstr;

TEST(LastWord, IsWhatFollowsTheLastBlank) {
  LastWord w;
  ASSERT_TRUE(split_last_word("He sailed to the  sea .\n", w));
  EXPECT_EQ(w.before, "He sailed to the  sea");
  EXPECT_EQ(w.word, " .");
  ASSERT_TRUE(split_last_word("\"Good luck,\"\n\nsaid\nRowan", w));
  EXPECT_EQ(w.before, "\"Good luck,\"\n\nsaid");
  EXPECT_EQ(w.word, " Rowan");
  EXPECT_FALSE(split_last_word("alone", w));
  EXPECT_FALSE(split_last_word("  alone ", w));
  EXPECT_FALSE(split_last_word("", w));
}

TEST(LastWord, ReadsLinesAndRecords) {
  const TempFile lines("one two\n\n three four five \r\n", ".txt"),
      records("{\"text\": \"a b\"}\n{\"text\": \"c\\nd\"}\n", ".jsonl");
  const auto plain = read_last_words(lines.path());
  ASSERT_EQ(plain.size(), 2u);
  EXPECT_EQ(plain[1].word, " five");
  EXPECT_EQ(read_last_words(lines.path(), 1).size(), 1u);
  const auto json = read_last_words(records.path());
  ASSERT_EQ(json.size(), 2u);
  EXPECT_EQ(json[1].word, " d");
  const TempFile wrong("{\"txt\": \"a b\"}\n", ".jsonl"), single("word\n", ".txt"), none("\n", ".txt");
  EXPECT_THAT(error_of([&] { read_last_words(wrong.path()); }), HasSubstr("line 1: expected an object with a \"text\""));
  EXPECT_THAT(error_of([&] { read_last_words(single.path()); }), HasSubstr("at least two words"));
  EXPECT_THAT(error_of([&] { read_last_words(none.path()); }), HasSubstr("no passages"));
}

TEST(LastWord, AModelThatKnowsTheWordIsRight) {
  // After one token ("x") it writes " sea".
  const auto knows = make_language_model(scripted(" sea"));
  const std::vector<LastWord> items = {{"x", " sea"}, {"x", " ship"}};
  const EvalReport report = evaluate_last_word(*knows, items);
  EXPECT_DOUBLE_EQ(report.figure("accuracy"), 0.5);
  EXPECT_EQ(report.n, 2);
}

TEST(LastWord, PerplexityIsOfWholeWords) {
  const auto model = make_language_model(toy_model());
  const std::vector<LastWord> items = {{"The sea is", " wide"}, {"the ship is", " small."}, {"deep", " lamp"}};
  double sum = 0;
  for (const auto& item : items) {
    const Continuation c = split_continuation(*model->tokenizer(), item.before, item.word);
    sum += score(*model, {&c, 1})[0].logprob;
  }
  const EvalReport report = evaluate_last_word(*model, items);
  EXPECT_NEAR(std::log(report.figure("perplexity")), -sum / 3, 1e-4);
}

}  // namespace
}  // namespace rhetor::testing
