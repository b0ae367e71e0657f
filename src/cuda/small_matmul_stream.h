// Products of one activation row, or a few, with up to three weights [n, k] in one launch, as in decoding.
#pragma once

#include "cuda/matmul_epilogue.h"

namespace rhetor::gpu {

constexpr int kStreamRows = 8, kStreamParts = 3;
constexpr std::int64_t kStreamBytes = 64 * 1024;  // most that the rows of x may take in shared memory

// out[i][m, n[i]] = x w[i]^T, x [m, k], or with gamma x / sqrt(mean of x^2 + eps) * gamma in x's place, rounded to x's dtype.
// gated: one result, activation(x w[0]^T) * (x w[1]^T), n[0] = n[1]; else finish() follows, where there is one part.
struct StreamProduct {
  std::int64_t m = 0, k = 0, n[kStreamParts] = {};
  int parts = 1;
  bool gated = false, early = false;  // early: weights and gamma never change, so they may be read before the kernel before is done
  DType in = DType::bf16, out_dtype = DType::bf16, gamma_dtype = DType::f32;
  Activation gate = Activation::none;
  float eps = 0;
  int processors = 0;
  bool overlaps = false;  // sm_90: may be launched early
  const void *x = nullptr, *gamma = nullptr, *w[kStreamParts] = {};
  void* out[kStreamParts] = {};
  Finish finish = {};
};
// "" or why this product is not for stream_matmul.
const char* refuse_stream(const StreamProduct& p);
void stream_matmul(const StreamProduct& p, void* stream);

}  // namespace rhetor::gpu
