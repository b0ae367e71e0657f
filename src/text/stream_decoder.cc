#include "text/tokenizer.h"
#include "text/utf8.h"

namespace rhetor {

std::string StreamDecoder::push(TokenId id) {
  if (tokenizer_->is_special(id)) return {};
  pending_ += tokenizer_->token_bytes(id);
  // At most the last three bytes can be the beginning of a character that the next token completes.
  std::size_t complete = pending_.size();
  for (std::size_t back = 1; back <= 3 && back <= pending_.size(); ++back) {
    const std::string_view tail = std::string_view(pending_).substr(pending_.size() - back);
    if ((static_cast<unsigned char>(tail[0]) & 0xC0) == 0x80) continue;
    const Utf8Char c = utf8_char(tail);
    if (c.kind == Utf8::partial && static_cast<std::size_t>(c.length) == back) complete -= back;
    break;
  }
  std::string out = utf8_cleaned(std::string_view(pending_).substr(0, complete));
  pending_.erase(0, complete);
  return out;
}

std::string StreamDecoder::finish() {
  std::string out = utf8_cleaned(pending_);
  pending_.clear();
  return out;
}

}  // namespace rhetor
