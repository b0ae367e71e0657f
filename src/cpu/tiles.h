// Products by AMX: operands are re-laid as 16 x 64-byte tiles, a constant weight once, anything else at each run.
//   bf16:  c[m, n] = sum_k a[m, k] b[k, n], f32 sums
//   f32:   every value is the exact sum of three bf16 (8 bits of mantissa each, cut off, not rounded): x = x1 + x2 + x3. Of the
//   nine
//          products of the parts the six largest are summed in f32; those left out are below 2^-22 of the product, 2^-25 on
//          average. Six times the work of bf16 on a unit 16 times as fast as f32 vectors. Parts below 2^-126 count as 0, an
//          infinity gives NaN.
//   int8:  exact i32 sums, scaled by x_scale[m] w_scale[n]
//
// A block of a is 32 rows, a panel of b 32 columns; inside both, steps of 64 bytes of k, in a step the parts, in a part two
// tiles.
#pragma once

#include <cstdint>
#include <memory>

#include "cpu/matmul_plan.h"
#include "tensor/tensor.h"

namespace rhetor {

enum class TileKind { bf16, f32, i8 };

constexpr std::int64_t kTileBlock = 32;  // rows of a block, columns of a panel
constexpr std::int64_t kTileBytes = 16 * 64;
constexpr std::int64_t kTileFloats = kTileBlock * kTileBlock;  // of a finished square

struct TileShape {
  TileShape(TileKind kind, std::int64_t k, std::int64_t n);
  TileKind kind;
  std::int64_t k, n;
  std::int64_t steps;       // of k, zeros past its end
  std::int64_t step_bytes;  // of 32 rows or columns
  std::int64_t panels;
  std::int64_t panel_bytes() const { return steps * step_bytes; }
  std::uint64_t bytes() const { return static_cast<std::uint64_t>(panels * panel_bytes()); }
};

// An operand as it lies in memory: [rows, k] with k contiguous, or [k, rows] with rows contiguous; `stride` elements between
// lines. Rows are those of a, or the columns of b.
struct TileSource {
  const void* data;
  std::int64_t rows, k, stride;
  bool k_contiguous;
};
// Blocks [begin, end) of 32 rows of a; block i goes to `to` + (i - begin) panel_bytes.
void pack_tile_rows(const TileShape& shape, const TileSource& a, std::int64_t begin, std::int64_t end, void* to);
// Panels [begin, end) of b; panel i goes to `to` + i panel_bytes.
void pack_tile_panels(const TileShape& shape, const TileSource& b, std::int64_t begin, std::int64_t end, void* to);
// All panels of a constant weight, shared by the process (cpu/pack_cache.h).
std::shared_ptr<void> shared_tile_panels(const TileShape& shape, const Tensor& w, const TileSource& source);

// Steps of k that one pass over a block takes, so that a block of rows stays in the second-level cache; and how many blocks of
// rows.
std::int64_t tile_k_steps(const TileShape& shape);
// pass: steps of k a pass.
std::int64_t tile_row_blocks(const TileShape& shape, std::int64_t blocks, std::int64_t pass);

// Where the tiles of a lie, in bytes: packed, or where they are if rows are whole lines of the cache.
struct TileRows {
  const std::byte* data;  // block `block_begin`
  std::int64_t stride, half, step,
      block;  // to the next row of a tile, to the lower tile, to the next step of k, to the next block
};
TileRows packed_tile_rows(const TileShape& shape, const std::byte* data);
// Can tiles be loaded from `a` itself?
bool tiles_in_place(const TileShape& shape, const TileSource& a);
TileRows tile_rows_in_place(const TileShape& shape, const TileSource& a, std::int64_t block);

// Makes steps [from, from + steps) of a panel of b when they are needed, for weights stored in fewer bytes.
using TileFill = void (*)(const void* source, std::int64_t panel, std::int64_t from, std::int64_t steps, std::byte* to);
// Bytes of room that a thread's fills need, and the steps of k of one pass then.
std::int64_t tile_fill_steps(const TileShape& shape);
std::uint64_t tile_fill_bytes(const TileShape& shape);

// One thread's share: some blocks of rows times some panels.
struct TileRun {
  const TileShape* shape;
  TileRows a;
  const std::byte* b;  // packed, panel 0; with `fill`: its source
  TileFill fill = nullptr;
  std::byte* filled = nullptr;
  std::int64_t m;      // rows of the whole product
  std::int64_t block_begin, block_end, panel_begin, panel_end;
  float* partial;  // sums between passes over k: tile_partial_floats(), or null if one pass is enough
  void* c;         // [m, n] of c_dtype; null: the epilogue gets every square as it is finished
  DType c_dtype;
  const float *x_scale, *w_scale;  // int8
  Epilogue epilogue;
  const void* context;
  int slice;
};
std::int64_t tile_partial_floats(const TileShape& shape, std::int64_t blocks, std::int64_t panels, std::int64_t pass);
// REQUIRES: cpu_isa() == Isa::amx.
void run_tiles(const TileRun& run);

}  // namespace rhetor
