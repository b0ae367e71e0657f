// attention backward of any size and float dtype, P and dS recomputed from lse:
//   P_ij = exp(scale q_i . k_j - lse_i), dS_ij = P_ij (d_o_i . v_j - d_o_i . o_i),
//   dq_i = scale sum_j dS_ij k_j, dk_j = scale sum_i dS_ij q_i, dv_j = sum_i P_ij d_o_i.
// One kernel makes dq, a warp R queries; another dk and dv, a warp R keys: every sum has one owner and one order.
// Bound by the f32 (f64) units and the L1 cache.
#include "cuda/attention_general.h"

namespace rhetor::gpu {
namespace {

template <class T, int R, int V>
__global__ void __launch_bounds__(32 * kWarps) general_dq(AttentionGradProblem a, AttentionGradPointers p) {
  using A = typename AccumulatorOf<T>::type;
  const int groups = (a.s + R - 1) / R, lane = threadIdx.x % 32;
  const std::int64_t item = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (item >= static_cast<std::int64_t>(a.b) * a.h * groups) return;
  const int i0 = static_cast<int>(item % groups) * R, h = static_cast<int>(item / groups % a.h), b = static_cast<int>(item / groups / a.h);
  const T* k = static_cast<const T*>(p.k) + key_in(a, b, 0, h / (a.h / a.g), a.k_token);
  const T* v = static_cast<const T*>(p.v) + key_in(a, b, 0, h / (a.h / a.g), a.v_token);
  const A scale = static_cast<A>(a.scale);
  const T *q[R], *d_o[R];
  A lse[R], delta[R];
  int end[R], most = 0;
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const int i = min(i0 + r, a.s - 1);
    const std::int64_t row = query_row(a, b, i, h);
    q[r] = static_cast<const T*>(p.q) + query_in(a, b, i, h);
    d_o[r] = static_cast<const T*>(p.d_o) + row;
    lse[r] = static_cast<const A*>(p.lse)[lse_row(a, b, i, h)];
    A part = 0;
    for (int c = lane; c < a.d; c += 32)
      part += static_cast<A>(widen(d_o[r][c])) * static_cast<A>(widen(static_cast<const T*>(p.o)[row + c]));
    delta[r] = warp_reduce(part, Add{});
    end[r] = visible_end(a, p.lengths, p.offsets, b, i);
    most = max(most, end[r]);
  }
  for (int d0 = 0; d0 < a.d; d0 += kDims) {
    A acc[R][kSpread] = {};
    for (int j0 = 0; j0 < most; j0 += 32) {
      const std::int64_t key = min(j0 + lane, most - 1);
      A x[R], y[R];
      dots<V>(q, k + key * a.k_token, a.d, x);
      dots<V>(d_o, v + key * a.v_token, a.d, y);
#pragma unroll
      for (int r = 0; r < R; ++r) x[r] = j0 + lane < end[r] ? exp_of(scale * x[r] - lse[r]) * (y[r] - delta[r]) : A(0);
      const int keys = min(32, most - j0);
      for (int j = 0; j < keys; ++j) add_row(x, j, k + (j0 + j) * a.k_token, d0, a.d, acc);
    }
#pragma unroll
    for (int r = 0; r < R; ++r)
      if (i0 + r < a.s) store_row(acc[r], scale, d0, a.d, static_cast<T*>(p.dq) + query_at(a, b, i0 + r, h, a.dq_token));
  }
}

template <class T, int R, int V>
__global__ void __launch_bounds__(32 * kWarps) general_dkv(AttentionGradProblem a, AttentionGradPointers p) {
  using A = typename AccumulatorOf<T>::type;
  const int groups = (a.t + R - 1) / R, lane = threadIdx.x % 32;
  const std::int64_t item = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (item >= static_cast<std::int64_t>(a.b) * a.g * groups) return;
  const int j0 = static_cast<int>(item % groups) * R, g = static_cast<int>(item / groups % a.g), b = static_cast<int>(item / groups / a.g);
  const A scale = static_cast<A>(a.scale);
  const T *k[R], *v[R];
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const int j = min(j0 + r, a.t - 1);
    k[r] = static_cast<const T*>(p.k) + key_in(a, b, j, g, a.k_token);
    v[r] = static_cast<const T*>(p.v) + key_in(a, b, j, g, a.v_token);
  }
  const std::int64_t stride = static_cast<std::int64_t>(a.h) * a.d;
  for (int d0 = 0; d0 < a.d; d0 += kDims) {
    A dk[R][kSpread] = {}, dv[R][kSpread] = {};
    for (int h = g * (a.h / a.g); h < (g + 1) * (a.h / a.g); ++h) {
      const std::int64_t head = query_row(a, b, 0, h);
      const T *q = static_cast<const T*>(p.q) + query_in(a, b, 0, h), *d_o = static_cast<const T*>(p.d_o) + head;
      for (int i0 = 0; i0 < a.s; i0 += 32) {
        const int i = min(i0 + lane, a.s - 1), end = i0 + lane < a.s ? visible_end(a, p.lengths, p.offsets, b, i) : 0;
        if (warp_reduce(end, Max{}) <= j0) continue;
        const T* row[1] = {d_o + i * stride};
        A x[R], y[R], delta[1];
        dots<V>(k, q + i * a.q_token, a.d, x);
        dots<V>(v, row[0], a.d, y);
        dots<V>(row, static_cast<const T*>(p.o) + head + i * stride, a.d, delta);
        const A lse = static_cast<const A*>(p.lse)[lse_row(a, b, i, h)];
#pragma unroll
        for (int r = 0; r < R; ++r) {
          x[r] = j0 + r < end ? exp_of(scale * x[r] - lse) : A(0);
          y[r] = j0 + r < end ? x[r] * (y[r] - delta[0]) : A(0);
        }
        const int queries = min(32, a.s - i0);
        for (int n = 0; n < queries; ++n) {
          add_row(x, n, d_o + (i0 + n) * stride, d0, a.d, dv);
          add_row(y, n, q + (i0 + n) * a.q_token, d0, a.d, dk);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < R; ++r)
      if (j0 + r < a.t) {
        store_row(dk[r], scale, d0, a.d, static_cast<T*>(p.dk) + key_in(a, b, j0 + r, g, a.dk_token));
        store_row(dv[r], A(1), d0, a.d, static_cast<T*>(p.dv) + key_in(a, b, j0 + r, g, a.dv_token));
      }
  }
}

template <class T, int R, int V>
void start(const AttentionGradProblem& a, const AttentionGradPointers& p, void* handle) {
  const std::int64_t queries = static_cast<std::int64_t>(a.b) * a.h * ((a.s + R - 1) / R);
  const std::int64_t keys = static_cast<std::int64_t>(a.b) * a.g * ((a.t + R - 1) / R);
  if (queries > 0) {
    general_dq<T, R, V><<<static_cast<unsigned>((queries + kWarps - 1) / kWarps), 32 * kWarps, 0, stream(handle)>>>(a, p);
    launched("attention_grad_general dq");
  }
  if (keys > 0) {
    general_dkv<T, R, V><<<static_cast<unsigned>((keys + kWarps - 1) / kWarps), 32 * kWarps, 0, stream(handle)>>>(a, p);
    launched("attention_grad_general dk, dv");
  }
}

}  // namespace

void attention_grad_general(const AttentionGradProblem& a, const AttentionGradPointers& p, void* handle) {
  if (a.d == 0) return;
  with_any_float(a.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (a.d % 4 != 0) start<T, 1, 1>(a, p, handle);
    else start<T, 2, 4>(a, p, handle);
  });
}

}  // namespace rhetor::gpu
