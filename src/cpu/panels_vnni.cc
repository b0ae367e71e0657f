// int8 panels by AVX512_VNNI: vpdpbusd multiplies unsigned by signed bytes, so activations are shifted by 128 and the weights'
// column sums times 128 taken off at the end. The 32-bit sums wrap, and so does the correction: the result is exact whenever the
// true sum fits.
#include <immintrin.h>

#include <cstring>

#include "cpu/panels.h"

// GCC 12 takes the intentionally undefined operands inside its own intrinsics for mistakes of ours (bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

namespace rhetor {
namespace {

#define RHETOR_VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))

constexpr std::int64_t kPrefetchBytes = 2048;

// One vector of results to columns [col, col + 16) of a row; `mask` leaves out those past n.
RHETOR_VNNI inline void put(__m512 v, float* row, __mmask16 mask) { _mm512_mask_storeu_ps(row, mask, v); }
RHETOR_VNNI inline void put(__m512 v, bf16* row, __mmask16 mask) {
  const __m512i u = _mm512_castps_si512(v), odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  const __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(0x40));
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  _mm256_mask_storeu_epi16(row, mask, _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan, quiet)));
}
RHETOR_VNNI inline void put(__m512 v, f16* row, __mmask16 mask) {
  _mm256_mask_storeu_epi16(row, mask, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

template <int MR, class T>
RHETOR_VNNI __attribute__((noinline)) void quad_rows(const std::int8_t* panel, const PanelRun& run, std::int64_t row,
                                                     std::int64_t col) {
  const std::int64_t bytes = i8_row_bytes(*run.shape), n = run.shape->n;
  const auto* a = static_cast<const std::uint8_t*>(run.a) + row * bytes;
  __m512i acc[MR][4];
#pragma GCC unroll 8
  for (int r = 0; r < MR; ++r)
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) acc[r][i] = _mm512_setzero_si512();
  for (std::int64_t kk = 0; kk < bytes; kk += 4) {
    const std::int8_t* p = panel + kk * 64;
    __m512i w[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      _mm_prefetch(p + kPrefetchBytes + 64 * i, _MM_HINT_T0);
      w[i] = _mm512_loadu_si512(p + 64 * i);
    }
#pragma GCC unroll 8
    for (int r = 0; r < MR; ++r) {
      std::int32_t quad;
      std::memcpy(&quad, a + r * bytes + kk, 4);
      const __m512i x = _mm512_set1_epi32(quad);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) acc[r][i] = _mm512_dpbusd_epi32(acc[r][i], x, w[i]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const std::int64_t at = col + 16 * i;
    if (at >= n) break;
    const auto mask = static_cast<__mmask16>(n - at >= 16 ? 0xffffu : (1u << (n - at)) - 1u);
    const __m512 ws = _mm512_maskz_loadu_ps(mask, run.w_scale + at);
    const __m512i shift = _mm512_loadu_si512(run.sums + at);  // padded to whole panels
#pragma GCC unroll 8
    for (int r = 0; r < MR; ++r) {
      const __m512 sum = _mm512_cvtepi32_ps(_mm512_sub_epi32(acc[r][i], shift));
      put(_mm512_mul_ps(sum, _mm512_mul_ps(_mm512_set1_ps(run.x_scale[row + r]), ws)),
          static_cast<T*>(run.c) + (row + r) * n + at, mask);
    }
  }
}

template <class T>
void run_typed(const PanelRun& run, std::int64_t begin, std::int64_t end) {
  for (std::int64_t p = begin; p < end; ++p) {
    const auto* panel = static_cast<const std::int8_t*>(run.weights) + p * run.shape->panel_bytes;
    const std::int64_t col = p * run.shape->cols;
    std::int64_t row = 0;
    for (; row + 4 <= run.m; row += 4) quad_rows<4, T>(panel, run, row, col);
    switch (run.m - row) {
      case 1:
        quad_rows<1, T>(panel, run, row, col);
        break;
      case 2:
        quad_rows<2, T>(panel, run, row, col);
        break;
      case 3:
        quad_rows<3, T>(panel, run, row, col);
        break;
      default:
        break;
    }
  }
}

}  // namespace

void run_panels_vnni(const PanelRun& run, std::int64_t panel_begin, std::int64_t panel_end) {
  if (run.c_dtype == DType::f32)
    run_typed<float>(run, panel_begin, panel_end);
  else if (run.c_dtype == DType::bf16)
    run_typed<bf16>(run, panel_begin, panel_end);
  else
    run_typed<f16>(run, panel_begin, panel_end);
}

}  // namespace rhetor
