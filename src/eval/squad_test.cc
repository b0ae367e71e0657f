#include "eval/squad.h"

#include <gmock/gmock.h>

#include "data/scores.h"
#include "eval/test_encoders.h"

namespace rhetor::testing {
namespace {

using ::testing::HasSubstr;

Example question(const std::string& id, const std::vector<std::string>& answers) {
  Example e{.id = id, .first = id, .second = "passage"};
  for (const auto& text : answers) e.answers.push_back({text, 0});
  return e;
}

// Expected values: what Python's official functions give for these texts.
TEST(Squad, NormalisesAsTheOfficialScript) {
  EXPECT_EQ(normalized_answer("The  Quick, brown-fox!"), "quick brownfox");
  EXPECT_EQ(normalized_answer("an apple a day"), "apple day");
  EXPECT_EQ(normalized_answer("A."), "");
  EXPECT_EQ(normalized_answer("THE\u2013end of\u00a0it"), "\u2013end of it");
  EXPECT_EQ(normalized_answer("\u00d6STERREICH"), "\u00f6sterreich");
  EXPECT_EQ(normalized_answer("l\u2019a b"), "l\u2019 b");
  EXPECT_EQ(normalized_answer("a\u0301b a"), "\u0301b");
  EXPECT_EQ(normalized_answer("the_end the"), "theend");
  EXPECT_EQ(normalized_answer("1,234.5"), "12345");
  EXPECT_EQ(normalized_answer("\u3000\u6771\u4eac\u3000the"), "\u6771\u4eac");
  EXPECT_EQ(normalized_answer("\u201cthe\u201d answer"), "\u201c \u201d answer");
}

TEST(Squad, OneAnswer) {
  const Example q = question("q", {"the Norman people", "Normans"});
  EXPECT_EQ(score_answer("normans!", q, false).exact, 1);
  EXPECT_EQ(score_answer("Norman kings", q, false).exact, 0);
  EXPECT_DOUBLE_EQ(score_answer("Norman kings", q, false).f1, 0.5);                       // 1 of 2 words, 1 of 2
  EXPECT_DOUBLE_EQ(score_answer("people people Norman", q, false).f1, 2 * (2.0 / 3) / (2.0 / 3 + 1));   // bags, not sets
  EXPECT_EQ(score_answer("", q, true).f1, 0);
  EXPECT_EQ(score_answer("", question("q", {}), true).exact, 1);
  EXPECT_EQ(score_answer("x", question("q", {}), true).f1, 0);
  // An answer that normalises to nothing: version 1 takes it, version 2 does as if it were not there.
  const Example article = question("q", {"the", "a cat"});
  EXPECT_EQ(score_answer("The", article, false).exact, 1);
  EXPECT_EQ(score_answer("The", article, false).f1, 0);
  EXPECT_EQ(score_answer("The", article, true).exact, 0);
}

TEST(Squad, VersionOne) {
  const std::vector<Example> questions = {question("a", {"red"}), question("b", {"blue sky"}), question("c", {"green"})};
  const EvalReport report = score_squad(questions, {{"a", {"Red."}}, {"b", {"sky"}}});
  EXPECT_NEAR(report.figure("exact"), 100.0 / 3, 1e-9);                // the missing one counts 0
  EXPECT_NEAR(report.figure("f1"), 100 * (1 + 2.0 / 3) / 3, 1e-9);
  EXPECT_EQ(report.figure("missing"), 1);
  EXPECT_THROW(report.figure("HasAns_f1"), Error);
  EXPECT_THAT(error_of([&] { score_squad(questions, {{"zzz", {"x"}}}); }), HasSubstr("another data set"));
}

TEST(Squad, VersionTwoHalvesAndThresholds) {
  const std::vector<Example> questions = {question("a", {"red"}), question("b", {"blue sky"}), question("n", {}),
                                          question("m", {}), question("gone", {})};
  const SquadPredictions said = {{"a", {"red", 0.1}}, {"b", {"sky", 0.4}}, {"n", {"grass", 0.3}}, {"m", {"leaf", 0.9}}};
  // Without thresholds everything that was said counts.
  const EvalReport plain = score_squad(questions, said);
  EXPECT_DOUBLE_EQ(plain.figure("exact"), 25);                         // of the four with a prediction
  EXPECT_DOUBLE_EQ(plain.figure("HasAns_exact"), 50);
  EXPECT_NEAR(plain.figure("HasAns_f1"), 100 * (1 + 2.0 / 3) / 2, 1e-9);
  EXPECT_DOUBLE_EQ(plain.figure("NoAns_f1"), 0);
  EXPECT_EQ(plain.figure("NoAns_total"), 2);
  EXPECT_EQ(plain.figure("missing"), 1);
  const EvalReport cut = score_squad(questions, said, 0.35, true);     // b and m fall silent
  EXPECT_DOUBLE_EQ(cut.figure("exact"), 50);
  EXPECT_DOUBLE_EQ(cut.figure("HasAns_exact"), 50);
  EXPECT_DOUBLE_EQ(cut.figure("NoAns_exact"), 50);
  // From 3 right (all silent, the missing one too): a: +1 = 4, n: -1, b: + 0 (exact) or 2/3, m: -1. The best is to answer a
  // alone.
  EXPECT_DOUBLE_EQ(cut.figure("best_exact"), 100);
  EXPECT_DOUBLE_EQ(cut.figure("best_exact_thresh"), 0.1);
  EXPECT_DOUBLE_EQ(cut.figure("best_f1"), 100);
}

TEST(Squad, ReadsPredictionFiles) {
  const TempFile said(R"({"a": "red", "n": ""})", ".json"), odds(R"({"a": 0.25, "n": 0.75, "other": 1})", ".json");
  const auto predictions = read_squad_predictions(said.path(), odds.path());
  ASSERT_EQ(predictions.size(), 2u);
  EXPECT_EQ(predictions.at("a").text, "red");
  EXPECT_EQ(predictions.at("n").no_answer, 0.75);
  const TempFile list("[1]", ".json"), number(R"({"a": 3})", ".json"), words(R"({"a": "x"})", ".json");
  EXPECT_THAT(error_of([&] { read_squad_predictions(list.path()); }), HasSubstr("must be a JSON object"));
  EXPECT_THAT(error_of([&] { read_squad_predictions(number.path()); }),
              HasSubstr("the prediction of 'a' must be a text, found number"));
  EXPECT_THAT(error_of([&] { read_squad_predictions(said.path(), words.path()); }), HasSubstr("must be a number, found string"));
}

TEST(Squad, AModelIsAskedEveryQuestion) {
  FakeEncoder model;
  model.on_answer = [](const std::string& q) -> SpanAnswer {
    return {.text = q == "n" ? "guess" : "red", .no_answer_gap = q == "n" ? 2.0 : -1.0};
  };
  const std::vector<Example> questions = {question("a", {"red"}), question("n", {})};
  SquadPredictions said;
  const EvalReport report = evaluate_squad(model, questions, {.no_answer_threshold = 0}, {}, &said);
  EXPECT_DOUBLE_EQ(report.figure("exact"), 100);
  EXPECT_EQ(said.at("n").text, "guess");
  EXPECT_THAT(report.predictions.at(1), HasSubstr("\"answer\":\"\""));
  EXPECT_DOUBLE_EQ(evaluate_squad(model, questions, {.no_answer_threshold = 5}).figure("exact"), 50);
  const std::vector<Example> first = {questions[0]};   // no question without an answer: nobody may stay silent
  model.on_answer = [](const std::string&) -> SpanAnswer { return {.text = "red", .no_answer_gap = 9}; };
  EXPECT_DOUBLE_EQ(evaluate_squad(model, first, {}).figure("exact"), 100);
}

}  // namespace
}  // namespace rhetor::testing
