// From the start and end scores of a passage's windows to answers.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "data/encoding.h"

namespace rhetor {

struct SpanScores {
  std::vector<float> start, end;  // one a token of the window's encoding
};
struct FoundSpan {
  std::uint32_t begin, end;  // bytes of the passage
  double score;              // start + end
};
struct SpanSearch {
  std::vector<FoundSpan> best;  // distinct, best first
  double no_answer = 0;         // start + end of the first token ([CLS]) in the window that is least sure of it
};
// A span is at most `max_tokens` long; a start counts in the window that shows it with the most context (Devlin et al. 2019).
SpanSearch search_spans(std::string_view passage, const std::vector<Window>& windows, std::span<const SpanScores> scores,
                        std::size_t count, std::int64_t max_tokens);

}  // namespace rhetor
