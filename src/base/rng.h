// Counter-based random numbers (Philox4x32-10; Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", SC 2011). The i-th number of (seed, stream) is a pure function, so CPU and GPU, one thread
// or many, give the same bits and nothing has to be saved but the position.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

namespace rhetor {

using Philox = std::array<std::uint32_t, 4>;

// One Philox4x32-10 block for a 128-bit counter and a 64-bit key.
constexpr Philox philox4x32(Philox counter, std::uint64_t key) {
  auto k0 = static_cast<std::uint32_t>(key);
  auto k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * counter[0];
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<std::uint32_t>(p1 >> 32) ^ counter[1] ^ k0, static_cast<std::uint32_t>(p1),
               static_cast<std::uint32_t>(p0 >> 32) ^ counter[3] ^ k1, static_cast<std::uint32_t>(p0)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return counter;
}

// The block number `block` of stream `stream` under `seed`: four 32-bit words.
constexpr Philox random_block(std::uint64_t seed, std::uint64_t stream, std::uint64_t block) {
  return philox4x32({static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32),
                     static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)},
                    seed);
}

// The index-th 32-bit word of (seed, stream).
constexpr std::uint32_t random_u32(std::uint64_t seed, std::uint64_t stream, std::uint64_t index) {
  return random_block(seed, stream, index / 4)[index % 4];
}

// Uniform in [0, 1) with 24 random bits: exact in f32.
constexpr float to_uniform(std::uint32_t word) {
  return static_cast<float>(word >> 8) * (1.0f / 16777216.0f);
}

// A sequential view of one stream for host code. Copyable; the position is its whole state.
class Rng {
 public:
  explicit Rng(std::uint64_t seed, std::uint64_t stream = 0, std::uint64_t position = 0)
      : seed_(seed), stream_(stream), position_(position) {}

  std::uint32_t u32() {
    if (position_ % 4 == 0 || !cached_) {
      block_ = random_block(seed_, stream_, position_ / 4);
      cached_ = true;
    }
    return block_[position_++ % 4];
  }
  std::uint64_t u64() {
    const std::uint64_t high = u32();
    return high << 32 | u32();
  }
  float uniform() { return to_uniform(u32()); }
  // Uniform integer in [0, n). REQUIRES: n > 0. Bias below n / 2^64.
  std::uint64_t below(std::uint64_t n) {
    return static_cast<std::uint64_t>((static_cast<unsigned __int128>(u64()) * n) >> 64);
  }
  // Standard normal (Box-Muller, one of the pair).
  double normal() {
    const double u = (static_cast<double>(u32()) + 1.0) / 4294967296.0;  // (0, 1]
    const double v = static_cast<double>(u32()) / 4294967296.0;
    return std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586 * v);
  }
  std::uint64_t position() const { return position_; }

 private:
  std::uint64_t seed_, stream_, position_;
  Philox block_{};
  bool cached_ = false;
};

}  // namespace rhetor
