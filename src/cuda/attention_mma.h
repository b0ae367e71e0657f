// Launchers of attention on matrix units: f16 and bf16, heads of up to 128 in multiples of 8, positive scale, sm_80 and later.
#pragma once

#include "cuda/attention.h"

namespace rhetor::gpu {

void attention_mma(const AttentionProblem& a, const AttentionPointers& p, int processors, void* stream);

// sm_90a, heads of 40 to 128.
void attention_wgmma(const AttentionProblem& a, const AttentionPointers& p, void* stream);

// The keys of a (batch, key head) split over `splits` blocks, its queries (positions x the heads that share keys) by 16. With `cluster`
// (sm_90, at most 8 splits) the parts are joined through the blocks' shared memory, else by a second kernel through scratch.
struct AttentionSplit {
  int splits = 1;
  bool cluster = false;
};
AttentionSplit attention_split_of(const AttentionProblem& a, int processors, int most_splits);
std::uint64_t attention_split_scratch(const AttentionProblem& a, const AttentionSplit& how);
void attention_split(const AttentionProblem& a, const AttentionPointers& p, const AttentionSplit& how, void* scratch, void* stream);

// scratch: delta, f32 [B,H,S].
void attention_grad_mma(const AttentionProblem& a, const AttentionGradPointers& p, void* scratch, void* stream);

// Calls f with the padded head size as a type with a `value`.
template <class F>
void with_head(int d, F&& f) {
  if (d <= 32) f(std::integral_constant<int, 32>{});
  else if (d <= 64) f(std::integral_constant<int, 64>{});
  else if (d <= 96) f(std::integral_constant<int, 96>{});
  else f(std::integral_constant<int, 128>{});
}
template <class F>
void with_half(DType dtype, F&& f) {
  if (dtype == DType::f16) f(__half{});
  else f(__nv_bfloat16{});
}

}  // namespace rhetor::gpu
