#include "text/byte_alphabet.h"

namespace rhetor {

ByteAlphabet::ByteAlphabet() {
  to_byte.fill(-1);
  std::uint16_t next = 256;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    to_code[byte] = printable ? static_cast<std::uint16_t>(byte) : next++;
    to_byte[to_code[byte]] = static_cast<std::int16_t>(byte);
  }
}

const ByteAlphabet& byte_alphabet() {
  static const ByteAlphabet instance;
  return instance;
}

std::string spelled(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) {
    const unsigned code = byte_alphabet().to_code[static_cast<unsigned char>(c)];
    if (code < 0x80) {
      out += static_cast<char>(code);
    } else {
      out += static_cast<char>(0xC0 | code >> 6);
      out += static_cast<char>(0x80 | (code & 0x3F));
    }
  }
  return out;
}

bool unspelled(std::string_view text, std::string& bytes) {
  bytes.clear();
  for (std::size_t i = 0; i < text.size(); ++i) {
    unsigned code = static_cast<unsigned char>(text[i]);
    if (code >= 0x80) {
      if ((code & 0xE0) != 0xC0 || i + 1 == text.size()) return false;
      code = (code & 0x1F) << 6 | (static_cast<unsigned char>(text[++i]) & 0x3F);
    }
    if (code >= byte_alphabet().to_byte.size() || byte_alphabet().to_byte[code] < 0) return false;
    bytes += static_cast<char>(byte_alphabet().to_byte[code]);
  }
  return true;
}

}  // namespace rhetor
