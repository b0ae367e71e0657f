// WordPiece: the longest token that matches at each position, as BERT does (Schuster & Nakajima 2012; Devlin et al. 2019). One walk down
// a trie a token instead of a look-up a candidate length.
#include <fmt/core.h>

#include "base/error.h"
#include "text/double_array.h"
#include "text/token_model.h"
#include "text/utf8_walk.h"
#include "text/vocabulary_json.h"
#include "text/word_cache.h"

namespace rhetor {
namespace {

constexpr std::size_t kMaxTokenBytes = 8000;

class WordPiece final : public TokenModel {
 public:
  explicit WordPiece(WordPieceOptions options) : options_(std::move(options)), serial_(next_model_serial()) {
    if (options_.max_word_characters < 0) fail("max_input_chars_per_word is {}, expected 0 or more", options_.max_word_characters);
    std::vector<DoubleArray::Key> keys;
    for (std::size_t i = 0; i < options_.vocab.size(); ++i) {
      const auto& text = options_.vocab[i];
      if (text.size() > kMaxTokenBytes) fail("the token with the id {} has {} bytes, the limit is {}", i, text.size(), kMaxTokenBytes);
      keys.emplace_back(text, static_cast<TokenId>(i));
    }
    trie_ = DoubleArray(std::move(keys));
    unknown_ = id(options_.unknown);
    for (const char c : options_.prefix) continues_ = continues_ && trie_.step(inner_, static_cast<unsigned char>(c));
  }

  std::string_view kind() const override { return "WordPiece"; }
  std::int64_t size() const override { return static_cast<std::int64_t>(options_.vocab.size()); }
  void tokenize(std::string_view word, std::vector<Piece>& out) const override {
    WordCache::of_this_thread().tokenize(serial_, word, out,
                                         [&](std::string_view text, std::vector<Piece>& pieces) { cut(text, pieces); });
  }
  std::string_view token(TokenId id) const override {
    return id < 0 || id >= size() ? std::string_view() : std::string_view(options_.vocab[static_cast<std::size_t>(id)]);
  }
  TokenId id(std::string_view token) const override { return token.empty() ? -1 : trie_.find(token); }
  std::string to_json() const override {
    return fmt::format("{{\n    \"type\": \"WordPiece\",\n    \"unk_token\": {},\n    \"continuing_subword_prefix\": {},\n"
                       "    \"max_input_chars_per_word\": {},\n    \"vocab\": {}\n  }}",
                       json_string(options_.unknown), json_string(options_.prefix), options_.max_word_characters,
                       json_vocabulary(options_.vocab));
  }

 private:
  void cut(std::string_view word, std::vector<Piece>& out) const {
    const std::size_t first = out.size();
    if (too_long(word)) return unknown(word, out);
    for (std::size_t begin = 0; begin < word.size();) {
      DoubleArray::Node node = begin == 0 ? DoubleArray::kRoot : inner_;
      Piece best{-1, static_cast<std::uint32_t>(begin), 0};
      if (begin == 0 || continues_) {
        for (std::size_t end = begin; end < word.size() && trie_.step(node, static_cast<unsigned char>(word[end]));) {
          ++end;
          const TokenId id = trie_.value(node);
          if (id >= 0) best = {id, best.begin, static_cast<std::uint32_t>(end)};
        }
      }
      if (best.id < 0) {
        out.resize(first);
        return unknown(word, out);
      }
      out.push_back(best);
      begin = best.end;
    }
  }

  bool too_long(std::string_view word) const {
    const auto limit = static_cast<std::size_t>(options_.max_word_characters);
    if (word.size() <= limit) return false;
    std::size_t characters = 0;
    for (std::size_t at = 0; at < word.size(); at += character_length(word, at)) {
      if (++characters > limit) return true;
    }
    return false;
  }

  void unknown(std::string_view word, std::vector<Piece>& out) const {
    if (unknown_ < 0)
      fail("the word '{}' cannot be covered by the WordPiece vocabulary, and the vocabulary has no unknown token '{}'",
           utf8_cleaned(word.substr(0, utf8_cut(word, 40))), options_.unknown);
    out.push_back({unknown_, 0, static_cast<std::uint32_t>(word.size())});
  }

  WordPieceOptions options_;
  DoubleArray trie_;
  DoubleArray::Node inner_ = DoubleArray::kRoot;  // where tokens inside a word begin: after "##"
  bool continues_ = true;                         // false: no token starts with the prefix
  TokenId unknown_ = -1;
  std::uint32_t serial_;
};

}  // namespace

TokenModelPtr make_wordpiece(WordPieceOptions options) { return std::make_shared<WordPiece>(std::move(options)); }

}  // namespace rhetor
