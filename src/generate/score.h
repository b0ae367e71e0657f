// How likely a model finds given continuations: multiple choice, last words, the log-probabilities of a prompt.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "generate/generator.h"

namespace rhetor {

struct Continuation {
  std::vector<TokenId> prompt;   // empty: the continuation begins a document
  std::vector<TokenId> tokens;   // at least one
};
struct Score {
  double logprob = 0;            // of all the continuation's tokens, nats
  bool greedy = true;            // each of them is the likeliest there
  std::vector<TokenLogprob> tokens;
};
// Scores through the KV cache with the executables that generation uses, up to `slots` at a time. Continuations of one prompt
// that follow each other share its prefill. Fails if one does not fit the context (cut_to_context) or is empty.
std::vector<Score> score(const LanguageModel& model, std::span<const Continuation> wanted, std::int64_t slots = 8);

// The tokens of `prompt` + `text` as one text, parted at the first that the prompt alone would not have: a token may reach over
// the end of the prompt, and then belongs to the continuation.
Continuation split_continuation(const Tokenizer& tokenizer, std::string_view prompt, std::string_view text);
// Leaves out the oldest tokens of the prompt that do not fit; returns how many. Fails if the continuation alone is too long.
std::int64_t cut_to_context(Continuation& continuation, std::int64_t context);

}  // namespace rhetor
