// The thread that answers embeddings, ranking, classification, tagging and span questions with an encoder model.
//
// Texts of several requests are computed together, and a request of many texts is worked off in parts, so that a small one behind
// it does not wait for all of it. A client that leaves costs no more than the part in progress. Thread-safe: all of it.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "generate/encoder_model.h"
#include "serve/api_tasks.h"
#include "serve/worker.h"

namespace rhetor {

class EncoderWorker final : public Worker {
 public:
  // `open` makes the model when the first request comes (on the worker's thread); `name` is what the service calls it; `metrics`
  // must outlive the worker.
  EncoderWorker(std::function<EncoderModelPtr()> open, std::string name, WorkerLimits limits, Metrics& metrics);
  ~EncoderWorker() override;
  // Queues a request, or answers why not. Does not wait. REQUIRES: called by one thread at a time.
  void submit(EncoderRequest request, ResponderPtr reply, const std::string& key);
  WorkerStatus status() const override;
  void drain() override;
  void break_off() override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rhetor
