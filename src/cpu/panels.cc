#include "cpu/panels.h"

#include <cstring>

#include "cpu/pack_cache.h"
#include "cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/panels.cc"
#include "hwy/foreach_target.h"  // NOLINT: re-includes this file per instruction set
#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rhetor {
namespace HWY_NAMESPACE {

// How far ahead of its use a panel is fetched: the hardware stops at page ends.
constexpr std::int64_t kPrefetchBytes = 2048;

// One vector of results, columns [col, col + lanes) of row r.
template <class T>
HWY_INLINE void put(VF v, T* row, std::int64_t col, std::int64_t n) {
  if (col + lanes() <= n) {
    store(v, row + col);
  } else if (col < n) {
    store_n(v, row + col, n - col);
  }
}

struct FourVectors {
  VF v[4];
};
// Step kk of a panel: four vectors of columns.
HWY_INLINE FourVectors step(const float* panel, std::int64_t kk) {
  const float* p = panel + kk * 4 * lanes();
  __builtin_prefetch(reinterpret_cast<const char*>(p) + kPrefetchBytes);
  if (lanes() == 16) {
    for (int i = 1; i < 4; ++i) __builtin_prefetch(reinterpret_cast<const char*>(p) + kPrefetchBytes + 64 * i);
  } else {
    __builtin_prefetch(reinterpret_cast<const char*>(p) + kPrefetchBytes + 64);
  }
  return {{load(p), load(p + lanes()), load(p + 2 * lanes()), load(p + 3 * lanes())}};
}
HWY_INLINE FourVectors step(const bf16* panel, std::int64_t kk) {
  const auto* p = reinterpret_cast<const std::uint32_t*>(panel + kk * 4 * lanes());
  __builtin_prefetch(reinterpret_cast<const char*>(p) + kPrefetchBytes);
  if (lanes() == 16) __builtin_prefetch(reinterpret_cast<const char*>(p) + kPrefetchBytes + 64);
  const VU x = hn::LoadU(U32(), p), y = hn::LoadU(U32(), p + lanes()), high = hn::Set(U32(), 0xffff0000u);
  return {{hn::BitCast(F32(), hn::ShiftLeft<16>(x)), hn::BitCast(F32(), hn::And(x, high)),
           hn::BitCast(F32(), hn::ShiftLeft<16>(y)), hn::BitCast(F32(), hn::And(y, high))}};
}

// MR rows of one panel: MR x 4 accumulators.
template <int MR, class W, class T>
HWY_NOINLINE void float_rows(const W* panel, const float* a, std::int64_t k, T* c, std::int64_t col, std::int64_t n) {
  VF acc[MR][4];
#pragma GCC unroll 4
  for (int r = 0; r < MR; ++r)
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) acc[r][i] = zero();
  for (std::int64_t kk = 0; kk < k; ++kk) {
    const FourVectors w = step(panel, kk);
#pragma GCC unroll 4
    for (int r = 0; r < MR; ++r) {
      const VF x = set(a[r * k + kk]);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) acc[r][i] = hn::MulAdd(x, w.v[i], acc[r][i]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < MR; ++r)
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) put(acc[r][i], c + r * n, col + i * lanes(), n);
}

