#include "data/encoding.h"

#include <algorithm>

#include "base/error.h"

namespace rhetor {
namespace {

void append(Encoding& to, const Encoding& from, std::size_t begin, std::size_t end) {
  for (std::size_t i = begin; i < end; ++i) {
    to.ids.push_back(from.ids[i]);
    to.segments.push_back(from.segments[i]);
    to.ranges.push_back(from.ranges[i]);
    to.added.push_back(from.added[i]);
  }
}

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool is_punctuation(char c) {
  const auto u = static_cast<unsigned char>(c);
  return (u >= 33 && u <= 47) || (u >= 58 && u <= 64) || (u >= 91 && u <= 96) || (u >= 123 && u <= 126);
}

}  // namespace

std::vector<Block> blocks(const Encoding& e) {
  std::vector<Block> out;
  for (std::size_t i = 0; i < e.ids.size(); ++i) {
    if (e.added[i] != 0) continue;
    // Templates without separators tell the texts of a pair apart by segment only.
    if (!out.empty() && out.back().end == i && e.segments[i] == e.segments[i - 1])
      ++out.back().end;
    else
      out.push_back({i, i + 1});
  }
  return out;
}

void truncate(Encoding& e, std::int64_t limit) {
  const auto most = static_cast<std::size_t>(std::max<std::int64_t>(limit, 0));
  if (e.ids.size() <= most) return;
  std::vector<Block> texts = blocks(e);
  std::size_t excess = e.ids.size() - most;
  while (excess > 0) {
    const auto longest =
        std::max_element(texts.begin(), texts.end(), [](const Block& a, const Block& b) { return a.size() < b.size(); });
    if (longest == texts.end() || longest->size() == 0)
      fail("a text of {} tokens cannot be cut to {}: the marks around it alone are longer", e.ids.size(), limit);
    --longest->end;
    --excess;
  }
  Encoding out;
  std::size_t next = 0;
  for (std::size_t i = 0; i < e.ids.size(); ++i) {
    while (next + 1 < texts.size() && i >= texts[next + 1].begin) ++next;
    const bool kept = e.added[i] != 0 || (i >= texts[next].begin && i < texts[next].end);
    if (kept) append(out, e, i, i + 1);
  }
  e = std::move(out);
}

std::vector<Window> windows(const Encoding& e, std::int64_t limit, std::int64_t stride) {
  const std::vector<Block> texts = blocks(e);
  if (texts.empty()) return {{e, {}, 0}};
  const Block text = texts.back();
  if (static_cast<std::int64_t>(e.ids.size()) <= limit) return {{e, text, 0}};
  const std::int64_t around = static_cast<std::int64_t>(e.ids.size() - text.size()), room = limit - around;
  if (room < 1) fail("the question takes {} of the model's {} tokens, which leaves none for the passage", around, limit);
  const auto width = static_cast<std::size_t>(room);
  const std::size_t advance = width - std::min(static_cast<std::size_t>(std::max<std::int64_t>(stride, 0)), width / 2);
  std::vector<Window> out;
  for (std::size_t first = 0;; first += advance) {
    const std::size_t last = std::min(first + width, text.size());
    Window w;
    append(w.encoding, e, 0, text.begin);
    append(w.encoding, e, text.begin + first, text.begin + last);
    append(w.encoding, e, text.end, e.ids.size());
    w.text = {text.begin, text.begin + last - first};
    w.first = first;
    out.push_back(std::move(w));
    if (last == text.size()) return out;
  }
}

std::size_t best_window(const std::vector<Window>& all, std::size_t token) {
  std::size_t best = 0;
  std::int64_t most = -1;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const Window& w = all[i];
    if (token < w.first || token >= w.first + w.text.size()) continue;
    const auto left = static_cast<std::int64_t>(token - w.first),
               right = static_cast<std::int64_t>(w.first + w.text.size() - 1 - token);
    if (std::min(left, right) > most) most = std::min(left, right), best = i;
  }
  return best;
}

std::vector<Encoding::Range> split_words(std::string_view text) {
  std::vector<Encoding::Range> out;
  const auto add = [&](std::size_t begin, std::size_t end) {
    out.push_back({static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(end)});
  };
  for (std::size_t i = 0; i < text.size();) {
    if (is_space(text[i])) {
      ++i;
      continue;
    }
    std::size_t end = i;
    while (end < text.size() && !is_space(text[end])) ++end;
    while (i < end && is_punctuation(text[i])) add(i, i + 1), ++i;
    std::size_t core = end;
    while (core > i && is_punctuation(text[core - 1])) --core;
    if (core > i) add(i, core);
    for (; core < end; ++core) add(core, core + 1);
    i = end;
  }
  return out;
}

std::vector<std::int64_t> first_tokens(const Encoding& e, Block block, const std::vector<Encoding::Range>& words) {
  std::vector<std::int64_t> out(words.size(), -1);
  std::size_t at = block.begin;
  for (std::size_t w = 0; w < words.size(); ++w) {
    // Byte-level tokens may begin with the space before the word.
    while (at < block.end && e.ranges[at].end <= words[w].begin) ++at;
    if (at < block.end && e.ranges[at].begin < words[w].end) out[w] = static_cast<std::int64_t>(at);
  }
  return out;
}

}  // namespace rhetor
