#include "eval/squad.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "data/corpus.h"

namespace rhetor {
namespace {

using Json = nlohmann::json;

Json read_object(const std::string& path) {
  Json json = Json::parse(read_unpacked(path), nullptr, false);
  if (!json.is_object()) fail("'{}' must be a JSON object with one entry a question id", path);
  return json;
}

// What the script for version 2 calls raw scores and scores by the threshold, of one question.
struct Scored {
  AnswerScores raw, final;
  bool has_answer = false, said_something = false;
  double no_answer = 0;
};

struct Means {
  double exact = 0, f1 = 0, n = 0;
  void add(const AnswerScores& scores) { exact += scores.exact, f1 += scores.f1, ++n; }
  void report(EvalReport& to, const std::string& prefix) const {
    to.add(prefix + "exact", n > 0 ? 100 * exact / n : 0);
    to.add(prefix + "f1", n > 0 ? 100 * f1 / n : 0);
    if (!prefix.empty()) to.add(prefix + "total", n);
  }
};

// The threshold at which `score` would be best: from "no question is answered" on, which is right for `unanswerable` of them
// (with or without a prediction, as in the script), questions are answered in the order of their no_answer.
void best_threshold(EvalReport& report, const std::vector<Scored>& all, double unanswerable, const std::string& name,
                    double AnswerScores::*score) {
  std::vector<const Scored*> order;
  for (const Scored& s : all) order.push_back(&s);
  double now = unanswerable;
  std::stable_sort(order.begin(), order.end(), [](const Scored* a, const Scored* b) { return a->no_answer < b->no_answer; });
  double best = now, threshold = 0;
  for (const Scored* s : order) {
    now += s->has_answer ? s->raw.*score : s->said_something ? -1 : 0;
    if (now > best) best = now, threshold = s->no_answer;
  }
  report.add("best_" + name, all.empty() ? 0 : 100 * best / static_cast<double>(all.size()));
  report.add("best_" + name + "_thresh", threshold);
}

}  // namespace

SquadPredictions read_squad_predictions(const std::string& path, const std::string& no_answer_path) {
  SquadPredictions out;
  const Json answers = read_object(path);
  for (const auto& [id, answer] : answers.items()) {
    if (!answer.is_string()) fail("'{}': the prediction of '{}' must be a text, found {}", path, id, answer.type_name());
    out[id].text = answer.get<std::string>();
  }
  if (no_answer_path.empty()) return out;
  const Json probabilities = read_object(no_answer_path);
  for (const auto& [id, probability] : probabilities.items()) {
    if (!probability.is_number())
      fail("'{}': the entry of '{}' must be a number, found {}", no_answer_path, id, probability.type_name());
    if (const auto it = out.find(id); it != out.end()) it->second.no_answer = probability.get<double>();
  }
  return out;
}

AnswerScores score_answer(const std::string& predicted, const Example& question, bool v2) {
  std::vector<std::string> truths;
  for (const auto& answer : question.answers) truths.push_back(answer.text);
  if (v2) return answer_scores(predicted, truths);
  AnswerScores out;
  for (const auto& truth : truths) {
    out.exact = std::max(out.exact, exact_match(predicted, truth));
    // Version 1 knows no empty answers: without a common word there is nothing to score.
    if (!normalized_answer(predicted).empty()) out.f1 = std::max(out.f1, token_f1(predicted, truth));
  }
  return out;
}

EvalReport score_squad(std::span<const Example> questions, const SquadPredictions& predictions, double threshold,
                       bool thresholds) {
  if (questions.empty()) fail("there are no questions to score");
  const bool v2 = std::any_of(questions.begin(), questions.end(), [](const Example& e) { return e.answers.empty(); });
  EvalReport report{.task = "squad", .n = static_cast<std::int64_t>(questions.size())};
  std::vector<Scored> all;
  Means total, has, none;
  double missing = 0, unanswerable = 0;
  for (const Example& question : questions) {
    unanswerable += question.answers.empty();
    const auto found = predictions.find(question.id);
    if (found == predictions.end()) {
      ++missing;
      if (!v2) total.add({});
      continue;
    }
    Scored s{.raw = score_answer(found->second.text, question, v2)};
    s.has_answer = !question.answers.empty();
    s.said_something = !found->second.text.empty();
    s.no_answer = found->second.no_answer;
    const double silent = s.has_answer ? 0 : 1;
    s.final = v2 && s.no_answer > threshold ? AnswerScores{silent, silent} : s.raw;
    total.add(s.final);
    (s.has_answer ? has : none).add(s.final);
    all.push_back(s);
  }
  if (missing == static_cast<double>(questions.size()))
    fail("none of the predictions has the id of a question; are they of another data set?");
  total.report(report, "");
  if (v2) has.report(report, "HasAns_"), none.report(report, "NoAns_");
  if (v2 && thresholds) {
    best_threshold(report, all, unanswerable, "exact", &AnswerScores::exact);
    best_threshold(report, all, unanswerable, "f1", &AnswerScores::f1);
  }
  report.add("missing", missing);
  return report;
}

EvalReport evaluate_squad(const EncoderModel& model, std::span<const Example> questions, const AskOptions& options,
                          const EvalProgress& progress, SquadPredictions* answers) {
  const bool v2 = std::any_of(questions.begin(), questions.end(), [](const Example& e) { return e.answers.empty(); });
  AskOptions ask = options;
  ask.allow_no_answer = false;   // the gap decides afterwards, so that every threshold can be tried
  ask.best = 1;
  SquadPredictions said;
  std::vector<std::string> lines;
  for (const Example& question : questions) {
    const auto found = model.answer(question.first, question.second, ask);
    SquadPrediction& one = said[question.id];
    if (!found.empty()) one = {found[0].text, found[0].no_answer_gap};
    const bool silent = v2 && one.no_answer > options.no_answer_threshold;
    lines.push_back(
        nlohmann::ordered_json{{"id", question.id}, {"answer", silent ? "" : one.text}, {"no_answer_gap", one.no_answer}}.dump(
            -1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
    if (progress) progress(static_cast<std::int64_t>(lines.size()), static_cast<std::int64_t>(questions.size()));
  }
  EvalReport report = score_squad(questions, said, options.no_answer_threshold, true);
  report.predictions = std::move(lines);
  if (answers) *answers = std::move(said);
  return report;
}

}  // namespace rhetor
