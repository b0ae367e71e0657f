#include "generate/beam_search.h"

#include <algorithm>
#include <cmath>

#include "generate/logprobs.h"

namespace rhetor {

BeamSearch::BeamSearch(const Sampling& sampling, std::vector<TokenId> ends, std::int64_t longest, std::int64_t vocab,
                       Answer empty)
    : sampling_(sampling), ends_(std::move(ends)), longest_(longest), vocab_(vocab) {
  open_.push_back({std::move(empty)});
}

double BeamSearch::score(double sum, std::int64_t length) const {
  return sum / std::pow(static_cast<double>(length), sampling_.length_penalty);
}

// More extensions than `beams` are looked at, so that `beams` stay open although some end.
std::vector<BeamSearch::Extension> BeamSearch::best_extensions(std::span<const std::span<const float>> logits) {
  const auto wanted = sampling_.beams * (1 + static_cast<std::int64_t>(std::max<std::size_t>(1, ends_.size())));
  std::vector<Extension> all;
  for (std::size_t i = 0; i < open_.size(); ++i) {
    require_finite(logits[i], open_[i].answer.result.tokens.size());
    const auto adjusted = open_[i].answer.penalties.apply(logits[i].first(static_cast<std::size_t>(vocab_)), sampling_, buffer_);
    const double total = log_sum_exp(adjusted);
    for (const TokenId id : top_ids(adjusted, wanted)) {
      const float logit = adjusted[static_cast<std::size_t>(id)];
      if (std::isinf(logit)) continue;
      all.push_back({static_cast<std::int64_t>(i), id, open_[i].sum + (static_cast<double>(logit) - total)});
    }
  }
  std::stable_sort(all.begin(), all.end(), [](const Extension& a, const Extension& b) { return a.sum > b.sum; });
  if (static_cast<std::int64_t>(all.size()) > wanted) all.resize(static_cast<std::size_t>(wanted));
  return all;
}

std::vector<std::int64_t> BeamSearch::advance(std::span<const std::span<const float>> logits) {
  const auto extensions = best_extensions(logits);
  const auto beams = static_cast<std::size_t>(sampling_.beams);
  std::vector<Hypothesis> next;
  std::vector<std::int64_t> parents;
  std::int64_t length = 0;
  for (std::size_t rank = 0; rank < extensions.size() && next.size() < beams; ++rank) {
    const auto& [parent, id, sum] = extensions[rank];
    const Hypothesis& from = open_[static_cast<std::size_t>(parent)];
    length = static_cast<std::int64_t>(from.answer.result.tokens.size()) + 1;
    if (std::find(ends_.begin(), ends_.end(), id) != ends_.end()) {
      if (rank < beams) complete({from.answer.fork(), sum}, length, FinishReason::stop);
      continue;
    }
    Hypothesis child{from.answer.fork(), sum};
    child.answer.take(id);
    if (sampling_.logprobs) {
      child.answer.result.logprobs.push_back(
          token_logprob(logits[static_cast<std::size_t>(parent)], id, sampling_.top_logprobs, vocab_));
    }
    if (child.answer.stopped()) {
      if (rank < beams) complete(std::move(child), length, FinishReason::stop);
      continue;
    }
    next.push_back(std::move(child));
    parents.push_back(parent);
  }
  open_ = std::move(next);
  if (length >= longest_) {
    for (auto& hypothesis : open_) complete(std::move(hypothesis), length, FinishReason::length);
    open_.clear();
    parents.clear();
  }
  done_ = open_.empty() || (complete_.size() >= beams && (sampling_.early_stopping || !can_improve(length)));
  return parents;
}

void BeamSearch::complete(Hypothesis hypothesis, std::int64_t length, FinishReason finish) {
  if (!hypothesis.answer.stopped()) hypothesis.answer.rest();
  Generation result = std::move(hypothesis.answer.result);
  result.score = score(hypothesis.sum, length);
  result.finish = finish;
  const auto at = std::upper_bound(complete_.begin(), complete_.end(), result.score,
                                   [](double s, const Generation& other) { return s > other.score; });
  complete_.insert(at, std::move(result));
  if (static_cast<std::int64_t>(complete_.size()) > sampling_.beams) complete_.pop_back();
}

// A sum only falls as a hypothesis grows, so its best possible score is at the longest length if length is rewarded, else at the
// next.
bool BeamSearch::can_improve(std::int64_t length) const {
  const std::int64_t at = sampling_.length_penalty > 0 ? longest_ : length + 1;
  return std::any_of(open_.begin(), open_.end(), [&](const Hypothesis& h) { return score(h.sum, at) > complete_.back().score; });
}

std::vector<Generation> BeamSearch::take_best() {
  if (static_cast<std::int64_t>(complete_.size()) > sampling_.n) complete_.resize(static_cast<std::size_t>(sampling_.n));
  for (std::size_t i = 0; i < complete_.size(); ++i) complete_[i].index = static_cast<std::int64_t>(i);
  return std::move(complete_);
}

}  // namespace rhetor
