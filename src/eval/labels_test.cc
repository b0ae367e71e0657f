#include "eval/labels.h"

#include <gmock/gmock.h>

#include "data/scores.h"
#include "eval/fields.h"
#include "eval/test_encoders.h"

namespace rhetor::testing {
namespace {

using ::testing::HasSubstr;

// Expected values: scikit-learn 1.x, SciPy 1.x and seqeval 1.2.2 on the same lists.
TEST(Labels, AgreeWithScikitLearn) {
  const std::vector<std::string> truth = {"neutral", "entail", "contra", "entail",  "neutral",
                                          "contra",  "entail", "entail", "neutral", "contra"};
  const std::vector<std::string> predicted = {"neutral", "entail",  "entail", "entail",  "contra",
                                              "contra",  "neutral", "entail", "neutral", "contra"};
  const EvalReport three = score_labels(predicted, truth);
  EXPECT_NEAR(three.figure("accuracy"), 0.7, 1e-12);
  EXPECT_NEAR(three.figure("macro_f1"), 0.6944444444444443, 1e-12);
  EXPECT_NEAR(three.figure("micro_f1"), 0.7, 1e-12);
  EXPECT_NEAR(three.figure("matthews"), 0.5454545454545454, 1e-12);
  EXPECT_NEAR(three.figure("f1_entail"), 0.75, 1e-12);
  EXPECT_NEAR(three.figure("f1_neutral"), 2.0 / 3, 1e-12);
  EXPECT_NEAR(three.figure("majority"), 0.4, 1e-12);
  EXPECT_THROW(three.figure("f1"), Error);
  const EvalReport two =
      score_labels({"1", "0", "0", "1", "1", "1", "0", "0", "1", "0"}, {"1", "0", "1", "1", "0", "1", "0", "0", "1", "1"});
  EXPECT_NEAR(two.figure("accuracy"), 0.7, 1e-12);
  EXPECT_NEAR(two.figure("f1"), 0.7272727272727273, 1e-12);
  EXPECT_NEAR(two.figure("macro_f1"), 0.696969696969697, 1e-12);
  EXPECT_NEAR(two.figure("matthews"), 0.408248290463863, 1e-12);
}

TEST(Labels, NumbersAgreeWithSciPy) {
  const EvalReport r = score_numbers({0.5, 2.0, 3.5, 4.0, 3.0, 1.0, 2.0, 1.5}, {0.1, 2.5, 3.0, 4.9, 2.5, 1.0, 3.3, 0.0});
  EXPECT_NEAR(r.figure("pearson"), 0.8574162070646439, 1e-12);
  EXPECT_NEAR(r.figure("spearman"), 0.8132530120481927, 1e-12);
  EXPECT_NEAR(r.figure("mse"), 0.7075, 1e-12);
  EXPECT_THROW(score_numbers({1}, {1}), Error);
}

TEST(Labels, TagsAgreeWithSeqeval) {
  const std::vector<std::vector<std::string>> truth = {
      {"B-PER", "I-PER", "O", "B-LOC"}, {"O", "B-ORG", "I-ORG", "I-ORG", "O"}, {"B-MISC", "O", "I-LOC", "I-LOC"}};
  const std::vector<std::vector<std::string>> predicted = {
      {"B-PER", "I-PER", "O", "B-PER"}, {"O", "B-ORG", "I-ORG", "O", "O"}, {"B-MISC", "O", "B-LOC", "I-LOC"}};
  FakeEncoder model;
  std::vector<Example> examples;
  for (const auto& tags : truth) {
    Example e{.tags = tags};
    for (std::size_t w = 0; w < tags.size(); ++w) e.words.push_back("w" + std::to_string(w) + ".");
    examples.push_back(e);
  }
  std::size_t sentence = 0;
  model.on_tag = [&](const std::string& text) {
    std::vector<TaggedWord> out;   // its words are parts of ours: "w0" and "."
    std::size_t word = 0;
    for (std::size_t at = 0; at < text.size(); ++word, at = std::min(text.find(' ', at), text.size() - 1) + 1) {
      const auto begin = static_cast<std::int64_t>(at);
      out.push_back({begin, begin + 2, {predicted[sentence][word], 1}});
      out.push_back({begin + 2, begin + 3, {"O", 1}});
    }
    ++sentence;
    return out;
  };
  const EvalReport r = evaluate_tagging(model, examples);
  EXPECT_NEAR(r.figure("precision"), 0.6, 1e-12);
  EXPECT_NEAR(r.figure("recall"), 0.6, 1e-12);
  EXPECT_NEAR(r.figure("f1"), 0.6, 1e-12);
  EXPECT_NEAR(r.figure("accuracy"), 0.7692307692307693, 1e-12);
  EXPECT_EQ(r.figure("words"), 13);
}

TEST(Labels, ClassificationUsesTheModelsNames) {
  FakeEncoder model;
  model.config_.labels = 2, model.config_.label_names = {"no", "yes"};
  model.on_classify = [](const TextPair& text) -> Label { return {text.first.size() > 3 ? "yes" : "no", 0.9}; };
  std::vector<Example> examples;
  for (int i = 0; i < 150; ++i) examples.push_back({.first = i % 2 ? "long text" : "abc", .label = i % 3 ? "yes" : "no"});
  std::int64_t told = 0;
  const EvalReport r = evaluate_classification(model, examples, [&](std::int64_t done, std::int64_t) { told = done; });
  EXPECT_EQ(told, 150);
  EXPECT_EQ(r.n, 150);
  EXPECT_NEAR(r.figure("accuracy"), 0.5, 1e-12);
  EXPECT_EQ(r.figures[4].first, "f1");                       // of "yes", the model's second label
  EXPECT_DOUBLE_EQ(r.figure("f1"), r.figure("f1_yes"));
  for (auto& e : examples) e.label = "entailment";
  EXPECT_THAT(error_of([&] { evaluate_classification(model, examples); }),
              HasSubstr("'entailment') are none of the model's (such as 'no')"));
}

TEST(Labels, RegressionNeedsNumbers) {
  FakeEncoder model;
  model.on_classify = [](const TextPair& text) -> Label { return {"score", static_cast<double>(text.first.size())}; };
  std::vector<Example> examples = {{.first = "a", .label = "1"}, {.first = "bbb", .label = "2.5"}, {.first = "cc", .label = "2"}};
  EXPECT_NEAR(evaluate_regression(model, examples).figure("spearman"), 1, 1e-12);
  examples[0].label = "good";
  EXPECT_THAT(error_of([&] { evaluate_regression(model, examples); }), HasSubstr("example 1: the label 'good' is not a number"));
}

TEST(Fields, AreGuessedFromTheFirstLine) {
  const auto guess = [](const std::string& content, const char* kind, ExampleFields given = {}) {
    const TempFile file(content, ".tsv");
    const ExampleFields f = guess_fields(file.path(), kind, std::move(given));
    return fmt::format("{}|{}|{}", f.text, f.pair, f.label);
  };
  EXPECT_EQ(guess("sentence\tlabel\nfine\t1\n", "classification"), "sentence|-|label");
  EXPECT_EQ(guess("index\tsentence1\tsentence2\tlabel\n", "classification"), "sentence1|sentence2|label");
  EXPECT_EQ(guess("index\tquestion\tsentence\tlabel\r\n", "classification"), "question|sentence|label");
  EXPECT_EQ(guess("\xef\xbb\xbfQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n", "classification"), "#1 String|#2 String|Quality");
  EXPECT_EQ(guess("main\tMSR\t2012\t0001\t4.750\tA man.\tA boy.\n", "regression"), "6|7|5");
  EXPECT_EQ(guess("gj04\t1\t\tThe sailors rode.\n", "classification"), "4|-|2");
  EXPECT_EQ(guess("gj04\t0\t*\tThe sailors rode.\n", "classification"), "4|-|2");
  EXPECT_EQ(guess("pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n", "regression"),
            "sentence_A|sentence_B|relatedness_score");
  EXPECT_EQ(guess("pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n", "classification"),
            "sentence_A|sentence_B|entailment_judgment");
  EXPECT_EQ(guess("qtext,label,atext\n", "ranking"), "qtext|atext|label");
  EXPECT_EQ(guess("{\"text\": \"a\", \"label\": 1}\n", "classification"), "text|-|label");
  EXPECT_EQ(guess("sentence\tlabel\tother\n", "classification", {.label = "other"}), "sentence|-|other");
  EXPECT_EQ(guess("foo\tbar\n", "classification"), "||");
  EXPECT_EQ(guess("", "classification"), "||");
}

}  // namespace
}  // namespace rhetor::testing
