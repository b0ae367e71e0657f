// Byte-pair encoding over characters, with the options of the `tokenizers` package and the same ids.
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <unordered_map>

#include "base/error.h"
#include "text/bpe_borders.h"
#include "text/bpe_merge.h"
#include "text/token_model.h"
#include "text/utf8_walk.h"
#include "text/vocabulary_json.h"
#include "text/word_cache.h"

namespace rhetor {
namespace {

std::string named(std::string_view text) { return fmt::format("'{}'", utf8_cleaned(text.substr(0, utf8_cut(text, 40)))); }

// Characters -> ids.
class CharacterTable {
 public:
  CharacterTable() { ascii_.fill(-1); }
  void add(std::string_view character, TokenId id) {
    if (character.size() == 1 && static_cast<unsigned char>(character[0]) < 0x80) {
      ascii_[static_cast<unsigned char>(character[0])] = id;
    } else {
      others_.insert(packed(character), static_cast<std::uint64_t>(id));
    }
  }
  TokenId find(std::string_view character) const {
    if (const auto first = static_cast<unsigned char>(character[0]); first < 0x80) return ascii_[first];
    const std::uint64_t id = others_.find(packed(character));
    return id == FlatTable::kAbsent ? -1 : static_cast<TokenId>(id);
  }

 private:
  static std::uint64_t packed(std::string_view character) {
    std::uint64_t key = 0;
    for (const char c : character) key = key << 8 | static_cast<unsigned char>(c);
    return key;
  }
  std::array<TokenId, 128> ascii_;
  FlatTable others_;
};

class Bpe final : public TokenModel {
 public:
  explicit Bpe(BpeOptions options)
      : options_(std::move(options)), merges_(options_.merges.size()), serial_(next_model_serial()) {
    ids_.reserve(options_.vocab.size());
    for (std::size_t i = 0; i < options_.vocab.size(); ++i) {
      if (options_.vocab[i].empty()) continue;
      if (!ids_.emplace(options_.vocab[i], static_cast<TokenId>(i)).second)
        fail("the token {} has two ids, {} and {}", named(options_.vocab[i]), id(options_.vocab[i]), i);
    }
    for (std::size_t i = 0; i < options_.vocab.size(); ++i) add_character(options_.vocab[i], static_cast<TokenId>(i));
    for (unsigned byte = 0; byte < 256; ++byte) bytes_[byte] = options_.byte_fallback ? id(fmt::format("<0x{:02X}>", byte)) : -1;
    unknown_ = options_.unknown.empty() ? -1 : id(options_.unknown);
    // Of a pair that is listed twice the last rank counts, as in `tokenizers`.
    std::vector<MergeBorders::Merge> merges;
    for (std::size_t rank = options_.merges.size(); rank-- > 0;) merges.push_back(add_merge(rank));
    std::reverse(merges.begin(), merges.end());
    find_borders(merges);
  }

  std::string_view kind() const override { return "BPE"; }
  std::int64_t size() const override { return static_cast<std::int64_t>(options_.vocab.size()); }
  void tokenize(std::string_view word, std::vector<Piece>& out) const override {
    const auto compute = [&](std::string_view text, std::vector<Piece>& pieces) { merge(text, pieces); };
    WordCache& cache = WordCache::of_this_thread();
    if (opener_.empty() || word.size() <= WordCache::kMaxWord) return cache.tokenize(serial_, word, out, compute);
    // Each stretch up to the next run of openers is a word of its own.
    for (std::size_t begin = 0, end = 0; begin < word.size(); begin = end) {
      while (word.substr(end).starts_with(opener_)) end += opener_.size();
      end = std::min(word.find(opener_, end), word.size());
      const std::size_t first = out.size();
      cache.tokenize(serial_, word.substr(begin, end - begin), out, compute);
      for (std::size_t i = first; i < out.size(); ++i) {
        out[i].begin += static_cast<std::uint32_t>(begin);
        out[i].end += static_cast<std::uint32_t>(begin);
      }
    }
  }
  std::string_view token(TokenId id) const override {
    return id < 0 || id >= size() ? std::string_view() : std::string_view(options_.vocab[static_cast<std::size_t>(id)]);
  }
  TokenId id(std::string_view token) const override {
    const auto found = ids_.find(token);
    return found == ids_.end() ? -1 : found->second;
  }
  std::string to_json() const override;

