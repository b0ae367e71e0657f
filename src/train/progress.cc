#include "train/progress.h"

#include <fmt/core.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>

namespace rhetor {
namespace {

std::string clock_text(double seconds) {
  const auto s = static_cast<std::int64_t>(std::ceil(std::max(0.0, seconds)));
  if (s >= 3600) return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
  return fmt::format("{}:{:02}", s / 60, s % 60);
}

std::string rate_text(double rate) {
  if (rate >= 1e6) return fmt::format("{:.2f}M", rate / 1e6);
  if (rate >= 1e3) return fmt::format("{:.1f}k", rate / 1e3);
  return fmt::format("{:.0f}", rate);
}

}  // namespace

std::string progress_text(const TrainProgress& p) {
  std::string text =
      fmt::format("step {:>{}}/{}  loss {:.3f}", p.step, fmt::format("{}", p.steps).size(), p.steps, p.smooth_loss);
  if (std::isfinite(p.validation_loss)) text += fmt::format("  validation {:.3f}", p.validation_loss);
  if (!p.metric.empty() && std::isfinite(p.metric_value)) text += fmt::format("  {} {:.3f}", p.metric, p.metric_value);
  return text + fmt::format("  {} tokens/s  data wait {:.1f} %  {} left", rate_text(p.tokens_per_s), 100 * p.data_wait_share, clock_text(p.seconds_left));
}

ProgressLine::ProgressLine(bool quiet) : quiet_(quiet), terminal_(::isatty(STDERR_FILENO) == 1) {}

ProgressLine::~ProgressLine() {
  if (open_) std::fputc('\n', stderr);
}

void ProgressLine::update(const TrainProgress& progress) {
  if (quiet_) return;
  const auto now = std::chrono::steady_clock::now();
  const bool edge = progress.step <= 1 || progress.step == progress.steps;
  // Ten times a second to an eye, every ten seconds to a log file.
  const auto interval = terminal_ ? std::chrono::milliseconds(100) : std::chrono::seconds(10);
  if (!edge && now - last_ < interval) return;
  last_ = now;
  if (terminal_) {
    fmt::print(stderr, "\r\033[K{}", progress_text(progress));
    open_ = true;
  } else {
    fmt::print(stderr, "{}\n", progress_text(progress));
  }
  std::fflush(stderr);
}

void ProgressLine::note(const std::string& text) {
  if (quiet_) return;
  fmt::print(stderr, "{}{}\n", open_ ? "\r\033[K" : "", text);
  open_ = false;
}

}  // namespace rhetor
