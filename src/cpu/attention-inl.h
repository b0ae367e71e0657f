// What the forward and backward attention kernels share: a small register-tiled product and the moves between rows and query-major
// blocks. All blocks keep queries along the vector dimension, so softmax needs no horizontal reduction and keys and values are read
// from where they lie, one broadcast element at a time.
#if defined(RHETOR_CPU_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RHETOR_CPU_ATTENTION_INL_H_
#undef RHETOR_CPU_ATTENTION_INL_H_
#else
#define RHETOR_CPU_ATTENTION_INL_H_
#endif

#include "cpu/attention_internal.h"
#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rhetor {
namespace HWY_NAMESPACE {

// c[m, n] (+)= sum_k a(m, k) b[k, n], a(m, k) at a[m am + k ak]; one tile of MR rows and NV vectors held in registers.
template <int MR, int NV>
HWY_INLINE void product_tile(const float* HWY_RESTRICT a, std::int64_t am, std::int64_t ak, const float* HWY_RESTRICT b, std::int64_t ldb,
                             float* HWY_RESTRICT c, std::int64_t ldc, std::int64_t k, bool accumulate) {
  VF acc[MR][NV];
#pragma GCC unroll 8
  for (int m = 0; m < MR; ++m) {
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) acc[m][v] = accumulate ? load(c + m * ldc + v * lanes()) : zero();
  }
  for (std::int64_t i = 0; i < k; ++i) {
    VF row[NV];
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) row[v] = load(b + i * ldb + v * lanes());
#pragma GCC unroll 8
    for (int m = 0; m < MR; ++m) {
      const VF x = set(a[m * am + i * ak]);
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) acc[m][v] = hn::MulAdd(x, row[v], acc[m][v]);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < MR; ++m) {
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) store(acc[m][v], c + m * ldc + v * lanes());
  }
}

template <int NV>
void product_strip(const float* a, std::int64_t am, std::int64_t ak, const float* b, std::int64_t ldb, float* c, std::int64_t ldc,
                   std::int64_t m, std::int64_t k, bool accumulate) {
  std::int64_t i = 0;
  for (; i + 6 <= m; i += 6) product_tile<6, NV>(a + i * am, am, ak, b, ldb, c + i * ldc, ldc, k, accumulate);
  for (; i + 4 <= m; i += 4) product_tile<4, NV>(a + i * am, am, ak, b, ldb, c + i * ldc, ldc, k, accumulate);
  for (; i < m; ++i) product_tile<1, NV>(a + i * am, am, ak, b, ldb, c + i * ldc, ldc, k, accumulate);
}

// n is a multiple of lanes().
inline void product(const float* a, std::int64_t am, std::int64_t ak, const float* b, std::int64_t ldb, float* c, std::int64_t ldc,
                    std::int64_t m, std::int64_t n, std::int64_t k, bool accumulate) {
  constexpr int kWide = hn::MaxLanes(F32()) >= 16 ? 4 : 2;  // 24 or 12 accumulators: what 32 or 16 registers hold
  std::int64_t at = 0;
  for (; at + kWide * lanes() <= n; at += kWide * lanes())
    product_strip<kWide>(a, am, ak, b + at, ldb, c + at, ldc, m, k, accumulate);
  for (; at < n; at += lanes()) product_strip<1>(a, am, ak, b + at, ldb, c + at, ldc, m, k, accumulate);
}

// rows[i] of d elements, `stride` apart, to f32 rows `ld` apart, times `factor`; columns [d, ld) become 0.
template <class T>
void widen_rows(const T* from, std::int64_t stride, float* to, std::int64_t ld, std::int64_t rows, std::int64_t d, float factor) {
  const VF scale = set(factor);
  for (std::int64_t i = 0; i < rows; ++i) {
    std::int64_t j = 0;
    for (; j + lanes() <= d; j += lanes()) store(hn::Mul(load(from + i * stride + j), scale), to + i * ld + j);
    if (j < d) {
      store_n(hn::Mul(load_n(from + i * stride + j, d - j), scale), to + i * ld + j, d - j);
      j = d;
    }
    for (; j < ld; ++j) to[i * ld + j] = 0;
  }
}

// Rows [rows, d] (ld apart) to columns: to[d][kQueries]; columns beyond `rows` become 0.
inline void to_columns(const float* from, std::int64_t ld, float* to, std::int64_t rows, std::int64_t d) {
  for (std::int64_t j = 0; j < d; ++j) {
    for (std::int64_t i = 0; i < rows; ++i) to[j * kQueries + i] = from[i * ld + j];
    for (std::int64_t i = rows; i < kQueries; ++i) to[j * kQueries + i] = 0;
  }
}

// Keys or values [begin, begin + rows) of one head as f32 rows: in place if they are f32, else widened to `buffer` [kKeys, d].
template <class T>
HWY_INLINE const float* f32_rows(const T* from, std::int64_t stride, std::int64_t rows, std::int64_t d, float* buffer, std::int64_t* ld) {
  if constexpr (std::is_same_v<T, float>) {
    *ld = stride;
    return from;
  } else {
    widen_rows(from, stride, buffer, d, rows, d, 1.0f);
    *ld = d;
    return buffer;
  }
}

// Scores of keys [first, first + rows) that a query does not see become -inf. end: visible keys per query [kQueries].
inline void mask_scores(float* scores, const std::int32_t* end, std::int64_t first, std::int64_t rows, std::int64_t columns) {
  for (std::int64_t c = 0; c < columns; c += lanes()) {
    const VI limit = hn::LoadU(I32(), end + c);
    for (std::int64_t j = 0; j < rows; ++j) {
      const auto seen = hn::RebindMask(F32(), hn::Lt(hn::Set(I32(), static_cast<std::int32_t>(first + j)), limit));
      float* s = scores + j * kQueries + c;
      store(hn::IfThenElse(seen, load(s), hn::Neg(hn::Inf(F32()))), s);
    }
  }
}

// The block's queries: how many keys each sees; returns the greatest, *least the smallest.
inline std::int64_t block_ends(const AttentionShape& a, const AttentionPointers& p, std::int64_t b, std::int64_t first, std::int64_t rows,
                               std::int32_t* end, std::int64_t* least) {
  std::int64_t most = 0;
  *least = a.t;
  for (std::int64_t i = 0; i < kQueries; ++i) {
    const std::int64_t e = i < rows ? visible_end(a, p, b, first + i) : 0;
    end[i] = static_cast<std::int32_t>(e);
    if (i >= rows) continue;
    most = std::max(most, e);
    *least = std::min(*least, e);
  }
  return most;
}

}  // namespace HWY_NAMESPACE
}  // namespace rhetor
HWY_AFTER_NAMESPACE();

#endif  // RHETOR_CPU_ATTENTION_INL_H_
