// Training batches from token streams. Deterministic: batch i of (tokens, seed, shape) is a pure function, so resuming needs only i,
// and ranks take disjoint rows. Thread-safe to read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "data/corpus.h"
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

// Next-token prediction: inputs [B,S] i32 and targets [B,S] i32, windows at positions shuffled per epoch. `batch` counts the rows of one
// rank; batch i of all ranks together holds the rows that one rank with ranks * batch rows would get. The tokens are taken as a ring,
// so a text shorter than a window repeats. Fails below 2 tokens.
struct LmBatch { Tensor inputs, targets; };
LmBatch lm_batch(const std::vector<TokenId>& tokens, std::int64_t batch, std::int64_t seq, std::uint64_t seed, std::uint64_t index,
                 int rank = 0, int ranks = 1);
std::int64_t lm_batches_per_epoch(std::int64_t tokens, std::int64_t batch, std::int64_t seq);

// BERT: pairs of segments with [CLS] a [SEP] b [SEP], 50 % of them truly consecutive (label 0) and 50 % random (label 1); 15 %
// of the tokens are targets, of which 80 % become [MASK], 10 % a random token, 10 % stay (Devlin et al. 2019). The segments are spans of
// random length (10 % of the rows are short as a whole). `documents` are the start offsets of TokenSet. REQUIRES: seq >= 8.
struct MlmBatch {
  Tensor inputs;        // i32 [B,S]
  Tensor segments;      // i32 [B,S]
  Tensor lengths;       // i32 [B]
  Tensor targets;       // i32 [B,S], -100 where not a target
  Tensor next_sentence; // i32 [B]
};
MlmBatch mlm_batch(const std::vector<TokenId>& tokens, const std::vector<std::int64_t>& documents, const Tokenizer& tokenizer,
                   std::int64_t batch, std::int64_t seq, std::uint64_t seed, std::uint64_t index, int rank = 0, int ranks = 1);

// One thread that prepares batches ahead while the trainer computes; next() returns them in order. `make(index)` must be pure.
template <class Batch>
class Prefetcher {
 public:
  Prefetcher(std::function<Batch(std::uint64_t)> make, std::uint64_t first_index, int depth = 4);
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

}  // namespace rhetor

#include "data/prefetch.h"  // IWYU pragma: export
