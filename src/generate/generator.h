// Text generation with a KV cache: prefill in buckets, then one decode step a token, several sequences at once.
//
// Thread-safety: LanguageModel is immutable and shared; a Generator is used by one thread at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/chat_template.h"
#include "models/model.h"

namespace rhetor {

// How the next token is chosen, in this order: logit_bias, repetition penalty and OpenAI's penalties change the logits;
// temperature scales them; top-k, top-p (of what top-k left) and min-p take unlikely tokens out; one of the rest is drawn.
struct Sampling {
  double temperature = 0.8;       // 0 = greedy
  std::int64_t top_k = 0;         // 0 = off
  double top_p = 1.0;
  double min_p = 0;               // 0 = off; leaves out tokens less likely than this share of the likeliest one
  // CTRL (Keskar et al. 2019): the logit of every token that occurs in the prompt or the answer is divided by it if positive and
  // multiplied by it if negative. 1 = off, above 1 discourages.
  double repetition_penalty = 1;
  // OpenAI: a token that occurs c > 0 times in the answer so far loses presence_penalty + c * frequency_penalty. 0 = off.
  double presence_penalty = 0, frequency_penalty = 0;
  std::map<TokenId, double> logit_bias;   // added to the logit of that token; -100 bans it in practice
  std::uint64_t seed = 0;         // token i of a sequence uses counter i: the same seed gives the same text, alone or in a batch
  std::int64_t max_tokens = 256;
  std::vector<std::string>
      stop;  // stop strings (not part of the text); the first to be complete ends it, wherever tokens are cut
  // Log-probabilities (natural) of the chosen tokens and of the `top_logprobs` likeliest, under the model itself: before bias,
  // penalties, temperature and truncation, as OpenAI gives them.
  bool logprobs = false;
  std::int64_t top_logprobs = 0;
  // Answers to one prompt, which is prefilled once. Answer 0 is the one that n = 1 gives; the others draw from streams of their
  // own.
  std::int64_t n = 1;
  // Beam search if above 1: the `n` best of `beams` hypotheses; nothing is drawn, so temperature, top_k, top_p, min_p and seed
  // have no effect. A hypothesis of L tokens scores (sum of log-probabilities) / L^length_penalty. With early_stopping the search
  // ends once `beams` hypotheses are complete, otherwise when none that is still open can become better than those.
  std::int64_t beams = 1;
  double length_penalty = 1;
  bool early_stopping = false;
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
  // What the model was trained to converse in; never null.
  virtual ChatTemplatePtr chat_template() const { return default_chat_template(tokenizer().get()); }
  // Batch sizes that cached(batch, 1) can be asked for, ascending; a plan file holds a fixed set.
  virtual std::vector<std::int64_t> decode_batches() const { return {1, 2, 4, 8, 16, 32}; }
};
using LanguageModelPtr = std::shared_ptr<const LanguageModel>;

struct OpenOptions {
  CompileOptions compile;
  std::vector<std::int64_t> prefill_buckets = {16, 64, 256, 1024};   // capped at the context
  ChatTemplatePtr chat_template;   // null: the one that the model brings along
};
// `path` is a model folder or a .plan file.
LanguageModelPtr open_language_model(const std::filesystem::path& path, const OpenOptions& options = {});
LanguageModelPtr make_language_model(ModelPtr model, const OpenOptions& options = {});

enum class FinishReason { stop, length, cancelled };
std::string_view name(FinishReason reason);
struct TokenLogprob {
  TokenId id = 0;
  double logprob = 0;
  std::vector<std::pair<TokenId, double>> top;   // likeliest first
};
struct Generation {
  std::string text;
  std::vector<TokenId> tokens;           // those of a stop string are among them, an end token is not
  std::vector<TokenLogprob> logprobs;    // one a token, if asked for
  std::int64_t index = 0;                // which of `n`
  double score = 0;                      // beam search: what hypotheses are ranked by
  std::int64_t prompt_tokens = 0;
  FinishReason finish = FinishReason::length;
  double first_token_ms = 0, total_ms = 0;
  double tokens_per_s() const;
};
// Called with each complete piece of text; return false to cancel.
using OnText = std::function<bool(std::string_view piece)>;

// One prompt. Fails if the prompt does not fit the context (naming both lengths), n is not 1, or the model computes logits that
// are not numbers; generation ends at <|end|> or <|endoftext|>, a stop string, max_tokens, or when the context is full. The text
// of a beam search comes in one piece.
Generation generate(const LanguageModel& model, const std::vector<TokenId>& prompt, const Sampling& sampling,
                    const OnText& on_text = {});
// The n answers to one prompt.
std::vector<Generation> generate_n(const LanguageModel& model, const std::vector<TokenId>& prompt, const Sampling& sampling);
// Several prompts in one batch; each result equals generate() of that prompt alone.
std::vector<Generation> generate_batch(const LanguageModel& model, const std::vector<std::vector<TokenId>>& prompts,
                                       const std::vector<Sampling>& sampling);

// Picks a token from logits [V] (bias and penalties applied: generate/penalties.h): greedy, temperature, top-k, top-p, min-p;
// `counter` is the token's index in its sequence, `answer` which of n it belongs to. A logit of -inf is never chosen; one that is
// NaN or +inf, or nothing but -inf, fails: the weights are damaged.
TokenId sample(std::span<const float> logits, const Sampling& sampling, std::uint64_t counter, std::int64_t answer = 0);

}  // namespace rhetor
