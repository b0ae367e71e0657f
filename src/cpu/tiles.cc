// Compute-bound from some hundred rows on (bf16: 1024 operations a cycle), bound by reading b below. A square of 32 x 32 results
// stays in four tiles over the whole of k; while a panel is in use the next one is fetched into the second-level cache.
// Epilogues cost as many cycles as short products, on other units: a square's epilogue runs in pieces between the steps of the next.
#include "cpu/tiles.h"

#include <immintrin.h>

#include <algorithm>

#include "cpu/amx.h"
#include "cpu/panels.h"

// GCC 12 takes the intentionally undefined operands inside its own intrinsics for mistakes of ours (bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

namespace rhetor {
namespace {

#define RHETOR_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))

// Of packed rows a thread keeps this much in a second-level cache of 2 MiB that two hyper-threads may share.
constexpr std::int64_t kRowBytes = 768 << 10;
// Longest pass over k; sums of longer products are parked in memory between passes.
constexpr std::int64_t kMaxPassBytes = 2 * 96 * kTileBytes;
// Of a panel that is made as it is needed: short, so that many blocks of rows use it while it is in the first-level cache.
constexpr std::int64_t kFillSteps = 24;

// Memory that will be needed next, fetched bit by bit.
struct Ahead {
  const std::byte *at, *end;
  int lines;  // a step
};

// Tiles 0 to 3: the square, row by row of tiles; 4, 5: a; 6, 7: b. `half`: only the upper 16 rows exist.
template <TileKind kind, bool half>
[[gnu::always_inline]] inline void multiply_square() {
  if constexpr (kind == TileKind::i8) {
    amx::multiply_i8<0, 4, 6>();
    amx::multiply_i8<1, 4, 7>();
    if constexpr (!half) {
      amx::multiply_i8<2, 5, 6>();
      amx::multiply_i8<3, 5, 7>();
    }
  } else {
    amx::multiply_bf16<0, 4, 6>();
    amx::multiply_bf16<1, 4, 7>();
    if constexpr (!half) {
      amx::multiply_bf16<2, 5, 6>();
      amx::multiply_bf16<3, 5, 7>();
    }
  }
}
template <bool half>
[[gnu::always_inline]] inline void load_a(const std::byte* a, const TileRows& rows, int part) {
  amx::load<4>(a + 2 * part * kTileBytes, rows.stride);
  if constexpr (!half) amx::load<5>(a + 2 * part * kTileBytes + rows.half, rows.stride);
}
[[gnu::always_inline]] inline void load_b(const std::byte* b, int part) {
  amx::load<6>(b + 2 * part * kTileBytes);
  amx::load<7>(b + (2 * part + 1) * kTileBytes);
}

// i32 sums become floats in place. Scales past the end of the product are not read.
RHETOR_AVX512 void scale_square(float* sum, const float* x_scale, std::int64_t rows, const float* w_scale, std::int64_t cols) {
  const auto mask = [](std::int64_t n) { return static_cast<__mmask16>(n >= 16 ? 0xffffu : n <= 0 ? 0u : (1u << n) - 1u); };
  const __m512 left = _mm512_maskz_loadu_ps(mask(cols), w_scale), right = _mm512_maskz_loadu_ps(mask(cols - 16), w_scale + 16);
  for (std::int64_t r = 0; r < rows; ++r, sum += kTileBlock) {
    const __m512 x = _mm512_set1_ps(x_scale[r]);
    _mm512_store_ps(sum, _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sum)), _mm512_mul_ps(x, left)));
    _mm512_store_ps(sum + 16, _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sum + 16)), _mm512_mul_ps(x, right)));
  }
}

// What is left to do with a finished square: scaling, writing it out, the epilogue; some rows at a time.
template <TileKind kind>
class Finisher {
 public:
  static constexpr std::int64_t kPieceRows = 8;

