// The thread that owns a language model's BatchEngine: requests join and leave between its steps.
//
// The same seed gives the same text whoever else is being answered. A client that leaves frees its slots before the next step.
// Thread-safe: all of it.
#pragma once

#include <memory>
#include <string>

#include "generate/generator.h"
#include "serve/api.h"
#include "serve/worker.h"

namespace rhetor {

class CompletionWorker final : public Worker {
 public:
  // `name` is what the service calls the model; `metrics` must outlive the worker.
  CompletionWorker(LanguageModelPtr model, std::string name, WorkerLimits limits, Metrics& metrics);
  ~CompletionWorker() override;
  // Checks and tokenises a request and queues it, or answers why not. Does not wait. REQUIRES: called by one thread at a time.
  void submit(CompletionRequest request, ResponderPtr reply, const std::string& key);
  WorkerStatus status() const override;
  void drain() override;
  void break_off() override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rhetor
