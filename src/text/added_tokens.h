// Tokens that stand beside the model: found in the text before anything else happens to it. Internal to the room.
// Thread-safety: immutable.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/byte_bpe.h"
#include "text/json_reader.h"
#include "text/normalizer.h"

namespace rhetor {

struct AddedToken {
  TokenId id = -1;
  std::string text;
  std::string form;                 // what is looked for and decoded to: the normalised text if `normalized`
  bool single_word = false;         // only where no word character touches it
  bool lstrip = false, rstrip = false;   // takes the blanks on that side with it
  bool normalized = false;          // is looked for in the normalised text, in its own normalised form
  bool special = false;             // means something to the model; left out when decoding
};

class AddedTokens {
 public:
  AddedTokens() = default;
  // `json` is tokenizer.json's "added_tokens" (a list or null).
  AddedTokens(const Json& json, const std::string& name, const Normalizer* normalizer);

  const std::vector<AddedToken>& list() const { return tokens_; }
  const AddedToken* by_id(TokenId id) const;
  const AddedToken* by_text(std::string_view text) const;

  // A stretch of a text: an added token, or (null) what lies between.
  struct Part {
    std::size_t begin, end;
    const AddedToken* token;
  };
  // Cuts `text` at its added tokens; special ones count only if `specials`. Appends to `out`; together the parts are the text.
  void find(std::string_view text, bool normalized, bool specials, std::vector<Part>& out) const;
  bool any(bool normalized, bool specials) const { return !matchers_[index(normalized, specials)].empty(); }

 private:
  static std::size_t index(bool normalized, bool specials) { return (normalized ? 2u : 0u) + (specials ? 1u : 0u); }
  std::vector<AddedToken> tokens_;
  std::unordered_map<TokenId, std::size_t> ids_;
  std::unordered_map<std::string, std::size_t> texts_;
  TextMatcher matchers_[4];   // match ids are indices into tokens_
};

}  // namespace rhetor
