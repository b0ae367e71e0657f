// Launchers of softmax, its logarithm and their gradients, along contiguous rows.
#pragma once

#include "cuda/launch.h"

namespace rhetor::gpu {

struct SoftmaxProblem {
  std::int64_t rows = 0, cols = 0;
  DType dtype = DType::f32;
  bool logarithm = false;
};

// A row in registers. REQUIRES: f32, f16 or bf16, softmax_fits().
bool softmax_fits(const SoftmaxProblem& p);
void softmax_kept(const SoftmaxProblem& p, const void* x, void* y, void* stream);
void softmax_grad_kept(const SoftmaxProblem& p, const void* y, const void* dy, void* dx, void* stream);
// A row streamed twice, of any length, f64 too. The result may be x, or dy.
void softmax_streamed(const SoftmaxProblem& p, const void* x, void* y, void* stream);
void softmax_grad_streamed(const SoftmaxProblem& p, const void* y, const void* dy, void* dx, void* stream);

}  // namespace rhetor::gpu
