// Launchers of reductions and argmax.
#pragma once

#include "cuda/launch.h"

namespace rhetor::gpu {

enum class ReduceKind { sum, max, min, squares };

// x seen as [r0, k0, r1, k1], r0 and r1 reduced. `parts` > 1: the reduced elements are joined in so many parts, which scratch holds as
// [parts, k0, k1] in f32 (f64 for f64, integers as they are); then the parts are joined. Everything in a fixed order.
struct ReduceProblem {
  ReduceKind kind = ReduceKind::sum;
  DType dtype = DType::f32;
  std::int64_t r0 = 1, k0 = 1, r1 = 1, k1 = 1;
  double divisor = 1;   // of a mean: the elements of a sum
  unsigned parts = 1;
};
std::uint64_t reduce_scratch(const ReduceProblem& p);
// REQUIRES: k1 == 1. Runs of r1 elements. squares: the result is f32 (f64 for f64).
unsigned reduce_runs_parts(const ReduceProblem& p, int processors);
void reduce_runs(const ReduceProblem& p, const void* x, void* out, void* scratch, void* stream);
// Columns: sums over r0 and r1 for neighbouring k1. Not for squares.
unsigned reduce_columns_parts(const ReduceProblem& p, int processors);
void reduce_columns(const ReduceProblem& p, const void* x, void* out, void* scratch, void* stream);

// Any axes: dims and strides (in elements) of what is kept and what is reduced; a thread or a block has a result. Not for squares.
struct StridedReduce {
  static constexpr int kMostDims = 8;
  ReduceKind kind = ReduceKind::sum;
  DType dtype = DType::f32;
  double divisor = 1;
  std::int64_t kept = 1, reduced = 1;   // elements
  int kept_dims = 0, reduced_dims = 0;
  std::int64_t kept_size[kMostDims], kept_stride[kMostDims], reduced_size[kMostDims], reduced_stride[kMostDims];
};
void reduce_strided(const StridedReduce& p, const void* x, void* out, void* stream);

// Position of the first maximum along the middle dim of [outer, size, inner], i32; NaN counts as least.
struct ArgmaxProblem {
  std::int64_t outer = 1, size = 1, inner = 1;
  DType dtype = DType::f32;
};
void argmax(const ArgmaxProblem& p, const void* x, void* out, void* stream);

}  // namespace rhetor::gpu
