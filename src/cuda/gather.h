// Launchers of kernels that read and write rows by index (gather.cu, scatter.cu, sum_rows.cu). x is seen as [outer, size, inner] around the axis.
#pragma once

#include <cstdint>

#include "cuda/divide.h"
#include "tensor/dtype.h"

namespace rhetor::gpu {

struct RowsProblem {
  std::int64_t outer = 1, size = 1, inner = 1, count = 1;   // count: indices (along: indices of one column)
  DType index = DType::i32, dtype = DType::f32;
  std::int64_t chunk = 0;                    // sum_rows: if not 0, out[o] sums the indices and updates [o * chunk, (o + 1) * chunk) alone
};

// out[o, k, :] = x[o, indices[k], :] in units of `bytes` (1, 2, 4, 8, 16), `units` of them a row. An index out of range reads row 0.
struct GatherRows {
  RowsProblem rows;
  std::int64_t units = 1;
  int bytes = 1;
  Divider by_units = {}, by_count = {};
};
void gather_rows(const GatherRows& g, const void* x, const void* indices, void* out, void* stream);
// out[o, k, b] = x[o, indices[o, k, b], b]
void take_along(const RowsProblem& p, const void* x, const void* indices, void* out, void* stream);

// out[o, r, :] = x[o, r, :] (null: 0) + the sum over k with indices[k] = r of updates[o, k, :], in the order of k. `dtype` is x's and
// updates'; out has it too unless `wide_out` (f32). An index out of range adds nothing. x may be out.
void add_rows(const RowsProblem& p, bool wide_out, const void* x, const void* indices, const void* updates, void* out, void* stream);
// The same for f32, bf16 and f16 with `inner` a multiple of 4, fast (sum_rows.cu).
void sum_rows(const RowsProblem& p, bool wide_out, const void* x, const void* indices, const void* updates, void* out, void* stream);
// out[i] = the sum of the f32 parts [parts, width] over the first dim; width a multiple of 4.
void sum_parts(std::int64_t parts, std::int64_t width, const void* from, void* out, void* stream);
// out = x; out[o, indices[o, k, b], b] += updates[o, k, b], in the order of k. x may be out.
void put_along_add(const RowsProblem& p, const void* x, const void* indices, const void* updates, void* out, void* stream);

}  // namespace rhetor::gpu