// int8 by pairs of k: each i16 pair of a row times a vector of i16 pairs, summed into i32.
template <int MR, class T>
HWY_NOINLINE void pair_rows(const std::int8_t* panel, const std::int16_t* a, std::int64_t k_padded, const PanelRun& run,
                            std::int64_t row, std::int64_t col) {
  using I16 = hn::Repartition<std::int16_t, I32>;
  const hn::Rebind<std::int8_t, I16> bytes;
  const I16 i16;
  const I32 i32;
  VI acc[MR][4];
#pragma GCC unroll 4
  for (int r = 0; r < MR; ++r)
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) acc[r][i] = hn::Zero(i32);
  for (std::int64_t kk = 0; kk < k_padded; kk += 2) {
    const std::int8_t* p = panel + kk * 4 * lanes();
    __builtin_prefetch(reinterpret_cast<const char*>(p) + kPrefetchBytes);
    if (lanes() == 16) __builtin_prefetch(reinterpret_cast<const char*>(p) + kPrefetchBytes + 64);
    decltype(hn::Zero(i16)) w[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) w[i] = hn::PromoteTo(i16, hn::LoadU(bytes, p + i * 2 * lanes()));
#pragma GCC unroll 4
    for (int r = 0; r < MR; ++r) {
      std::int32_t pair;
      std::memcpy(&pair, a + r * k_padded + kk, 4);
      const auto x = hn::BitCast(i16, hn::Set(i32, pair));
      VI unused = hn::Zero(i32);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) acc[r][i] = hn::ReorderWidenMulAccumulate(i32, x, w[i], acc[r][i], unused);
    }
  }
  const std::int64_t n = run.shape->n;
#pragma GCC unroll 4
  for (int r = 0; r < MR; ++r) {
    const VF xs = set(run.x_scale[row + r]);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const std::int64_t at = col + i * lanes();
      if (at >= n) break;
      const VF ws = at + lanes() <= n ? load(run.w_scale + at) : load_n(run.w_scale + at, n - at);
      put(hn::Mul(hn::ConvertTo(F32(), acc[r][i]), hn::Mul(xs, ws)), static_cast<T*>(run.c) + (row + r) * n, at, n);
    }
  }
}

template <int MR, class T>
HWY_INLINE void rows_of(const PanelRun& run, const char* panel, std::int64_t row, std::int64_t col) {
  const PanelShape& s = *run.shape;
  if (s.kind == PanelKind::i8_pairs) {
    const std::int64_t k_padded = i8_row_bytes(s) / 2;
    pair_rows<MR, T>(reinterpret_cast<const std::int8_t*>(panel), static_cast<const std::int16_t*>(run.a) + row * k_padded,
                     k_padded, run, row, col);
    return;
  }
  const float* a = static_cast<const float*>(run.a) + row * s.k;
  T* c = static_cast<T*>(run.c) + row * s.n;
  if (s.kind == PanelKind::f32)
    float_rows<MR>(reinterpret_cast<const float*>(panel), a, s.k, c, col, s.n);
  else
    float_rows<MR>(reinterpret_cast<const bf16*>(panel), a, s.k, c, col, s.n);
}

template <class T>
void run_typed(const PanelRun& run, std::int64_t begin, std::int64_t end) {
  for (std::int64_t p = begin; p < end; ++p) {
    const char* panel = static_cast<const char*>(run.weights) + p * run.shape->panel_bytes;
    const std::int64_t col = p * run.shape->cols;
    std::int64_t row = 0;
    for (; row + 4 <= run.m; row += 4) rows_of<4, T>(run, panel, row, col);
    switch (run.m - row) {
      case 1:
        rows_of<1, T>(run, panel, row, col);
        break;
      case 2:
        rows_of<2, T>(run, panel, row, col);
        break;
      case 3:
        rows_of<3, T>(run, panel, row, col);
        break;
      default:
        break;
    }
  }
}

void run_panels_target(const PanelRun& run, std::int64_t begin, std::int64_t end) {
  if (run.c_dtype == DType::f32)
    run_typed<float>(run, begin, end);
  else if (run.c_dtype == DType::bf16)
    run_typed<bf16>(run, begin, end);
  else
    run_typed<f16>(run, begin, end);
}

std::int64_t panel_cols() { return 4 * lanes(); }

