#include "train/metrics.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"

namespace rhetor {
namespace {

// JSON has no NaN.
std::string number(double value) { return std::isfinite(value) ? fmt::format("{}", static_cast<float>(value)) : "null"; }

}  // namespace

MetricsLog::MetricsLog(std::filesystem::path path, std::uint64_t bytes) : path_(std::move(path)) {
  fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) fail(ErrorKind::io, "cannot open '{}' for writing: {}", path_.string(), std::strerror(errno));
  const off_t present = ::lseek(fd_, 0, SEEK_END);
  if (present >= 0 && static_cast<std::uint64_t>(present) < bytes) {
    log_warning("{} is shorter than at the checkpoint: some of its lines are lost", path_.string());
    bytes = static_cast<std::uint64_t>(present);
  }
  if (::ftruncate(fd_, static_cast<off_t>(bytes)) != 0 || ::lseek(fd_, static_cast<off_t>(bytes), SEEK_SET) < 0) {
    const std::string reason = std::strerror(errno);
    ::close(fd_);
    fail(ErrorKind::io, "cannot write to '{}': {}", path_.string(), reason);
  }
  bytes_ = bytes;
}

MetricsLog::~MetricsLog() { ::close(fd_); }

void MetricsLog::append(const std::string& line) {
  std::size_t done = 0;
  while (done < line.size()) {
    const ssize_t n = ::write(fd_, line.data() + done, line.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      if (!warned_)
        log_line(LogLevel::error,
                 fmt::format("cannot write to '{}': {}; training goes on without metrics", path_.string(), std::strerror(errno)));
      warned_ = true;
      // No half line stays.
      if (::ftruncate(fd_, static_cast<off_t>(bytes_)) == 0) ::lseek(fd_, static_cast<off_t>(bytes_), SEEK_SET);
      return;
    }
    done += static_cast<std::size_t>(n);
  }
  bytes_ += line.size();
}

void MetricsLog::step(const Step& v) {
  const std::string scale = v.loss_scale > 0 ? fmt::format(",\"loss_scale\":{}", number(v.loss_scale)) : "";
  append(
      fmt::format("{{\"step\":{},\"loss\":{},\"lr\":{},\"grad_norm\":{},\"tokens\":{},\"applied\":{}{},\"seconds\":{:.3f},\"tokens_"
                  "per_s\":{:.0f},\"data_wait\":{:.4f}}}\n",
                  v.step, number(v.loss), number(v.lr), number(v.grad_norm), v.tokens, v.applied, scale, v.seconds, v.tokens_per_s,
                  v.data_wait));
}

void MetricsLog::validation(std::int64_t step, double loss, const std::vector<std::pair<std::string, double>>& metrics) {
  std::string line = fmt::format("{{\"step\":{},\"validation_loss\":{}", step, number(loss));
  for (const auto& [name, value] : metrics) line += fmt::format(",\"{}\":{}", name, number(value));
  append(line + "}\n");
}

MetricsHistory read_metrics(const std::filesystem::path& path, std::uint64_t bytes) {
  MetricsHistory out;
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return out;
  const std::string text = read_file(path);
  std::string_view rest = std::string_view(text).substr(0, std::min<std::uint64_t>(bytes, text.size()));
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    const auto j = nlohmann::json::parse(rest.substr(0, end), nullptr, false);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (!j.is_object() || !j.contains("step") || !j["step"].is_number_integer()) continue;
    for (const char* kind : {"loss", "validation_loss"}) {
      if (!j.contains(kind) || !j[kind].is_number()) continue;
      (kind[0] == 'l' ? out.train : out.validation).push_back({j["step"].get<std::int64_t>(), j[kind].get<double>()});
    }
  }
  return out;
}

}  // namespace rhetor
