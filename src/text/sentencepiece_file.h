// What a SentencePiece .model file says. The file is a protocol buffer; this reads the fields that encoding and decoding need.
// Internal to the room; others use load_sentencepiece of token_model.h.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace rhetor {

struct SentencePieceFile {
  enum class Type { normal = 1, unknown, control, user_defined, unused, byte };
  enum class Algorithm { unigram = 1, bpe, word, character };
  struct Piece {
    std::string text;
    float score = 0;
    Type type = Type::normal;
  };
  std::vector<Piece> pieces;                       // by id
  Algorithm algorithm = Algorithm::unigram;
  bool byte_fallback = false;
  bool whitespace_as_suffix = false;
  std::string unknown_surface = " \u2047 ";        // what an unknown piece decodes to
  std::string charsmap;                            // compiled normalisation rules, sentencepiece_charsmap.h
  bool add_dummy_prefix = true, remove_extra_whitespaces = true, escape_whitespaces = true;
  int unknown = -1;                                // id of the one unknown piece
};

// Untrusted bytes: fails with one sentence that starts with `name`. Checks what the rest relies on: texts are not empty and not too long, no
// piece appears twice, there is one unknown piece, with byte fallback all 256 byte pieces, scores are numbers.
SentencePieceFile read_sentencepiece(std::string_view bytes, const std::string& name);

// The byte of a piece "<0x41>", or -1.
int byte_of_piece(std::string_view text);

}  // namespace rhetor
