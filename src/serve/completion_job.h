// One accepted completion request (internal). The I/O thread makes it and queues it; from then on it belongs to the engine
// thread.
#pragma once

#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "generate/batch_engine.h"
#include "serve/api.h"
#include "serve/http.h"
#include "serve/worker.h"

namespace rhetor {

struct CompletionJob {
  CompletionRequest request;
  std::vector<std::vector<TokenId>> prompts;
  ResponderPtr reply;
  HttpNote note;  // model and key; the rest is filled in
  ReplyId id;
  TokenizerPtr tokenizer;
  ServeClock::time_point accepted, started, deadline;
  std::vector<BatchEngine::Id> sequences;  // one a prompt

  bool finished = false;  // answered, or given up
  bool late = false;      // its time is up: what it has is its answer

  std::size_t answers() const { return prompts.size() * static_cast<std::size_t>(request.sampling.n); }
  // Called by the engine, `prompt` counting from 0. False: go no further.
  bool piece(std::size_t prompt, const TextPiece& piece);
  void done(std::size_t prompt, const Generation& result, ModelMetrics& metrics);
  // Anything to show for the time so far?
  bool begun() const { return tokens_ > 0; }
  void error(int status, std::string_view message, std::string_view type, std::string_view code = "");
  // What goes wrong while an answer is computed is not the client's doing (damaged weights, no memory), and for the log.
  void failed(const std::exception& thrown);

 private:
  // An answer of a stream: what could not be written yet because the client reads slowly.
  struct Held {
    std::string text;
    std::vector<TokenLogprob> logprobs;
    bool opened = false;
  };
  void open_stream(std::size_t answer);
  void write(std::size_t answer);
  void complete();

  std::vector<Held> held_;
  std::vector<CompletionChoice> choices_;
  bool streaming_ = false;    // the reply's header is out
  std::size_t complete_ = 0;  // answers
  std::int64_t tokens_ = 0;
  Usage usage_;
};
using CompletionJobPtr = std::shared_ptr<CompletionJob>;

}  // namespace rhetor
