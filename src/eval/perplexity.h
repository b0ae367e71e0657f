// `rhetor eval --task perplexity`: mean token loss, perplexity, bits per byte of a text under a model.
#pragma once

#include <filesystem>

#include "generate/generator.h"

namespace rhetor {

struct PerplexityResult {
  double loss = 0, perplexity = 0, bits_per_byte = 0;
  std::int64_t tokens = 0, bytes = 0;
  double seconds = 0;
};
// Non-overlapping windows of the model's context: each token but the first of the text is scored once, given the tokens of its
// window before it. `bytes` counts those of the scored tokens (special tokens have none). `text` is a file or folder as in
// data/corpus.h. max_tokens 0 = all, threads 0 = the default pool.
// Fails for a model that is no language model or has no tokenizer, and for a text below 2 tokens.
// With damaged weights it fails rather than give a number that is none.
PerplexityResult perplexity(const Model& model, const std::filesystem::path& text, std::int64_t max_tokens = 0, int threads = 0);
// The same measured through the KV cache, token by token, with the executables that generation uses: for a plan file, which holds
// no others. Slower, and as exact: both compute the same function.
PerplexityResult perplexity(const LanguageModel& model, const std::filesystem::path& text, std::int64_t max_tokens = 0);
// `model` is a model folder or a plan file.
PerplexityResult perplexity(const std::filesystem::path& model, const std::filesystem::path& text, std::int64_t max_tokens = 0,
                            int threads = 0);

struct MaskedLossResult {
  double loss = 0;          // mean over the masked tokens, nats
  std::int64_t tokens = 0;  // read, masked or not
};
// BERT: the loss of the masked-token head on windows of the text with fixed masks, so that two models compare. Fails for a model
// that is no bert, has no tokenizer or lacks that head. max_tokens bounds what is read.
MaskedLossResult masked_loss(const Model& model, const std::filesystem::path& text, std::int64_t max_tokens = 1 << 16);

}  // namespace rhetor