 private:
  // A character is spelled another way inside a word (prefix) and at its end (suffix).
  static std::size_t spelling(bool first, bool last) { return (first ? 0u : 1u) + (last ? 2u : 0u); }

  void add_character(std::string_view text, TokenId id) {
    for (const bool first : {true, false}) {
      for (const bool last : {false, true}) {
        const std::string_view prefix = first ? std::string_view() : options_.continuing_prefix;
        const std::string_view suffix = last ? std::string_view(options_.end_of_word_suffix) : std::string_view();
        if (text.size() <= prefix.size() + suffix.size() || !text.starts_with(prefix) || !text.ends_with(suffix)) continue;
        const std::string_view rest = text.substr(prefix.size(), text.size() - prefix.size() - suffix.size());
        if (rest.size() > 4 || character_length(rest, 0) != rest.size()) continue;
        characters_[spelling(first, last)].add(rest, id);
        initial_.push_back(id);
      }
    }
  }

  // What long words can be cut at. A text without a pre-tokeniser is one word; its blanks (SentencePiece's, GPT-2's or plain ones) cut it if
  // they are never merged onto something else before them, a blank is spelled alike everywhere, and no look-up asks for the whole word.
  void find_borders(const std::vector<MergeBorders::Merge>& merges) {
    std::vector<TokenId> initial(initial_);
    for (const TokenId id : bytes_) {
      if (id >= 0) initial.push_back(id);
    }
    if (unknown_ >= 0) initial.push_back(unknown_);
    borders_ = MergeBorders(options_.vocab.size(), initial, merges);
    if (!options_.continuing_prefix.empty() || !options_.end_of_word_suffix.empty() || options_.ignore_merges) return;
    for (const std::string_view blank : {"\u2581", "\u0120", " "}) {
      const TokenId id = characters_[0].find(blank);
      if (id < 0 || id == unknown_ || !borders_.opens(id)) continue;
      opener_ = blank;
      return;
    }
  }

  MergeBorders::Merge add_merge(std::size_t rank) {
    const auto& [left, right] = options_.merges[rank];
    const auto known = [&](std::string_view text) {
      const TokenId found = id(text);
      if (found < 0) fail("merge {} ({} {}) needs {}, which is not in the vocabulary", rank, named(left), named(right), named(text));
      return found;
    };
    const TokenId l = known(left), r = known(right);
    if (!right.starts_with(options_.continuing_prefix))
      fail("merge {} ({} {}): the right part does not start with the continuing prefix {}", rank, named(left), named(right),
           named(options_.continuing_prefix));
    const TokenId result = known(left + right.substr(options_.continuing_prefix.size()));
    merges_.add(l, r, static_cast<std::uint32_t>(rank), result);
    return {l, r, result};
  }

  void merge(std::string_view word, std::vector<Piece>& out) const {
    if (options_.ignore_merges) {
      if (const TokenId whole = id(word); whole >= 0) return out.push_back({whole, 0, static_cast<std::uint32_t>(word.size())});
    }
    thread_local std::vector<BpeSymbol> symbols;
    symbols.clear();
    spell(word, symbols);
    if (symbols.size() > MergeTable::kShort && borders_.known()) {
      merges_.merge_stretches(symbols, [&](TokenId u, TokenId v) { return borders_.crossed(u, v); });
    } else {
      merges_.merge(symbols);
    }
    for (const BpeSymbol& symbol : symbols) out.push_back({symbol.id, symbol.begin, symbol.end});
  }

