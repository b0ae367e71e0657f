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
// documents may be written in plain text; text of a third party that could forge turns belongs into "messages" records, whose contents
// render_chat neutralises.
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
MlmBatch empty_mlm_batch(std::int64_t batch, std::int64_t seq);
MlmBatch mlm_batch(const std::vector<TokenId>& tokens, const std::vector<std::int64_t>& documents, const Tokenizer& tokenizer,
                   std::int64_t batch, std::int64_t seq, std::uint64_t seed, std::uint64_t index, int rank = 0, int ranks = 1);
// Makes rows one by one. Immutable, thread-safe; borrows the tokenizer.
class MlmRows {
 public:
  // Fails if the tokenizer lacks a special token, the text is empty or seq below 8.
  MlmRows(TokenView tokens, const Tokenizer& tokenizer, std::int64_t seq, std::uint64_t seed, MlmOptions options = {});
  void make(std::uint64_t number, std::int64_t row, MlmBatch& out) const;

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

// The one chat format: "<|system|>...<|end|><|user|>...<|end|><|assistant|>...<|end|>".
struct ChatMessage { std::string role, content; };
// `open_answer` appends "<|assistant|>" for the model to continue. Roles other than system, user and assistant fail; special-token text inside
// content is neutralised so that a user cannot forge a turn.
std::string render_chat(const std::vector<ChatMessage>& messages, bool open_answer);
// "<|name|>" in a text becomes "< |name|>": still readable, but no longer a special token. Other uses of "<|" stay.
std::string neutralised(std::string_view content);

}  // namespace rhetor

#include "data/prefetch.h"  // IWYU pragma: export
