// Ranking documents for a query: mean reciprocal rank, mean average precision, nDCG, recall.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "data/examples.h"
#include "eval/report.h"
#include "generate/encoder_model.h"

namespace rhetor {

struct RankingQuery {
  std::string id, query;
  std::vector<std::string> documents;
  std::vector<double> relevance;   // above 0: relevant
};
// Neighbouring examples with the same query are one list. Fails if a label is no number.
std::vector<RankingQuery> group_queries(std::span<const Example> examples);

// A test collection in three JSON lists: queries {"query number" | "id", "query"}, documents {"id", "body" | "text"}, judgements
// {"query_num" | "query_id", "id" | "doc_id", "position" | "relevance"}. Cranfield's positions 1 (a complete answer) to 4 (of
// minimum interest) count as relevance 4 to 1, others (-1, 5) as none. Every query ranks all documents.
struct Collection {
  std::vector<std::string> documents;
  std::vector<RankingQuery> queries;   // without documents of their own
};
Collection read_collection(const std::string& queries, const std::string& documents, const std::string& judgements,
                           std::int64_t limit = 0);

// The share of the relevant documents among the best `at`.
double recall_at(std::span<const double> scores, std::span<const double> relevance, std::int64_t at);
// Means over the queries that have a relevant document ("skipped": those without). scores[i] belongs to queries[i].
EvalReport score_rankings(std::span<const RankingQuery> queries, const std::vector<std::vector<double>>& scores);

EvalReport evaluate_ranking(const EncoderModel& model, std::span<const RankingQuery> queries, const EvalProgress& progress = {});
// Embeds the documents once if the model has no ranking head.
EvalReport evaluate_collection(const EncoderModel& model, const Collection& collection, const EvalProgress& progress = {});

}  // namespace rhetor
