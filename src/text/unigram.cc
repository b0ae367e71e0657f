// Viterbi over bytes (Kudo 2018): the best score of the text up to each position, reached by the pieces that end there. O(n * longest
// piece). Scores, ties (the first found stays) and the penalty of unknown characters are those of `tokenizers` and SentencePiece.
#include "text/unigram.h"

#include <fmt/core.h>

#include <algorithm>
#include <cfloat>
#include <charconv>
#include <cmath>

#include "base/error.h"
#include "text/utf8_walk.h"
#include "text/word_cache.h"

namespace rhetor {
namespace {

constexpr double kUserDefinedBonus = 0.1;       // score of a user-defined piece for each byte but one, as in SentencePiece 0.2.3
constexpr std::size_t kMaxPieceBytes = 8000;   // longer ones would make the search quadratic

template <class Score>
struct Best {
  Score score;
  std::uint32_t begin;  // of the piece that ends here; kUnreached
  TokenId id;
};
constexpr std::uint32_t kUnreached = 0xFFFFFFFFu;

// A score as `tokenizers` gets it from its JSON text: the digits as an integer, rounded, then divided by a power of ten and rounded again.
// That can be one unit in the last place off, and such a unit decides ties.
double as_read_from_json(double score) {
  char text[40];
  const auto end = std::to_chars(text, text + sizeof text, std::fabs(score), std::chars_format::scientific).ptr;
  const char* e = std::find(text, end, 'e');
  std::uint64_t digits = 0;
  int exponent = 0;
  for (const char* c = text; c != e; ++c) {
    if (*c != '.') digits = digits * 10 + static_cast<std::uint64_t>(*c - '0');
  }
  std::from_chars(e + (e[1] == '+' ? 2 : 1), end, exponent);
  if (e - text > 2) exponent -= static_cast<int>(e - text) - 2;  // digits after the point
  const double rounded = static_cast<double>(digits), power = std::pow(10.0, std::abs(exponent));
  return std::copysign(exponent < 0 ? rounded / power : rounded * power, score);
}

}  // namespace

Unigram::Unigram(UnigramOptions options, UnigramRules rules)
    : options_(std::move(options)), sentencepiece_(rules.sentencepiece), serial_(next_model_serial()) {
  const auto& pieces = options_.pieces;
  if (options_.unknown < -1 || options_.unknown >= size())
    fail("the unknown piece has the id {}, but the vocabulary has {} pieces", options_.unknown, size());
  std::vector<DoubleArray::Key> keys, all;
  double worst = sentencepiece_ ? FLT_MAX : HUGE_VAL;
  scores_.resize(pieces.size());
  user_defined_.resize(pieces.size());
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const auto& [text, score] = pieces[i];
    if (!std::isfinite(score)) fail("the score of the piece with the id {} is {}, expected a number", i, score);
    if (text.size() > kMaxPieceBytes) fail("the piece with the id {} has {} bytes, the limit is {}", i, text.size(), kMaxPieceBytes);
    const auto kind = rules.kinds.empty() ? UnigramRules::Kind::normal : rules.kinds[i];
    const auto id = static_cast<TokenId>(i);
    scores_[i] = sentencepiece_ ? score : as_read_from_json(score);
    user_defined_[i] = kind == UnigramRules::Kind::user_defined;
    if (kind == UnigramRules::Kind::normal) worst = std::min(worst, scores_[i]);
    if (text.empty()) continue;
    if (kind == UnigramRules::Kind::hidden) has_hidden_ = true;
    if (kind != UnigramRules::Kind::hidden) keys.emplace_back(text, id);
    all.emplace_back(text, id);
  }
  unknown_score_ = worst - kUnknownPenalty;
  if (sentencepiece_) unknown_score_ = static_cast<float>(static_cast<float>(worst) - static_cast<float>(kUnknownPenalty));
  trie_ = DoubleArray(std::move(keys));
  if (has_hidden_) all_ = DoubleArray(std::move(all));
  bytes_.fill(-1);
  for (unsigned byte = 0; options_.byte_fallback && byte < 256; ++byte) bytes_[byte] = id(fmt::format("<0x{:02X}>", byte));
}

void Unigram::tokenize(std::string_view word, std::vector<Piece>& out) const {
  WordCache::of_this_thread().tokenize(serial_, word, out, [&](std::string_view text, std::vector<Piece>& pieces) {
    if (sentencepiece_) {
      viterbi<float>(text, pieces);
    } else {
      viterbi<double>(text, pieces);
    }
  });
}

