// Launchers of kernels that move elements (layout.cu). Positions, sizes and strides are in units of `bytes` (1, 2, 4, 8 or 16), which the
// host chooses as large as alignment allows.
#pragma once

#include <cstdint>

#include "cuda/divide.h"

namespace rhetor::gpu {

constexpr int kMaxDims = 8;

// out, dense with dims `size`, = in at offset + sum of index[d] * from[d].
struct StridedCopy {
  int rank = 0, bytes = 1;
  std::int64_t units = 1, offset = 0;
  std::int64_t size[kMaxDims] = {}, from[kMaxDims] = {};
  Divider divide[kMaxDims] = {};             // by size[d]
};
void strided_copy(const StridedCopy& copy, const void* in, void* out, void* stream);

// A batch of matrix transposes: out[r * to + c] = in[c * from + r] for r < rows, c < columns; matrix i starts at the sum over the batch
// dims of index * batch_from in `in` and index * batch_to in `out`.
struct TileTranspose {
  int rank = 0, bytes = 4;                   // rank: batch dims
  bool pairs = false;                        // 2 bytes, and all sizes and strides even: moved two by two
  std::int64_t rows = 1, columns = 1, from = 1, to = 1, batch = 1;
  std::int64_t size[kMaxDims] = {}, batch_from[kMaxDims] = {}, batch_to[kMaxDims] = {};
};
void tile_transpose(const TileTranspose& t, const void* in, void* out, void* stream);

// out [size..., dense] = in at index - before where that is inside `inside`, else the fill.
struct PadCopy {
  int rank = 0, bytes = 1;
  std::int64_t units = 1;
  std::int64_t size[kMaxDims] = {}, inside[kMaxDims] = {}, before[kMaxDims] = {}, from[kMaxDims] = {};
  Divider divide[kMaxDims] = {};
  std::uint64_t fill[2] = {0, 0};            // 16 bytes of it
};
void pad_copy(const PadCopy& pad, const void* in, void* out, void* stream);

// Parts [rows, widths] joined to rows of `row` units, from the column `column` on.
constexpr int kMaxParts = 16;
struct JoinRows {
  int parts = 0, bytes = 1;
  std::int64_t rows = 0, row = 0, column = 0, width = 0;   // width: of these parts together
  std::int64_t begin[kMaxParts + 1] = {};    // of each part within `width`
  const void* in[kMaxParts] = {};
  Divider divide = {};                       // by width
};
void join_rows(const JoinRows& join, void* out, void* stream);

// Nothing where both are the same buffer.
void copy_bytes(std::int64_t bytes, const void* in, void* out, void* stream);

}  // namespace rhetor::gpu
