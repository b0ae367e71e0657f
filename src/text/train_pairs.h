// Learning merges by counting pairs (Sennrich et al. 2016): the part that all byte-pair trainers share. Each merge touches only the words
// that contain the merged pair, and a heap with stale entries gives the next best pair, so the cost is near linear in the distinct words.
// Internal to the room.
#pragma once

#include <functional>
#include <unordered_map>
#include <vector>

#include "text/hash_table.h"
#include "text/tokenizer.h"

namespace rhetor {

class PairTrainer {
 public:
  struct Word {
    std::vector<TokenId> ids;
    std::int64_t count;
  };
  // The id of the token that a pair makes, entered into the vocabulary if it is new; -1 if the pair must not be merged.
  using MakeToken = std::function<TokenId(TokenId left, TokenId right)>;
  PairTrainer(std::vector<Word> words, MakeToken make_token);

  // Merges the most frequent pair, of equals the smaller pair of ids. False when no pair occurs `min_count` times.
  bool step(std::int64_t min_count);
  // The pair of the last step.
  TokenId left() const { return left_; }
  TokenId right() const { return right_; }
  TokenId result() const { return result_; }

 private:
  struct Pair {
    std::int64_t count = 0;
    std::vector<std::uint32_t> words;  // where it occurs or did: may hold repetitions and stale entries
  };
  struct Candidate {
    std::int64_t count;
    std::uint64_t key;
    bool operator<(const Candidate& other) const { return count != other.count ? count < other.count : key > other.key; }
  };
  void push(Candidate candidate);
  void change(TokenId left, TokenId right, std::int64_t by, std::uint32_t word);
  bool merge(std::uint64_t key);
  void merge_in(std::uint32_t word);

  std::vector<Word> words_;
  MakeToken make_token_;
  std::unordered_map<std::uint64_t, Pair> pairs_;
  std::vector<Candidate> heap_;
  std::vector<std::uint64_t> touched_;  // pairs that gained occurrences in this merge
  TokenId left_ = -1, right_ = -1, result_ = -1;
};

}  // namespace rhetor
