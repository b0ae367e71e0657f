// `rhetor eval --task perplexity`: mean token loss, perplexity, bits per byte of a text under a model.
#pragma once

#include <filesystem>

#include "models/model.h"

namespace rhetor {

struct PerplexityResult {
  double loss = 0, perplexity = 0, bits_per_byte = 0;
  std::int64_t tokens = 0, bytes = 0;
  double seconds = 0;
};
// Non-overlapping windows of the model's context: each token but the first of the text is scored once, given the tokens of its window
// before it. `bytes` counts those of the scored tokens (special tokens have none). `text` is a file or folder as in
// data/corpus.h. max_tokens 0 = all, threads 0 = the default pool.
// Fails for a model that is no language model or has no tokenizer, and for a text below 2 tokens.
PerplexityResult perplexity(const Model& model, const std::filesystem::path& text, std::int64_t max_tokens = 0, int threads = 0);

}  // namespace rhetor
