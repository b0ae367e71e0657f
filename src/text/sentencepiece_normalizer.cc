#include "text/sentencepiece_parts.h"
#include "text/utf8_walk.h"

namespace rhetor {

LongestPrefix::Match LongestPrefix::find(std::string_view text) const {
  Match match{0, -1};
  DoubleArray::Node node = DoubleArray::kRoot;
  for (std::size_t i = 0; i < text.size() && trie_.step(node, static_cast<unsigned char>(text[i])); ++i) {
    if (trie_.value(node) >= 0) match = {i + 1, trie_.value(node)};
  }
  return match;
}

SentencePieceNormalizer::SentencePieceNormalizer(const SentencePieceFile& file, const std::string& name, const LongestPrefix& keep)
    : rules_(file.charsmap, name), keep_(keep), add_dummy_prefix_(file.add_dummy_prefix),
      remove_extra_whitespaces_(file.remove_extra_whitespaces), escape_whitespaces_(file.escape_whitespaces),
      whitespace_as_suffix_(file.whitespace_as_suffix) {
  // A rule may map a letter with the accent that follows it; what matters here are letters before ASCII.
  for (int c = '!'; c < 127; ++c) {
    char pair[2] = {static_cast<char>(c), 0};
    plain_[c] = rules_.longest({pair, 1}).length == 0;
    for (int next = 1; next < 128 && plain_[c]; ++next) {
      pair[1] = static_cast<char>(next);
      plain_[c] = !rules_.begins({pair, 2});
    }
  }
  for (const auto& piece : file.pieces) {
    const auto c = static_cast<unsigned char>(piece.text[0]);
    if (piece.type == SentencePieceFile::Type::user_defined && c < 128) plain_[c] = false;
  }
}

// What the text starts with, normalised, and how many bytes of it that is.
SentencePieceNormalizer::Prefix SentencePieceNormalizer::first(std::string_view text) const {
  if (const auto kept = keep_.find(text); kept.length > 0) return {text.substr(0, kept.length), kept.length};
  if (const auto rule = rules_.longest(text); rule.length > 0) return {rule.replacement, rule.length};
  const std::size_t length = character_length(text, 0);
  if (length == 1 && static_cast<unsigned char>(text[0]) >= 0x80) return {"\uFFFD", 1};
  return {text.substr(0, length), length};
}

void SentencePieceNormalizer::apply(std::string_view text, NormalizedText& out) const {
  out.text.clear();
  out.origin.clear();
  std::size_t at = 0;
  while (remove_extra_whitespaces_ && at < text.size()) {
    const Prefix prefix = first(text.substr(at));
    if (prefix.text != " ") break;
    at += prefix.length;
  }
  if (at == text.size()) {
    out.origin.push_back(static_cast<std::uint32_t>(at));
    return;
  }
  out.text.reserve(text.size() + text.size() / 2);
  out.origin.reserve(text.size() + text.size() / 2);
  const auto put = [&](std::string_view bytes) {
    out.text += bytes;
    out.origin.insert(out.origin.end(), bytes.size(), static_cast<std::uint32_t>(at));
  };
  const std::string_view space = escape_whitespaces_ ? kSpaceSymbol : std::string_view(" ");
  if (add_dummy_prefix_ && !whitespace_as_suffix_) put(space);
  bool after_space = remove_extra_whitespaces_;
  while (at < text.size()) {
    const auto c = static_cast<unsigned char>(text[at]);
    // The common case: ASCII before ASCII, where no rule starts.
    if (c < 128 && plain_[c] && at + 1 < text.size() && static_cast<unsigned char>(text[at + 1]) < 128) {
      put(text.substr(at, 1));
      after_space = false;
      ++at;
      continue;
    }
    Prefix prefix = first(text.substr(at));
    while (after_space && prefix.text.starts_with(' ')) prefix.text.remove_prefix(1);
    for (const char& byte : prefix.text) put(byte == ' ' ? space : std::string_view(&byte, 1));
    if (!prefix.text.empty()) after_space = remove_extra_whitespaces_ && prefix.text.ends_with(' ');
    at += prefix.length;
  }
  while (remove_extra_whitespaces_ && out.text.ends_with(space)) {
    const std::size_t length = out.text.size() - space.size();
    at = out.origin[length];
    out.text.resize(length);
    out.origin.resize(length);
  }
  if (add_dummy_prefix_ && whitespace_as_suffix_) put(space);
  out.origin.push_back(static_cast<std::uint32_t>(at));
}

}  // namespace rhetor
