// Launcher of products on Hopper's matrix units with the epilogue inside.
#pragma once

#include "cuda/matmul_epilogue.h"

namespace rhetor::gpu {

// c[m, n] = finish(sum_k a[m, k] b [x_scale[m] w_scale[n]]); `in` bf16 or f16 with b [k, n] or (b_by_rows) [n, k], or i8 with b
// [n, k], or e4m3 with b [n, k] and one scale for each of the two. Rows of a and b are multiples of 16 bytes, n is even; out is `in`,
// from i8 and e4m3 either of the two, from e4m3 also e4m3 (n a multiple of 8). No tanh.
struct WgmmaProduct {
  std::int64_t m = 0, n = 0, k = 0;
  DType in = DType::bf16, out = DType::bf16;
  bool b_by_rows = true;
  bool small_tiles = false;  // 64 x 64 in place of 128 x 128
  int processors = 0;        // of the device
};
void wgmma_matmul(const WgmmaProduct& p, const void* a, const void* b, const float* x_scale, const float* w_scale,
                  const Finish& f, void* out, void* stream);
// Whether the driver knows how to describe tensors to the copy engine.
bool has_tensor_maps();

}  // namespace rhetor::gpu
