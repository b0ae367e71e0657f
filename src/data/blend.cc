#include "data/blend.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"

namespace rhetor {
namespace {

constexpr std::uint64_t kBlock = 256;                  // samples between remembered states
constexpr std::uint64_t kOne = std::uint64_t{1} << 32;  // fixed point

__extension__ using Wide = __int128;

}  // namespace

Blend::Blend(const std::vector<double>& weights) {
  check(!weights.empty(), "a blend needs a source");
  double sum = 0;
  for (const double w : weights) {
    check(std::isfinite(w) && w > 0, "a blend needs positive weights");
    sum += w;
  }
  // Largest remainders make the sum exact; a tiny weight keeps one unit.
  std::vector<std::pair<double, std::size_t>> remainders;
  std::uint64_t total = 0;
  for (std::size_t s = 0; s < weights.size(); ++s) {
    const double exact = weights[s] / sum * static_cast<double>(kOne);
    weights_.push_back(std::max<std::uint64_t>(1, static_cast<std::uint64_t>(exact)));
    total += weights_.back();
    remainders.emplace_back(std::floor(exact) - exact, s);
  }
  std::sort(remainders.begin(), remainders.end());
  for (std::size_t i = 0; total < kOne; ++i, ++total) ++weights_[remainders[i % remainders.size()].second];
  while (total > kOne) {
    --*std::max_element(weights_.begin(), weights_.end());
    --total;
  }
  blocks_.emplace_back(weights_.size(), 0);
}

double Blend::share(int source) const {
  return static_cast<double>(weights_[static_cast<std::size_t>(source)]) / static_cast<double>(kOne);
}

// The source of sample i, given how many each has given before. Among those that are owed at least 1 / (2n - 2), the one whose
// next sample would be late first.
int Blend::step(std::uint64_t i, std::vector<std::uint64_t>& given) const {
  const auto n = static_cast<Wide>(weights_.size());
  if (n == 1) {
    ++given[0];
    return 0;
  }
  int best = -1;
  Wide best_late = 0, best_weight = 1;
  for (std::size_t s = 0; s < weights_.size(); ++s) {
    const auto w = static_cast<Wide>(weights_[s]);
    const Wide owed = w * (i + 1) - static_cast<Wide>(given[s]) * kOne;   // in 2^-32 samples
    if ((2 * n - 2) * owed < static_cast<Wide>(kOne)) continue;
    const Wide late =
        (2 * n - 3) * static_cast<Wide>(kOne) - (2 * n - 2) * owed;  // (1 - 1/(2n-2) - owed) * (2n-2), to be divided by w
    if (best < 0 || late * best_weight < best_late * w) {
      best = static_cast<int>(s);
      best_late = late;
      best_weight = w;
    }
  }
  check(best >= 0, "no source of the blend is owed a sample");
  ++given[static_cast<std::size_t>(best)];
  return best;
}

Blend::Pick Blend::at(std::uint64_t i) const {
  if (weights_.size() == 1) return {0, i};
  std::vector<std::uint64_t> given;
  {
    std::lock_guard lock(mutex_);
    while (blocks_.size() <= i / kBlock) {
      std::vector<std::uint64_t> next = blocks_.back();
      for (std::uint64_t k = (blocks_.size() - 1) * kBlock; k < blocks_.size() * kBlock; ++k) step(k, next);
      blocks_.push_back(std::move(next));
    }
    given = blocks_[i / kBlock];
  }
  int source = 0;
  for (std::uint64_t k = i / kBlock * kBlock; k <= i; ++k) source = step(k, given);
  return {source, given[static_cast<std::size_t>(source)] - 1};
}

}  // namespace rhetor
