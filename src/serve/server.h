// The HTTP service: OpenAI-style completions with streaming, health, models, and the chat page.
//
// One I/O thread reads requests, checks and tokenises them; one engine thread owns a BatchEngine, in which requests join and leave
// between steps. The same seed gives the same text whoever else is being answered.
// Thread-safety: run() blocks; the other members may be called from any thread (not from a signal handler: see cmd_serve.cc).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "generate/generator.h"

namespace rhetor {

struct ServerOptions {
  std::string host = "127.0.0.1";
  std::uint16_t port = 8080;          // 0 = any free port
  std::uint64_t max_body_bytes = 1u << 20;
  int max_queue = 64;                 // requests that may wait while all slots are busy; more get 429
  int slots = 4;                      // answers computed together, rounded up to a batch the model has
  double request_timeout_s = 300;     // waiting included
};

class Server {
 public:
  Server(LanguageModelPtr model, ServerOptions options);
  ~Server();
  std::uint16_t port() const;         // the bound port; the constructor fails if it is taken, naming it
  void run();                         // until stop()
  void stop();                        // finishes accepted requests, then returns from run()
  void stop_now();                    // as stop(), but answers in progress are broken off with an error; hastens a stop() that waits
  int slots() const;
  int busy() const;                   // requests accepted and not yet answered
 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rhetor
