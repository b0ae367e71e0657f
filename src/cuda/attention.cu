// attention of any size and float dtype: o = softmax(scale q k^T) v by a running maximum and sum (Milakov & Gimelshein 2018), no S x T
// matrix. A warp has R queries of one head; its lanes score 32 keys, one each, then hold 32 dims of the output each.
// Bound by the f32 (f64) units and the L1 cache: 4 D operations a visible pair.
#include "cuda/attention_general.h"

namespace rhetor::gpu {
namespace {

template <class T, int R, int V>
__global__ void __launch_bounds__(32 * kWarps) general_forward(AttentionProblem a, AttentionPointers p) {
  using A = typename AccumulatorOf<T>::type;
  const int groups = (a.s + R - 1) / R, lane = threadIdx.x % 32;
  const std::int64_t item = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (item >= static_cast<std::int64_t>(a.b) * a.h * groups) return;
  const int i0 = static_cast<int>(item % groups) * R, h = static_cast<int>(item / groups % a.h), b = static_cast<int>(item / groups / a.h);
  const T* k = static_cast<const T*>(p.k) + key_in(a, b, 0, h / (a.h / a.g), a.k_token);
  const T* v = static_cast<const T*>(p.v) + key_in(a, b, 0, h / (a.h / a.g), a.v_token);
  const A scale = static_cast<A>(a.scale), infinity = static_cast<A>(INFINITY);
  const T* q[R];
  int end[R], most = 0;
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const int i = min(i0 + r, a.s - 1);   // rows behind the last repeat it and are not stored
    q[r] = static_cast<const T*>(p.q) + query_in(a, b, i, h);
    end[r] = visible_end(a, p.lengths, p.offsets, b, i);
    most = max(most, end[r]);
  }
  for (int d0 = 0; d0 < a.d; d0 += kDims) {
    A acc[R][kSpread] = {}, top[R], sum[R] = {};
#pragma unroll
    for (int r = 0; r < R; ++r) top[r] = -infinity;
    for (int j0 = 0; j0 < most; j0 += 32) {
      A x[R];
      dots<V>(q, k + min(j0 + lane, most - 1) * a.k_token, a.d, x);
#pragma unroll
      for (int r = 0; r < R; ++r) {
        const bool seen = j0 + lane < end[r];
        const A score = seen ? scale * x[r] : -infinity;
        const A fresh = warp_reduce(score, Max{});
        const A next = fresh > top[r] ? fresh : top[r];
        const A shift = next == -infinity ? A(0) : next;   // no key seen yet: exp(-inf), not NaN
        x[r] = seen ? exp_of(score - shift) : A(0);
        const A rescale = exp_of(top[r] - shift);
        top[r] = next;
        sum[r] = sum[r] * rescale + x[r];
#pragma unroll
        for (int c = 0; c < kSpread; ++c) acc[r][c] *= rescale;
      }
      const int keys = min(32, most - j0);
      for (int j = 0; j < keys; ++j) add_row(x, j, v + (j0 + j) * a.v_token, d0, a.d, acc);
    }
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const A total = warp_reduce(sum[r], Add{});
      if (i0 + r >= a.s) continue;
      store_row(acc[r], end[r] > 0 ? A(1) / total : A(0), d0, a.d, static_cast<T*>(p.o) + query_row(a, b, i0 + r, h));
      if (p.lse && d0 == 0 && lane == 0)
        static_cast<A*>(p.lse)[lse_row(a, b, i0 + r, h)] = end[r] > 0 ? top[r] + log_of(total) : -infinity;
    }
  }
}

template <class T, int R, int V>
void start(const AttentionProblem& a, const AttentionPointers& p, void* handle) {
  const std::int64_t items = static_cast<std::int64_t>(a.b) * a.h * ((a.s + R - 1) / R);
  general_forward<T, R, V><<<static_cast<unsigned>((items + kWarps - 1) / kWarps), 32 * kWarps, 0, stream(handle)>>>(a, p);
  launched("attention_general");
}

}  // namespace

void attention_general(const AttentionProblem& a, const AttentionPointers& p, void* handle) {
  if (static_cast<std::int64_t>(a.b) * a.s * a.h == 0) return;
  with_any_float(a.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (a.d % 4 != 0) start<T, 1, 1>(a, p, handle);
    else if (a.s == 1) start<T, 1, 4>(a, p, handle);
    else start<T, 4, 4>(a, p, handle);
  });
}

}  // namespace rhetor::gpu
