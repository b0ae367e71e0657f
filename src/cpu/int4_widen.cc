// int4 panels back to floats, piece by piece, for products with many rows. A line holds 8 k of 16 columns, one column a 32-bit lane: byte b of
// a lane has k = b in its low and k = 4 + b in its high nibble.
#include <immintrin.h>

#include "cpu/int4.h"
#include "cpu/tiles.h"

// GCC 12 takes the intentionally undefined operands inside its own intrinsics for mistakes of ours (bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

namespace rhetor {
namespace {

#define RHETOR_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,f16c,fma")))
#define RHETOR_AVX2 __attribute__((target("avx2,fma,f16c")))

// Nibble n of every lane as the float 16 + n: its bits below those of 16.
template <int shift>
[[gnu::always_inline]] RHETOR_BF16 inline __m512 sixteen_and(__m512i line) {
  constexpr int left = 19 - shift;
  __m512i moved = line;
  if constexpr (left > 0) moved = _mm512_slli_epi32(line, left);
  if constexpr (left < 0) moved = _mm512_srli_epi32(line, -left);
  constexpr int kAndOr = 0xea;  // (a & b) | c
  return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(moved, _mm512_set1_epi32(15 << 19), _mm512_set1_epi32(0x41800000), kAndOr));
}

// Two neighbouring k: (nibble - 8) scale, exact in f32, rounded to bf16, side by side in each lane.
template <int shift>
[[gnu::always_inline]] RHETOR_BF16 inline __m512i pair(__m512i line, __m512 scale, __m512 minus24, __m512i interleave) {
  const __m512 even = _mm512_fmadd_ps(sixteen_and<shift>(line), scale, minus24);
  const __m512 odd = _mm512_fmadd_ps(sixteen_and<shift + 8>(line), scale, minus24);
  return _mm512_permutexvar_epi16(interleave, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
}

RHETOR_BF16 void to_tiles(const std::uint8_t* panel, std::int64_t groups, std::byte* to) {
  alignas(64) static constexpr std::uint16_t kInterleave[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                                8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i interleave = _mm512_load_si512(kInterleave);
  for (std::int64_t g = 0; g < groups; ++g, panel += kI4GroupBytes, to += 2 * kTileBytes)
    for (int half = 0; half < 2; ++half) {
      const __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(panel + 32 * half)));
      const __m512 minus24 = _mm512_mul_ps(scale, _mm512_set1_ps(-24.0f));
      std::byte* tile = to + half * kTileBytes;
#pragma GCC unroll 4
      for (int s = 0; s < 4; ++s, tile += 256) {
        const std::uint8_t* const at = panel + 64 + 256 * half + 64 * s;
        _mm_prefetch(at + 8 * kI4GroupBytes, _MM_HINT_T0);
        const __m512i line = _mm512_loadu_si512(at);
        _mm512_store_si512(tile, pair<0>(line, scale, minus24, interleave));
        _mm512_store_si512(tile + 64, pair<16>(line, scale, minus24, interleave));
        _mm512_store_si512(tile + 128, pair<4>(line, scale, minus24, interleave));
        _mm512_store_si512(tile + 192, pair<20>(line, scale, minus24, interleave));
      }
    }
}

RHETOR_AVX2 void to_floats(const std::uint8_t* panel, std::int64_t groups, float* to) {
  const __m256i low = _mm256_set1_epi32(15), eight = _mm256_set1_epi32(8);
  for (std::int64_t g = 0; g < groups; ++g, panel += kI4GroupBytes, to += 32 * kI4Columns)
    for (int chunk = 0; chunk < 4; ++chunk) {  // of 8 columns; two make a line
      const __m256 scale = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(panel + 16 * chunk)));
      for (int s = 0; s < 4; ++s) {
        const __m256i line = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(panel + 64 + 256 * (chunk / 2) + 64 * s + 32 * (chunk % 2)));
        for (int j = 0; j < 8; ++j) {
          const __m256i nibble = _mm256_and_si256(_mm256_srl_epi32(line, _mm_cvtsi32_si128(8 * (j % 4) + j / 4 * 4)), low);
          _mm256_storeu_ps(to + (8 * s + j) * kI4Columns + 8 * chunk, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(nibble, eight)), scale));
        }
      }
    }
}

}  // namespace

void i4_to_tiles(const std::uint8_t* panel, std::int64_t groups, std::byte* to) { to_tiles(panel, groups, to); }
void i4_to_floats(const std::uint8_t* panel, std::int64_t groups, float* to) { to_floats(panel, groups, to); }

}  // namespace rhetor
