// Finds stop strings in a stream of text, wherever token boundaries fall.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace rhetor {

// Text that could still become a stop string is held back until it is decided.
class StopFilter {
 public:
  explicit StopFilter(std::vector<std::string> stops) : stops_(std::move(stops)) {}
  // The text that is now safe to show. Once stopped() it is the text before the stop string, and later pushes give nothing.
  std::string push(std::string_view piece);
  // What was held back; the text has ended without completing a stop string.
  std::string finish();
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace rhetor
