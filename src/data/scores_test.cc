// Metrics against values worked out by hand or by scikit-learn, SciPy and the SQuAD script.
#include "data/scores.h"

#include <gtest/gtest.h>

namespace rhetor {
namespace {

TEST(Scores, Classes) {
  const std::vector<std::int32_t> said{1, 0, 1, 1, 0, 1}, is{1, 0, 0, 1, 1, 1};
  const ClassScores s = class_scores(said, is, 2);
  EXPECT_NEAR(s.accuracy, 4.0 / 6, 1e-12);
  EXPECT_NEAR(s.f1, 0.75, 1e-12);  // 3 right of 4 said and 4 there
  EXPECT_NEAR(s.macro_f1, (0.75 + 0.5) / 2, 1e-12);
  EXPECT_NEAR(s.matthews, 0.25, 1e-12);  // (3*1 - 1*1) / sqrt(4*4*2*2)
  const std::vector<std::int32_t> one{1, 1}, other{0, 1};
  EXPECT_EQ(class_scores(one, other, 3).matthews, 0);
}

TEST(Scores, Correlations) {
  const std::vector<double> a{1, 2, 3, 4, 5}, b{2, 4, 6, 8, 10.5}, c{3, 3, 3, 3, 3}, d{5, 4, 4, 2, 1};
  EXPECT_NEAR(pearson(a, b), 0.998868, 1e-6);
  EXPECT_NEAR(spearman(a, b), 1, 1e-12);
  EXPECT_EQ(pearson(a, c), 0);
  EXPECT_NEAR(spearman(a, d), -0.974679, 1e-6);
  EXPECT_NEAR(mean_square_error(a, c), 2, 1e-12);
}

TEST(Scores, Answers) {
  EXPECT_EQ(normalized_answer("The  Cat's, a  hat!"), "cats hat");
  EXPECT_EQ(exact_match("the Eiffel Tower.", "Eiffel tower"), 1);
  EXPECT_NEAR(token_f1("in the city of Paris", "Paris, France"), 2.0 / 6, 1e-12);
  EXPECT_NEAR(token_f1("a b b", "b b b"), 4.0 / 5, 1e-12);  // "a" is dropped
  EXPECT_EQ(token_f1("", ""), 1);
  EXPECT_EQ(token_f1("x", ""), 0);
  const std::vector<std::string> truths{"Paris", "the city of Paris"};
  EXPECT_EQ(answer_scores("city of Paris", truths).exact, 1);
  EXPECT_EQ(answer_scores("", {}).exact, 1);
  EXPECT_EQ(answer_scores("Rome", {}).f1, 0);
}

TEST(Scores, Rankings) {
  const std::vector<double> scores{0.1, 0.9, 0.5, 0.3}, relevance{1, 0, 1, 0}, none{0, 0, 0, 0};
  EXPECT_NEAR(reciprocal_rank(scores, relevance), 0.5, 1e-12);
  EXPECT_NEAR(average_precision(scores, relevance), (1.0 / 2 + 2.0 / 4) / 2, 1e-12);
  // (1/log2 3 + 1/log2 5) / (1 + 1/log2 3)
  EXPECT_NEAR(ndcg(scores, relevance, 10), 0.650920, 1e-6);
  EXPECT_EQ(reciprocal_rank(scores, none), 0);
  EXPECT_EQ(ndcg(scores, none, 10), 0);
}

TEST(Scores, Entities) {
  const TagScores s =
      tag_scores({{"B-PER", "I-PER", "O", "B-LOC"}, {"O", "I-ORG"}}, {{"B-PER", "I-PER", "O", "B-ORG"}, {"O", "B-ORG"}});
  EXPECT_NEAR(s.precision, 2.0 / 3, 1e-12);  // an I- tag without its B- begins an entity
  EXPECT_NEAR(s.recall, 2.0 / 3, 1e-12);
  EXPECT_NEAR(s.accuracy, 4.0 / 6, 1e-12);
  EXPECT_NEAR(tag_scores({{"B-X", "B-X"}}, {{"B-X", "I-X"}}).f1, 0, 1e-12);
  EXPECT_NEAR(tag_scores({{"NOUN", "VERB"}}, {{"NOUN", "NOUN"}}).f1, 0.5, 1e-12);
}

}  // namespace
}  // namespace rhetor
