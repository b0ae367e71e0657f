// One line a request, as text or JSON, written by a thread of its own: a full disk or a reader that sleeps never holds an answer
// up. Thread-safety: log() may be called from any thread and does not block; lines beyond 10,000 waiting are dropped and counted.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "serve/http.h"

namespace rhetor {

enum class LogFormat { none, text, json };

// Without the newline. Text: "2026-01-31T12:00:00Z 127.0.0.1 POST /v1/completions 200 1234B 56.7ms id=... model=...".
std::string log_text(const HttpRecord& record, LogFormat format, std::int64_t unix_seconds);

class AccessLog {
 public:
  // `path` "" = standard error; a file is appended to. Fails naming the file if it cannot be written.
  AccessLog(LogFormat format, const std::string& path);
  ~AccessLog();  // what was logged before is written
  void log(const HttpRecord& record);
  std::uint64_t dropped() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rhetor
