// Launchers of convolutions (conv.cu) and pooling (pool.cu) over images, NCHW.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace rhetor::gpu {

// A window swept over x [n, channels, h, w] that gives y [n, out_channels, oh, ow].
struct ImageProblem {
  std::int64_t n = 1, channels = 1, out_channels = 1, groups = 1;
  std::int64_t h = 1, w = 1, oh = 1, ow = 1, kh = 1, kw = 1;
  std::int64_t stride[2] = {1, 1}, pad[2] = {0, 0}, dilation[2] = {1, 1};
  bool count_padding = false;                // avg_pool2d: padded places count in the divisor
  DType dtype = DType::f32;
};
void conv2d(const ImageProblem& p, const void* x, const void* w, void* y, void* stream);
void conv2d_input_grad(const ImageProblem& p, const void* dy, const void* w, void* dx, void* stream);
void conv2d_weight_grad(const ImageProblem& p, const void* x, const void* dy, void* dw, void* stream);

void max_pool2d(const ImageProblem& p, const void* x, void* y, void* stream);
void max_pool2d_grad(const ImageProblem& p, const void* x, const void* y, const void* dy, void* dx, void* stream);
void avg_pool2d(const ImageProblem& p, const void* x, void* y, void* stream);
void avg_pool2d_grad(const ImageProblem& p, const void* dy, void* dx, void* stream);

}  // namespace rhetor::gpu
