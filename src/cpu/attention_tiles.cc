#include "cpu/attention_tiles.h"

#include <immintrin.h>

#include <algorithm>
#include <cmath>

#include "cpu/amx.h"

// GCC 12 takes the intentionally undefined operands inside its own intrinsics for mistakes of ours (bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

namespace rhetor {

#define RHETOR_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")))

namespace {

RHETOR_BF16 inline __m256i narrowed(__m512 v) { return (__m256i)_mm512_cvtneps_pbh(v); }

// 2^t for t <= 0 or so; a seventh-point Chebyshev fit of 2^r on [-1/2, 1/2], relative error 2e-9 before rounding. NaN stays NaN.
RHETOR_BF16 inline __m512 exp2(__m512 t) {
  t = _mm512_max_ps(_mm512_set1_ps(-160.0f), t);
  const __m512 n = _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), r = _mm512_sub_ps(t, n);
  __m512 p = _mm512_set1_ps(0.000154614447f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.00134004282f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.00961805668f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.0555032723f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.240226509f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.693147207f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, n);
}

inline __mmask16 first(std::int64_t n) { return n >= 16 ? __mmask16{0xffff} : n <= 0 ? __mmask16{0} : static_cast<__mmask16>((1u << n) - 1u); }

// 16 rows of 16 dwords to 16 columns, `ld` apart.
RHETOR_BF16 inline void transpose_16x16(const __m512i (&row)[16], std::uint32_t* to, std::int64_t ld) {
  __m512i a[16], b[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_epi32(row[i], row[i + 1]);
    a[i + 1] = _mm512_unpackhi_epi32(row[i], row[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {  // b[i + c]: column c of each 128-bit lane, rows i to i + 3
    b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
    b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
    b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
    b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {  // lanes 0, 2 and 1, 3 of rows 0 to 7 and 8 to 15
    const __m512i low02 = _mm512_shuffle_i32x4(b[c], b[4 + c], 0x88), low13 = _mm512_shuffle_i32x4(b[c], b[4 + c], 0xdd);
    const __m512i high02 = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0x88), high13 = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0xdd);
    _mm512_storeu_si512(to + c * ld, _mm512_shuffle_i32x4(low02, high02, 0x88));
    _mm512_storeu_si512(to + (4 + c) * ld, _mm512_shuffle_i32x4(low13, high13, 0x88));
    _mm512_storeu_si512(to + (8 + c) * ld, _mm512_shuffle_i32x4(low02, high02, 0xdd));
    _mm512_storeu_si512(to + (12 + c) * ld, _mm512_shuffle_i32x4(low13, high13, 0xdd));
  }
}

}  // namespace

void tile_product(const std::uint32_t* a, std::int64_t lda, const std::uint32_t* b, std::int64_t ldb, float* c, std::int64_t ldc, std::int64_t pairs,
                  std::int64_t n, bool accumulate) {
  const std::int64_t a_bytes = 4 * lda, b_bytes = 4 * ldb, c_bytes = 4 * ldc;
  for (std::int64_t col = 0; col < n; col += 32) {
    float* to = c + col;
    if (accumulate) {
      amx::load<0>(to, c_bytes);
      amx::load<1>(to + 16, c_bytes);
      amx::load<2>(to + 16 * ldc, c_bytes);
      amx::load<3>(to + 16 * ldc + 16, c_bytes);
    } else {
      amx::zero<0>();
      amx::zero<1>();
      amx::zero<2>();
      amx::zero<3>();
    }
    for (std::int64_t p = 0; p < pairs; p += 16) {
      amx::load<6>(b + p * ldb + col, b_bytes);
      amx::load<4>(a + p, a_bytes);
      amx::multiply_bf16<0, 4, 6>();
      amx::load<7>(b + p * ldb + col + 16, b_bytes);
      amx::multiply_bf16<1, 4, 7>();
      amx::load<5>(a + 16 * lda + p, a_bytes);
      amx::multiply_bf16<2, 5, 6>();
      amx::multiply_bf16<3, 5, 7>();
    }
    amx::store<0>(to, c_bytes);
    amx::store<1>(to + 16, c_bytes);
    amx::store<2>(to + 16 * ldc, c_bytes);
    amx::store<3>(to + 16 * ldc + 16, c_bytes);
  }
}

RHETOR_BF16 void pack_keys(const bf16* k, std::int64_t stride, std::int64_t keys, std::int64_t d, std::uint32_t* to) {
  for (std::int64_t key = 0; key < (keys + 31) / 32 * 32; key += 16)
    for (std::int64_t c = 0; c < d; c += 32) {
      __m512i rows[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) rows[i] = key + i < keys ? _mm512_loadu_si512(k + (key + i) * stride + c) : _mm512_setzero_si512();
      transpose_16x16(rows, to + c / 2 * kTileKeys + key, kTileKeys);
    }
}

RHETOR_BF16 void pack_values(const bf16* v, std::int64_t stride, std::int64_t keys, std::int64_t d, std::uint32_t* to) {
  const auto row = [&](std::int64_t key, std::int64_t c) RHETOR_BF16 {
    return key < keys ? _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(v + key * stride + c))) : _mm512_setzero_si512();
  };
  for (std::int64_t key = 0; key < (keys + 31) / 32 * 32; key += 2)
    for (std::int64_t c = 0; c < d; c += 16)
      _mm512_storeu_si512(to + key / 2 * d + c, _mm512_or_si512(row(key, c), _mm512_slli_epi32(row(key + 1, c), 16)));
}

