#include <algorithm>
#include <functional>

#include "text/sentencepiece_parts.h"
#include "text/utf8_walk.h"
#include "text/word_cache.h"

namespace rhetor {
namespace {

using Type = SentencePieceFile::Type;

bool matchable(const SentencePieceFile::Piece& piece) {
  return piece.type == Type::normal || piece.type == Type::user_defined || piece.type == Type::unused;
}

// Whether the text has a space after something else: then a piece may go on over the end of a word.
bool crosses_words(std::string_view text) {
  const std::size_t other = [&] {
    std::size_t at = 0;
    while (text.substr(at).starts_with(kSpaceSymbol)) at += kSpaceSymbol.size();
    return at;
  }();
  return text.find(kSpaceSymbol, other) != text.npos;
}

// The ends of the characters of a text, without 0.
std::vector<std::size_t> character_ends(std::string_view text) {
  std::vector<std::size_t> ends;
  for (std::size_t at = 0; at < text.size();) ends.push_back(at += character_length(text, at));
  return ends;
}

}  // namespace

SentencePieceBpe::SentencePieceBpe(const SentencePieceFile& file, const LongestPrefix& frozen)
    : file_(file), frozen_(frozen), serial_(next_model_serial()) {
  const auto count = static_cast<TokenId>(file.pieces.size());
  std::vector<float> scores;
  for (TokenId id = 0; id < count; ++id) {
    const auto& piece = file.pieces[static_cast<std::size_t>(id)];
    lengths_.push_back(static_cast<std::uint32_t>(piece.text.size()));
    const bool single = character_length(piece.text, 0) == piece.text.size();
    if (single) characters_[piece.text] = id;
    if (!matchable(piece)) continue;
    ids_.emplace(piece.text, id);
    scores.push_back(piece.score);
    has_unused_ |= piece.type == Type::unused;
    words_ &= !crosses_words(piece.text);
  }
  // Characters that are no pieces still take part in merges.
  for (TokenId id = 0; id < count; ++id) {
    const std::string& text = file.pieces[static_cast<std::size_t>(id)].text;
    if (!matchable(file.pieces[static_cast<std::size_t>(id)])) continue;
    std::size_t begin = 0;
    for (const std::size_t end : character_ends(text)) {
      if (characters_.emplace(text.substr(begin, end - begin), static_cast<TokenId>(lengths_.size())).second)
        lengths_.push_back(static_cast<std::uint32_t>(end - begin));
      begin = end;
    }
  }
  frozen_base_ = static_cast<TokenId>(lengths_.size());
  std::sort(scores.begin(), scores.end(), std::greater<>());
  scores.erase(std::unique(scores.begin(), scores.end()), scores.end());
  for (const auto& [text, id] : ids_) {
    const float score = file.pieces[static_cast<std::size_t>(id)].score;
    const auto rank = std::lower_bound(scores.begin(), scores.end(), score, std::greater<>()) - scores.begin();
    for (const std::size_t end : character_ends(text)) {
      if (end == text.size()) break;
      const TokenId left = symbol(text.substr(0, end)), right = left < 0 ? -1 : symbol(text.substr(end));
      if (right >= 0) merges_.add(left, right, static_cast<std::uint32_t>(rank), id);
    }
  }
}

// What a text is as a symbol: a character or a piece that merges can give; -1: it cannot come up.
TokenId SentencePieceBpe::symbol(std::string_view text) const {
  if (character_length(text, 0) == text.size()) {
    const auto found = characters_.find(std::string(text));
    return found == characters_.end() ? -1 : found->second;
  }
  const auto found = ids_.find(text);
  return found == ids_.end() ? -1 : found->second;
}

TokenId SentencePieceBpe::piece_of(TokenId symbol) const {
  if (symbol >= frozen_base_) return symbol - frozen_base_;
  return symbol < 0 || symbol >= static_cast<TokenId>(file_.pieces.size()) ? file_.unknown : symbol;
}

void SentencePieceBpe::tokenize(std::string_view text, std::vector<Piece>& out) const {
  if (!words_ || has_unused_) return tokenize_word(text, out);
  auto& cache = WordCache::of_this_thread();
  for (std::size_t begin = 0; begin < text.size();) {
    // A word: spaces, then the rest up to the next space.
    std::size_t end = begin;
    while (text.substr(end).starts_with(kSpaceSymbol)) end += kSpaceSymbol.size();
    end = std::min(text.find(kSpaceSymbol, end), text.size());
    const std::size_t first = out.size();
    cache.tokenize(serial_, text.substr(begin, end - begin), out,
                   [&](std::string_view word, std::vector<Piece>& pieces) { tokenize_word(word, pieces); });
    for (std::size_t i = first; i < out.size(); ++i) {
      out[i].begin += static_cast<std::uint32_t>(begin);
      out[i].end += static_cast<std::uint32_t>(begin);
    }
    begin = end;
  }
}

void SentencePieceBpe::tokenize_word(std::string_view word, std::vector<Piece>& out) const {
  thread_local std::vector<BpeSymbol> symbols;
  thread_local std::string key;
  symbols.clear();
  for (std::size_t at = 0; at < word.size();) {
    const auto frozen = frozen_.find(word.substr(at));
    const std::size_t length = frozen.length > 0 ? frozen.length : character_length(word, at);
    TokenId id = frozen_base_ + frozen.id;
    if (frozen.length == 0) {
      key.assign(word.substr(at, length));
      const auto found = characters_.find(key);
      id = found == characters_.end() ? -1 : found->second;
    }
    symbols.push_back({id, static_cast<std::uint32_t>(at), static_cast<std::uint32_t>(at + length)});
    at += length;
  }
  if (!has_unused_) {
    merges_.merge(symbols);
    for (const BpeSymbol& s : symbols) out.push_back({piece_of(s.id), s.begin, s.end});
    return;
  }
  // A piece that is not to be used is split again the way its text was last put together.
  Splits splits;
  merges_.merge(symbols, [&](TokenId left, TokenId right, TokenId result) {
    if (file_.pieces[static_cast<std::size_t>(result)].type == Type::unused) splits[result] = {left, right};
  });
  for (const BpeSymbol& s : symbols) split_unused(s, splits, out);
}

void SentencePieceBpe::split_unused(const BpeSymbol& symbol, const Splits& splits, std::vector<Piece>& out) const {
  std::vector<BpeSymbol> stack{symbol};
  while (!stack.empty()) {
    const BpeSymbol s = stack.back();
    stack.pop_back();
    const auto split = splits.find(s.id);
    if (split == splits.end() || s.id >= static_cast<TokenId>(file_.pieces.size())) {
      out.push_back({piece_of(s.id), s.begin, s.end});
      continue;
    }
    const std::uint32_t middle = s.begin + lengths_[static_cast<std::size_t>(split->second.first)];
    stack.push_back({split->second.second, middle, s.end});
    stack.push_back({split->second.first, s.begin, middle});
  }
}

BpeOptions SentencePieceBpe::options() const {
  BpeOptions options{.unknown = file_.pieces[static_cast<std::size_t>(file_.unknown)].text,
                     .fuse_unknown = true,
                     .byte_fallback = file_.byte_fallback};
  std::vector<std::pair<float, std::pair<std::string, std::string>>> merges;
  for (const auto& piece : file_.pieces) {
    options.vocab.push_back(piece.text);
    if (!matchable(piece) || piece.type == Type::unused) continue;
    for (const std::size_t end : character_ends(piece.text)) {
      const std::string left = piece.text.substr(0, end), right = piece.text.substr(end);
      if (ids_.contains(left) && ids_.contains(right)) merges.push_back({piece.score, {left, right}});
    }
  }
  std::stable_sort(merges.begin(), merges.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  for (auto& [score, merge] : merges) options.merges.push_back(std::move(merge));
  return options;
}

}  // namespace rhetor
