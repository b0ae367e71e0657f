// Small SentencePiece .model files made in code, for tests and fuzz seeds.
#pragma once

#include <bit>
#include <cstdint>
#include <string>
#include <string_view>

namespace rhetor {

class TestModelWriter {
 public:
  enum Type { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };
  void piece(std::string_view text, float score, Type type = kNormal) {
    std::string fields = tagged(1, text) + '\x15';
    const auto bits = std::bit_cast<std::uint32_t>(score);
    for (int i = 0; i < 4; ++i) fields += static_cast<char>(bits >> (8 * i));
    if (type != kNormal) fields += number(3, type);
    bytes_ += tagged(1, fields);
  }
  void all_bytes() {
    static constexpr char digits[] = "0123456789ABCDEF";
    for (int b = 0; b < 256; ++b) piece(std::string("<0x") + digits[b / 16] + digits[b % 16] + ">", 0, kByte);
  }
  // algorithm: 1 unigram, 2 BPE
  void trainer(int algorithm, bool byte_fallback) { bytes_ += tagged(2, number(3, algorithm) + number(35, byte_fallback)); }
  void normalizer(std::string_view charsmap, bool dummy_prefix, bool remove_extra) {
    bytes_ += tagged(3, tagged(2, charsmap) + number(3, dummy_prefix) + number(4, remove_extra));
  }
  void raw(std::string_view bytes) { bytes_ += bytes; }
  static std::string tagged(int field, std::string_view content) {
    return varint(static_cast<std::uint64_t>(field) << 3 | 2) + varint(content.size()) + std::string(content);
  }
  static std::string number(int field, std::uint64_t value) { return varint(static_cast<std::uint64_t>(field) << 3) + varint(value); }
  const std::string& bytes() const { return bytes_; }

 private:
  static std::string varint(std::uint64_t value) {
    std::string out;
    for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
    return out + static_cast<char>(value);
  }
  std::string bytes_;
};

// One rule, "A" -> "a", as compiled rules. Units: root with its children at 1; 'A' (0x41) at 1 ^ 0x41 = 0x40, its value at
// 0x40 ^ 2 = 0x42.
inline std::string test_charsmap() {
  std::uint32_t units[256] = {};
  units[0] = 1u << 10;
  units[0x40] = 2u << 10 | 1u << 8 | 'A';
  units[0x42] = 1u << 31 | 0;
  std::string out;
  const auto put = [&](std::uint32_t value) {
    for (int i = 0; i < 4; ++i) out += static_cast<char>(value >> (8 * i));
  };
  put(sizeof units);
  for (const std::uint32_t unit : units) put(unit);
  return out + std::string("a\0", 2);
}

inline std::string test_sentencepiece(int algorithm, bool byte_fallback) {
  TestModelWriter w;
  w.piece("<unk>", 0, TestModelWriter::kUnknown);
  w.piece("<s>", 0, TestModelWriter::kControl);
  w.piece("</s>", 0, TestModelWriter::kControl);
  w.piece("<sep>", 0, TestModelWriter::kUserDefined);
  if (byte_fallback) w.all_bytes();
  float score = -1;
  for (const char* text : {"\u2581", "\u2581a", "ab", "\u2581ab", "c", "abc", "a", "b", "\u6d77", "\u6d77\u8239", "\u8239"}) w.piece(text, score--);
  w.piece("bc", -0.5f, TestModelWriter::kUnused);
  w.trainer(algorithm, byte_fallback);
  w.normalizer(test_charsmap(), true, true);
  return w.bytes();
}

}  // namespace rhetor
