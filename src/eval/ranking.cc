#include "eval/ranking.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/error.h"
#include "data/scores.h"

namespace rhetor {
namespace {

using Json = nlohmann::json;

// The first of the fields that is there, as text.
std::string field(const Json& record, std::initializer_list<const char*> names, const std::string& where) {
  for (const char* name : names) {
    const auto at = record.find(name);
    if (at == record.end()) continue;
    if (at->is_string()) return at->get<std::string>();
    if (at->is_number_integer()) return at->dump();
    fail("{}: \"{}\" must be a text or a whole number, found {}", where, name, at->type_name());
  }
  std::string list;
  for (const char* name : names) list += fmt::format("{}\"{}\"", list.empty() ? "" : " or ", name);
  fail("{}: no field {}", where, list);
}

template <class Take>
void each_record(const std::string& path, const Take& take) {
  for (const JsonRecord& record : read_json_records(path)) {
    const Json json = Json::parse(record.text, nullptr, false);
    if (!json.is_object()) fail("{}: expected a JSON object", record.where);
    take(json, record.where);
  }
}

double dot(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += double{a[i]} * b[i];
  return sum;
}

std::vector<std::size_t> best_first(const std::vector<double>& scores) {
  std::vector<std::size_t> order(scores.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
  return order;
}

}  // namespace

std::vector<RankingQuery> group_queries(std::span<const Example> examples) {
  std::vector<RankingQuery> out;
  for (std::size_t i = 0; i < examples.size(); ++i) {
    const Example& e = examples[i];
    if (out.empty() || out.back().query != e.first) out.push_back({.id = fmt::format("{}", out.size() + 1), .query = e.first});
    out.back().documents.push_back(e.second);
    out.back().relevance.push_back(label_number(e.label, fmt::format("example {}", i + 1)));
  }
  return out;
}

Collection read_collection(const std::string& queries, const std::string& documents, const std::string& judgements,
                           std::int64_t limit) {
  Collection out;
  std::map<std::string, std::size_t> document_index, query_index;
  each_record(documents, [&](const Json& json, const std::string& where) {
    if (!document_index.emplace(field(json, {"id", "doc_id"}, where), out.documents.size()).second)
      fail("{}: its id is that of an earlier document", where);
    out.documents.push_back(field(json, {"body", "text"}, where));
  });
  each_record(queries, [&](const Json& json, const std::string& where) {
    RankingQuery query{.id = field(json, {"query number", "id", "query_id"}, where),
                       .query = field(json, {"query", "text"}, where)};
    query.relevance.assign(out.documents.size(), 0);
    if (!query_index.emplace(query.id, out.queries.size()).second) fail("{}: its id is that of an earlier query", where);
    if (limit == 0 || static_cast<std::int64_t>(out.queries.size()) < limit) out.queries.push_back(std::move(query));
  });
  each_record(judgements, [&](const Json& json, const std::string& where) {
    const auto query = query_index.find(field(json, {"query_num", "query_id"}, where));
    const auto document = document_index.find(field(json, {"id", "doc_id"}, where));
    if (query == query_index.end() || document == document_index.end())
      fail("{}: it judges a query or a document that is not there", where);
    if (query->second >= out.queries.size()) return;   // beyond the limit
    double relevance = 0;
    if (json.contains("relevance")) relevance = label_number(field(json, {"relevance"}, where), where);
    else if (const double position = label_number(field(json, {"position"}, where), where); position >= 1 && position <= 4)
      relevance = 5 - position;
    out.queries[query->second].relevance[document->second] = relevance;
  });
  return out;
}

double recall_at(std::span<const double> scores, std::span<const double> relevance, std::int64_t at) {
  const auto order = best_first({scores.begin(), scores.end()});
  double relevant = 0, found = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    if (relevance[order[i]] <= 0) continue;
    ++relevant;
    found += static_cast<std::int64_t>(i) < at;
  }
  return relevant > 0 ? found / relevant : 0;
}

EvalReport score_rankings(std::span<const RankingQuery> queries, const std::vector<std::vector<double>>& scores) {
  EvalReport report{.task = "ranking"};
  constexpr std::int64_t kDepths[] = {1, 10, 100};
  double mrr = 0, map = 0, ndcg10 = 0, recall[3] = {}, documents = 0;
  std::int64_t skipped = 0;
  for (std::size_t q = 0; q < queries.size(); ++q) {
    const auto& relevance = queries[q].relevance;
    check(scores[q].size() == relevance.size(), "one score a document");
    documents += static_cast<double>(relevance.size());
    nlohmann::ordered_json line = {{"query", queries[q].id}, {"ranking", best_first(scores[q])}};
    if (std::none_of(relevance.begin(), relevance.end(), [](double r) { return r > 0; })) {
      ++skipped;
    } else {
      ++report.n;
      const double ap = average_precision(scores[q], relevance);
      mrr += reciprocal_rank(scores[q], relevance), map += ap, ndcg10 += ndcg(scores[q], relevance, 10);
      for (int d = 0; d < 3; ++d) recall[d] += recall_at(scores[q], relevance, kDepths[d]);
      line["average_precision"] = ap;
    }
    report.predictions.push_back(line.dump());
  }
  if (report.n == 0) fail("no query has a relevant document (a label above 0); is --label the right column?");
  const auto n = static_cast<double>(report.n);
  report.add("mrr", mrr / n);
  report.add("map", map / n);
  report.add("ndcg@10", ndcg10 / n);
  for (int d = 0; d < 3; ++d) report.add(fmt::format("recall@{}", kDepths[d]), recall[d] / n);
  report.add("documents_per_query", documents / static_cast<double>(queries.size()));
  report.add("skipped", static_cast<double>(skipped));
  return report;
}

EvalReport evaluate_ranking(const EncoderModel& model, std::span<const RankingQuery> queries, const EvalProgress& progress) {
  std::vector<std::vector<double>> scores;
  for (const auto& query : queries) {
    scores.push_back(model.rank(query.query, query.documents));
    if (progress) progress(static_cast<std::int64_t>(scores.size()), static_cast<std::int64_t>(queries.size()));
  }
  return score_rankings(queries, scores);
}

EvalReport evaluate_collection(const EncoderModel& model, const Collection& collection, const EvalProgress& progress) {
  std::vector<std::vector<double>> scores;
  std::vector<std::vector<float>> vectors;
  const bool pairs = model.config().task == "ranking";
  if (!pairs) vectors = model.embed(collection.documents);
  for (const auto& query : collection.queries) {
    if (pairs) {
      scores.push_back(model.rank(query.query, collection.documents));
    } else {
      const auto own = model.embed({&query.query, 1}).at(0);
      auto& row = scores.emplace_back();
      for (const auto& vector : vectors) row.push_back(dot(own, vector));
    }
    if (progress) progress(static_cast<std::int64_t>(scores.size()), static_cast<std::int64_t>(collection.queries.size()));
  }
  return score_rankings(collection.queries, scores);
}

}  // namespace rhetor
