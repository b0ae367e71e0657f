// The last word of a passage (LAMBADA; Paperno et al. 2016): is it what the model would write, and how surprised is it?
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "eval/report.h"
#include "generate/score.h"

namespace rhetor {

struct LastWord {
  std::string before, word;   // the word with its leading space
};
// Parts a passage at its last blank; false if it has no two words.
bool split_last_word(std::string_view passage, LastWord& out);
// JSONL with a field "text", or a passage a line. limit 0 = all.
std::vector<LastWord> read_last_words(const std::string& path, std::int64_t limit = 0);

// "accuracy": every token of the word is the likeliest one; "perplexity": exp of the mean negative log-probability of the words.
EvalReport evaluate_last_word(const LanguageModel& model, std::span<const LastWord> items, const EvalProgress& progress = {},
                              std::int64_t slots = 8);

}  // namespace rhetor
