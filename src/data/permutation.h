// A pseudo-random permutation of [0, n) computed point by point: shuffles windows without a list of them, so that batch i is a
// pure function of i. Internal to the room.
#pragma once

#include <cstdint>

#include "base/rng.h"

namespace rhetor {

// Where `index` goes under the permutation numbered (seed, epoch): a four-round Feistel network on the next even power of two,
// walked until it lands inside (Black & Rogaway 2002; fewer than 4 rounds of walking on average). REQUIRES: index < n.
inline std::uint64_t permuted(std::uint64_t index, std::uint64_t n, std::uint64_t seed, std::uint64_t epoch) {
  int half = 1;
  while (half < 32 && (std::uint64_t{1} << (2 * half)) < n) ++half;
  const std::uint64_t mask = (std::uint64_t{1} << half) - 1;
  do {
    std::uint64_t left = index >> half, right = index & mask;
    for (std::uint64_t round = 0; round < 4; ++round) {
      const std::uint64_t mixed = left ^ (random_block(seed, epoch, right << 2 | round)[0] & mask);
      left = right;
      right = mixed;
    }
    index = left << half | right;
  } while (index >= n);
  return index;
}

}  // namespace rhetor
