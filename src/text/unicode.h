// Code points and their properties: what normalisers and pre-tokenisers ask about characters. Over utf8proc (Unicode 15).
// Thread-safety: all functions may run concurrently.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rhetor {

struct CodePoint {
  char32_t value;
  std::uint32_t length;  // bytes in UTF-8
};

// REQUIRES: valid UTF-8 at text[at].
inline CodePoint code_point(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<char32_t>(static_cast<unsigned char>(text[at + i])); };
  const char32_t first = byte(0);
  if (first < 0x80) return {first, 1};
  if (first < 0xE0) return {(first & 0x1F) << 6 | (byte(1) & 0x3F), 2};
  if (first < 0xF0) return {(first & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F), 3};
  return {(first & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F), 4};
}
// The character that ends at text[end - 1]. REQUIRES: valid UTF-8, end > 0.
inline CodePoint code_point_before(std::string_view text, std::size_t end) {
  std::size_t at = end - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return code_point(text, at);
}
void append_utf8(std::string& out, char32_t c);

// What is true of a character.
namespace property {
inline constexpr std::uint32_t space = 1 << 0;         // White_Space
inline constexpr std::uint32_t other = 1 << 1;         // categories Cc, Cf, Cs, Co: controls, formats, private use
inline constexpr std::uint32_t punctuation = 1 << 2;   // category P* or an ASCII symbol
inline constexpr std::uint32_t numeric = 1 << 3;       // categories Nd, Nl, No
inline constexpr std::uint32_t word = 1 << 4;          // \w of Unicode's regular expressions (UTS 18, annex C)
inline constexpr std::uint32_t mark = 1 << 5;          // category M*
inline constexpr std::uint32_t nonspacing = 1 << 6;    // category Mn
inline constexpr std::uint32_t ideograph = 1 << 7;     // of the blocks that BERT puts spaces around
inline constexpr std::uint32_t upper = 1 << 8;         // lower-casing changes it
inline constexpr std::uint32_t reorders = 1 << 9;      // canonical combining class != 0
inline constexpr std::uint32_t composes = 1 << 10;     // may be the second of a canonical composition
inline constexpr std::uint32_t not_nfd = 1 << 11;      // changed by that normal form, taken alone
inline constexpr std::uint32_t not_nfc = 1 << 12;
inline constexpr std::uint32_t not_nfkd = 1 << 13;
inline constexpr std::uint32_t not_nfkc = 1 << 14;
}  // namespace property

namespace internal {
extern std::atomic<const std::uint32_t*> property_pages[0x1100];
const std::uint32_t* make_property_page(std::uint32_t page);
}  // namespace internal

// REQUIRES: c < 0x110000.
inline std::uint32_t properties(char32_t c) {
  const std::uint32_t* page = internal::property_pages[c >> 8].load(std::memory_order_acquire);
  if (page == nullptr) [[unlikely]] page = internal::make_property_page(c >> 8);
  return page[c & 0xFF];
}
inline bool has(char32_t c, std::uint32_t what) { return (properties(c) & what) != 0; }

// Lower case by the unconditional mappings. Gives one character except for U+0130, whose second is U+0307.
char32_t lower_case(char32_t c);

std::uint8_t combining_class(char32_t c);
// Appends the full decomposition (UAX 15), canonical or compatible.
void decompose(char32_t c, bool compatible, std::vector<char32_t>& out);
// The primary composite of two characters, or 0.
char32_t compose(char32_t first, char32_t second);

// Ends of extended grapheme clusters (UAX 29): the length of the one that starts at text[at].
std::size_t grapheme_length(std::string_view text, std::size_t at);

// A number for the script of a character: equal for equal scripts. Hiragana and katakana count as Han; a blank and
// characters without a script have 0, "any".
int script_number(char32_t c);

}  // namespace rhetor
