// The HTTP service: OpenAI-style completions with streaming, health, models, and the chat page.
// Thread-safety: run() blocks; stop() may be called from any thread or signal-safe context wrapper.
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
  int max_queue = 64;                 // waiting requests; more get 429
  int workers = 2;                    // generations at a time
  double request_timeout_s = 300;
};

class Server {
 public:
  Server(LanguageModelPtr model, ServerOptions options);
  ~Server();
  std::uint16_t port() const;         // the bound port; the constructor fails if it is taken, naming it
  void run();                         // until stop()
  void stop();                        // finishes running requests, then returns from run()
 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rhetor
