// Continuous batching: a fixed number of slots, each with its own row of the KV cache; sequences join and leave between steps.
//
// A step runs at most one prefill chunk (256 tokens) for a joining sequence and then decodes one token for every running one, so
// a long prompt never holds the others up for longer than a chunk. Decoding uses the smallest batch that covers the occupied slots,
// so a lone sequence does not pay for empty ones. A sequence's result does not depend on its neighbours.
// Thread-safety: used by one thread at a time; the model must outlive it.
#pragma once

#include <cstdint>
#include <exception>
#include <memory>
#include <span>
#include <vector>

#include "generate/generator.h"

namespace rhetor {

// What a stream gets: text that is complete, and the log-probabilities (if asked for) of the tokens chosen since the last piece.
struct TextPiece {
  std::int64_t index = 0;   // which of n
  std::string_view text;
  std::span<const TokenLogprob> logprobs;
};

struct BatchRequest {
  std::vector<TokenId> prompt;
  Sampling sampling;
  OnText on_text;                                  // optional; return false to cancel that answer
  std::function<void(const Generation&)> on_done;  // optional; called once an answer, from step() or cancel()
  // Optional: what to do when this sequence alone fails (its logits are not finite): it is called instead of on_done, and its
  // neighbours go on. Without it step() throws.
  std::function<void(std::exception_ptr)> on_error;
  // Optional, instead of on_text: as above, with what n > 1 and log-probabilities need.
  std::function<bool(const TextPiece&)> on_piece;
  // If not empty nothing is chosen: these tokens follow, and the result holds their log-probabilities (generate/score.h).
  std::vector<TokenId> forced;
};

class BatchEngine {
 public:
  using Id = std::uint64_t;
  // `slots` is rounded to a batch size the model has.
  BatchEngine(const LanguageModel& model, std::int64_t slots);
  ~BatchEngine();
  BatchEngine(const BatchEngine&) = delete;
  BatchEngine& operator=(const BatchEngine&) = delete;

  // Queues a sequence (with n > 1 or beams: several under one id); it joins when a slot is free, a beam search when it has one a beam.
  // The prompt prefilled last is kept: the same one again, as by n > 1, costs no prefill. Fails if the prompt does not fit the context (naming
  // both lengths), holds an id outside the vocabulary, the sampling is out of range, or it asks for more beams than there are slots.
  Id add(BatchRequest request);
  // Compiles everything that step() may need, so that no running sequence waits for it later.
  void prepare();
  // One round; false if there was nothing to do.
  bool step();
  // Ends a sequence with what it has so far (FinishReason::cancelled). Unknown ids are ignored: it may just have finished.
  void cancel(Id id);

  std::int64_t slots() const;
  std::int64_t running() const;  // sequences in slots
  std::int64_t waiting() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rhetor
