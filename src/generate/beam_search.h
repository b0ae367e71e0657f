// Beam search over next-token logits (Graves 2012, "Sequence transduction with recurrent neural networks"; the length penalty as
// in Hugging Face's generate: sum of log-probabilities / length^penalty).
//
// Rules. All extensions of the open hypotheses are ranked by their sum (ties: the earlier hypothesis, then the lower id). Those
// among the best `beams` that end (an end token, which counts in the length, or a stop string) are complete; the best `beams`
// that do not end stay open. Of the complete ones the best `beams` are kept. At the longest length the open ones are complete as
// they are.
#pragma once

#include <span>
#include <vector>

#include "generate/answer.h"

namespace rhetor {

class BeamSearch {
 public:
  // Begins with one hypothesis, `empty`. `longest`: tokens an answer can have. `sampling` must outlive the search.
  BeamSearch(const Sampling& sampling, std::vector<TokenId> ends, std::int64_t longest, std::int64_t vocab, Answer empty);

  std::int64_t open() const { return static_cast<std::int64_t>(open_.size()); }
  TokenId newest(std::int64_t hypothesis) const {
    return open_[static_cast<std::size_t>(hypothesis)].answer.result.tokens.back();
  }
  // One step: `logits` [V] of each open hypothesis. Returns, for each hypothesis open afterwards, which one it continues.
  std::vector<std::int64_t> advance(std::span<const std::span<const float>> logits);
  bool done() const { return done_; }
  // The best `n` complete hypotheses, best first, as they are: an aborted search may have fewer, or none.
  std::vector<Generation> take_best();

 private:
  struct Hypothesis {
    Answer answer;
    double sum = 0;
  };
  struct Extension {
    std::int64_t parent;
    TokenId id;
    double sum;
  };
  std::vector<Extension> best_extensions(std::span<const std::span<const float>> logits);
  void complete(Hypothesis hypothesis, std::int64_t length, FinishReason finish);
  double score(double sum, std::int64_t length) const;
  bool can_improve(std::int64_t length) const;

  const Sampling& sampling_;
  std::vector<TokenId> ends_;
  std::int64_t longest_, vocab_;
  std::vector<Hypothesis> open_;
  std::vector<Generation> complete_;   // best first
  std::vector<float> buffer_;
  bool done_ = false;
};

}  // namespace rhetor
