#include "text/train_common.h"

#include <fmt/core.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "text/utf8_walk.h"

namespace rhetor {

TokenId VocabularyBuilder::add(std::string_view text) {
  const auto [entry, is_new] = ids_.emplace(text, static_cast<TokenId>(texts_.size()));
  if (is_new) texts_.emplace_back(text);
  return entry->second;
}

TokenId VocabularyBuilder::find(std::string_view text) const {
  const auto found = ids_.find(std::string(text));
  return found == ids_.end() ? -1 : found->second;
}

VocabularyBuilder start_vocabulary(const ModelTrainOptions& options) {
  VocabularyBuilder vocabulary;
  for (const auto& special : options.specials) {
    if (special.empty() || utf8_valid_prefix(special) != special.size())
      fail("the special token '{}' must be a text of UTF-8", utf8_cleaned(special));
    if (vocabulary.find(special) >= 0) fail("the special token '{}' is given twice", special);
    vocabulary.add(special);
  }
  if (!options.unknown.empty()) vocabulary.add(options.unknown);
  for (unsigned byte = 0; options.byte_fallback && byte < 256; ++byte) vocabulary.add(fmt::format("<0x{:02X}>", byte));
  const auto least = static_cast<std::int64_t>(vocabulary.size()) + 1;
  if (options.vocab_size < least || options.vocab_size > (1 << 22))
    fail("the vocabulary size is {}, expected {} (what special, unknown and byte tokens take, and one) to {}", options.vocab_size, least, 1 << 22);
  if (options.max_alphabet < 0) fail("the alphabet is limited to {} characters, expected 0 or more", options.max_alphabet);
  return vocabulary;
}

std::vector<std::string> training_alphabet(const std::vector<WordCount>& words, const ModelTrainOptions& options) {
  std::unordered_map<std::string, std::int64_t> counts;
  std::string key;
  for (const auto& [word, count] : words) {
    for (std::size_t at = 0; at < word.size();) {
      const std::size_t length = character_length(word, at);
      key.assign(word, at, length);
      at += length;
      if (length > 1 || static_cast<unsigned char>(key[0]) < 0x80) counts[key] += count;
    }
  }
  for (const auto& character : options.alphabet) {
    if (character.empty() || character_length(character, 0) != character.size())
      fail("the alphabet holds '{}', expected single characters", utf8_cleaned(character));
    counts[character] = std::numeric_limits<std::int64_t>::max();
  }
  std::vector<std::pair<std::string, std::int64_t>> kept(counts.begin(), counts.end());
  std::sort(kept.begin(), kept.end(), [](const auto& a, const auto& b) { return a.second != b.second ? a.second > b.second : a.first < b.first; });
  const auto limit = std::max(static_cast<std::size_t>(options.max_alphabet), options.alphabet.size());
  if (kept.size() > limit) kept.resize(limit);
  std::vector<std::string> out;
  for (auto& [character, count] : kept) out.push_back(std::move(character));
  std::sort(out.begin(), out.end());  // the order of UTF-8 bytes is that of code points
  return out;
}

std::vector<std::uint32_t> sorted_by_text(const std::vector<WordCount>& words) {
  std::vector<std::uint32_t> order(words.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) { return words[a].word < words[b].word; });
  return order;
}

}  // namespace rhetor
