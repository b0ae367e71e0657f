// GPT-2's byte alphabet (Radford et al. 2019): every byte is spelled with a printable character. Internal to the room.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace rhetor {

// Byte -> code point: printable Latin-1 characters stand for themselves, the other 68 bytes become U+0100, U+0101, ...
struct ByteAlphabet {
  std::array<std::uint16_t, 256> to_code{};
  std::array<std::int16_t, 512> to_byte{};   // -1: not of the alphabet
  ByteAlphabet();
};
const ByteAlphabet& byte_alphabet();

std::string spelled(std::string_view bytes);
// False if a character is not of the alphabet.
bool unspelled(std::string_view text, std::string& bytes);

}  // namespace rhetor
