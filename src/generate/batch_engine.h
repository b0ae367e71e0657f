// Continuous batching: a fixed number of slots, each with its own row of the KV cache; sequences join and leave between steps.
//
// A step runs at most one prefill chunk for a joining sequence and then decodes one token for every running one, so a long
// prompt never holds the others up for longer than a chunk. A sequence's result does not depend on its neighbours.
// Thread-safety: used by one thread at a time; the model must outlive it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "generate/generator.h"

namespace rhetor {

struct BatchRequest {
  std::vector<TokenId> prompt;
  Sampling sampling;
  OnText on_text;                                  // optional; return false to cancel
  std::function<void(const Generation&)> on_done;  // optional; called from step() or cancel()
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
