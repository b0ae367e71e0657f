// The HTTP service: OpenAI-style completions with streaming, embeddings, ranking, classification, questions, models, health,
// metrics and the chat page, for one or several models.
//
// One I/O thread reads requests and checks them; each model has one engine thread (completion_worker.h) and, if it answers such
// requests, one encoder thread (encoder_worker.h). What a request may do, and what each limit answers, stands in docs/serving.md.
// Thread-safety: run() blocks; the other members may be called from any thread (not from a signal handler: see cmd_serve.cc).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "generate/generator.h"
#include "serve/access_log.h"
#include "serve/api_keys.h"
#include "serve/served_model.h"

namespace rhetor {

struct ServerOptions {
  std::string host = "127.0.0.1";
  std::uint16_t port = 8080;  // 0 = any free port
  std::uint64_t max_body_bytes = 1u << 20;
  int max_queue = 64;              // requests of a model that may wait while all its slots are busy; more get 429
  int slots = 4;                   // answers computed together, rounded up to a batch the model has
  double request_timeout_s = 300;  // waiting included; a request may ask for less
  double drain_s = 30;             // how long stop() lets accepted requests go on
  int max_connections = 4096;
  std::int64_t max_buffered_bytes = 1 << 20;  // that may wait for a client that reads slowly; then it is dropped
  std::int64_t max_output_tokens = 0;         // of one answer; 0 = what the context holds
  std::int64_t max_input_tokens = 0;          // of one request; 0 = the context (completions), 100,000 (texts for an encoder)
  ApiKeys keys;                               // none = everybody may
  std::vector<std::string> cors_origins;      // "*" or origins whose pages may call this service; none = only its own
  LogFormat log_format = LogFormat::none;
  std::string log_file;  // "" = standard error
};

class Server {
 public:
  // Fails naming what is wrong: no model, two of one name, a port that is taken.
  Server(std::vector<ServedModel> models, ServerOptions options);
  Server(LanguageModelPtr model, ServerOptions options);
  ~Server();
  std::uint16_t port() const;  // the bound port
  void run();                  // until stop()
  // New requests get 503 from now on, accepted ones are finished, for at most drain_s; then returns from run().
  void stop();
  void stop_now();    // as stop(), but answers in progress are broken off with an error; hastens a stop() that waits
  int slots() const;  // of the first model
  int busy() const;   // requests accepted and not yet answered
 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rhetor
