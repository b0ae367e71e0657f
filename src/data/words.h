// Which tokens go on with the word of the token before them: whole-word masking. Thread-safety: immutable.
#pragma once

#include <vector>

#include "text/tokenizer.h"

namespace rhetor {

// By the bytes that a token adds to a text: WordPiece's "##ing" adds "ing", a word's first token a blank and letters; byte-level
// tokens begin with the blank they contain. Punctuation stands alone; so does every token that begins with a Chinese or Japanese
// character, whose writing has no blanks.
class WordTable {
 public:
  explicit WordTable(const Tokenizer& tokenizer);
  bool continues(TokenId before, TokenId token) const {
    return (flags_[static_cast<std::size_t>(before)] & kEnds) != 0 && (flags_[static_cast<std::size_t>(token)] & kBegins) != 0;
  }

 private:
  static constexpr unsigned char kBegins = 1, kEnds = 2;   // its first or last byte is inside a word
  std::vector<unsigned char> flags_;
};

}  // namespace rhetor
