// SentencePiece's compiled normalisation rules ("precompiled_charsmap"): a map from short byte strings to their replacements, as stored
// in .model files and, in base64, in the "Precompiled" normaliser of tokenizer.json.
// Layout, little-endian: u32 size of the trie in bytes; the trie; replacements, each ended by a zero byte. The trie is a double array of
// u32 units in the format of the Darts-clone library (Yata): its values are offsets into the replacements.
// Thread-safety: immutable.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rhetor {

class CharsMap {
 public:
  CharsMap() = default;  // no rules
  // Untrusted bytes: fails with one sentence that starts with `name`. "" gives a map without rules.
  explicit CharsMap(std::string_view blob, const std::string& name = "precompiled_charsmap");

  bool empty() const { return units_.empty(); }
  // The longest rule that matches a prefix of `text`: its length in bytes and its replacement. length 0: no rule.
  struct Match { std::size_t length; std::string_view replacement; };
  Match longest(std::string_view text) const;
  // The shortest such rule, which is what the `tokenizers` package applies to a whole character or grapheme.
  Match shortest(std::string_view text) const;
  // Whether `text` begins a rule, perhaps a longer one.
  bool begins(std::string_view text) const;
  const std::string& blob() const { return blob_; }

 private:
  Match find(std::string_view text, bool shortest) const;
  std::string blob_;
  std::vector<std::uint32_t> units_;
  std::size_t replacements_ = 0;  // offset into blob_
};

}  // namespace rhetor
