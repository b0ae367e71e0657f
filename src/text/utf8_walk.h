// The length of the character at text[at]; ill-formed bytes count as characters of one byte. Internal to the room.
#pragma once

#include <cstddef>
#include <string_view>

#include "text/utf8.h"

namespace rhetor {

inline std::size_t character_length(std::string_view text, std::size_t at) {
  const auto first = static_cast<unsigned char>(text[at]);
  if (first < 0x80) return 1;
  const Utf8Char c = utf8_char(text.substr(at));
  return c.kind == Utf8::valid ? static_cast<std::size_t>(c.length) : 1;
}

}  // namespace rhetor