  explicit Finisher(const TileRun& run) : run_(run) {}
  // The square before must be done. straight: its sums are in c already.
  void take(float* sum, const Region& region, bool straight) {
    sum_ = sum;
    region_ = region;
    straight_ = straight;
    row_ = region.row_begin;
  }
  bool done() const { return row_ >= region_.row_end; }
  void piece() {
    const std::int64_t n = run_.shape->n, begin = row_, end = std::min(region_.row_end, begin + kPieceRows);
    const std::int64_t cols = region_.col_end - region_.col_begin;
    float* const sum = sum_ + (begin - region_.row_begin) * kTileBlock;
    row_ = end;
    if constexpr (kind == TileKind::i8) scale_square(sum, run_.x_scale + begin, end - begin, run_.w_scale + region_.col_begin, cols);
    Region part{begin, end, region_.col_begin, region_.col_end};
    if (!run_.c) {
      part.sums = sum;
    } else if (!straight_) {
      const auto size = static_cast<std::int64_t>(byte_size(run_.c_dtype));
      for (std::int64_t r = begin; r < end; ++r)
        narrow(sum + (r - begin) * kTileBlock, run_.c_dtype, static_cast<std::byte*>(run_.c) + (r * n + region_.col_begin) * size, cols);
    }
    if (run_.epilogue) run_.epilogue(run_.context, run_.slice, part);
  }
  void rest() {
    while (!done()) piece();
  }

 private:
  const TileRun& run_;
  float* sum_ = nullptr;
  Region region_{};
  bool straight_ = false;
  std::int64_t row_ = 0;
};

// sum += a b over `steps` of k, in tiles; sums start at 0 or at what `sum` holds, and end in `sum` (rows `stride` bytes apart).
template <TileKind kind, bool half>
void square(const TileRows& rows, const std::byte* a, const std::byte* b, std::int64_t steps, const float* from, float* sum,
            std::int64_t stride, Ahead& ahead, Finisher<kind>& before) {
  constexpr std::int64_t row = kTileBlock * 4;
  if (from) {
    amx::load<0>(from, row);
    amx::load<1>(from + 16, row);
    if constexpr (!half) {
      amx::load<2>(from + 16 * kTileBlock, row);
      amx::load<3>(from + 16 * kTileBlock + 16, row);
    }
  } else {
    amx::zero<0>();
    amx::zero<1>();
    amx::zero<2>();
    amx::zero<3>();
  }
  constexpr std::int64_t step_bytes = 2 * kTileBytes * (kind == TileKind::f32 ? 3 : 1), pieces = kTileBlock / Finisher<kind>::kPieceRows;
  const std::int64_t between = std::max<std::int64_t>(1, steps / pieces);
  std::int64_t wait = before.done() ? steps : between;
  for (std::int64_t s = 0; s < steps; ++s, a += rows.step, b += step_bytes) {
    load_a<half>(a, rows, 0);
    load_b(b, 0);
    multiply_square<kind, half>();
    if constexpr (kind == TileKind::f32) {  // the pairs of parts (i, j) with i + j <= 2
      load_b(b, 1);
      multiply_square<kind, half>();
      load_b(b, 2);
      multiply_square<kind, half>();
      load_a<half>(a, rows, 1);
      load_b(b, 1);
      multiply_square<kind, half>();
      load_b(b, 0);
      multiply_square<kind, half>();
      load_a<half>(a, rows, 2);
      multiply_square<kind, half>();
    }
    if (ahead.at < ahead.end) {
      for (int i = 0; i < ahead.lines; ++i) _mm_prefetch(ahead.at + 64 * i, _MM_HINT_T1);
      ahead.at += 64 * ahead.lines;
    }
    if (--wait == 0) {
      before.piece();
      wait = before.done() ? steps : between;
    }
  }
  before.rest();
  auto* out = reinterpret_cast<std::byte*>(sum);
  amx::store<0>(out, stride);
  amx::store<1>(out + 64, stride);
  if constexpr (!half) {
    amx::store<2>(out + 16 * stride, stride);
    amx::store<3>(out + 16 * stride + 64, stride);
  }
}

