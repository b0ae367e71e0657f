// What the general attention kernels share: dot products of a lane with its own row, and sums over rows spread along the lanes.
#pragma once

#include "cuda/attention.h"

#ifdef __CUDACC__
namespace rhetor::gpu {

constexpr int kWarps = 4;                 // of a block
constexpr int kSpread = 8;                // dims a lane holds: lane, lane + 32, ...
constexpr int kDims = 32 * kSpread;       // dims done at a time; a longer head takes several rounds

__device__ inline float exp_of(float x) { return expf(x); }
__device__ inline double exp_of(double x) { return exp(x); }
__device__ inline float log_of(float x) { return logf(x); }
__device__ inline double log_of(double x) { return log(x); }
template <class T> __device__ inline T narrow_any(float x) { return narrow<T>(x); }
template <class T> __device__ inline T narrow_any(double x) { return static_cast<T>(x); }

// sums[r] = a_r . b for R rows a, V elements a load.
template <int V, class T, class A, int R>
__device__ inline void dots(const T* const (&a)[R], const T* b, int d, A (&sums)[R]) {
#pragma unroll
  for (int r = 0; r < R; ++r) sums[r] = 0;
  for (int c = 0; c < d; c += V) {
    const auto y = *reinterpret_cast<const Pack<T, V>*>(b + c);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const auto x = *reinterpret_cast<const Pack<T, V>*>(a[r] + c);
#pragma unroll
      for (int e = 0; e < V; ++e) sums[r] += static_cast<A>(widen(x.v[e])) * static_cast<A>(widen(y.v[e]));
    }
  }
}

// acc[r] += weight_r(lane `from`) row[dims of this lane], dims from d0.
template <class T, class A, int R>
__device__ inline void add_row(const A (&weight)[R], int from, const T* row, int d0, int d, A (&acc)[R][kSpread]) {
  A w[R];
#pragma unroll
  for (int r = 0; r < R; ++r) w[r] = __shfl_sync(0xffffffffu, weight[r], from);
#pragma unroll
  for (int c = 0; c < kSpread; ++c) {
    const int dim = d0 + static_cast<int>(threadIdx.x % 32) + 32 * c;
    if (dim >= d) break;
    const A x = static_cast<A>(widen(row[dim]));
#pragma unroll
    for (int r = 0; r < R; ++r) acc[r][c] += w[r] * x;
  }
}
template <class T, class A>
__device__ inline void store_row(const A (&acc)[kSpread], A factor, int d0, int d, T* row) {
#pragma unroll
  for (int c = 0; c < kSpread; ++c) {
    const int dim = d0 + static_cast<int>(threadIdx.x % 32) + 32 * c;
    if (dim < d) row[dim] = narrow_any<T>(acc[c] * factor);
  }
}

template <class T> struct AccumulatorOf { using type = float; };
template <> struct AccumulatorOf<double> { using type = double; };

}  // namespace rhetor::gpu
#endif
