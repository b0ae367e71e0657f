// Span corruption: the objective of T5 (Raffel et al. 2019, section 3.1.4). Of a run of text 15 % of the tokens are taken out in spans
// of 3 on average; a sentinel stands for each in the input, and the output is the sentinels with what they stand for:
//
//   text     the boats of the harbour are home at night .
//   input    the boats <0> harbour are home <1> .  <end>
//   output   <0> of the <1> at night <end>
//
// All rows have the same two lengths, so none is padded. Row `number` is a pure function of (tokens, seed, number).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/rng.h"
#include "data/token_view.h"
#include "tensor/tensor.h"
#include "text/tokenizer.h"

namespace rhetor {

struct SpanOptions {
  double share = 0.15;  // of the tokens taken out
  double mean = 3.0;    // tokens in a span
};

// How many tokens a row reads and gives.
struct SpanLayout {
  std::int64_t text = 0, noise = 0, spans = 0;  // tokens of text, of them taken out, in how many spans
  std::int64_t input() const { return text - noise + spans + 1; }
  std::int64_t output() const { return noise + spans + 1; }
};
// The longest text whose input has at most `seq` tokens. Fails if seq is below 8.
SpanLayout span_layout(std::int64_t seq, const SpanOptions& options);

// Ids of sentinels: the tokenizer's own "<extra_id_0>", ... where it has them, else the kSentinels ids that follow its vocabulary.
constexpr std::int64_t kSentinels = 100;
std::vector<TokenId> sentinel_ids(const Tokenizer& tokenizer);
// Vocabulary of a model that is trained on spans.
std::int64_t vocabulary_with_sentinels(const Tokenizer& tokenizer);
// What the decoder is given first: the pad token, as T5, or the end of text.
TokenId decoder_start(const Tokenizer& tokenizer);

struct SpanBatch {
  Tensor inputs;          // i32 [B,S]
  Tensor decoder_inputs;  // i32 [B,U]: the targets, one later, after decoder_start()
  Tensor targets;         // i32 [B,U]
  Tensor lengths;         // i32 [B]
};

// Makes rows one by one. Immutable, thread-safe.
class SpanRows {
 public:
  // Fails if the tokenizer has no end of text or the rows need more sentinels than there are.
  SpanRows(TokenView tokens, const Tokenizer& tokenizer, std::int64_t seq, std::uint64_t seed, const SpanOptions& options);
  const SpanLayout& layout() const { return layout_; }
  SpanBatch empty(std::int64_t rows) const;
  void make(std::uint64_t number, std::int64_t row, SpanBatch& out) const;

 private:
  TokenView tokens_;
  std::int64_t seq_;
  std::uint64_t seed_;
  SpanLayout layout_;
  std::vector<TokenId> sentinels_;
  TokenId end_, start_;
};

}  // namespace rhetor
