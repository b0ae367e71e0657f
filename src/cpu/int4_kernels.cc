// The inner loops of int4 products. Weights are unsigned nibbles, activations signed bytes: both vpdpbusd and vpmaddubsw want exactly
// that, and the nibbles' offset of 8 is taken off by starting each group's sum at -8 sum x.
// Bound, one row: 576 bytes a group and panel; about 30 vector operations, 15 cycles, so 38 bytes a cycle: far above what memory gives.
#include <immintrin.h>

#include <cstring>

#include "cpu/int4.h"

// GCC 12 takes the intentionally undefined operands inside its own intrinsics for mistakes of ours (bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

namespace rhetor {
namespace {

#define RHETOR_VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c,fma")))
#define RHETOR_AVX2 __attribute__((target("avx2,fma,f16c")))

// How far ahead of its use a panel is fetched: the hardware stops at page ends.
constexpr std::int64_t kPrefetchBytes = 4 * kI4GroupBytes;

inline std::int32_t quad(const std::int8_t* x) {
  std::int32_t q;
  std::memcpy(&q, x, 4);
  return q;
}

template <int MR>
RHETOR_VNNI void vnni(const std::uint8_t* panel, std::int64_t groups, const std::int8_t* x, const float* x_scale, const std::int32_t* shift,
                      float* tile) {
  const std::int64_t k = 32 * groups;
  const __m512i low = _mm512_set1_epi8(15);
  __m512 total[MR][2];
#pragma GCC unroll 8
  for (int r = 0; r < MR; ++r) total[r][0] = total[r][1] = _mm512_setzero_ps();
  for (std::int64_t g = 0; g < groups; ++g) {
    const std::uint8_t* p = panel + g * kI4GroupBytes;
#pragma GCC unroll 9
    for (int i = 0; i < 9; ++i) _mm_prefetch(p + kPrefetchBytes + 64 * i, _MM_HINT_T0);
    __m512i sum[MR][2];
#pragma GCC unroll 8
    for (int r = 0; r < MR; ++r) sum[r][0] = sum[r][1] = _mm512_set1_epi32(shift[r * groups + g]);
#pragma GCC unroll 4
    for (int s = 0; s < 4; ++s) {
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) {
        const __m512i w = _mm512_loadu_si512(p + 64 + 256 * v + 64 * s);
        const __m512i even = _mm512_and_si512(w, low), odd = _mm512_and_si512(_mm512_srli_epi16(w, 4), low);
#pragma GCC unroll 8
        for (int r = 0; r < MR; ++r) {
          const std::int8_t* at = x + r * k + 32 * g + 8 * s;
          sum[r][v] = _mm512_dpbusd_epi32(sum[r][v], even, _mm512_set1_epi32(quad(at)));
          sum[r][v] = _mm512_dpbusd_epi32(sum[r][v], odd, _mm512_set1_epi32(quad(at + 4)));
        }
      }
    }
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) {
      const __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32 * v)));
#pragma GCC unroll 8
      for (int r = 0; r < MR; ++r)
        total[r][v] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][v]), _mm512_mul_ps(scale, _mm512_set1_ps(x_scale[r * groups + g])), total[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < MR; ++r) {
    _mm512_storeu_ps(tile + r * kI4Columns, total[r][0]);
    _mm512_storeu_ps(tile + r * kI4Columns + 16, total[r][1]);
  }
}

