#include "text/utf8.h"

#include <cstdint>
#include <cstring>

namespace rhetor {

Utf8Char utf8_char(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned first = byte(0);
  if (first < 0x80) return {Utf8::valid, 1};
  // The range of the second byte excludes overlong forms, surrogates and code points above U+10FFFF (Unicode 15, table 3-7).
  int length = 0;
  unsigned low = 0x80, high = 0xBF;
  if (first >= 0xC2 && first <= 0xDF) {
    length = 2;
  } else if (first >= 0xE0 && first <= 0xEF) {
    length = 3;
    if (first == 0xE0) low = 0xA0;
    if (first == 0xED) high = 0x9F;
  } else if (first >= 0xF0 && first <= 0xF4) {
    length = 4;
    if (first == 0xF0) low = 0x90;
    if (first == 0xF4) high = 0x8F;
  } else {
    return {Utf8::invalid, 1};
  }
  for (int i = 1; i < length; ++i) {
    if (static_cast<std::size_t>(i) == text.size()) return {Utf8::partial, i};
    const unsigned next = byte(static_cast<std::size_t>(i));
    if (next < low || next > high) return {Utf8::invalid, i};
    low = 0x80;
    high = 0xBF;
  }
  return {Utf8::valid, length};
}

std::size_t utf8_valid_prefix(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    // Eight ASCII bytes at a time: most text is.
    std::uint64_t word = 0;
    if (at + sizeof word <= text.size()) {
      std::memcpy(&word, text.data() + at, sizeof word);
      if ((word & 0x8080808080808080u) == 0) {
        at += sizeof word;
        continue;
      }
    }
    const Utf8Char c = utf8_char(text.substr(at));
    if (c.kind != Utf8::valid) break;
    at += static_cast<std::size_t>(c.length);
  }
  return at;
}

std::string utf8_cleaned(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const std::size_t valid = utf8_valid_prefix(text);
    out.append(text.substr(0, valid));
    text.remove_prefix(valid);
    if (text.empty()) break;
    out += "\xEF\xBF\xBD";
    text.remove_prefix(static_cast<std::size_t>(utf8_char(text).length));
  }
  return out;
}

std::string utf8_cleaned(std::string_view text, std::vector<std::uint32_t>& back) {
  std::string out;
  out.reserve(text.size());
  back.clear();
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Char c = utf8_char(text.substr(at));
    const std::string_view put = c.kind == Utf8::valid ? text.substr(at, static_cast<std::size_t>(c.length)) : std::string_view("\xEF\xBF\xBD");
    for (std::size_t i = 0; i < put.size(); ++i) back.push_back(static_cast<std::uint32_t>(c.kind == Utf8::valid ? at + i : at));
    out += put;
    at += static_cast<std::size_t>(c.length);
  }
  back.push_back(static_cast<std::uint32_t>(text.size()));
  return out;
}

std::size_t utf8_complete(std::string_view text) {
  for (std::size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const std::string_view tail = text.substr(text.size() - back);
    if ((static_cast<unsigned char>(tail[0]) & 0xC0) == 0x80) continue;
    const Utf8Char c = utf8_char(tail);
    if (c.kind == Utf8::partial && static_cast<std::size_t>(c.length) == back) return text.size() - back;
    break;
  }
  return text.size();
}

std::size_t utf8_cut(std::string_view text, std::size_t at) {
  if (at >= text.size()) return text.size();
  for (std::size_t back = 1; back <= 3 && back <= at; ++back) {
    const Utf8Char c = utf8_char(text.substr(at - back));
    if (c.kind == Utf8::valid) return static_cast<std::size_t>(c.length) > back ? at - back : at;
  }
  return at;
}

}  // namespace rhetor
