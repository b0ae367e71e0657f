// adamw  d = g g_scale, m' = b1 m + (1-b1) d, v' = b2 v + (1-b2) d^2, p' = p - lr (m'/c1 / (sqrt(v'/c2) + eps) + decay p), ck = 1 - bk^step;
//        where `apply` is false everything stays. Memory-bound: 4 reads, 3 writes.
// sgd    p' = p - lr g_scale g. Memory-bound: 2 reads, 1 write.
// A thread reads all it needs of its elements before it writes them, so results may be the operands.
#include <cmath>

#include "cuda/optimizer.h"
#include "cuda/row_kernels.h"

namespace rhetor::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kPacksEach = 2;   // a thread's packs: more would leave processors idle at the end, fewer compute the corrections more often

template <class P>
struct AdamwNumbers {
  P b1, b2, one_b1, one_b2, eps, decay;
  double log_b1, log_b2;
};

// Calls f(index of the first element, std::integral_constant<width>) for this thread's share of n elements: W at a time, then singly.
template <int W, class F>
__device__ inline void each_element(std::int64_t n, F f) {
  const std::int64_t start = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x, packs = n / W;
  for (std::int64_t i = start; i < packs; i += step) f(i * W, std::integral_constant<int, W>{});
  for (std::int64_t i = packs * W + start; i < n; i += step) f(i, std::integral_constant<int, 1>{});
}
template <int W, class T>
__device__ inline Pack<T, W> load(const T* p) {
  return *reinterpret_cast<const Pack<T, W>*>(p);
}

template <class P, class G>
__global__ void __launch_bounds__(kThreads) adamw_kernel(std::int64_t n, AdamwNumbers<P> a, const P* p, const G* g, const P* m, const P* v,
                                                         const P* lr_at, const P* step_at, const P* scale_at, const std::uint8_t* apply_at,
                                                         P* new_p, P* new_m, P* new_v) {
  __shared__ P corrections[2];
  const bool apply = !apply_at || *apply_at != 0;
  if (!apply && p == new_p && m == new_m && v == new_v) return;
  if (threadIdx.x < 2) {   // 1 / (1 - b^step), without cancellation
    const double step = *step_at, log_b = threadIdx.x == 0 ? a.log_b1 : a.log_b2;
    corrections[threadIdx.x] = static_cast<P>(-1 / expm1(step * log_b));
  }
  __syncthreads();
  const P c1 = corrections[0], c2 = corrections[1], lr = *lr_at, scale = *scale_at;
  each_element<kPack<P>>(n, [&](std::int64_t i, auto count) {
    constexpr int W = count.value;
    auto weights = load<W>(p + i), first = load<W>(m + i), second = load<W>(v + i);
    const auto gradient = load<W>(g + i);
    if (apply) {
#pragma unroll
      for (int e = 0; e < W; ++e) {
        const P d = P(widen(gradient.v[e])) * scale;
        first.v[e] = a.b1 * first.v[e] + a.one_b1 * d;
        second.v[e] = a.b2 * second.v[e] + a.one_b2 * d * d;
        weights.v[e] -= lr * (first.v[e] * c1 / (sqrt(second.v[e] * c2) + a.eps) + a.decay * weights.v[e]);
      }
    }
    store_at(new_p + i, weights);
    store_at(new_m + i, first);
    store_at(new_v + i, second);
  });
}

template <class P, class G>
__global__ void __launch_bounds__(kThreads) sgd_kernel(std::int64_t n, const P* p, const G* g, const P* lr, const P* scale, P* new_p) {
  const P rate = *lr * *scale;
  each_element<kPack<P>>(n, [&](std::int64_t i, auto count) {
    constexpr int W = count.value;
    auto weights = load<W>(p + i);
    const auto gradient = load<W>(g + i);
#pragma unroll
    for (int e = 0; e < W; ++e) weights.v[e] -= rate * P(widen(gradient.v[e]));
    store_at(new_p + i, weights);
  });
}

template <class F>
void with_update(const UpdateProblem& u, F&& f) {
  with_any_float(u.gradient, [&](auto g) {
    if (u.weights == DType::f64) f(double{}, g);
    else f(float{}, g);
  });
}

}  // namespace

void adamw(const UpdateProblem& u, const void* p, const void* g, const AdamwState& s, void* new_p, void* to) {
  if (u.elements == 0) return;
  with_update(u, [&](auto weight, auto gradient) {
    using P = decltype(weight);
    using G = decltype(gradient);
    const AdamwNumbers<P> a{static_cast<P>(u.beta1), static_cast<P>(u.beta2), static_cast<P>(1 - u.beta1), static_cast<P>(1 - u.beta2),
                            static_cast<P>(u.eps),   static_cast<P>(u.decay), std::log(u.beta1),           std::log(u.beta2)};
    const auto at = [](const void* x) { return static_cast<const P*>(x); };
    adamw_kernel<<<blocks(u.elements, kThreads * kPacksEach * kPack<P>, 1 << 30), kThreads, 0, stream(to)>>>(
        u.elements, a, at(p), static_cast<const G*>(g), at(s.m), at(s.v), at(s.lr), at(s.step), at(s.g_scale),
        static_cast<const std::uint8_t*>(s.apply), static_cast<P*>(new_p), static_cast<P*>(s.new_m), static_cast<P*>(s.new_v));
  });
  launched("adamw");
}

void sgd(const UpdateProblem& u, const void* p, const void* g, const void* lr, const void* g_scale, void* new_p, void* to) {
  if (u.elements == 0) return;
  with_update(u, [&](auto weight, auto gradient) {
    using P = decltype(weight);
    using G = decltype(gradient);
    const auto at = [](const void* x) { return static_cast<const P*>(x); };
    sgd_kernel<<<blocks(u.elements, kThreads * kPacksEach * kPack<P>, 1 << 30), kThreads, 0, stream(to)>>>(
        u.elements, at(p), static_cast<const G*>(g), at(lr), at(g_scale), static_cast<P*>(new_p));
  });
  launched("sgd");
}

}  // namespace rhetor::gpu