// Columns [8 first, 8 (first + NV)) of the panel. The pairs of a group fit 16 bits: 16 products of at most 15 * 128.
template <int MR, int NV>
RHETOR_AVX2 void avx2(const std::uint8_t* panel, std::int64_t groups, const std::int8_t* x, const float* x_scale, const std::int32_t* shift,
                      int first, float* tile) {
  const std::int64_t k = 32 * groups;
  const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  __m256 total[MR][NV];
#pragma GCC unroll 8
  for (int r = 0; r < MR; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) total[r][v] = _mm256_setzero_ps();
  for (std::int64_t g = 0; g < groups; ++g) {
    const std::uint8_t* p = panel + g * kI4GroupBytes;
#pragma GCC unroll 9
    for (int i = 0; i < 9; ++i) _mm_prefetch(p + kPrefetchBytes + 64 * i, _MM_HINT_T0);
    __m256i sum[MR][NV];
#pragma GCC unroll 8
    for (int r = 0; r < MR; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) sum[r][v] = _mm256_setzero_si256();
#pragma GCC unroll 4
    for (int s = 0; s < 4; ++s) {
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) {
        const int chunk = first + v;  // of 8 columns; two make a line
        const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 64 + 256 * (chunk / 2) + 64 * s + 32 * (chunk % 2)));
        const __m256i even = _mm256_and_si256(w, low), odd = _mm256_and_si256(_mm256_srli_epi16(w, 4), low);
#pragma GCC unroll 8
        for (int r = 0; r < MR; ++r) {
          const std::int8_t* at = x + r * k + 32 * g + 8 * s;
          sum[r][v] = _mm256_add_epi16(sum[r][v], _mm256_maddubs_epi16(even, _mm256_set1_epi32(quad(at))));
          sum[r][v] = _mm256_add_epi16(sum[r][v], _mm256_maddubs_epi16(odd, _mm256_set1_epi32(quad(at + 4))));
        }
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) {
      const __m256 scale = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16 * (first + v))));
#pragma GCC unroll 8
      for (int r = 0; r < MR; ++r) {
        const __m256i exact = _mm256_add_epi32(_mm256_madd_epi16(sum[r][v], ones), _mm256_set1_epi32(shift[r * groups + g]));
        total[r][v] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(exact), _mm256_mul_ps(scale, _mm256_set1_ps(x_scale[r * groups + g])), total[r][v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < MR; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) _mm256_storeu_ps(tile + r * kI4Columns + 8 * (first + v), total[r][v]);
}

RHETOR_AVX2 void shifts(const std::int8_t* x, std::int64_t groups, std::int32_t* shift) {
  const __m256i bytes = _mm256_set1_epi8(1), words = _mm256_set1_epi16(1);
  for (std::int64_t g = 0; g < groups; ++g) {
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + 32 * g));
    const __m256i pairs = _mm256_madd_epi16(_mm256_maddubs_epi16(bytes, v), words);
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
    shift[g] = -8 * _mm_cvtsi128_si32(sum);
  }
}

}  // namespace

void i4_rows_vnni(const std::uint8_t* panel, std::int64_t groups, const std::int8_t* x, const float* x_scale, const std::int32_t* shift, int rows,
                  float* tile) {
  switch (rows) {
    case 1: return vnni<1>(panel, groups, x, x_scale, shift, tile);
    case 2: return vnni<2>(panel, groups, x, x_scale, shift, tile);
    case 3: return vnni<3>(panel, groups, x, x_scale, shift, tile);
    case 4: return vnni<4>(panel, groups, x, x_scale, shift, tile);
    case 5: return vnni<5>(panel, groups, x, x_scale, shift, tile);
    default: return vnni<6>(panel, groups, x, x_scale, shift, tile);
  }
}

void i4_rows_avx2(const std::uint8_t* panel, std::int64_t groups, const std::int8_t* x, const float* x_scale, const std::int32_t* shift, int rows,
                  float* tile) {
  if (rows == 1) return avx2<1, 4>(panel, groups, x, x_scale, shift, 0, tile);
  avx2<2, 2>(panel, groups, x, x_scale, shift, 0, tile);
  avx2<2, 2>(panel, groups, x, x_scale, shift, 2, tile);
}

void i4_shifts(const std::int8_t* x, std::int64_t groups, std::int32_t* shift) { shifts(x, groups, shift); }

}  // namespace rhetor
