// The parts of a SentencePiece tokenizer. Internal to the room.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/bpe_merge.h"
#include "text/double_array.h"
#include "text/sentencepiece_charsmap.h"
#include "text/sentencepiece_file.h"
#include "text/token_model.h"

namespace rhetor {

inline constexpr std::string_view kSpaceSymbol = "\u2581";  // what a space becomes

// The longest of a set of texts that a text starts with; 0: none.
class LongestPrefix {
 public:
  void add(std::string_view text, std::int32_t id) { keys_.emplace_back(text, id); }
  void build() { trie_ = DoubleArray(std::move(keys_)); }
  struct Match { std::size_t length; std::int32_t id; };
  Match find(std::string_view text) const;

 private:
  std::vector<DoubleArray::Key> keys_;
  DoubleArray trie_;
};

// Normalised text and, for each of its bytes and its end, the byte of the original text that it comes from.
struct NormalizedText {
  std::string text;
  std::vector<std::uint32_t> origin;  // text.size() + 1 of them
};

class SentencePieceNormalizer {
 public:
  // `keep`: user-defined pieces, which stay as they are.
  SentencePieceNormalizer(const SentencePieceFile& file, const std::string& name, const LongestPrefix& keep);
  void apply(std::string_view text, NormalizedText& out) const;
  const CharsMap& rules() const { return rules_; }

 private:
  struct Prefix { std::string_view text; std::size_t length; };
  Prefix first(std::string_view text) const;

  CharsMap rules_;
  const LongestPrefix& keep_;
  bool add_dummy_prefix_, remove_extra_whitespaces_, escape_whitespaces_, whitespace_as_suffix_;
  bool plain_[128] = {};  // ASCII characters that no rule and no kept piece starts with
};

// SentencePiece's BPE: always merges the pair whose concatenation is the piece with the highest score, of equals the leftmost.
class SentencePieceBpe {
 public:
  SentencePieceBpe(const SentencePieceFile& file, const LongestPrefix& frozen);
  // Appends one piece a symbol; unknown characters are pieces with the unknown id, each for itself.
  void tokenize(std::string_view text, std::vector<Piece>& out) const;
  BpeOptions options() const;  // the same as vocabulary and merges

 private:
  void tokenize_word(std::string_view word, std::vector<Piece>& out) const;
  using Splits = std::unordered_map<TokenId, std::pair<TokenId, TokenId>>;
  void split_unused(const BpeSymbol& symbol, const Splits& splits, std::vector<Piece>& out) const;
  TokenId symbol(std::string_view text) const;
  TokenId piece_of(TokenId symbol) const;

  const SentencePieceFile& file_;
  const LongestPrefix& frozen_;
  std::unordered_map<std::string_view, TokenId> ids_;   // pieces that text can give
  std::unordered_map<std::string, TokenId> characters_; // of pieces; those that are no pieces have ids from pieces.size() on
  std::vector<std::uint32_t> lengths_;                  // bytes of each symbol
  MergeTable merges_;
  TokenId frozen_base_ = 0;                             // user-defined pieces found in the text: base + id, which never merge
  bool has_unused_ = false, words_ = true;              // words_: no piece goes on over a space, so words can be cut apart
  std::uint32_t serial_;
};

}  // namespace rhetor
