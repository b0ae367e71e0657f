#include "cpu/attention_grad_tiles.h"

#include <immintrin.h>

#include <algorithm>

#include "cpu/amx.h"
#include "cpu/tiles.h"

// GCC 12 takes the intentionally undefined operands inside its own intrinsics for mistakes of ours (bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

namespace rhetor {

#define RHETOR_GRAD __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")))

namespace {

template <int parts>
void square_of(const std::byte* a, const std::byte* b, std::int64_t steps, float* c, bool accumulate) {
  constexpr std::int64_t row = kTileBlock * 4;
  if (accumulate) {
    amx::load<0>(c, row);
    amx::load<1>(c + 16, row);
    amx::load<2>(c + 16 * kTileBlock, row);
    amx::load<3>(c + 16 * kTileBlock + 16, row);
  } else {
    amx::zero<0>();
    amx::zero<1>();
    amx::zero<2>();
    amx::zero<3>();
  }
  const auto multiply = [] {
    amx::multiply_bf16<0, 4, 6>();
    amx::multiply_bf16<1, 4, 7>();
    amx::multiply_bf16<2, 5, 6>();
    amx::multiply_bf16<3, 5, 7>();
  };
  const auto left = [&](int part) {
    amx::load<4>(a + 2 * part * kTileBytes);
    amx::load<5>(a + (2 * part + 1) * kTileBytes);
  };
  const auto right = [&](int part) {
    amx::load<6>(b + 2 * part * kTileBytes);
    amx::load<7>(b + (2 * part + 1) * kTileBytes);
  };
  for (std::int64_t s = 0; s < steps; ++s, a += 2 * parts * kTileBytes, b += 2 * parts * kTileBytes) {
    left(0);
    right(0);
    multiply();
    if constexpr (parts == 3) {  // the pairs of parts (i, j) with i + j <= 2
      right(1);
      multiply();
      right(2);
      multiply();
      left(1);
      right(1);
      multiply();
      right(0);
      multiply();
      left(2);
      multiply();
    }
  }
  amx::store<0>(c, row);
  amx::store<1>(c + 16, row);
  amx::store<2>(c + 16 * kTileBlock, row);
  amx::store<3>(c + 16 * kTileBlock + 16, row);
}
// e^x: a sixth-degree fit of e^r on |r| <= ln2 / 2, 1 ulp. NaN stays NaN, what is below the least float becomes 0.
RHETOR_GRAD inline __m512 exponential(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-120.0f), x);
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504089f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x));
  __m512 p = _mm512_set1_ps(0.00139012365801f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.00836319993985f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.0416668549744f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.166665769633f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.499999995489f));
  p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, n);
}

// The bf16 parts of f32 values, each in the high half of its lane; one part: rounded.
template <int parts>
struct Cut {
  __m512i part[parts];
};
RHETOR_GRAD inline Cut<3> cut(__m512 x) {
  const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  Cut<3> out;
  out.part[0] = _mm512_and_si512(_mm512_castps_si512(x), high);
  const __m512 rest = _mm512_sub_ps(x, _mm512_castsi512_ps(out.part[0]));  // exact
  out.part[1] = _mm512_and_si512(_mm512_castps_si512(rest), high);
  out.part[2] = _mm512_castps_si512(_mm512_sub_ps(rest, _mm512_castsi512_ps(out.part[1])));
  return out;
}

alignas(64) constexpr std::uint16_t kOdd[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                                33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
// Of a vector whose halves belong to two rows: their elements in turns.
alignas(64) constexpr std::uint16_t kInTurns[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                    8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};

// Two vectors of one row as 32 consecutive bf16.
template <int parts>
RHETOR_GRAD inline void store_row(__m512 low, __m512 high, std::byte* to) {
  if constexpr (parts == 1) {
    _mm512_store_si512(to, (__m512i)_mm512_cvtne2ps_pbh(high, low));
  } else {
    const Cut<3> a = cut(low), b = cut(high);
    for (int i = 0; i < 3; ++i) _mm512_store_si512(to + 2 * i * kTileBytes, _mm512_permutex2var_epi16(a.part[i], _mm512_load_si512(kOdd), b.part[i]));
  }
}
// Two rows of one vector as pairs.
template <int parts>
RHETOR_GRAD inline void store_pairs(__m512 even, __m512 odd, std::byte* to) {
  if constexpr (parts == 1) {
    _mm512_store_si512(to, _mm512_permutexvar_epi16(_mm512_load_si512(kInTurns), (__m512i)_mm512_cvtne2ps_pbh(odd, even)));
  } else {
    const Cut<3> a = cut(even), b = cut(odd);
    const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    for (int i = 0; i < 3; ++i)
      _mm512_store_si512(to + 2 * i * kTileBytes, _mm512_or_si512(_mm512_srli_epi32(a.part[i], 16), _mm512_and_si512(b.part[i], high)));
  }
}

inline __mmask16 first(std::int64_t n) { return n >= 16 ? __mmask16{0xffff} : n <= 0 ? __mmask16{0} : static_cast<__mmask16>((1u << n) - 1u); }

RHETOR_GRAD inline __m512 widened(const float* p, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, p); }
RHETOR_GRAD inline __m512 widened(const bf16* p, __mmask16 mask) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p)), 16));
}
RHETOR_GRAD inline void narrowed(float* p, __mmask16 mask, __m512 v) { _mm512_mask_storeu_ps(p, mask, v); }
RHETOR_GRAD inline void narrowed(bf16* p, __mmask16 mask, __m512 v) { _mm256_mask_storeu_epi16(p, mask, (__m256i)_mm512_cvtneps_pbh(v)); }

