// Validation outputs to metrics.
#include <algorithm>
#include <map>

#include "base/error.h"
#include "data/scores.h"
#include "data/span_search.h"
#include "train/task_data.h"

namespace rhetor {
namespace {

using Task = BuildSpec::Task;
using Metrics = std::vector<std::pair<std::string, double>>;

constexpr std::int64_t kAnswerTokens = 30, kNdcgAt = 10;

std::int32_t argmax(std::span<const float> x) {
  return static_cast<std::int32_t>(std::max_element(x.begin(), x.end()) - x.begin());
}

double dot(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += double{a[i]} * b[i];
  return sum;
}

double mean(const std::vector<double>& x) {
  double sum = 0;
  for (const double v : x) sum += v;
  return x.empty() ? 0 : sum / static_cast<double>(x.size());
}

}  // namespace

TaskData::Scorer::Scorer(const TaskData& data)
    : data_(data), first_(data.validation_.features.size()), second_(data.validation_.features.size()) {}

void TaskData::Scorer::add(std::size_t batch, const Stepper& stepper) {
  const bool spans = data_.kind_ == Task::span, vectors = data_.kind_ == Task::embed;
  const Tensor& out = stepper.evaluated(spans ? "start_logits" : vectors ? "embedding" : "logits");
  const auto rows = out.shape()[0], examples = data_.recipe_.batch;
  const auto width = static_cast<std::size_t>(out.elements() / rows), each = static_cast<std::size_t>(rows / examples) * width;
  for (std::size_t i = 0; i < data_.validation_count(batch); ++i) {
    const std::size_t feature = data_.order_[batch * static_cast<std::size_t>(examples) + i];
    const auto take = [&](const Tensor& t) {
      const auto values = t.data<float>().subspan(i * each, each);
      return std::vector<float>(values.begin(), values.end());
    };
    first_[feature] = take(out);
    if (spans) second_[feature] = take(stepper.evaluated("end_logits"));
  }
}

Metrics TaskData::Scorer::finish() const {
  const TaskPart& part = data_.validation_;
  Metrics found;
  std::vector<double> a, b;
  switch (data_.kind_) {
    case Task::classify: {
      std::vector<std::int32_t> said, is;
      for (std::size_t i = 0; i < first_.size(); ++i) said.push_back(argmax(first_[i])), is.push_back(part.features[i].labels[0]);
      const ClassScores s = class_scores(said, is, data_.labels_);
      found = {{"accuracy", s.accuracy}, {"f1", s.f1}, {"macro_f1", s.macro_f1}, {"matthews", s.matthews}};
      break;
    }
    case Task::regress:
      for (std::size_t i = 0; i < first_.size(); ++i) a.push_back(first_[i][0]), b.push_back(part.features[i].values[0]);
      found = {{"pearson", pearson(a, b)}, {"spearman", spearman(a, b)}, {"mse", mean_square_error(a, b)}};
      break;
    case Task::span: {
      std::vector<std::vector<SpanScores>> scores(part.examples.size());
      for (std::size_t e = 0; e < scores.size(); ++e) scores[e].resize(part.windows[e].size());
      for (std::size_t i = 0; i < first_.size(); ++i)
        scores[part.features[i].example][part.features[i].window] = {first_[i], second_[i]};
      for (std::size_t e = 0; e < scores.size(); ++e) {
        const Example& example = part.examples[e];
        const SpanSearch search = search_spans(example.second, part.windows[e], scores[e], 1, kAnswerTokens);
        std::string answer;
        if (!search.best.empty() && search.best[0].score >= search.no_answer)
          answer = example.second.substr(search.best[0].begin, search.best[0].end - search.best[0].begin);
        std::vector<std::string> truths;
        for (const auto& truth : example.answers) truths.push_back(truth.text);
        const AnswerScores s = answer_scores(answer, truths);
        a.push_back(s.f1), b.push_back(s.exact);
      }
      found = {{"f1", mean(a)}, {"exact", mean(b)}};
      break;
    }
    case Task::tag: {
      // In the order of the tokens that carry labels, which is that of the words; windows follow each other.
      std::vector<std::vector<std::string>> said(part.examples.size()), is(part.examples.size());
      const auto labels = static_cast<std::size_t>(data_.labels_);
      for (std::size_t i = 0; i < first_.size(); ++i) {
        const TaskFeature& f = part.features[i];
        for (std::size_t t = 0; t < f.labels.size(); ++t) {
          if (f.labels[t] < 0) continue;
          const auto label = argmax(std::span(first_[i]).subspan(t * labels, labels));
          said[f.example].push_back(data_.label_names_[static_cast<std::size_t>(label)]);
          is[f.example].push_back(data_.label_names_[static_cast<std::size_t>(f.labels[t])]);
        }
      }
      const TagScores s = tag_scores(said, is);
      found = {{"f1", s.f1}, {"accuracy", s.accuracy}};
      break;
    }
    case Task::choice:
      for (std::size_t i = 0; i < first_.size(); ++i)
        a.push_back(argmax(std::span(first_[i]).first(part.features[i].rows.size())) == part.features[i].labels[0] ? 1 : 0);
      found = {{"accuracy", mean(a)}};
      break;
    case Task::rank: {
      std::map<std::size_t, std::pair<std::vector<double>, std::vector<double>>> queries;  // by first example: scores, relevance
      for (std::size_t i = 0; i < first_.size(); ++i) {
        auto& [scores, relevance] = queries[part.features[i].example];
        for (std::size_t r = 0; r < part.features[i].rows.size(); ++r)
          scores.push_back(first_[i][r]), relevance.push_back(part.features[i].values[r]);
      }
      std::vector<double> c;
      for (const auto& [query, lists] : queries) {
        const auto& [scores, relevance] = lists;
        if (std::none_of(relevance.begin(), relevance.end(), [](double r) { return r > 0; })) continue;
        a.push_back(reciprocal_rank(scores, relevance));
        b.push_back(average_precision(scores, relevance));
        c.push_back(ndcg(scores, relevance, kNdcgAt));
      }
      found = {{"mrr", mean(a)}, {"map", mean(b)}, {"ndcg", mean(c)}};
      break;
    }
    default: {
      const auto half = [&](std::size_t i, int which) {
        return std::span(first_[i]).subspan(which ? first_[i].size() / 2 : 0, first_[i].size() / 2);
      };
      if (data_.recipe_.embedding == "cosine") {
        for (std::size_t i = 0; i < first_.size(); ++i)
          a.push_back(dot(half(i, 0), half(i, 1))), b.push_back(part.features[i].values[0]);
        found = {{"spearman", spearman(a, b)}, {"pearson", pearson(a, b)}};
        break;
      }
      // Each text's own match among the first thousand matches.
      const std::size_t n = std::min<std::size_t>(first_.size(), 1000);
      for (std::size_t i = 0; i < n; ++i) {
        double rank = 1;
        const double own = dot(half(i, 0), half(i, 1));
        for (std::size_t j = 0; j < n; ++j) rank += j != i && dot(half(i, 0), half(j, 1)) >= own ? 1 : 0;
        a.push_back(rank == 1 ? 1 : 0), b.push_back(1 / rank);
      }
      found = {{"accuracy", mean(a)}, {"mrr", mean(b)}};
    }
  }
  Metrics out;
  for (const std::string& name : data_.metrics_)
    for (const auto& entry : found)
      if (entry.first == name) out.push_back(entry);
  return out;
}

}  // namespace rhetor
