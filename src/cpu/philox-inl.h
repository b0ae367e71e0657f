// Philox4x32-10 a vector of blocks at a time: the same words as base/rng.h, bit for bit. Multiplies 32x32 -> 64 on even and odd
// lanes; about 3 vector instructions a word.
#if defined(RHETOR_CPU_PHILOX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RHETOR_CPU_PHILOX_INL_H_
#undef RHETOR_CPU_PHILOX_INL_H_
#else
#define RHETOR_CPU_PHILOX_INL_H_
#endif

#include "base/rng.h"
#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rhetor {
namespace HWY_NAMESPACE {

using U64 = hn::Repartition<std::uint64_t, U32>;

// low and high words of a * m, lane by lane.
HWY_INLINE void multiply_wide(VU a, VU m, VU& low, VU& high) {
  const auto even = hn::MulEven(a, m);
  const auto odd = hn::MulEven(hn::BitCast(U32(), hn::ShiftRight<32>(hn::BitCast(U64(), a))), m);
  const VU even32 = hn::BitCast(U32(), even), odd32 = hn::BitCast(U32(), odd);
  low = hn::OddEven(hn::BitCast(U32(), hn::ShiftLeft<32>(odd)), even32);
  high = hn::OddEven(odd32, hn::BitCast(U32(), hn::ShiftRight<32>(even)));
}

// Blocks first_block, first_block + 1, ... (one a lane): 4 * lanes() words in order at `out`.
HWY_INLINE void philox_blocks(std::uint64_t seed, std::uint64_t stream, std::uint64_t first_block, std::uint32_t* out) {
  const U32 d;
  const VU base = hn::Set(d, static_cast<std::uint32_t>(first_block));
  VU c0 = hn::Add(base, hn::Iota(d, 0u));
  VU c1 = hn::Set(d, static_cast<std::uint32_t>(first_block >> 32));
  c1 = hn::Add(c1, hn::IfThenElseZero(hn::Lt(c0, base), hn::Set(d, 1u)));
  VU c2 = hn::Set(d, static_cast<std::uint32_t>(stream)), c3 = hn::Set(d, static_cast<std::uint32_t>(stream >> 32));
  auto k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
  const VU m0 = hn::Set(d, 0xD2511F53u), m1 = hn::Set(d, 0xCD9E8D57u);
  for (int round = 0; round < 10; ++round) {
    VU low0, high0, low1, high1;
    multiply_wide(c0, m0, low0, high0);
    multiply_wide(c2, m1, low1, high1);
    c0 = hn::Xor(hn::Xor(high1, c1), hn::Set(d, k0));
    c1 = low1;
    c2 = hn::Xor(hn::Xor(high0, c3), hn::Set(d, k1));
    c3 = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  hn::StoreInterleaved4(c0, c1, c2, c3, d, out);
}

// Words [first, first + n) of (seed, stream). `buffer` takes whole vectors of blocks: n + 8 * lanes() words. Returns where word
// `first` is in it.
HWY_INLINE const std::uint32_t* philox_words(std::uint64_t seed, std::uint64_t stream, std::uint64_t first, std::int64_t n,
                                             std::uint32_t* buffer) {
  const std::uint64_t block = first / 4;
  const auto skip = static_cast<std::int64_t>(first % 4);
  for (std::int64_t done = 0; done < n + skip; done += 4 * lanes())
    philox_blocks(seed, stream, block + static_cast<std::uint64_t>(done / 4), buffer + done);
  return buffer + skip;
}

}  // namespace HWY_NAMESPACE
}  // namespace rhetor
HWY_AFTER_NAMESPACE();

#endif  // RHETOR_CPU_PHILOX_INL_H_
