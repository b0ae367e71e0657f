#include "data/span_search.h"

#include <algorithm>
#include <limits>
#include <set>

namespace rhetor {
namespace {

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

// The `count` tokens of a text with the highest scores, best first.
std::vector<std::size_t> highest(const std::vector<float>& scores, Block text, std::size_t count) {
  std::vector<std::size_t> out;
  for (std::size_t i = text.begin; i < text.end; ++i) out.push_back(i);
  const auto better = [&](std::size_t a, std::size_t b) { return scores[a] != scores[b] ? scores[a] > scores[b] : a < b; };
  count = std::min(count, out.size());
  std::partial_sort(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(count), out.end(), better);
  out.resize(count);
  return out;
}

}  // namespace

SpanSearch search_spans(std::string_view passage, const std::vector<Window>& windows, std::span<const SpanScores> scores,
                        std::size_t count, std::int64_t max_tokens) {
  // With n places kept on either side the n best pairs are among them unless most of those are illegal; 20 is the SQuAD code's
  // number.
  const std::size_t kept = std::max<std::size_t>(20, 2 * count);
  double no_answer = std::numeric_limits<double>::infinity();
  std::vector<FoundSpan> found;
  for (std::size_t w = 0; w < windows.size(); ++w) {
    const Window& window = windows[w];
    if (window.encoding.ids.empty()) continue;
    no_answer = std::min(no_answer, double{scores[w].start[0]} + scores[w].end[0]);
    const std::vector<std::size_t> ends = highest(scores[w].end, window.text, kept);
    for (const std::size_t start : highest(scores[w].start, window.text, kept)) {
      if (best_window(windows, window.first + start - window.text.begin) != w) continue;
      for (const std::size_t end : ends) {
        if (end < start || static_cast<std::int64_t>(end - start) >= max_tokens) continue;
        FoundSpan span{window.encoding.ranges[start].begin, window.encoding.ranges[end].end,
                       double{scores[w].start[start]} + scores[w].end[end]};
        // Byte-level tokens hold the space before their word.
        while (span.begin < span.end && is_space(passage[span.begin])) ++span.begin;
        while (span.end > span.begin && is_space(passage[span.end - 1])) --span.end;
        if (span.begin < span.end) found.push_back(span);
      }
    }
  }
  std::sort(found.begin(), found.end(), [](const FoundSpan& a, const FoundSpan& b) {
    return a.score != b.score ? a.score > b.score : a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  SpanSearch out;
  if (no_answer != std::numeric_limits<double>::infinity()) out.no_answer = no_answer;
  std::set<std::pair<std::uint32_t, std::uint32_t>> seen;
  for (const FoundSpan& span : found) {
    if (out.best.size() >= count) break;
    if (seen.emplace(span.begin, span.end).second) out.best.push_back(span);
  }
  return out;
}

}  // namespace rhetor
