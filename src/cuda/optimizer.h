// Launchers of parameter updates. Results may be the operands they replace.
#pragma once

#include "cuda/launch.h"

namespace rhetor::gpu {

struct UpdateProblem {
  std::int64_t elements = 0;
  DType weights = DType::f32, gradient = DType::f32;   // f32 or f64; any of f64, f32, f16, bf16
  double beta1 = 0, beta2 = 0, eps = 0, decay = 0;     // adamw
};
// What an update reads besides p and g, all on the device: scalars of the weights' dtype; apply: a byte, may be null.
struct AdamwState {
  const void *m, *v, *lr, *step, *g_scale, *apply;
  void *new_m, *new_v;
};
void adamw(const UpdateProblem& u, const void* p, const void* g, const AdamwState& state, void* new_p, void* stream);
void sgd(const UpdateProblem& u, const void* p, const void* g, const void* lr, const void* g_scale, void* new_p, void* stream);

}  // namespace rhetor::gpu