namespace {

// The greatest of factor s[0, n).
RHETOR_BF16 inline float greatest(const float* s, std::int64_t n, __m512 factor) {
  const __m512 lowest = _mm512_set1_ps(-HUGE_VALF);
  __m512 a = lowest, b = lowest;
  std::int64_t j = 0;
  for (; j + 32 <= n; j += 32) {
    a = _mm512_max_ps(a, _mm512_mul_ps(_mm512_loadu_ps(s + j), factor));
    b = _mm512_max_ps(b, _mm512_mul_ps(_mm512_loadu_ps(s + j + 16), factor));
  }
  for (; j < n; j += 16) {
    const __mmask16 seen = first(n - j);
    a = _mm512_mask_max_ps(a, seen, a, _mm512_mul_ps(_mm512_maskz_loadu_ps(seen, s + j), factor));
  }
  return _mm512_reduce_max_ps(_mm512_max_ps(a, b));
}

}  // namespace

RHETOR_BF16 void softmax_rows(const float* s, const std::int32_t* visible, std::int64_t rows, std::int64_t padded, float factor, float* top,
                              float* sum, bf16* p, float* o, std::int64_t d) {
  const __m512 scale = _mm512_set1_ps(factor);
  for (std::int64_t i = 0; i < rows; ++i, s += kTileKeys, p += kTileKeys, o += d) {
    const std::int64_t seen = visible[i];
    const float old_top = top[i], new_top = std::max(old_top, greatest(s, seen, scale));
    const float shift = new_top == -HUGE_VALF ? 0.0f : new_top;  // no key seen yet: 2^-inf is 0 and not NaN
    const __m512 minus = _mm512_set1_ps(-shift);
    __m512 a = _mm512_setzero_ps(), b = a;
    std::int64_t j = 0;
    for (; j + 32 <= seen; j += 32) {
      const __m512 e = exp2(_mm512_fmadd_ps(_mm512_loadu_ps(s + j), scale, minus));
      const __m512 f = exp2(_mm512_fmadd_ps(_mm512_loadu_ps(s + j + 16), scale, minus));
      a = _mm512_add_ps(a, e);
      b = _mm512_add_ps(b, f);
      _mm512_storeu_si512(p + j, (__m512i)_mm512_cvtne2ps_pbh(f, e));
    }
    for (; j < padded; j += 16) {
      const __mmask16 mask = first(seen - j);
      __m512 e = _mm512_setzero_ps();
      if (mask) e = _mm512_maskz_mov_ps(mask, exp2(_mm512_fmadd_ps(_mm512_loadu_ps(s + j), scale, minus)));
      a = _mm512_add_ps(a, e);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + j), narrowed(e));
    }
    const float fresh = _mm512_reduce_add_ps(_mm512_add_ps(a, b));
    top[i] = new_top;
    if (old_top == new_top) {
      sum[i] += fresh;
    } else if (old_top == -HUGE_VALF) {  // the first keys it sees: nothing to rescale
      sum[i] = fresh;
    } else {
      const float rescale = std::exp2(old_top - shift);
      sum[i] = sum[i] * rescale + fresh;
      const __m512 r = _mm512_set1_ps(rescale);
      for (std::int64_t c = 0; c < d; c += 16) _mm512_storeu_ps(o + c, _mm512_mul_ps(_mm512_loadu_ps(o + c), r));
    }
  }
}

RHETOR_BF16 void finish_row(const float* o, float factor, bf16* to, std::int64_t d) {
  const __m512 f = _mm512_set1_ps(factor);
  for (std::int64_t c = 0; c < d; c += 16)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + c), narrowed(_mm512_mul_ps(_mm512_loadu_ps(o + c), f)));
}

}  // namespace rhetor
