#include "eval/choice.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace rhetor {
namespace {

std::size_t best(const std::vector<double>& scores) {
  return static_cast<std::size_t>(std::max_element(scores.begin(), scores.end()) - scores.begin());
}

double chance(std::span<const ChoiceItem> items) {
  double sum = 0;
  for (const auto& item : items) sum += 1.0 / static_cast<double>(item.choices.size());
  return sum / static_cast<double>(items.size());
}

const std::string& prompt_of(const ChoiceItem& item, std::size_t choice) {
  return item.prompts.size() == 1 ? item.prompts[0] : item.prompts[choice];
}

// Continuations with prompts in the way of one batch: choices of a question are neighbours and share their prompt.
struct Wanted {
  std::vector<Continuation> continuations;
  std::vector<std::size_t> bytes;
};

void add_item(Wanted& wanted, const LanguageModel& model, const ChoiceItem& item, const std::string& prefix, std::int64_t& cut) {
  for (std::size_t c = 0; c < item.choices.size(); ++c) {
    Continuation one = split_continuation(*model.tokenizer(), prefix + prompt_of(item, c), item.continuations[c]);
    cut += cut_to_context(one, model.config().context) > 0;
    wanted.bytes.push_back(item.continuations[c].size());
    wanted.continuations.push_back(std::move(one));
  }
}

}  // namespace

std::string few_shot_prefix(std::span<const ChoiceItem> items, std::size_t index, const ChoiceOptions& options) {
  const ChoiceItem& asked = items[index];
  std::string out;
  if (!asked.subject.empty()) {
    std::string words = asked.subject;
    std::replace(words.begin(), words.end(), '_', ' ');
    out = fmt::format("The following are multiple choice questions (with answers) about {}.\n\n", words);
  }
  const bool own = options.examples.empty();
  const std::span<const ChoiceItem> from = own ? items : std::span<const ChoiceItem>(options.examples);
  std::int64_t found = 0;
  for (std::size_t i = 0; i < from.size() && found < options.shots; ++i) {
    if ((own && i == index) || from[i].subject != asked.subject) continue;
    const auto right = static_cast<std::size_t>(from[i].right);
    out += prompt_of(from[i], right) + from[i].continuations[right] + "\n\n";
    ++found;
  }
  if (found < options.shots)
    fail("{} examples were asked for, but there are only {}{}; give a file with more (--shots-from)", options.shots, found,
         asked.subject.empty() ? "" : " of the subject '" + asked.subject + "'");
  return out;
}

EvalReport evaluate_choice(const LanguageModel& model, std::span<const ChoiceItem> items, const ChoiceOptions& options) {
  if (!model.tokenizer()) fail("the model '{}' has no tokenizer; questions are texts", model.name());
  EvalReport report{.task = "choice", .n = static_cast<std::int64_t>(items.size())};
  constexpr std::size_t kBatch = 16;   // questions
  double right = 0, right_per_byte = 0, right_per_token = 0;
  std::int64_t cut = 0;
  for (std::size_t begin = 0; begin < items.size(); begin += kBatch) {
    const std::size_t end = std::min(items.size(), begin + kBatch);
    Wanted wanted;
    for (std::size_t i = begin; i < end; ++i) add_item(wanted, model, items[i], few_shot_prefix(items, i, options), cut);
    const auto scores = score(model, wanted.continuations, options.slots);
    std::size_t at = 0;
    for (std::size_t i = begin; i < end; ++i) {
      std::vector<double> sum, per_byte, per_token;
      for (std::size_t c = 0; c < items[i].choices.size(); ++c, ++at) {
        sum.push_back(scores[at].logprob);
        per_byte.push_back(scores[at].logprob / static_cast<double>(wanted.bytes[at]));
        per_token.push_back(scores[at].logprob / static_cast<double>(scores[at].tokens.size()));
      }
      const auto truth = static_cast<std::size_t>(items[i].right);
      right += best(sum) == truth, right_per_byte += best(per_byte) == truth, right_per_token += best(per_token) == truth;
      report.predictions.push_back(nlohmann::ordered_json{{"index", i}, {"right", items[i].right}, {"chosen", best(sum)},
                                                          {"chosen_per_byte", best(per_byte)}, {"logprobs", sum}}.dump());
    }
    if (options.progress) options.progress(static_cast<std::int64_t>(end), report.n);
  }
  const auto n = static_cast<double>(items.size());
  report.add("accuracy", right / n);
  report.add("accuracy_per_byte", right_per_byte / n);
  report.add("accuracy_per_token", right_per_token / n);
  report.add("chance", chance(items));
  report.add("shots", static_cast<double>(options.shots));
  report.add("cut", static_cast<double>(cut));
  return report;
}

EvalReport evaluate_choice(const EncoderModel& model, std::span<const ChoiceItem> items, const EvalProgress& progress) {
  EvalReport report{.task = "choice", .n = static_cast<std::int64_t>(items.size())};
  double right = 0;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const ChoiceItem& item = items[i];
    const TextPair text = item.passage.empty() ? TextPair{item.question, ""} : TextPair{item.passage, item.question};
    const auto scores = model.choose(text, item.choices);
    right += best(scores) == static_cast<std::size_t>(item.right);
    report.predictions.push_back(
        nlohmann::ordered_json{{"index", i}, {"right", item.right}, {"chosen", best(scores)}, {"probabilities", scores}}.dump());
    if (progress) progress(static_cast<std::int64_t>(i) + 1, report.n);
  }
  report.add("accuracy", right / static_cast<double>(items.size()));
  report.add("chance", chance(items));
  return report;
}

}  // namespace rhetor
