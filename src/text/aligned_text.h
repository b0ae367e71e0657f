// A text on its way through normalisers and pre-tokenisers, with the bytes of the original that each byte stands for. Internal to the room.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"
#include "text/unicode.h"

namespace rhetor {

// A stretch [begin, end) of bytes.
struct Span {
  std::uint32_t begin, end;
};

// A character of a rewritten text: `change` 1 = it was put in, 0 = it stands for one character, -n = and n more after it were dropped.
struct Change {
  char32_t character;
  std::int32_t change;
};

// Only what encode_ranges and templates need is tracked: plain encoding leaves `map` empty and keeps the first character's place alone.
struct AlignedText {
  using Range = Encoding::Range;
  std::string text;            // valid UTF-8
  std::vector<Range> map;      // of each byte, if tracked
  bool tracked = false;
  std::uint32_t origin = 0;    // where this stretch starts in the original
  Range first{0, 0};           // of the first character, if not tracked
  std::uint32_t first_length = 0;
  std::string next_text;       // what a Rewriter writes; kept to spare allocations
  std::vector<Range> next_map;
  std::vector<Change> changes;

  // A stretch of the original that starts at byte `from` of it.
  void assign(std::string_view original, std::uint32_t from);
  Range at(std::size_t byte) const {
    if (tracked) return map[byte];
    return byte < first_length ? first : Range{origin + 1, origin + 1};
  }
  // Of a character put in before `byte`: it shares the place of the one before.
  Range before(std::size_t byte) const { return byte == 0 ? Range{origin, origin} : at(byte - 1); }
};

// Writes the next version of a text from left to right.
class Rewriter {
 public:
  using Range = Encoding::Range;
  explicit Rewriter(AlignedText& text) : t_(text) {
    t_.next_text.clear();
    t_.next_map.clear();
  }
  std::uint32_t size() const { return static_cast<std::uint32_t>(t_.next_text.size()); }
  void copy(std::size_t begin, std::size_t end) {
    if (begin == end) return;
    if (t_.next_text.empty()) note_first(t_.at(begin), code_point(t_.text, begin).length);
    t_.next_text.append(t_.text, begin, end - begin);
    if (t_.tracked)
      t_.next_map.insert(t_.next_map.end(), t_.map.begin() + static_cast<std::ptrdiff_t>(begin), t_.map.begin() + static_cast<std::ptrdiff_t>(end));
  }
  void put(char32_t c, Range range) {
    const std::size_t old = t_.next_text.size();
    append_utf8(t_.next_text, c);
    if (old == 0) note_first(range, static_cast<std::uint32_t>(t_.next_text.size()));
    if (t_.tracked) t_.next_map.resize(t_.next_text.size(), range);
  }
  void put(std::string_view bytes, Range range) {
    if (bytes.empty()) return;
    if (t_.next_text.empty()) note_first(range, code_point(bytes, 0).length);
    t_.next_text += bytes;
    if (t_.tracked) t_.next_map.resize(t_.next_text.size(), range);
  }
  // Writes `changes` in place of the characters from byte `at` on.
  void apply(std::span<const Change> changes, std::size_t at);
  void done() {
    t_.text.swap(t_.next_text);
    t_.map.swap(t_.next_map);
    t_.first = first_;
    t_.first_length = first_length_;
  }

 private:
  void note_first(Range range, std::uint32_t length) {
    first_ = range;
    first_length_ = length;
  }
  AlignedText& t_;
  Range first_{0, 0};
  std::uint32_t first_length_ = 0;
};

// The first byte at or after `from` that is not ASCII, or text.size().
std::size_t skip_ascii(std::string_view text, std::size_t from);

// Unicode normal forms (UAX 15) with alignment.
enum class NormalForm { nfd, nfc, nfkd, nfkc };
void normal_form(AlignedText& text, NormalForm form);

}  // namespace rhetor