template <class Score>
void Unigram::viterbi(std::string_view word, std::vector<Piece>& out) const {
  if (word.empty()) return;
  check(word.size() < kUnreached, "a word of 4 GiB");
  thread_local std::vector<Best<Score>> best;
  best.assign(word.size() + 1, {0, kUnreached, -1});
  const auto offer = [&](std::size_t begin, std::size_t end, TokenId id, auto score) {
    Best<Score>& target = best[end];
    if (target.begin != kUnreached && !(score > target.score)) return;
    target = {static_cast<Score>(score), static_cast<std::uint32_t>(begin), id};
  };
  for (std::size_t begin = 0; begin < word.size();) {
    const Score here = best[begin].score;
    const std::size_t character = character_length(word, begin);
    bool whole_character = false;
    DoubleArray::Node node = DoubleArray::kRoot;
    for (std::size_t end = begin; end < word.size() && trie_.step(node, static_cast<unsigned char>(word[end]));) {
      ++end;
      const TokenId id = trie_.value(node);
      if (id < 0) continue;
      const auto at = static_cast<std::size_t>(id);
      if (user_defined_[at]) {
        offer(begin, end, id, kUserDefinedBonus * static_cast<double>(end - begin - 1) + here);
      } else {
        offer(begin, end, id, static_cast<Score>(scores_[at]) + here);
      }
      whole_character |= end - begin == character;
    }
    if (!whole_character) {
      if (options_.unknown < 0)
        fail("the text has the character '{}', which no piece of the Unigram vocabulary covers, and there is no unknown piece",
             utf8_cleaned(word.substr(begin, character)));
      offer(begin, begin + character, options_.unknown, static_cast<Score>(unknown_score_) + here);
    }
    begin += character;
  }
  // Backwards; unknown characters that follow each other are one piece.
  const std::size_t first = out.size();
  for (std::size_t end = word.size(); end > 0;) {
    const Best<Score>& last = best[end];
    Piece piece{last.id, last.begin, static_cast<std::uint32_t>(end)};
    if (piece.id == options_.unknown && out.size() > first && out.back().id == options_.unknown) {
      out.back().begin = piece.begin;
    } else {
      out.push_back(piece);
    }
    end = last.begin;
  }
  std::reverse(out.begin() + static_cast<std::ptrdiff_t>(first), out.end());
  if (std::none_of(out.begin() + static_cast<std::ptrdiff_t>(first), out.end(),
                   [&](const Piece& piece) { return piece.id == options_.unknown; }))
    return;
  const std::vector<Piece> found(out.begin() + static_cast<std::ptrdiff_t>(first), out.end());
  out.resize(first);
  for (const Piece& piece : found) {
    if (piece.id == options_.unknown) {
      unknown(word, piece.begin, piece.end, out);
    } else {
      out.push_back(piece);
    }
  }
}

// A run of unknown characters: the piece of just that text (`tokenizers` looks it up once more), else bytes, else the unknown piece.
void Unigram::unknown(std::string_view word, std::uint32_t begin, std::uint32_t end, std::vector<Piece>& out) const {
  const std::string_view text = word.substr(begin, end - begin);
  if (!sentencepiece_) {
    const TokenId whole = id(text);
    if (whole >= 0) return out.push_back({whole, begin, end});
  }
  const bool bytes = options_.byte_fallback &&
                     std::all_of(text.begin(), text.end(), [&](char c) { return bytes_[static_cast<unsigned char>(c)] >= 0; });
  if (!bytes) return out.push_back({options_.unknown, begin, end});
  // Each byte token stands for the character it is of, as in `tokenizers`: all have the range of the run.
  for (const char c : text) out.push_back({bytes_[static_cast<unsigned char>(c)], begin, end});
}

std::string_view Unigram::token(TokenId id) const {
  return id < 0 || id >= size() ? std::string_view() : std::string_view(options_.pieces[static_cast<std::size_t>(id)].first);
}

TokenId Unigram::id(std::string_view token) const {
  return token.empty() ? -1 : (has_hidden_ ? all_ : trie_).find(token);
}

TokenModelPtr make_unigram(UnigramOptions options) { return std::make_shared<Unigram>(std::move(options)); }

}  // namespace rhetor
