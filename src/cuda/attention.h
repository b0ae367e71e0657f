// Launchers of the attention kernels, and the few device functions they share. q, o [B,S,H,D]; k, v [B,T,G,D]; lse [B,H,S].
#pragma once

#include "cuda/launch.h"

namespace rhetor::gpu {

struct AttentionProblem {
  int b = 0, s = 0, t = 0, h = 0, g = 0, d = 0;
  bool causal = false;
  double scale = 1;
  DType dtype = DType::f32;
  // Elements from a token's row of q, k, v to the next one's: they may be columns of a wider tensor.
  std::int64_t q_token = 0, k_token = 0, v_token = 0;
  std::int64_t q_begin = 0, k_begin = 0, v_begin = 0;  // and where their columns begin
  // Which operand of the node is q, k, v, lengths, offsets, and which result is o and lse; -1: there is none.
  std::int8_t operand[5] = {0, 1, 2, 3, 4}, result[2] = {0, 1};
};

// The backward's: `operand` and `result` are the forward's alone.
struct AttentionGradProblem : AttentionProblem {
  std::int64_t dq_token = 0, dk_token = 0, dv_token = 0;  // and their gradients, which may be columns too
  std::int64_t dq_begin = 0, dk_begin = 0, dv_begin = 0;
  // Which operand of the node is d_o, q, k, v, o, lse, lengths, offsets (-1: there is none), and which result has dq, dk, dv.
  std::int8_t source[8] = {0, 1, 2, 3, 4, 5, 6, 7}, gradient[3] = {0, 1, 2};
};

// `lengths` and `offsets` [B], null if absent; `lse` is f64 for f64, else f32, and may be null: nobody wants it.
struct AttentionPointers {
  const void *q = nullptr, *k = nullptr, *v = nullptr;
  const std::int32_t *lengths = nullptr, *offsets = nullptr;
  void *o = nullptr, *lse = nullptr;
};
struct AttentionGradPointers {
  const void *d_o = nullptr, *q = nullptr, *k = nullptr, *v = nullptr, *o = nullptr, *lse = nullptr;
  const std::int32_t *lengths = nullptr, *offsets = nullptr;
  void *dq = nullptr, *dk = nullptr, *dv = nullptr;
};

// Any dtype, any size (attention.cu, attention_grad.cu).
void attention_general(const AttentionProblem& a, const AttentionPointers& p, void* stream);
void attention_grad_general(const AttentionGradProblem& a, const AttentionGradPointers& p, void* stream);

#ifdef __CUDACC__
// Keys that query i of batch b sees: [0, end).
__device__ inline int visible_end(const AttentionProblem& a, const int* lengths, const int* offsets, int b, int i) {
  std::int64_t end = a.t;
  if (lengths) end = min(end, static_cast<std::int64_t>(lengths[b]));
  if (a.causal) end = min(end, (offsets ? static_cast<std::int64_t>(offsets[b]) : a.t - a.s) + i + 1);
  return static_cast<int>(max(end, std::int64_t{0}));
}
__device__ inline std::int64_t query_row(const AttentionProblem& a, int b, int i, int h) {
  return ((static_cast<std::int64_t>(b) * a.s + i) * a.h + h) * a.d;
}
// The same of tensors whose tokens lie further apart.
__device__ inline std::int64_t query_at(const AttentionProblem& a, int b, int i, int h, std::int64_t token) {
  return (static_cast<std::int64_t>(b) * a.s + i) * token + static_cast<std::int64_t>(h) * a.d;
}
__device__ inline std::int64_t query_in(const AttentionProblem& a, int b, int i, int h) { return query_at(a, b, i, h, a.q_token); }
__device__ inline std::int64_t key_in(const AttentionProblem& a, int b, int j, int g, std::int64_t token) {
  return (static_cast<std::int64_t>(b) * a.t + j) * token + static_cast<std::int64_t>(g) * a.d;
}
__device__ inline std::int64_t lse_row(const AttentionProblem& a, int b, int i, int h) {
  return (static_cast<std::int64_t>(b) * a.h + h) * a.s + i;
}
#endif

}  // namespace rhetor::gpu