  // The characters of the word as symbols. An unknown token waits until the next known character, so that neighbours can join it.
  void spell(std::string_view word, std::vector<BpeSymbol>& symbols) const {
    BpeSymbol waiting{-1, 0, 0};
    for (std::size_t at = 0; at < word.size();) {
      const std::size_t length = character_length(word, at);
      const std::string_view character = word.substr(at, length);
      const bool first = at == 0, last = at + length == word.size();
      const auto begin = static_cast<std::uint32_t>(at), end = static_cast<std::uint32_t>(at + length);
      at += length;
      if (const TokenId id = characters_[spelling(first, last)].find(character); id >= 0) {
        if (waiting.id >= 0) symbols.push_back(waiting);
        waiting.id = -1;
        symbols.push_back({id, begin, end});
      } else if (!fall_back(character, first, last, begin, symbols) && !options_.unknown.empty()) {
        if (unknown_ < 0) fail("the unknown token {} of the BPE model is not in its vocabulary", named(options_.unknown));
        if (waiting.id >= 0 && options_.fuse_unknown) {
          waiting.end = end;
        } else {
          if (waiting.id >= 0) symbols.push_back(waiting);
          waiting = {unknown_, begin, end};
        }
      }
    }
    if (waiting.id >= 0) symbols.push_back(waiting);
  }

  // The bytes of an unknown character as tokens "<0xNN>", with those of the prefix and suffix that it would have had.
  bool fall_back(std::string_view character, bool first, bool last, std::uint32_t begin, std::vector<BpeSymbol>& symbols) const {
    if (!options_.byte_fallback) return false;
    const std::size_t count = symbols.size();
    const auto spelled = [&](std::string_view text, std::uint32_t from, std::uint32_t step) {
      for (const char c : text) {
        const TokenId id = bytes_[static_cast<unsigned char>(c)];
        if (id < 0) return false;
        symbols.push_back({id, from, from + step});
        from += step;
      }
      return true;
    };
    const auto end = begin + static_cast<std::uint32_t>(character.size());
    if ((first || spelled(options_.continuing_prefix, begin, 0)) && spelled(character, begin, 1) &&
        (!last || spelled(options_.end_of_word_suffix, end, 0)))
      return true;
    symbols.resize(count);
    return false;
  }

  BpeOptions options_;
  std::unordered_map<std::string_view, TokenId> ids_;  // views of options_.vocab
  std::array<CharacterTable, 4> characters_;
  std::array<TokenId, 256> bytes_{};
  std::vector<TokenId> initial_;   // tokens that are characters, in any spelling
  MergeTable merges_;
  MergeBorders borders_;
  std::string_view opener_;        // a word may be cut before each run of it; "": none
  TokenId unknown_ = -1;
  std::uint32_t serial_;
};

std::string Bpe::to_json() const {
  const auto optional = [](const std::string& text) { return text.empty() ? std::string("null") : json_string(text); };
  // The classic form "a b" can be read by every version; a token with a space needs the pair form.
  bool spaces = false;
  for (const auto& [left, right] : options_.merges) spaces |= left.find(' ') != left.npos || right.find(' ') != right.npos;
  std::string merges;
  for (const auto& [left, right] : options_.merges) {
    merges += merges.empty() ? "\n      " : ",\n      ";
    merges += spaces ? fmt::format("[{}, {}]", json_string(left), json_string(right)) : json_string(fmt::format("{} {}", left, right));
  }
  return fmt::format("{{\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": {},\n    \"continuing_subword_prefix\": {},\n"
                     "    \"end_of_word_suffix\": {},\n    \"fuse_unk\": {},\n    \"byte_fallback\": {},\n    \"ignore_merges\": {},\n"
                     "    \"vocab\": {},\n    \"merges\": [{}{}]\n  }}",
                     optional(options_.unknown), optional(options_.continuing_prefix), optional(options_.end_of_word_suffix),
                     options_.fuse_unknown, options_.byte_fallback, options_.ignore_merges, json_vocabulary(options_.vocab), merges,
                     merges.empty() ? "" : "\n    ");
}

}  // namespace

TokenModelPtr make_bpe(BpeOptions options) { return std::make_shared<Bpe>(std::move(options)); }

}  // namespace rhetor
