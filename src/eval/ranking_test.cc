#include "eval/ranking.h"

#include <gmock/gmock.h>

#include <cmath>

#include "data/scores.h"
#include "eval/test_encoders.h"

namespace rhetor::testing {
namespace {

using ::testing::HasSubstr;

// Expected values: scikit-learn's average_precision_score and ndcg_score on the same numbers.
TEST(Ranking, AgreesWithScikitLearn) {
  const std::vector<RankingQuery> one = {{.id = "q", .relevance = {0, 1, 1, 0, 0, 1}}};
  const std::vector<std::vector<double>> scores = {{0.9, 0.2, 0.75, 0.1, 0.6, 0.4}};
  const EvalReport r = score_rankings(one, scores);
  EXPECT_NEAR(r.figure("map"), 0.5333333333333333, 1e-12);
  EXPECT_NEAR(r.figure("ndcg@10"), 0.6797310500037654, 1e-12);
  EXPECT_NEAR(ndcg(scores[0], one[0].relevance, 3), 0.2960819109658652, 1e-12);
  EXPECT_NEAR(ndcg(scores[0], std::vector<double>{0, 3, 1, 0, 0, 2}, 10), 0.4930302330749003, 1e-12);   // gains 2^r - 1
  EXPECT_DOUBLE_EQ(r.figure("mrr"), 0.5);
  EXPECT_DOUBLE_EQ(r.figure("recall@1"), 0);
  EXPECT_DOUBLE_EQ(r.figure("recall@10"), 1);
  EXPECT_NEAR(recall_at(scores[0], one[0].relevance, 4), 2.0 / 3, 1e-12);
}

TEST(Ranking, QueriesWithoutRelevantDocumentsAreLeftOut) {
  const std::vector<RankingQuery> queries = {{.relevance = {1, 0}}, {.relevance = {0, 0}}, {.relevance = {0, 1}}};
  const EvalReport r = score_rankings(queries, {{2, 1}, {2, 1}, {2, 1}});
  EXPECT_EQ(r.n, 2);
  EXPECT_EQ(r.figure("skipped"), 1);
  EXPECT_DOUBLE_EQ(r.figure("mrr"), 0.75);
  EXPECT_DOUBLE_EQ(r.figure("recall@1"), 0.5);
  EXPECT_EQ(r.predictions.size(), 3u);
  EXPECT_THAT(error_of([&] { score_rankings({&queries[1], 1}, {{2, 1}}); }), HasSubstr("no query has a relevant document"));
}

TEST(Ranking, NeighboursWithOneQueryAreAList) {
  const std::vector<Example> examples = {{.first = "q", .second = "long document", .label = "0"},
                                         {.first = "q", .second = "short", .label = "1"},
                                         {.first = "p", .second = "a", .label = "1"}};
  const auto queries = group_queries(examples);
  ASSERT_EQ(queries.size(), 2u);
  EXPECT_EQ(queries[0].documents.size(), 2u);
  const EvalReport r = evaluate_ranking(FakeEncoder(), queries);   // ranks by length
  EXPECT_DOUBLE_EQ(r.figure("mrr"), 0.75);
  std::vector<Example> wrong = examples;
  wrong[2].label = "yes";
  EXPECT_THAT(error_of([&] { group_queries(wrong); }), HasSubstr("example 3: the label 'yes' is not a number"));
}

TEST(Ranking, ACollectionIsThreeFiles) {
  const TempFile queries(R"([{"query number": 1, "query": "east"}, {"query number": 2, "query": "north"}])", ".json");
  const TempFile documents(R"([{"id": 1, "body": "north"}, {"id": "2", "body": "east"}, {"id": 3, "body": "west"}])", ".json");
  const TempFile judgements(R"([{"query_num": "1", "position": 1, "id": "2"}, {"query_num": "1", "position": 4, "id": "3"},
                                {"query_num": "2", "position": -1, "id": "3"}, {"query_num": "2", "position": 2, "id": 1}])",
                            ".json");
  const Collection c = read_collection(queries.path(), documents.path(), judgements.path());
  ASSERT_EQ(c.queries.size(), 2u);
  EXPECT_EQ(c.queries[0].relevance, (std::vector<double>{0, 4, 1}));
  EXPECT_EQ(c.queries[1].relevance, (std::vector<double>{3, 0, 0}));
  FakeEncoder model;
  model.on_embed = [](const std::string& text) -> std::vector<float> {
    return text == "east" ? std::vector<float>{1, 0} : text == "north" ? std::vector<float>{0, 1} : std::vector<float>{-1, 0};
  };
  const EvalReport r = evaluate_collection(model, c);
  EXPECT_EQ(r.n, 2);
  EXPECT_DOUBLE_EQ(r.figure("mrr"), 1);
  EXPECT_DOUBLE_EQ(r.figure("map"), (1 + (1 + 2.0 / 3) / 2) / 2);
  EXPECT_EQ(read_collection(queries.path(), documents.path(), judgements.path(), 1).queries.size(), 1u);
  const TempFile stray(R"([{"query_num": "9", "position": 1, "id": "2"}])", ".json"),
      odd(R"([{"id": 1, "title": "x"}])", ".json");
  EXPECT_THAT(error_of([&] { read_collection(queries.path(), documents.path(), stray.path()); }), HasSubstr("that is not there"));
  EXPECT_THAT(error_of([&] { read_collection(queries.path(), odd.path(), judgements.path()); }),
              HasSubstr("no field \"body\" or \"text\""));
}

}  // namespace
}  // namespace rhetor::testing
