// Errors a user, a file or a peer can cause, and the check for our own bugs.
//
// Every user-visible failure is an `Error`: one sentence that names the thing, what was expected, what
// was found and the way out. Library code throws it; the edges (command line, HTTP service, C API)
// catch it and turn it into an exit code, a 4xx/5xx reply or a status. Nothing in Rhetor calls exit().
#pragma once

#include <fmt/core.h>

#include <source_location>
#include <stdexcept>
#include <string>
#include <utility>

namespace rhetor {

enum class ErrorKind {
  invalid,      // the input is wrong: option, shape, file content, request
  not_found,    // a named thing does not exist
  io,           // the operating system refused: open, write, disk full, port taken
  unsupported,  // correct, but this build or machine cannot do it
  resource,     // out of memory, out of slots, over a limit
  internal,     // a bug of ours
};

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

// Throws Error{invalid} with a formatted sentence.
template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(ErrorKind::invalid, fmt::format(format, std::forward<Args>(args)...));
}

template <class... Args>
[[noreturn]] void fail(ErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(kind, fmt::format(format, std::forward<Args>(args)...));
}

// For conditions only a bug of ours can break. Throws Error{internal} with the place, so that a server
// survives it. Never use it to validate user input.
inline void check(bool ok, const char* what,
                  std::source_location where = std::source_location::current()) {
  if (!ok) [[unlikely]] {
    throw Error(ErrorKind::internal, fmt::format("internal error: {} ({}:{})", what,
                                                 where.file_name(), where.line()));
  }
}

}  // namespace rhetor
