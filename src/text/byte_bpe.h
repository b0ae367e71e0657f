// Byte-level BPE: the data of a vocabulary and the tokenizer over it. Internal to the room; others see text/tokenizer.h.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/hash_table.h"
#include "text/tokenizer.h"

namespace rhetor {

struct BpeModel {
  struct Merge { TokenId left, right, result; };
  struct Added {
    TokenId id;
    std::string text;
    bool special;  // else: plain text that is always one token
  };
  // Bytes of each id; added tokens hold their text; an id nobody uses holds "".
  std::vector<std::string> tokens;
  std::array<TokenId, 256> byte_ids{};
  std::vector<Merge> merges;  // by rank, best first
  std::vector<Added> added;
};

// Finds the leftmost, then longest of a set of strings.
class TextMatcher {
 public:
  void add(std::string_view text, TokenId id);
  bool empty() const { return nodes_ == 1; }
  struct Match { std::size_t begin, end; TokenId id; };
  // The first match at or after `from`; begin == npos if none.
  Match find(std::string_view text, std::size_t from) const;

 private:
  FlatTable children_;  // node << 8 | byte -> node
  std::vector<TokenId> ends_ = {-1};
  std::array<bool, 256> first_{};
  std::uint64_t nodes_ = 1;
};

class ByteBpe final : public Tokenizer {
 public:
  // REQUIRES: a consistent model (ids in range, byte_ids complete); tokenizer_from_json checks what comes from files.
  explicit ByteBpe(BpeModel model);
  std::string_view kind() const override { return "byte_bpe"; }
  std::int64_t vocab_size() const override { return static_cast<std::int64_t>(model_.tokens.size()); }
  std::vector<TokenId> encode(std::string_view text, bool specials) const override;
  std::string token_bytes(TokenId id) const override;
  bool is_special(TokenId id) const override;
  TokenId special(std::string_view text) const override;
  std::vector<std::string> specials() const override;
  std::string to_json() const override;

 private:
  void encode_plain(std::string_view text, std::vector<TokenId>& out) const;
  int merge_short(std::string_view word, TokenId* ids) const;
  void merge_long(std::string_view word, std::vector<TokenId>& out) const;
  std::uint64_t pair(TokenId left, TokenId right) const { return pairs_.find(pair_key(left, right)); }

  BpeModel model_;
  FlatTable pairs_;  // pair of ids -> rank << 32 | result
  std::vector<bool> special_;
  std::unordered_map<std::string, TokenId> special_ids_;
  TextMatcher all_added_, plain_added_;  // with and without the special ones
  std::uint64_t serial_;                 // tells the tokenizers of a process apart in the word cache
};

}  // namespace rhetor
