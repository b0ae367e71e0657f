// Launchers of layer norm and RMS norm along contiguous rows, and of their gradients.
#pragma once

#include "cuda/launch.h"

namespace rhetor::gpu {

struct NormProblem {
  std::int64_t rows = 0, cols = 0;
  DType dtype = DType::f32, gamma = DType::f32;   // of x, y, dy, dx; of gamma, beta and their gradients
  bool layer = true;                              // false: RMS norm, which has neither mean nor beta
  double eps = 0;
  int processors = 1;
};
// x, gamma, beta -> y (may be x), mean, rstd [rows] in f32 (f64 for f64). mean and rstd may be null.
struct NormForward {
  const void *x, *gamma, *beta;
  void *y, *mean, *rstd;
};
// dy, x, gamma, mean, rstd -> dx, dgamma, dbeta.
struct NormBackward {
  const void *dy, *x, *gamma, *mean, *rstd;
  void *dx, *dgamma, *dbeta;
};

// A row in registers. REQUIRES: f32, f16 or bf16, gamma of the same dtype or f32, norm_fits(), norm_grad_fits().
bool norm_fits(const NormProblem& p);
void norm_kept(const NormProblem& p, const NormForward& io, void* stream);
bool norm_grad_fits(const NormProblem& p);
std::uint64_t norm_grad_kept_scratch(const NormProblem& p);
void norm_grad_kept(const NormProblem& p, const NormBackward& io, void* scratch, void* stream);

// Any row: f64, f32, f16, bf16, gamma in any of them.
void norm_streamed(const NormProblem& p, const NormForward& io, void* stream);
std::uint64_t norm_grad_streamed_scratch(const NormProblem& p);
void norm_grad_streamed(const NormProblem& p, const NormBackward& io, void* scratch, void* stream);

}  // namespace rhetor::gpu
