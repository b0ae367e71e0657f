// Re-lays operands as AMX tiles. Memory-bound: one read, one write (three for f32).
#include <immintrin.h>

#include <algorithm>

#include "base/error.h"
#include "cpu/pack_cache.h"
#include "cpu/tiles.h"

// GCC 12 takes the intentionally undefined operands inside its own intrinsics for mistakes of ours (bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

namespace rhetor {
namespace {

#define RHETOR_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))

// 64 bytes of a tile: one row's step of k, or one group of k across 16 rows; for f32 one such line a part.
template <int parts>
struct Lines {
  __m512i part[parts];
};

// The bf16 parts of f32 values, each in the high half of its lane.
RHETOR_AVX512 inline Lines<3> cut(__m512 x) {
  const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  Lines<3> out;
  out.part[0] = _mm512_and_si512(_mm512_castps_si512(x), high);
  const __m512 rest = _mm512_sub_ps(x, _mm512_castsi512_ps(out.part[0]));  // exact
  out.part[1] = _mm512_and_si512(_mm512_castps_si512(rest), high);
  out.part[2] = _mm512_castps_si512(_mm512_sub_ps(rest, _mm512_castsi512_ps(out.part[1])));
  return out;
}

// A tail mask of n of `all` elements.
inline std::uint64_t first(std::int64_t n, std::int64_t all) {
  return n >= all ? (all == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << all) - 1) : n <= 0 ? 0 : (std::uint64_t{1} << n) - 1;
}

// 64 bytes' worth of k from one row, `left` elements of it real.
RHETOR_AVX512 inline Lines<1> along_k(const std::int8_t* p, std::int64_t left) {
  return {{_mm512_maskz_loadu_epi8(first(left, 64), p)}};
}
RHETOR_AVX512 inline Lines<1> along_k(const bf16* p, std::int64_t left) {
  return {{_mm512_maskz_loadu_epi16(static_cast<__mmask32>(first(left, 32)), p)}};
}
RHETOR_AVX512 inline Lines<3> along_k(const float* p, std::int64_t left) {
  const Lines<3> low = cut(_mm512_maskz_loadu_ps(static_cast<__mmask16>(first(left, 16)), p));
  const Lines<3> high = cut(_mm512_maskz_loadu_ps(static_cast<__mmask16>(first(left - 16, 16)), p + 16));
  alignas(64) static constexpr std::uint16_t kOdd[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                                         33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
  const __m512i odd = _mm512_load_si512(kOdd);
  Lines<3> out;
  for (int i = 0; i < 3; ++i) out.part[i] = _mm512_permutex2var_epi16(low.part[i], odd, high.part[i]);
  return out;
}

// Pairs of k for 16 rows that lie side by side; `left` steps of k and `rows` rows are real.
RHETOR_AVX512 inline Lines<1> across(const bf16* p, std::int64_t stride, std::int64_t left, std::int64_t rows) {
  const auto mask = static_cast<__mmask16>(first(rows, 16));
  const __m256i even = _mm256_maskz_loadu_epi16(left > 0 ? mask : 0, p);
  const __m256i odd = _mm256_maskz_loadu_epi16(left > 1 ? mask : 0, p + stride);
  return {{_mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16))}};
}
RHETOR_AVX512 inline Lines<3> across(const float* p, std::int64_t stride, std::int64_t left, std::int64_t rows) {
  const auto mask = static_cast<__mmask16>(first(rows, 16));
  const Lines<3> even = cut(_mm512_maskz_loadu_ps(left > 0 ? mask : 0, p));
  const Lines<3> odd = cut(_mm512_maskz_loadu_ps(left > 1 ? mask : 0, p + stride));
  Lines<3> out;
  for (int i = 0; i < 3; ++i) out.part[i] = _mm512_or_si512(_mm512_srli_epi32(even.part[i], 16), odd.part[i]);
  return out;
}

// Rows and columns of 16 x 16 32-bit elements change places.
RHETOR_AVX512 inline void transpose(__m512i* r) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

