// In which order several sources give their samples.
// Thread-safety: at() may be called concurrently.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace rhetor {

// Sample i of the blend is a pure function of the weights and i. After any number n of samples, source s has given n * w_s of
// them, give or take less than one (w: the weights, scaled to the sum 1): Tijdeman's rule for the chairman assignment problem,
// "The chairman assignment problem", Discrete Mathematics 32 (1980).
class Blend {
 public:
  // REQUIRES: at least one weight; all of them positive and finite.
  explicit Blend(const std::vector<double>& weights);
  struct Pick {
    int source = 0;
    std::uint64_t index = 0;   // of the sample among those of its source
  };
  Pick at(std::uint64_t i) const;
  int sources() const { return static_cast<int>(weights_.size()); }
  double share(int source) const;   // w_s

 private:
  int step(std::uint64_t i, std::vector<std::uint64_t>& given) const;
  std::vector<std::uint64_t> weights_;   // in units of 2^-32, their sum is 2^32
  // given[s] at the beginning of every block of samples, computed when it is first asked for.
  mutable std::mutex mutex_;
  mutable std::vector<std::vector<std::uint64_t>> blocks_;
};

}  // namespace rhetor
