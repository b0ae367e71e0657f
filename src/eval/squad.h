// SQuAD's two scores, as its official scripts compute them (Rajpurkar et al. 2016, 2018).
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "data/examples.h"
#include "data/scores.h"
#include "eval/report.h"
#include "generate/encoder_model.h"

namespace rhetor {

struct SquadPrediction {
  std::string text;
  double no_answer = 0;   // how sure that there is none: a probability, or the gap of a model's scores
};
using SquadPredictions = std::map<std::string, SquadPrediction>;   // by question id

// {id: answer}, the official layout; with `no_answer_path` (may be "") also {id: probability that there is no answer}.
SquadPredictions read_squad_predictions(const std::string& path, const std::string& no_answer_path = "");

// `exact` and `f1` in percent, means over all questions. Version 2 (some question has no answer): "HasAns_exact", "NoAns_f1", ...
// of the two halves; a question whose no_answer is above `threshold` counts as answered by "". With `thresholds` also the best
// that any threshold gives: "best_exact", "best_exact_thresh", "best_f1", "best_f1_thresh". "missing": questions without a
// prediction, which count 0 in version 1 and are left out of the means in version 2, as in the scripts.
EvalReport score_squad(std::span<const Example> questions, const SquadPredictions& predictions, double threshold = 1.0,
                       bool thresholds = false);
// One answer: v2 leaves out true answers that normalise to nothing.
AnswerScores score_answer(const std::string& predicted, const Example& question, bool v2);

// Asks the model every question. Its report has, beside the scores, one prediction a question; `answers` (optional) receives
// them.
EvalReport evaluate_squad(const EncoderModel& model, std::span<const Example> questions, const AskOptions& options,
                          const EvalProgress& progress = {}, SquadPredictions* answers = nullptr);

}  // namespace rhetor
