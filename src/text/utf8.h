// UTF-8 in steps of one character: what text and data need to cut and to clean byte strings.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rhetor {

enum class Utf8 { valid, invalid, partial };
struct Utf8Char {
  Utf8 kind;
  int length;  // bytes of the character; of the ill-formed part (Unicode 15, table 3-8: maximal subpart); of what is there
};
// Examines the character that starts at text[0]. `partial`: the text ends before a so far correct character does.
// REQUIRES: !text.empty()
Utf8Char utf8_char(std::string_view text);

// How many leading bytes of `text` are whole, valid characters.
std::size_t utf8_valid_prefix(std::string_view text);

// The text with every ill-formed part replaced by U+FFFD.
std::string utf8_cleaned(std::string_view text);
// The same; back[i] is where byte i of it begins in `text`, and back[size] the size of `text`.
std::string utf8_cleaned(std::string_view text, std::vector<std::uint32_t>& back);

// How many leading bytes of `text` no further bytes can change: all but a character that is cut off at the end.
std::size_t utf8_complete(std::string_view text);

// The largest n <= at that does not lie inside a character (bytes that are no UTF-8 may be cut anywhere).
std::size_t utf8_cut(std::string_view text, std::size_t at);

}  // namespace rhetor
