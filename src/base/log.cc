#include "base/log.h"

#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <string>

namespace rhetor {
namespace {

int initial_level() {
  const char* text = std::getenv("RHETOR_LOG");
  if (text && text[0] >= '0' && text[0] <= '3' && text[1] == 0) return text[0] - '0';
  return static_cast<int>(LogLevel::info);
}

std::atomic<int>& level_cell() {
  static std::atomic<int> level{initial_level()};
  return level;
}

}  // namespace

void set_log_level(LogLevel level) { level_cell().store(static_cast<int>(level)); }
LogLevel log_level() { return static_cast<LogLevel>(level_cell().load(std::memory_order_relaxed)); }

void log_line(LogLevel level, std::string_view message) {
  std::string line;
  if (level == LogLevel::error) line = "error: ";
  if (level == LogLevel::warning) line = "warning: ";
  line.append(message);
  line.push_back('\n');
  // One write call keeps lines of different threads whole.
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace rhetor