template <TileKind kind>
void run_kind(const TileRun& run) {
  const TileShape& s = *run.shape;
  const std::int64_t blocks = run.block_end - run.block_begin;
  const std::int64_t pass = run.fill ? tile_fill_steps(s) : tile_k_steps(s);
  const amx::Tiles tiles;
  alignas(64) float local[2][kTileFloats];  // of a square that is being finished, and of the next
  int which = 0;
  Finisher<kind> finisher(run);
  for (std::int64_t from = 0; from < s.steps; from += pass) {
    const std::int64_t steps = std::min(pass, s.steps - from);
    const bool first = from == 0, last = from + steps == s.steps;
    for (std::int64_t panel = run.panel_begin; panel < run.panel_end; ++panel) {
      const std::byte* const b = run.fill ? run.filled : run.b + panel * s.panel_bytes() + from * s.step_bytes;
      if (run.fill) run.fill(run.b, panel, from, steps, run.filled);
      Ahead ahead{b, b, static_cast<int>(std::max<std::int64_t>(1, (s.step_bytes / 64 + blocks - 1) / blocks))};
      if (!run.fill && panel + 1 < run.panel_end) ahead = {b + s.panel_bytes(), b + s.panel_bytes() + steps * s.step_bytes, ahead.lines};
      const std::int64_t col = panel * kTileBlock, cols = std::min(kTileBlock, s.n - col);
      for (std::int64_t block = run.block_begin; block < run.block_end; ++block) {
        const std::int64_t row = block * kTileBlock, rows = std::min(kTileBlock, run.m - row), nth = block - run.block_begin;
        float* const parked = run.partial ? run.partial + ((panel - run.panel_begin) * blocks + nth) * kTileFloats : nullptr;
        float* sum = parked ? parked : local[which ^= 1];
        std::int64_t stride = kTileBlock * 4;
        // A whole square of a plain f32 product goes where it belongs at once.
        const bool straight = last && kind != TileKind::i8 && run.c && run.c_dtype == DType::f32 && cols == kTileBlock &&
                              (rows == kTileBlock || rows == 16);
        if (straight) {
          sum = static_cast<float*>(run.c) + row * s.n + col;
          stride = s.n * 4;
        }
        const std::byte* const a = run.a.data + nth * run.a.block + from * run.a.step;
        const float* const before = first ? nullptr : parked;
        if (rows <= 16)
          square<kind, true>(run.a, a, b, steps, before, sum, stride, ahead, finisher);
        else
          square<kind, false>(run.a, a, b, steps, before, sum, stride, ahead, finisher);
        if (last) finisher.take(sum, {row, row + rows, col, col + cols}, straight);
      }
    }
  }
  finisher.rest();
}

}  // namespace

TileRows packed_tile_rows(const TileShape& shape, const std::byte* data) {
  return {data, 64, kTileBytes, shape.step_bytes, shape.panel_bytes()};
}

bool tiles_in_place(const TileShape& shape, const TileSource& a) {
  const std::int64_t row_bytes = a.stride * (shape.kind == TileKind::i8 ? 1 : 2);
  // Rows a large power of two apart would fall on the same lines of the first-level cache.
  return shape.kind != TileKind::f32 && a.k_contiguous && row_bytes == shape.steps * 64 && a.rows % 16 == 0 &&
         row_bytes % 2048 != 0;
}
TileRows tile_rows_in_place(const TileShape& shape, const TileSource& a, std::int64_t block) {
  const std::int64_t row_bytes = shape.steps * 64;
  return {static_cast<const std::byte*>(a.data) + block * kTileBlock * row_bytes, row_bytes, 16 * row_bytes, 64,
          kTileBlock * row_bytes};
}

std::int64_t tile_k_steps(const TileShape& shape) {
  const std::int64_t bytes = shape.kind == TileKind::f32 ? kMaxPassBytes / 4 * 3 : kMaxPassBytes;
  const std::int64_t passes = (shape.panel_bytes() + bytes - 1) / bytes;
  return passes > 1 ? (shape.steps + passes - 1) / passes : shape.steps;
}

std::int64_t tile_fill_steps(const TileShape& shape) { return std::min(shape.steps, kFillSteps); }
std::uint64_t tile_fill_bytes(const TileShape& shape) { return static_cast<std::uint64_t>(tile_fill_steps(shape) * shape.step_bytes); }

std::int64_t tile_row_blocks(const TileShape& shape, std::int64_t blocks, std::int64_t pass) {
  const std::int64_t fit = std::max<std::int64_t>(2, kRowBytes / (pass * shape.step_bytes));
  const std::int64_t parts = (blocks + fit - 1) / fit;
  return parts ? (blocks + parts - 1) / parts : 1;
}

std::int64_t tile_partial_floats(const TileShape& shape, std::int64_t blocks, std::int64_t panels, std::int64_t pass) {
  return pass < shape.steps ? blocks * panels * kTileFloats : 0;
}

void run_tiles(const TileRun& run) {
  switch (run.shape->kind) {
    case TileKind::bf16:
      return run_kind<TileKind::bf16>(run);
    case TileKind::f32:
      return run_kind<TileKind::f32>(run);
    case TileKind::i8:
      return run_kind<TileKind::i8>(run);
  }
}

}  // namespace rhetor
