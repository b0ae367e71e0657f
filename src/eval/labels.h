// Classification, regression and tagging by an encoder's head.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "data/examples.h"
#include "eval/report.h"
#include "generate/encoder_model.h"

namespace rhetor {

// accuracy, macro_f1, micro_f1, matthews, for two classes f1 (of the second in `labels`), F1 of each class ("f1_NAME"), and
// "majority": the accuracy of always saying the commonest. `labels`: all names in the model's order; names that only occur in the
// lists follow.
EvalReport score_labels(const std::vector<std::string>& predicted, const std::vector<std::string>& truth,
                        std::vector<std::string> labels = {});
EvalReport evaluate_classification(const EncoderModel& model, std::span<const Example> examples,
                                   const EvalProgress& progress = {});

// pearson, spearman, mse, mean of both sides.
EvalReport score_numbers(const std::vector<double>& predicted, const std::vector<double>& truth);
EvalReport evaluate_regression(const EncoderModel& model, std::span<const Example> examples, const EvalProgress& progress = {});

// precision, recall and f1 of entities, accuracy of words.
EvalReport evaluate_tagging(const EncoderModel& model, std::span<const Example> examples, const EvalProgress& progress = {});

}  // namespace rhetor