template <class T>
void widen_typed(const T* x, float* y, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + lanes() <= n; i += lanes()) store(load(x + i), y + i);
  if (i < n) store_n(load_n(x + i, n - i), y + i, n - i);
}
void widen_target(DType from, const void* x, float* y, std::int64_t n) {
  if (from == DType::f32)
    widen_typed(static_cast<const float*>(x), y, n);
  else if (from == DType::bf16)
    widen_typed(static_cast<const bf16*>(x), y, n);
  else
    widen_typed(static_cast<const f16*>(x), y, n);
}
template <class T>
void narrow_typed(const float* x, T* y, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + lanes() <= n; i += lanes()) store(load(x + i), y + i);
  if (i < n) store_n(load_n(x + i, n - i), y + i, n - i);
}
void narrow_target(const float* x, DType to, void* y, std::int64_t n) {
  if (to == DType::f32)
    narrow_typed(x, static_cast<float*>(y), n);
  else if (to == DType::bf16)
    narrow_typed(x, static_cast<bf16*>(y), n);
  else
    narrow_typed(x, static_cast<f16*>(y), n);
}

}  // namespace HWY_NAMESPACE
}  // namespace rhetor
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rhetor {

HWY_EXPORT(run_panels_target);
HWY_EXPORT(panel_cols);
HWY_EXPORT(widen_target);
HWY_EXPORT(narrow_target);

PanelShape panel_shape(PanelKind kind, std::int64_t k, std::int64_t n) {
  PanelShape s{.kind = kind, .k = k, .n = n};
  s.cols = kind == PanelKind::i8_quads ? 64 : HWY_DYNAMIC_DISPATCH(panel_cols)();
  s.panels = (n + s.cols - 1) / s.cols;
  const std::int64_t steps = kind == PanelKind::i8_pairs || kind == PanelKind::i8_quads ? (k + 3) / 4 * 4 : k;
  s.panel_bytes = steps * s.cols * (kind == PanelKind::f32 ? 4 : kind == PanelKind::bf16 ? 2 : 1);
  return s;
}

namespace {

// Place of element (step, column) in a panel.
std::int64_t place(const PanelShape& s, std::int64_t step, std::int64_t col) {
  const std::int64_t lanes = s.cols / 4;
  switch (s.kind) {
    case PanelKind::f32:
      return step * s.cols + col;
    // lane i of vector pair v holds columns 2 v lanes + i (low half) and 2 v lanes + lanes + i (high half)
    case PanelKind::bf16:
      return step * s.cols + col / (2 * lanes) * 2 * lanes + col % lanes * 2 + col / lanes % 2;
    case PanelKind::i8_pairs:
      return step / 2 * 2 * s.cols + col * 2 + step % 2;
    case PanelKind::i8_quads:
      return step / 4 * 4 * s.cols + col * 4 + step % 4;
  }
  return 0;
}

template <class T>
void pack_typed(const PanelShape& s, const T* w, std::int64_t row_stride, std::int64_t col_stride, std::int64_t begin,
                std::int64_t end, T* to, std::int32_t* sums) {
  const std::int64_t panel_elements = s.panel_bytes / static_cast<std::int64_t>(sizeof(T));
  for (std::int64_t p = begin; p < end; ++p) {
    T* panel = to + p * panel_elements;
    std::memset(static_cast<void*>(panel), 0, static_cast<std::size_t>(s.panel_bytes));
    const std::int64_t first = p * s.cols, cols = s.n - first < s.cols ? s.n - first : s.cols;
    // The inner loop runs along the contiguous dim of w.
    if (col_stride == 1) {
      for (std::int64_t step = 0; step < s.k; ++step)
        for (std::int64_t c = 0; c < cols; ++c) panel[place(s, step, c)] = w[step * row_stride + first + c];
    } else {
      for (std::int64_t c = 0; c < cols; ++c)
        for (std::int64_t step = 0; step < s.k; ++step)
          panel[place(s, step, c)] = w[step * row_stride + (first + c) * col_stride];
    }
    if constexpr (sizeof(T) == 1) {
      if (!sums) continue;
      for (std::int64_t c = 0; c < s.cols; ++c) {
        std::int32_t sum = 0;
        for (std::int64_t step = 0; step < s.k; ++step) sum += panel[place(s, step, c)];
        sums[first + c] = 128 * sum;
      }
    }
  }
}

}  // namespace

void pack_panels(const PanelShape& s, const void* w, std::int64_t row_stride, std::int64_t col_stride, std::int64_t begin,
                 std::int64_t end, void* to, std::int32_t* sums) {
  switch (s.kind) {
    case PanelKind::f32:
      return pack_typed(s, static_cast<const std::uint32_t*>(w), row_stride, col_stride, begin, end,
                        static_cast<std::uint32_t*>(to), sums);
    case PanelKind::bf16:
      return pack_typed(s, static_cast<const std::uint16_t*>(w), row_stride, col_stride, begin, end,
                        static_cast<std::uint16_t*>(to), sums);
    default:
      return pack_typed(s, static_cast<const std::int8_t*>(w), row_stride, col_stride, begin, end, static_cast<std::int8_t*>(to),
                        sums);
  }
}

std::shared_ptr<void> shared_panels(const PanelShape& s, const Tensor& w, std::int64_t row_stride, std::int64_t col_stride,
                                    std::uint64_t sums_bytes) {
  const std::uint64_t sums_at = (s.bytes() + 63) / 64 * 64;
  const std::string form = fmt::format("panels {} of {} columns, [{}, {}] by {}, {}, sums {}", static_cast<int>(s.kind), s.cols, s.k, s.n,
                                       row_stride, col_stride, sums_bytes);
  return shared_pack(content_of(w), form, sums_at + sums_bytes, [&](void* to) {
    auto* sums = sums_bytes ? reinterpret_cast<std::int32_t*>(static_cast<std::byte*>(to) + sums_at) : nullptr;
    pack_panels(s, w.raw(), row_stride, col_stride, 0, s.panels, to, sums);
  });
}

void run_panels(const PanelRun& run, std::int64_t panel_begin, std::int64_t panel_end) {
  if (run.shape->kind == PanelKind::i8_quads) return run_panels_vnni(run, panel_begin, panel_end);
  HWY_DYNAMIC_DISPATCH(run_panels_target)(run, panel_begin, panel_end);
}

std::int64_t i8_row_bytes(const PanelShape& shape) { return (shape.k + 3) / 4 * 4 * (shape.kind == PanelKind::i8_pairs ? 2 : 1); }

void prepare_i8_rows(const PanelShape& shape, const std::int8_t* x, std::int64_t row_begin, std::int64_t row_end, void* to) {
  const std::int64_t bytes = i8_row_bytes(shape), k = shape.k;
  for (std::int64_t row = row_begin; row < row_end; ++row) {
    const std::int8_t* from = x + row * k;
    auto* line = static_cast<std::byte*>(to) + row * bytes;
    // Padding is zero in the weights, so its value here does not matter; it is set all the same, to be deterministic.
    if (shape.kind == PanelKind::i8_pairs) {
      auto* out = reinterpret_cast<std::int16_t*>(line);
      for (std::int64_t i = 0; i < k; ++i) out[i] = from[i];
      for (std::int64_t i = k; i < bytes / 2; ++i) out[i] = 0;
    } else {
      auto* out = reinterpret_cast<std::uint8_t*>(line);
      for (std::int64_t i = 0; i < k; ++i) out[i] = static_cast<std::uint8_t>(from[i]) ^ 0x80u;
      for (std::int64_t i = k; i < bytes; ++i) out[i] = 0x80u;
    }
  }
}

void widen(DType from, const void* x, float* y, std::int64_t n) { HWY_DYNAMIC_DISPATCH(widen_target)(from, x, y, n); }
void narrow(const float* x, DType to, void* y, std::int64_t n) { HWY_DYNAMIC_DISPATCH(narrow_target)(x, to, y, n); }

}  // namespace rhetor
#endif  // HWY_ONCE
