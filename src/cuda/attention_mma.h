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
  bool early = false;  // may be launched before the kernel before it is done (sm_90)
};
// most_splits: 8 for clusters, 32 else.
AttentionSplit attention_split_of(const AttentionProblem& a, int processors, int most_splits);
std::uint64_t attention_split_scratch(const AttentionProblem& a, const AttentionSplit& how);
void attention_split(const AttentionProblem& a, const AttentionPointers& p, const AttentionSplit& how, void* scratch, void* stream);

// One token a sequence (s = 1, at most 16 query heads a key head, heads in multiples of 16): its key and value are written to the caches,
// which p.k and p.v are too, at row offsets[b]; query and key are turned first if there are frequencies (rope, positions [B]).
struct AttentionStep {
  const void *k = nullptr, *v = nullptr;  // the token's, [B] rows of k_token and v_token elements
  void *k_cache = nullptr, *v_cache = nullptr;
  const std::int32_t* positions = nullptr;
  const double* frequency = nullptr;      // d / 2
  std::int64_t k_token = 0, v_token = 0;
};
void attention_step(const AttentionProblem& a, const AttentionPointers& p, const AttentionStep& step, const AttentionSplit& how, void* scratch,
                    void* stream);

// delta_i = d_o_i . o_i, f32 [B,H,S].
void attention_delta(const AttentionProblem& a, const void* o, const void* d_o, float* delta, void* stream);
// scratch: delta.
void attention_grad_mma(const AttentionGradProblem& a, const AttentionGradPointers& p, void* scratch, void* stream);

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
