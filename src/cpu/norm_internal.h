// What norm.cc (plain nodes, gradients) and norm_fused.cc (norms with a pointwise prologue) share.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace rhetor {

struct NormParams {
  std::int64_t rows = 0, cols = 0;
  float eps = 0;
  bool centered = true;              // layer norm; false: RMS norm
  DType x = DType::f32, gamma = DType::f32, y = DType::f32;
};

// Widens `n` elements to f32.
void widen_to_f32(DType dtype, const void* from, float* to, std::int64_t n);
// Rows [begin, end): x and y at their row 0. gamma and beta (null: none) in f32. mean and rstd (null: unread) [rows]. `row` is scratch for cols floats.
void norm_rows(const NormParams& p, const void* x, const float* gamma, const float* beta, void* y, float* mean, float* rstd,
               std::int64_t begin, std::int64_t end, float* row);

}  // namespace rhetor
