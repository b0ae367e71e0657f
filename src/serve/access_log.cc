#include "serve/access_log.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <ctime>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/error.h"

namespace rhetor {
namespace {

constexpr std::size_t kWaiting = 10'000;  // lines

std::string time_text(std::int64_t unix_seconds) {
  const auto seconds = static_cast<std::time_t>(unix_seconds);
  std::tm utc{};
  ::gmtime_r(&seconds, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

// A request's target is the client's text: nothing of it may look like another field or line.
std::string printable(const std::string& text) {
  std::string out;
  for (const char c : text.substr(0, 256)) out += c > ' ' && c < 0x7f && c != '"' ? c : '?';
  return out.empty() ? "-" : out;
}

}  // namespace

std::string log_text(const HttpRecord& r, LogFormat format, std::int64_t unix_seconds) {
  const double ms = 1e3 * r.seconds;
  if (format == LogFormat::json) {
    nlohmann::ordered_json json = {{"time", time_text(unix_seconds)},
                                   {"client", r.client},
                                   {"id", r.id},
                                   {"method", r.method},
                                   {"target", r.target},
                                   {"status", r.status},
                                   {"bytes", r.bytes},
                                   {"ms", std::round(1e3 * ms) / 1e3}};
    if (!r.note.model.empty()) json["model"] = r.note.model;
    if (!r.note.key.empty()) json["key"] = r.note.key;
    if (r.note.prompt_tokens > 0) json["prompt_tokens"] = r.note.prompt_tokens;
    if (r.note.output_tokens > 0) json["output_tokens"] = r.note.output_tokens;
    if (!r.note.finish.empty()) json["finish"] = r.note.finish;
    if (r.cut) json["cut"] = r.slow ? "slow reader" : "client left";
    return json.dump(-1, ' ', true, nlohmann::ordered_json::error_handler_t::replace);
  }
  std::string out = fmt::format("{} {} {} {} {} {}B {:.1f}ms id={}", time_text(unix_seconds), r.client, printable(r.method),
                                printable(r.target), r.status, r.bytes, ms, r.id);
  if (!r.note.model.empty()) out += " model=" + printable(r.note.model);
  if (!r.note.key.empty()) out += " key=" + printable(r.note.key);
  if (r.note.prompt_tokens > 0) out += fmt::format(" in={}", r.note.prompt_tokens);
  if (r.note.output_tokens > 0) out += fmt::format(" out={}", r.note.output_tokens);
  if (!r.note.finish.empty()) out += " finish=" + r.note.finish;
  if (r.cut) out += r.slow ? " cut=slow-reader" : " cut=client-left";
  return out;
}

struct AccessLog::Impl {
  LogFormat format;
  int fd = STDERR_FILENO;
  std::mutex mutex;
  std::condition_variable changed;
  std::string waiting;              // guarded by mutex: whole lines
  std::size_t lines = 0;            // guarded by mutex: in `waiting`
  bool ending = false;              // guarded by mutex
  std::atomic<bool> hurry = false;  // set with `ending`: a reader that still sleeps is given up
  std::atomic<std::uint64_t> dropped = 0;
  std::thread thread;

  void write(std::string_view text);
  void work();
};

void AccessLog::Impl::write(std::string_view text) {
  for (int patience = 10; !text.empty();) {
    // A pipe that is full would block in write(): ask first, so that ending does not wait for its reader.
    pollfd ready{.fd = fd, .events = POLLOUT, .revents = 0};
    if (::poll(&ready, 1, 100) == 0) {
      if (hurry && --patience == 0) return;
      continue;
    }
    // PIPE_BUF bytes fit where poll() says that there is room.
    const ssize_t n = ::write(fd, text.data(), std::min<std::size_t>(text.size(), 4096));
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n <= 0) {
      ++dropped;  // the disk is full, or nobody reads any more
      return;
    }
    text.remove_prefix(static_cast<std::size_t>(n));
  }
}

void AccessLog::Impl::work() {
  std::string batch;
  for (;;) {
    {
      std::unique_lock lock(mutex);
      changed.wait(lock, [this] { return ending || !waiting.empty(); });
      if (waiting.empty()) return;
      batch.swap(waiting);
      lines = 0;
    }
    write(batch);
    batch.clear();
  }
}

AccessLog::AccessLog(LogFormat format, const std::string& path) : impl_(std::make_unique<Impl>()) {
  impl_->format = format;
  if (format == LogFormat::none) return;
  if (!path.empty()) {
    impl_->fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
    if (impl_->fd < 0) fail(ErrorKind::io, "the access log '{}' cannot be written: {}", path, std::strerror(errno));
  }
  impl_->thread = std::thread([impl = impl_.get()] { impl->work(); });
}

AccessLog::~AccessLog() {
  if (!impl_->thread.joinable()) return;
  {
    std::lock_guard lock(impl_->mutex);
    impl_->ending = true;
  }
  impl_->hurry = true;
  impl_->changed.notify_all();
  impl_->thread.join();
  if (impl_->fd != STDERR_FILENO) ::close(impl_->fd);
}

void AccessLog::log(const HttpRecord& record) {
  if (impl_->format == LogFormat::none) return;
  const std::string line = log_text(record, impl_->format, static_cast<std::int64_t>(std::time(nullptr))) + "\n";
  {
    std::lock_guard lock(impl_->mutex);
    if (impl_->lines >= kWaiting) {
      ++impl_->dropped;
      return;
    }
    impl_->waiting += line;
    ++impl_->lines;
  }
  impl_->changed.notify_one();
}

std::uint64_t AccessLog::dropped() const { return impl_->dropped; }

}  // namespace rhetor
