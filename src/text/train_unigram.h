// The parts of training a Unigram model (Kudo 2018). Internal to the room.
#pragma once

#include <string>
#include <vector>

#include "text/double_array.h"
#include "text/token_model.h"

namespace rhetor {

inline constexpr int kMaxPieceCharacters = 16;  // as in SentencePiece

struct TrainPiece {
  std::string text;
  double score;  // a count or a log probability
};

// Candidates for pieces with how often they occur, from a suffix array of the words: every character, and of the strings of 2 to
// kMaxPieceCharacters characters that occur twice and are not always followed by the same character, the `limit` ones that cover the most
// characters. Only strings of characters in `alphabet` (sorted) count.
std::vector<TrainPiece> unigram_seeds(const std::vector<WordCount>& words, const std::vector<std::string>& alphabet, std::size_t limit);

// All ways to cut one text into pieces, ready to be summed over.
class PieceLattice {
 public:
  struct Arc {
    std::uint32_t begin, end;  // bytes
    std::int32_t id;           // -1: a character without a piece
    double score;
  };
  // `unknown` is the score of a character without a piece. The arcs are sorted by begin.
  void set(std::string_view text, const DoubleArray& trie, const std::vector<TrainPiece>& pieces, double unknown);
  const std::vector<Arc>& arcs() const { return arcs_; }
  // The log likelihood of the text; adds `count` x the expected occurrences of each piece to `expected`.
  double expect(double count, std::vector<double>& expected);
  // The best path into `ids`; with `without_whole`, not through the one arc that covers everything. False: there is no path.
  bool best(bool without_whole, std::vector<std::int32_t>& ids);

 private:
  std::size_t size_ = 0;
  std::vector<Arc> arcs_;
  std::vector<double> forward_, backward_;
  std::vector<double> peak_;
  std::vector<std::int32_t> through_;
};

}  // namespace rhetor
