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
#include <vector>

#include "generate/generator.h"

namespace rhetor {

struct BatchRequest {
  std::vector<TokenId> prompt;
  Sampling sampling;
  OnText on_text;                                  // optional; return false to cancel
  std::function<void(const Generation&)> on_done;  // optional; called from step() or cancel()
  // Optional: what to do when this sequence alone fails (its logits are not finite): it is called instead of on_done and its
  // neighbours go on. Without it step() throws.
  std::function<void(std::exception_ptr)> on_error;
};

class BatchEngine {
 public:
  using Id = std::uint64_t;
  // `slots` is rounded to a batch size the model has.
  BatchEngine(const LanguageModel& model, std::int64_t slots);
  ~BatchEngine();
  BatchEngine(const BatchEngine&) = delete;
  BatchEngine& operator=(const BatchEngine&) = delete;

  // Queues a sequence; it joins when a slot is free. Fails if the prompt does not fit the context (naming both lengths), holds an
  // id outside the vocabulary, or the sampling is out of range.
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
