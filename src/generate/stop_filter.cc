#include "generate/stop_filter.h"

#include <algorithm>

namespace rhetor {

std::string StopFilter::push(std::string_view piece) {
  if (stopped_) return {};
  held_ += piece;
  // As if the text came byte by byte: the stop string that is complete first ends it, of several the longest, so that it does not
  // matter how the text is cut into pieces.
  std::size_t first = std::string::npos, end = std::string::npos;
  for (const auto& stop : stops_) {
    const std::size_t at = held_.find(stop);
    if (at == std::string::npos) continue;
    if (at + stop.size() < end || (at + stop.size() == end && at < first)) first = at, end = at + stop.size();
  }
  if (first != std::string::npos) {
    stopped_ = true;
    std::string out = held_.substr(0, first);
    held_.clear();
    return out;
  }
  // Hold back the longest tail that begins a stop string.
  std::size_t keep = 0;
  for (const auto& stop : stops_) {
    for (std::size_t n = std::min(held_.size(), stop.size() - 1); n > keep; --n) {
      if (std::string_view(held_).substr(held_.size() - n) == std::string_view(stop).substr(0, n)) keep = n;
    }
  }
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return out;
}

std::string StopFilter::finish() {
  if (stopped_) return {};
  std::string out;
  out.swap(held_);
  return out;
}

}  // namespace rhetor
