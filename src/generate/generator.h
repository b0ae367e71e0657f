// Text generation with a KV cache: prefill in buckets, then one decode step a token, several sequences at once.
//
// Thread-safety: LanguageModel is immutable and shared; a Generator is used by one thread at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "models/model.h"

namespace rhetor {

struct Sampling {
  double temperature = 0.8;       // 0 = greedy
  std::int64_t top_k = 0;         // 0 = off
  double top_p = 1.0;
  std::uint64_t seed = 0;         // token i of a sequence uses counter i: the same seed gives the same text, alone or in a batch
  std::int64_t max_tokens = 256;
  std::vector<std::string> stop;  // stop strings (not part of the text)
  void validate() const;          // fails naming the field and its range
};

// A model ready to generate: from a model folder (compiled now) or from a plan file (compiled before).
class LanguageModel {
 public:
  virtual ~LanguageModel() = default;
  virtual const ModelConfig& config() const = 0;
  virtual const TokenizerPtr& tokenizer() const = 0;
  virtual const std::string& name() const = 0;
  virtual std::uint64_t weight_bytes() const = 0;
  // Executables with Task::cached. seq = 1 is decode; otherwise the smallest prefill bucket >= seq. batch in {1, 2, 4, 8, ...}.
  virtual ExecutablePtr cached(std::int64_t batch, std::int64_t seq) const = 0;
  virtual std::int64_t prefill_bucket(std::int64_t seq) const = 0;   // the largest bucket if seq is longer: prompts go in chunks
  // Batch sizes that cached(batch, 1) can be asked for, ascending; a plan file holds a fixed set.
  virtual std::vector<std::int64_t> decode_batches() const { return {1, 2, 4, 8, 16, 32}; }
};
using LanguageModelPtr = std::shared_ptr<const LanguageModel>;

struct OpenOptions {
  CompileOptions compile;
  std::vector<std::int64_t> prefill_buckets = {16, 64, 256, 1024};   // capped at the context
};
// `path` is a model folder or a .plan file.
LanguageModelPtr open_language_model(const std::filesystem::path& path, const OpenOptions& options = {});
LanguageModelPtr make_language_model(ModelPtr model, const OpenOptions& options = {});

enum class FinishReason { stop, length, cancelled };
std::string_view name(FinishReason reason);
struct Generation {
  std::string text;
  std::vector<TokenId> tokens;
  std::int64_t prompt_tokens = 0;
  FinishReason finish = FinishReason::length;
  double first_token_ms = 0, total_ms = 0;
  double tokens_per_s() const;
};
// Called with each complete piece of text; return false to cancel.
using OnText = std::function<bool(std::string_view piece)>;

// One prompt. Fails if the prompt does not fit the context (naming both lengths) or the model computes logits that are not
// numbers; generation ends at <|end|> or <|endoftext|>, a stop string, max_tokens, or when the context is full.
Generation generate(const LanguageModel& model, const std::vector<TokenId>& prompt, const Sampling& sampling, const OnText& on_text = {});
// Several prompts in one batch; each result equals generate() of that prompt alone.
std::vector<Generation> generate_batch(const LanguageModel& model, const std::vector<std::vector<TokenId>>& prompts,
                                       const std::vector<Sampling>& sampling);

// Picks a token from logits [V]: greedy, temperature, top-k, top-p; `counter` is the token's index in its sequence. A logit of -inf
// is never chosen; one that is NaN or +inf, or nothing but -inf, fails: the weights are damaged.
TokenId sample(std::span<const float> logits, const Sampling& sampling, std::uint64_t counter);

}  // namespace rhetor
