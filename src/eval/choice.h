// Multiple choice: by log-likelihood under a language model, or by the choice head of an encoder.
#pragma once

#include <functional>
#include <span>

#include "eval/choice_data.h"
#include "eval/report.h"
#include "generate/encoder_model.h"
#include "generate/score.h"

namespace rhetor {

struct ChoiceOptions {
  std::int64_t shots = 0;                 // solved examples before each question, of its subject if it has one
  std::vector<ChoiceItem> examples;  // they are taken from here, in order; empty: from the items themselves, but the one asked
  std::int64_t slots = 8;
  EvalProgress progress;
};
// What stands before a prompt of items[index]: heading, examples with their answers, each followed by an empty line.
std::string few_shot_prefix(std::span<const ChoiceItem> items, std::size_t index, const ChoiceOptions& options);

// "accuracy": the choice with the highest log-probability; "accuracy_per_byte", "accuracy_per_token": divided by the length of
// its continuation; "chance": of guessing. Prompts longer than the context lose their beginning ("cut": how many).
EvalReport evaluate_choice(const LanguageModel& model, std::span<const ChoiceItem> items, const ChoiceOptions& options = {});
EvalReport evaluate_choice(const EncoderModel& model, std::span<const ChoiceItem> items, const EvalProgress& progress = {});

}  // namespace rhetor
