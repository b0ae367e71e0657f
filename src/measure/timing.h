// Repeated timing of one action, and the few statistics a benchmark row needs.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

namespace rhetor {

struct Timing {
  double p50_ms = 0, min_ms = 0, mean_ms = 0;
  std::int64_t runs = 0;
};

// Warms up (at least 2 runs, up to a fifth of `seconds`), then runs for about `seconds`, at least 5 times.
template <class Action>
Timing measure(double seconds, Action&& action) {
  using Clock = std::chrono::steady_clock;
  auto elapsed = [](Clock::time_point from) { return std::chrono::duration<double>(Clock::now() - from).count(); };
  const auto warm_up = Clock::now();
  for (int i = 0; i < 2 || (elapsed(warm_up) < seconds / 5 && i < 1000); ++i) action();
  std::vector<double> ms;
  for (const auto start = Clock::now(); elapsed(start) < seconds || ms.size() < 5;) {
    const auto before = Clock::now();
    action();
    ms.push_back(elapsed(before) * 1000);
  }
  Timing timing;
  timing.runs = static_cast<std::int64_t>(ms.size());
  for (const double value : ms) timing.mean_ms += value / static_cast<double>(ms.size());
  std::sort(ms.begin(), ms.end());
  timing.p50_ms = ms[ms.size() / 2];
  timing.min_ms = ms[0];
  return timing;
}

}  // namespace rhetor
