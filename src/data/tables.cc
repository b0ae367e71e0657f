#include "data/tables.h"

namespace rhetor {

bool TableReader::next(std::vector<std::string>& cells) {
  while (at_ < text_.size()) {
    cells.assign(1, "");
    line_ = next_line_;
    const std::size_t begin = at_;
    bool quoted = false;
    for (; at_ < text_.size(); ++at_) {
      const char c = text_[at_];
      if (quoted) {
        if (c == '"' && at_ + 1 < text_.size() && text_[at_ + 1] == '"') {
          cells.back() += '"', ++at_;
        } else if (c == '"') {
          quoted = false;
        } else {
          if (c == '\n') ++next_line_;
          cells.back() += c;
        }
      } else if (c == '\n') {
        break;
      } else if (c == separator_) {
        cells.emplace_back();
      } else if (quotes_ && c == '"' && cells.back().empty()) {
        quoted = true;
      } else {
        cells.back() += c;
      }
    }
    const bool blank = at_ == begin || (at_ == begin + 1 && text_[begin] == '\r');
    if (at_ < text_.size()) ++at_, ++next_line_;
    if (!cells.back().empty() && cells.back().back() == '\r') cells.back().pop_back();
    if (!blank) return true;
  }
  return false;
}

}  // namespace rhetor
