#include "text/aligned_text.h"

#include <algorithm>
#include <cstring>

namespace rhetor {

void AlignedText::assign(std::string_view original, std::uint32_t from) {
  text.assign(original);
  origin = from;
  map.clear();
  if (!tracked) {
    first_length = text.empty() ? 0 : code_point(text, 0).length;
    first = {from, from + first_length};
    return;
  }
  map.resize(text.size());
  for (std::size_t i = 0; i < text.size();) {
    const std::uint32_t length = code_point(text, i).length;
    const auto begin = static_cast<std::uint32_t>(from + i);
    for (std::uint32_t k = 0; k < length; ++k) map[i + k] = {begin, begin + length};
    i += length;
  }
}

void Rewriter::apply(std::span<const Change> changes, std::size_t at) {
  for (const Change& c : changes) {
    if (c.change > 0) {
      put(c.character, t_.before(at));
      continue;
    }
    put(c.character, t_.at(std::min(at, t_.text.size() - 1)));
    for (std::int32_t gone = 0; gone <= -c.change && at < t_.text.size(); ++gone) at += code_point(t_.text, at).length;
  }
}

std::size_t skip_ascii(std::string_view text, std::size_t from) {
  std::uint64_t word = 0;
  for (; from + sizeof word <= text.size(); from += sizeof word) {
    std::memcpy(&word, text.data() + from, sizeof word);
    if ((word & 0x8080808080808080u) != 0) break;
  }
  while (from < text.size() && static_cast<unsigned char>(text[from]) < 0x80) ++from;
  return from;
}

namespace {

struct Decomposed {
  char32_t c;
  std::int32_t change;
  std::uint8_t order;
};

void sort_marks(std::vector<Decomposed>& list, std::size_t from) {
  std::stable_sort(list.begin() + static_cast<std::ptrdiff_t>(from), list.end(), [](const auto& a, const auto& b) { return a.order < b.order; });
}

// Decomposes text[begin, end) and puts marks into canonical order.
void decompose_region(std::string_view text, std::size_t begin, std::size_t end, bool compatible, std::vector<Decomposed>& out) {
  std::vector<char32_t> parts;
  std::size_t pending = 0;  // the marks after the last starter begin here
  out.clear();
  while (begin < end) {
    const CodePoint c = code_point(text, begin);
    begin += c.length;
    parts.clear();
    decompose(c.value, compatible, parts);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const std::uint8_t order = combining_class(parts[i]);
      if (order == 0) sort_marks(out, pending);
      out.push_back({parts[i], i > 0, order});
      if (order == 0) pending = out.size();
    }
  }
  sort_marks(out, pending);
}

// The canonical composition algorithm (UAX 15, D117). A composite stands for what its parts stood for.
void compose_region(const std::vector<Decomposed>& in, std::vector<Change>& out) {
  std::size_t starter = SIZE_MAX;  // in `out`
  std::uint8_t last = 0;           // class of the last mark kept since the starter
  for (const Decomposed& d : in) {
    const bool blocked = starter != SIZE_MAX && out.size() - 1 > starter && (last >= d.order);
    if (starter != SIZE_MAX && !blocked) {
      if (const char32_t joined = compose(out[starter].character, d.c); joined != 0) {
        out[starter] = {joined, out[starter].change + d.change - 1};
        continue;
      }
    }
    out.push_back({d.c, d.change});
    if (d.order == 0) {
      starter = out.size() - 1;
      last = 0;
    } else {
      last = d.order;
    }
  }
}

}  // namespace

void normal_form(AlignedText& t, NormalForm form) {
  using namespace property;
  const bool composing = form == NormalForm::nfc || form == NormalForm::nfkc;
  const bool compatible = form == NormalForm::nfkd || form == NormalForm::nfkc;
  const std::uint32_t trigger = reorders | (composing ? composes | (compatible ? not_nfkc : not_nfc) : compatible ? not_nfkd : not_nfd);
  const std::string_view text = t.text;
  std::size_t i = skip_ascii(text, 0);
  std::size_t copied = 0, previous = i > 0 ? i - 1 : SIZE_MAX;  // previous: the character before i
  if (i == text.size()) return;
  Rewriter out(t);
  bool changed = false;
  std::vector<Decomposed> list;
  while (i < text.size()) {
    const CodePoint c = code_point(text, i);
    if (!has(c.value, trigger)) {
      previous = i;
      i += c.length;
      continue;
    }
    // What can change is the run of such characters and, when composing, the starter before it.
    const std::size_t begin = composing && previous != SIZE_MAX && previous >= copied ? previous : i;
    std::size_t end = i;
    while (end < text.size()) {
      const CodePoint next = code_point(text, end);
      if (!has(next.value, trigger)) break;
      end += next.length;
    }
    decompose_region(text, begin, end, compatible, list);
    t.changes.clear();
    if (composing) {
      compose_region(list, t.changes);
    } else {
      for (const Decomposed& d : list) t.changes.push_back({d.c, d.change});
    }
    out.copy(copied, begin);
    out.apply(t.changes, begin);
    changed = true;
    copied = i = end;
    previous = SIZE_MAX;
  }
  if (!changed) return;
  out.copy(copied, text.size());
  out.done();
}

}  // namespace rhetor