template <class T>
constexpr int kParts = std::is_same_v<T, float> ? 3 : 1;
template <class T>
constexpr std::int64_t kStep = sizeof(T) == 1 ? 64 : 32;  // elements of k

// One block or panel: 32 rows from `row` on. turned: the tile holds groups of k by rows (b), not rows by k (a).
template <class T, bool k_contiguous, bool turned>
RHETOR_AVX512 void pack_block(const TileSource& s, std::int64_t steps, std::int64_t row, std::byte* to) {
  constexpr int parts = kParts<T>;
  const T* const data = static_cast<const T*>(s.data);
  for (std::int64_t step = 0; step < steps; ++step, to += 2 * parts * kTileBytes) {
    const std::int64_t k = step * kStep<T>;
    for (int half = 0; half < 2; ++half) {
      const std::int64_t at = row + 16 * half;
      __m512i line[parts][16];
      for (int i = 0; i < 16; ++i) {
        Lines<parts> one{};
        if constexpr (k_contiguous) {
          if (at + i < s.rows) one = along_k(data + (at + i) * s.stride + k, s.k - k);
        } else if constexpr (sizeof(T) > 1) {
          if (k + 2 * i < s.k && at < s.rows)
            one = across(data + (k + 2 * i) * s.stride + at, s.stride, s.k - k - 2 * i, s.rows - at);
        }
        for (int p = 0; p < parts; ++p) line[p][i] = one.part[p];
      }
      for (int p = 0; p < parts; ++p) {
        if constexpr (k_contiguous == turned) transpose(line[p]);
        std::byte* tile = to + (2 * p + half) * kTileBytes;
        for (int i = 0; i < 16; ++i) _mm512_store_si512(tile + 64 * i, line[p][i]);
      }
    }
  }
}

template <bool turned>
void pack(const TileShape& shape, const TileSource& s, std::int64_t begin, std::int64_t end, std::byte* to) {
  for (std::int64_t i = begin; i < end; ++i, to += shape.panel_bytes()) {
    const std::int64_t row = i * kTileBlock;
    if (shape.kind == TileKind::i8) {
      check(s.k_contiguous, "int8 operands have k contiguous");
      pack_block<std::int8_t, true, turned>(s, shape.steps, row, to);
    } else if (shape.kind == TileKind::bf16) {
      s.k_contiguous ? pack_block<bf16, true, turned>(s, shape.steps, row, to)
                     : pack_block<bf16, false, turned>(s, shape.steps, row, to);
    } else {
      s.k_contiguous ? pack_block<float, true, turned>(s, shape.steps, row, to)
                     : pack_block<float, false, turned>(s, shape.steps, row, to);
    }
  }
}

}  // namespace

TileShape::TileShape(TileKind kind_, std::int64_t k_, std::int64_t n_) : kind(kind_), k(k_), n(n_) {
  const std::int64_t step = kind == TileKind::i8 ? kStep<std::int8_t> : kStep<bf16>;
  steps = (k + step - 1) / step;
  step_bytes = 2 * kTileBytes * (kind == TileKind::f32 ? kParts<float> : 1);
  panels = (n + kTileBlock - 1) / kTileBlock;
}

void pack_tile_rows(const TileShape& shape, const TileSource& a, std::int64_t begin, std::int64_t end, void* to) {
  pack<false>(shape, a, begin, end, static_cast<std::byte*>(to));
}
void pack_tile_panels(const TileShape& shape, const TileSource& b, std::int64_t begin, std::int64_t end, void* to) {
  pack<true>(shape, b, begin, end, static_cast<std::byte*>(to) + begin * shape.panel_bytes());
}

std::shared_ptr<void> shared_tile_panels(const TileShape& shape, const Tensor& w, const TileSource& source) {
  const std::string form = fmt::format("tiles {}, [{}, {}] {} by {}", static_cast<int>(shape.kind), shape.k, shape.n,
                                       source.k_contiguous ? "k contiguous" : "n contiguous", source.stride);
  return shared_pack(content_of(w), form, shape.bytes(), [&](void* to) { pack_tile_panels(shape, source, 0, shape.panels, to); });
}

}  // namespace rhetor
