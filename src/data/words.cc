#include "data/words.h"

namespace rhetor {
namespace {

bool letter(unsigned char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '\'' || c >= 0x80;
}
// The first byte of U+3000 to U+9FFF.
bool ideograph(unsigned char c) { return c >= 0xE3 && c <= 0xE9; }

}  // namespace

WordTable::WordTable(const Tokenizer& tokenizer) : flags_(static_cast<std::size_t>(tokenizer.vocab_size()), 0) {
  for (std::size_t id = 0; id < flags_.size(); ++id) {
    if (tokenizer.is_special(static_cast<TokenId>(id))) continue;
    const std::string bytes = tokenizer.token_bytes(static_cast<TokenId>(id));
    if (bytes.empty()) continue;
    if (bytes == " ") {   // a blank by itself belongs to the word after it
      flags_[id] = kEnds;
      continue;
    }
    const auto first = static_cast<unsigned char>(bytes.front()), last = static_cast<unsigned char>(bytes.back());
    flags_[id] = static_cast<unsigned char>((letter(first) && !ideograph(first) ? kBegins : 0) | (letter(last) ? kEnds : 0));
  }
}

}  // namespace rhetor