template <class T>
RHETOR_GRAD void delta_rows(const T* d_o, const T* o, std::int64_t stride, std::int64_t rows, std::int64_t d, float* delta) {
  for (std::int64_t i = 0; i < rows; ++i, d_o += stride, o += stride) {
    __m512 sum = _mm512_setzero_ps();
    for (std::int64_t j = 0; j < d; j += 16) sum = _mm512_fmadd_ps(widened(d_o + j, first(d - j)), widened(o + j, first(d - j)), sum);
    delta[i] = _mm512_reduce_add_ps(sum);
  }
}

template <bool turned, class T>
RHETOR_GRAD void write_rows(const float* square, float factor, T* to, std::int64_t stride, std::int64_t rows, std::int64_t cols) {
  const __m512 f = _mm512_set1_ps(factor);
  const __m512i column = _mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi32(kTileBlock));
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < cols; j += 16) {
      const __m512 v = turned ? _mm512_i32gather_ps(column, square + j * kTileBlock + i, 4) : _mm512_load_ps(square + i * kTileBlock + j);
      narrowed(to + i * stride + j, first(cols - j), _mm512_mul_ps(v, f));
    }
}

template <int parts>
RHETOR_GRAD void probabilities_of(const GradSquare& x) {
  const __m512 scale = _mm512_set1_ps(x.scale);
  __m512 lse[2], delta[2];
  __m512i end[2];
  for (int c = 0; c < 2; ++c) {
    lse[c] = _mm512_loadu_ps(x.lse + 16 * c);
    delta[c] = _mm512_loadu_ps(x.delta + 16 * c);
    end[c] = _mm512_loadu_si512(x.end + 16 * c);
  }
  for (int key = 0; key < 32; key += 2) {
    __m512 p[2][2], ds[2][2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i)
#pragma GCC unroll 2
      for (int c = 0; c < 2; ++c) {
        const std::int64_t at = (key + i) * kTileBlock + 16 * c;
        const __mmask16 seen = _mm512_cmplt_epi32_mask(_mm512_set1_epi32(static_cast<int>(x.key) + key + i), end[c]);
        p[i][c] = _mm512_maskz_mov_ps(seen, exponential(_mm512_fmsub_ps(_mm512_load_ps(x.s + at), scale, lse[c])));
        ds[i][c] = _mm512_maskz_mul_ps(seen, p[i][c], _mm512_sub_ps(_mm512_load_ps(x.dp + at), delta[c]));
      }
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const std::int64_t line = (key + i) / 16 * kTileBytes + (key + i) % 16 * 64;
      store_row<parts>(p[i][0], p[i][1], x.p + line);
      store_row<parts>(ds[i][0], ds[i][1], x.ds + line);
    }
#pragma GCC unroll 2
    for (int c = 0; c < 2; ++c) store_pairs<parts>(ds[0][c], ds[1][c], x.ds_turned + c * kTileBytes + key / 2 * 64);
  }
}
}  // namespace

void grad_square(int parts, const std::byte* a, const std::byte* b, std::int64_t steps, float* c, bool accumulate) {
  parts == 3 ? square_of<3>(a, b, steps, c, accumulate) : square_of<1>(a, b, steps, c, accumulate);
}
void grad_probabilities(int parts, const GradSquare& square) {
  parts == 3 ? probabilities_of<3>(square) : probabilities_of<1>(square);
}

void grad_delta(DType dtype, const void* d_o, const void* o, std::int64_t stride, std::int64_t rows, std::int64_t d, float* delta) {
  if (dtype == DType::f32) delta_rows(static_cast<const float*>(d_o), static_cast<const float*>(o), stride, rows, d, delta);
  else delta_rows(static_cast<const bf16*>(d_o), static_cast<const bf16*>(o), stride, rows, d, delta);
}
void grad_write(const float* square, float factor, DType dtype, void* to, std::int64_t stride, std::int64_t rows, std::int64_t cols) {
  if (dtype == DType::f32) write_rows<false>(square, factor, static_cast<float*>(to), stride, rows, cols);
  else write_rows<false>(square, factor, static_cast<bf16*>(to), stride, rows, cols);
}
void grad_write_turned(const float* square, float factor, DType dtype, void* to, std::int64_t stride, std::int64_t rows, std::int64_t cols) {
  if (dtype == DType::f32) write_rows<true>(square, factor, static_cast<float*>(to), stride, rows, cols);
  else write_rows<true>(square, factor, static_cast<bf16*>(to), stride, rows, cols);
}

}  // namespace rhetor
