// Launchers of the products every shape and dtype can fall back to, and of the epilogue as a kernel of its own.
#pragma once

#include "cuda/matmul_epilogue.h"

namespace rhetor::gpu {

// c[batch, m, n] = sum_k a b, c contiguous, a and b of dtype `in`; strides in elements.
struct StridedProduct {
  std::int64_t batch = 1, m = 0, n = 0, k = 0;
  std::int64_t a_batch = 0, a_m = 0, a_k = 0, b_batch = 0, b_k = 0, b_n = 0;
  DType in = DType::f32, out = DType::f32;
};
void simple_matmul(const StridedProduct& p, const void* a, const void* b, void* c, void* stream);

// Quantised products c[m, n] in `out`, weights by rows; as the ops matmul_i8, matmul_i4 and matmul_w4 define them.
struct RowsProduct {
  std::int64_t m = 0, n = 0, k = 0;
  DType in = DType::i8, out = DType::f32;  // in: of x
};
void simple_matmul_i8(const RowsProduct& p, const void* x, const void* x_scale, const void* w, const void* w_scale, void* c,
                      void* stream);
void simple_matmul_i4(const RowsProduct& p, const void* x, const void* x_scale, const void* w, const void* w_scale, void* c,
                      void* stream);
void simple_matmul_w4(const RowsProduct& p, const void* x, const void* w, const void* w_scale, void* c, void* stream);

// out = finish(sums [x_scale[row] w_scale[col]]), sums [m, n] in f32, bf16, f16 or i32; out may be the buffer of sums or of the
// residual where the elements are of one size.
struct FinishCall {
  std::int64_t m = 0, n = 0;
  DType sums = DType::f32, out = DType::f32;
};
void finish_product(const FinishCall& p, const void* sums, const float* x_scale, const float* w_scale, const Finish& f, void* out,
                    void* stream);

// to[c, r] = from[r, c], bytes; rows and cols are multiples of 4.
void transpose_bytes(std::int64_t rows, std::int64_t cols, const void* from, void* to, void* stream);

}  // namespace rhetor::gpu
