// The part of `rhetor tokenizer encode` that makes batches for models: truncation, windows, padding. Not thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/args.h"
#include "text/tokenizer.h"

namespace rhetor {

class BatchFlags {
 public:
  void add_to(Args& args);
  bool asked() const { return batch_ || limit_ > 0 || !pad_.empty(); }
  // One JSON object a line of input: ids, segments, attention, special, offsets, overflow (a list of the same). With `json_lines` a line is a
  // JSON string or a pair of them.
  int print(const Tokenizer& tokenizer, const std::string& path, const std::string& text, bool json_lines, bool framed, bool specials) const;

 private:
  bool batch_ = false;
  std::int64_t limit_ = 0, stride_ = 0, multiple_ = 0, pad_segment_ = 0;
  std::string strategy_ = "longest-first", side_ = "right", pad_, pad_side_ = "right", pad_token_;
};

}  // namespace rhetor
