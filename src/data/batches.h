// Training batches from token streams. Deterministic: batch i of (tokens, seed, shape) is a pure function, so resuming needs only i,
// and ranks take disjoint rows. Thread-safe to read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/rng.h"
#include "data/corpus.h"
#include "data/packing.h"
#include "data/token_view.h"
#include "data/words.h"
#include "tensor/tensor.h"
#include "text/tokenizer.h"

namespace rhetor {

// All tokens of a corpus, each document followed by <|endoftext|>, split into training and validation parts by document: shuffled
// documents are taken while they fit into `validation_fraction` of the tokens. If none fits (one document, or large ones only) the end
// of the longest is cut off instead. The text is trusted: special tokens in it ("<|user|>") are encoded as such, so that chat
// documents may be written in plain text; text of a third party that could forge turns belongs into "messages" records, whose contents are
// neutralised (data/chat_template.h).
struct TokenSet {
  std::vector<TokenId> train, validation;
  std::vector<std::int64_t> train_documents, validation_documents;   // start offsets
  std::uint64_t source_bytes = 0;
};
TokenSet tokenize_corpus(Corpus& corpus, const Tokenizer& tokenizer, double validation_fraction, std::uint64_t seed,
                         const std::function<void(std::uint64_t bytes)>& progress = {});

// Rows below are numbered without end: row `number` is a pure function of (tokens, seed, number), epoch after epoch in another order. Batch i of
// rank r has the B rows from (i * ranks + r) * B on, so any split of a global batch over ranks sees the same rows.

// Next-token prediction: inputs [B,S] i32 and targets [B,S] i32, windows at positions shuffled per epoch. `batch` counts the rows of one
// rank; batch i of all ranks together holds the rows that one rank with ranks * batch rows would get. The tokens are taken as a ring,
// so a text shorter than a window repeats. Fails below 2 tokens.
struct LmBatch { Tensor inputs, targets; };
LmBatch empty_lm_batch(std::int64_t batch, std::int64_t seq);
LmBatch lm_batch(const TokenView& tokens, std::int64_t batch, std::int64_t seq, std::uint64_t seed, std::uint64_t index, int rank = 0, int ranks = 1);
LmBatch lm_batch(const std::vector<TokenId>& tokens, std::int64_t batch, std::int64_t seq, std::uint64_t seed, std::uint64_t index,
                 int rank = 0, int ranks = 1);
std::int64_t lm_batches_per_epoch(std::int64_t tokens, std::int64_t batch, std::int64_t seq);
// One row: a window of S tokens from the ring and the tokens that follow each.
void lm_row(const TokenView& tokens, std::int64_t seq, std::uint64_t seed, std::uint64_t number, std::span<std::int32_t> inputs,
            std::span<std::int32_t> targets);
// One row of packed documents: what follows the last token of a document is no target (-100), nor is what fills the row (`pad`).
void packed_row(const TokenView& tokens, const Packing& packing, TokenId pad, std::uint64_t seed, std::uint64_t number,
                std::span<std::int32_t> inputs, std::span<std::int32_t> targets);

// BERT: pairs of segments with [CLS] a [SEP] b [SEP], 50 % of them truly consecutive (label 0) and 50 % random (label 1); 15 %
// of the tokens are targets, of which 80 % become [MASK], 10 % a random token, 10 % stay (Devlin et al. 2019). The segments are spans of
// random length (10 % of the rows are short as a whole). `documents` are the start offsets of TokenSet. REQUIRES: seq >= 8.
struct MlmBatch {
  Tensor inputs;        // i32 [B,S]
  Tensor segments;      // i32 [B,S]
  Tensor lengths;       // i32 [B]
  Tensor targets;       // i32 [B,S], -100 where not a target
  Tensor next_sentence; // i32 [B]; -100 without pairs
};
struct MlmOptions {
  bool pairs = true;          // false: one segment, [CLS] a [SEP] (Liu et al. 2019, RoBERTa)
  bool whole_words = false;   // the tokens of a word are targets together, and masked, replaced or left together
};
// Of a row of `seq` places at most so many are targets, whatever its words are.
std::int64_t most_predictions(std::int64_t seq, bool pairs);
// Where the targets [B,S] are, and what: both [B,P], rows filled up with place 0 and target -100.
struct MaskedPlaces {
  Tensor positions, targets;
};
MaskedPlaces masked_places(const Tensor& targets, std::int64_t predictions);
// The rows of a batch without their padding, one after the other: see models/bert.cc for the inputs. T tokens, N texts, S places.
struct FlatMlmShape {
  std::int64_t texts = 0, seq = 0, tokens = 0;
  std::int64_t predictions() const { return tokens * 15 / 100 + (2 * texts + 4) / 5 + 1; }   // at most, however T is cut into texts
};
struct FlatMlmBatch {
  Tensor tokens, segments, positions, token_places;   // i32 [T]
  Tensor place_tokens;                                // i32 [N,S]
  Tensor lengths, first_tokens, next_sentence;        // i32 [N]
  Tensor masked_positions, targets;                   // i32 [P]
  std::int64_t used = 0;                              // tokens that are none of padding
};
MlmBatch empty_mlm_batch(std::int64_t batch, std::int64_t seq);
MlmBatch mlm_batch(const std::vector<TokenId>& tokens, const std::vector<std::int64_t>& documents, const Tokenizer& tokenizer,
                   std::int64_t batch, std::int64_t seq, std::uint64_t seed, std::uint64_t index, int rank = 0, int ranks = 1);
// Makes rows one by one. Immutable, thread-safe; borrows the tokenizer.
class MlmRows {
 public:
  // Fails if the tokenizer lacks a special token, the text is empty or seq below 8.
  MlmRows(TokenView tokens, const Tokenizer& tokenizer, std::int64_t seq, std::uint64_t seed, MlmOptions options = {});
  // At most `room` tokens, 0 = the sequence. REQUIRES: room is 0 or at least kLeastRoom.
  static constexpr std::int64_t kLeastRoom = 8;
  void make(std::uint64_t number, std::int64_t row, MlmBatch& out, std::int64_t room = 0) const;

