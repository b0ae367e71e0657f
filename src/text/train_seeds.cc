// Frequent strings from a suffix array. Pieces are short, so suffixes are compared by their first kMaxPieceCharacters characters only: then
// sorting packed groups of characters, and groups of ties by the next ones, is near linear, whatever the text repeats.
#include <algorithm>
#include <bit>

#include "text/train_unigram.h"
#include "text/utf8_walk.h"

namespace rhetor {
namespace {

class SuffixArray {
 public:
  SuffixArray(const std::vector<WordCount>& words, const std::vector<std::string>& alphabet) : alphabet_(alphabet) {
    for (std::uint32_t w = 0; w < words.size(); ++w) {
      const std::string_view word = words[w].word;
      for (std::size_t at = 0; at < word.size();) {
        const std::size_t length = character_length(word, at);
        const auto found = std::lower_bound(alphabet.begin(), alphabet.end(), word.substr(at, length));
        const bool known = found != alphabet.end() && *found == word.substr(at, length);
        if (known) suffixes_.push_back({0, static_cast<std::uint32_t>(text_.size())});
        text_.push_back(known ? static_cast<std::uint32_t>(found - alphabet.begin()) + 1 : 0);
        weights_.push_back(words[w].count);
        at += length;
      }
      text_.push_back(0);
      weights_.push_back(0);
    }
    text_.insert(text_.end(), kMaxPieceCharacters, 0);
    bits_ = static_cast<int>(std::bit_width(alphabet.size()));
    per_key_ = std::min(64 / bits_, kMaxPieceCharacters);
    sort(0, suffixes_.size(), 0);
  }

  std::size_t size() const { return suffixes_.size(); }
  std::size_t first_character(std::size_t i) const { return text_[suffixes_[i].at] - 1; }  // its index in the alphabet
  std::int64_t weight(std::size_t i) const { return weights_[suffixes_[i].at]; }
  // Characters up to the end of the word, or to one outside the alphabet.
  int length(std::size_t i) const { return common(suffixes_[i].at, suffixes_[i].at, kMaxPieceCharacters + 1); }
  int common_prefix(std::size_t i, std::size_t j) const { return common(suffixes_[i].at, suffixes_[j].at, kMaxPieceCharacters); }
  std::string text(std::size_t i, int characters) const {
    std::string out;
    for (int k = 0; k < characters; ++k) out += alphabet_[text_[suffixes_[i].at + static_cast<std::size_t>(k)] - 1];
    return out;
  }

 private:
  struct Suffix {
    std::uint64_t key;  // the characters that are being sorted by; zeros after the end of the word
    std::uint32_t at;   // in text_
  };

  int common(std::uint32_t a, std::uint32_t b, int limit) const {
    int n = 0;
    while (n < limit && a + static_cast<std::uint32_t>(n) < text_.size() && b + static_cast<std::uint32_t>(n) < text_.size() &&
           text_[a + static_cast<std::uint32_t>(n)] != 0 && text_[a + static_cast<std::uint32_t>(n)] == text_[b + static_cast<std::uint32_t>(n)])
      ++n;
    return n;
  }

  // Sorts a range whose first `depth` characters are equal by the next per_key_ ones, and so on.
  void sort(std::size_t begin, std::size_t end, int depth) {
    bool ended = false;
    for (std::size_t i = begin; i < end; ++i) {
      std::uint64_t key = 0;
      ended = false;
      for (int k = 0; k < per_key_; ++k) {
        const std::uint32_t c = ended ? 0 : text_[suffixes_[i].at + static_cast<std::uint32_t>(depth + k)];
        ended |= c == 0;
        key = key << bits_ | c;
      }
      suffixes_[i].key = key;
    }
    const auto first = suffixes_.begin() + static_cast<std::ptrdiff_t>(begin), last = suffixes_.begin() + static_cast<std::ptrdiff_t>(end);
    std::sort(first, last, [](const Suffix& a, const Suffix& b) { return a.key != b.key ? a.key < b.key : a.at < b.at; });
    const int next = depth + per_key_;
    if (next >= kMaxPieceCharacters) return;
    const std::uint64_t last_character = (std::uint64_t{1} << bits_) - 1;
    for (std::size_t i = begin; i < end;) {
      const std::uint64_t key = suffixes_[i].key;
      std::size_t j = i + 1;
      while (j < end && suffixes_[j].key == key) ++j;
      if (j - i > 1 && (key & last_character) != 0) sort(i, j, next);
      i = j;
    }
  }

  const std::vector<std::string>& alphabet_;
  std::vector<std::uint32_t> text_;     // 1 + index in the alphabet; 0: the end of a word or a character outside the alphabet
  std::vector<std::int64_t> weights_;   // of the word that the character is in
  std::vector<Suffix> suffixes_;
  int bits_ = 1, per_key_ = 1;          // of a character; characters a key
};

}  // namespace

std::vector<TrainPiece> unigram_seeds(const std::vector<WordCount>& words, const std::vector<std::string>& alphabet, std::size_t limit) {
  const SuffixArray suffixes(words, alphabet);
  struct Found {
    std::int64_t covered;     // characters: occurrences x length
    std::size_t suffix;
    int characters;
  };
  std::vector<Found> found;
  const auto offer = [&](std::size_t suffix, int characters, std::int64_t occurrences) {
    if (characters >= 2 && occurrences >= 2) found.push_back({occurrences * characters, suffix, characters});
  };
  // Strings that several suffixes start with are the intervals of equal common prefixes; a stack holds the open ones.
  struct Open { int depth; std::size_t first; std::int64_t weight_before; };
  std::vector<Open> open{{0, 0, 0}};
  std::int64_t weight = 0;
  int before = 0;
  for (std::size_t i = 0; i < suffixes.size(); ++i) {
    const int after = i + 1 < suffixes.size() ? suffixes.common_prefix(i, i + 1) : 0;
    const int whole = suffixes.length(i);
    if (whole <= kMaxPieceCharacters && whole > std::max(before, after)) offer(i, whole, suffixes.weight(i));
    if (open.back().depth < after) open.push_back({after, i, weight});
    weight += suffixes.weight(i);
    while (open.back().depth > after) {
      const Open top = open.back();
      open.pop_back();
      offer(top.first, top.depth, weight - top.weight_before);
      if (open.back().depth < after) open.push_back({after, top.first, top.weight_before});
    }
    before = after;
  }
  const auto more = [](const Found& a, const Found& b) {
    return a.covered != b.covered ? a.covered > b.covered : a.suffix != b.suffix ? a.suffix < b.suffix : a.characters < b.characters;
  };
  if (found.size() > limit) {
    std::nth_element(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(limit), found.end(), more);
    found.resize(limit);
  }
  std::sort(found.begin(), found.end(), more);

  std::vector<TrainPiece> out;
  for (const auto& character : alphabet) out.push_back({character, 0});
  for (std::size_t i = 0; i < suffixes.size(); ++i) {
    out[suffixes.first_character(i)].score += static_cast<double>(suffixes.weight(i));
  }
  for (const Found& f : found) out.push_back({suffixes.text(f.suffix, f.characters), static_cast<double>(f.covered)});
  return out;
}

}  // namespace rhetor
