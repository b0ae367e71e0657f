// Products with at most 16 rows of activations, as in decoding: bound by reading the weights once.
#pragma once

#include "cuda/matmul_epilogue.h"

namespace rhetor::gpu {

constexpr int kSmallRows = 16;

// c[m, n] = finish(sum_k x[m, k] w) in `out`; m <= kSmallRows. Weights [n, k] by rows, or [k, n] by columns of the product.
struct SmallProduct {
  std::int64_t m = 0, n = 0, k = 0;
  DType in = DType::bf16, out = DType::bf16;
  int processors = 0;     // of the device
  bool clusters = false;  // sm_90: blocks of a cluster may share the sum over k
};
// w [n, k], bf16 or f16 with k a multiple of 8; i8 with k a multiple of 16 and scales as of matmul_i8.
void small_matmul_rows(const SmallProduct& p, const void* x, const void* w, const float* x_scale, const float* w_scale,
                       const Finish& f, void* out, void* stream);
// w [k, n], bf16 or f16; n a multiple of 8, k of 4.
void small_matmul_cols(const SmallProduct& p, const void* x, const void* w, const Finish& f, void* out, void* stream);
// As matmul_i4.
void small_matmul_i4(const SmallProduct& p, const void* x, const void* x_scale, const void* w, const void* w_scale,
                     const Finish& f, void* out, void* stream);

}  // namespace rhetor::gpu