 private:
  struct Ids { TokenId cls, sep, mask, pad; };
  struct Range;
  Range content(std::int64_t document) const;
  Range usable(std::int64_t position) const;
  Range random_segment(Rng& rng, std::int64_t longest, Range document, Range follower) const;
  void fill(Range a, Range b, int label, Rng& rng, std::int64_t row, MlmBatch& out) const;
  void mask(std::span<std::int32_t> inputs, std::span<std::int32_t> targets, Rng& rng) const;
  TokenId random_token(Rng& rng, TokenId otherwise) const;
  TokenView tokens_;
  const Tokenizer& tokenizer_;
  std::int64_t seq_, budget_;
  std::uint64_t seed_, windows_;
  MlmOptions options_;
  Ids ids_;
  std::optional<WordTable> words_;
};

// `parts` micro-batches in a row: part p takes tokens from text p * N on, made by make(text, row of the batch, room), until T are full
// or there are N texts. The last text is as long as there is room.
FlatMlmBatch flat_mlm_batch(const FlatMlmShape& shape, std::int64_t parts, TokenId pad,
                            const std::function<void(std::int64_t text, std::int64_t row, std::int64_t room, MlmBatch& out)>& make);

// Threads that prepare batches ahead while the trainer computes; next() returns them in order, whatever their number. `make(index)` must be
// pure, and thread-safe with more than one worker.
template <class Batch>
class Prefetcher {
 public:
  Prefetcher(std::function<Batch(std::uint64_t)> make, std::uint64_t first_index, int depth = 4, int workers = 1);
  ~Prefetcher();
  Batch next();                      // rethrows what make() threw
  double waited_seconds() const;     // total time next() had to wait
 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rhetor

#include "data/prefetch.h"  // IWYU pragma: export
