// Division of positions by sizes known before the launch: a product and a shift instead of some 20 instructions. Included by host
// code, which makes the dividers, and by device code.
//
// q = floor(n / d) for 0 <= n < 2^31: with d <= 2^k < 2 d, m = ceil(2^(31+k) / d) < 2^32 and q = floor(n m / 2^(31+k)), as
// m d - 2^(31+k) < d <= 2^k makes the product too large by less than 1/d (Granlund, Montgomery: Division by Invariant Integers, 1994).
#pragma once

#include <cstdint>

namespace rhetor::gpu {

struct Divider {
  std::uint32_t by = 1, multiplier = 0, shift = 0;
  Divider() = default;
  explicit Divider(std::int64_t d) : by(static_cast<std::uint32_t>(d)) {
    if (d <= 1) return;
    unsigned k = 1;
    while ((std::int64_t{1} << k) < d) ++k;
    multiplier = static_cast<std::uint32_t>(((std::uint64_t{1} << (31 + k)) + static_cast<std::uint64_t>(d) - 1) / static_cast<std::uint64_t>(d));
    shift = k - 1;
  }
#ifdef __CUDACC__
  __device__ std::uint32_t quotient(std::uint32_t n) const { return by <= 1 ? n : __umulhi(n, multiplier) >> shift; }
#endif
};

// The largest position that a Divider takes apart.
constexpr std::int64_t kDividerLimit = std::int64_t{1} << 31;

#ifdef __CUDACC__
// Splits n in n / d (returned) and n % d (left in n). 64-bit positions divide the slow way.
__device__ inline std::uint32_t split_off(std::uint32_t& n, const Divider& d, std::int64_t) {
  const std::uint32_t q = d.quotient(n);
  n -= q * d.by;
  return q;
}
__device__ inline std::uint64_t split_off(std::uint64_t& n, const Divider&, std::int64_t size) {
  const std::uint64_t q = n / static_cast<std::uint64_t>(size);
  n -= q * static_cast<std::uint64_t>(size);
  return q;
}
#endif

}  // namespace rhetor::gpu
