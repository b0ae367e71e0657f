// Unigram segmentation by Viterbi over a trie of pieces. Internal to the room; others use make_unigram of token_model.h.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "text/double_array.h"
#include "text/token_model.h"

namespace rhetor {

inline constexpr double kUnknownPenalty = 10.0;  // an unknown character scores this much less than the worst piece

// What SentencePiece does and the `tokenizers` package does not: sums in float, pieces that text cannot produce (control, unused, byte),
// pieces that win over others that cover as much (user-defined), unknown pieces that are never looked up.
struct UnigramRules {
  enum class Kind : std::uint8_t { normal, hidden, user_defined };
  bool sentencepiece = false;
  std::vector<Kind> kinds;  // by id; empty = all normal
};

class Unigram final : public TokenModel {
 public:
  explicit Unigram(UnigramOptions options, UnigramRules rules = {});
  std::string_view kind() const override { return "Unigram"; }
  std::int64_t size() const override { return static_cast<std::int64_t>(options_.pieces.size()); }
  void tokenize(std::string_view word, std::vector<Piece>& out) const override;
  std::string_view token(TokenId id) const override;
  TokenId id(std::string_view token) const override;
  std::string to_json() const override;
  const UnigramOptions& options() const { return options_; }

 private:
  template <class Score> void viterbi(std::string_view word, std::vector<Piece>& out) const;
  void unknown(std::string_view word, std::uint32_t begin, std::uint32_t end, std::vector<Piece>& out) const;

  UnigramOptions options_;
  bool sentencepiece_;
  DoubleArray trie_;           // of the pieces that text can produce
  DoubleArray all_;            // of all pieces, if some are hidden
  bool has_hidden_ = false;
  std::vector<double> scores_; // by id
  std::vector<bool> user_defined_;
  double unknown_score_ = 0;
  std::array<TokenId, 256> bytes_{};  // "<0x00>"..., -1 if there is none
  std::uint32_t serial_;
};

}  // namespace rhetor
