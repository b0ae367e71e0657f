// cross_entropy: lse = log sum exp(x), loss = lse - x[target]; its gradient dx = dloss (exp(x - lse) - [v = target]).
// Memory-bound: forward reads the logits once, with a running maximum and sum; backward 1 read, 1 write, in place if it is to be.
// A block has a row, of any length and alignment (50,257 classes in bf16). f32 inside, f64 for f64.
// A target outside the classes that is not the ignored one gives a NaN loss, and no gradient beyond the softmax's: it must show.
#include "cuda/loss.h"
#include "cuda/row_kernels.h"

namespace rhetor::gpu {
namespace {

template <class T, class I>
__global__ void __launch_bounds__(512) forward_kernel(std::int64_t rows, std::int64_t n, std::int64_t ignore, const T* x,
                                                      const I* targets, Sum<T>* loss, Sum<T>* lse) {
  using A = Sum<T>;
  __shared__ A shared[32];
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T* from = x + row * n;
    LogSum<T> total;
    each_in_row(from, n, threadIdx.x, blockDim.x, [&](auto pack, std::int64_t) { total.add(pack); });
    total.join(shared);
    if (threadIdx.x != 0) continue;
    const A value = total.top + log(total.sum);
    const std::int64_t target = targets[row];
    if (lse) lse[row] = value;
    if (!loss) continue;
    if (target == ignore)
      loss[row] = 0;
    else if (target < 0 || target >= n)
      loss[row] = static_cast<A>(nan(""));
    else
      loss[row] = value - A(widen(from[target]));
  }
}

// Zeros for a row of n elements, in packs of 16 bytes.
template <class T>
__device__ inline void clear_row(T* x, std::int64_t n) {
  constexpr int W = kPack<T>;
  const int head = misaligned(x, n);
  const std::int64_t packs = (n - head) / W, last = head + packs * W + threadIdx.x;
  if (threadIdx.x < head) x[threadIdx.x] = T(0.0f);
  for (std::int64_t i = threadIdx.x; i < packs; i += blockDim.x) *reinterpret_cast<uint4*>(x + head + i * W) = uint4{0, 0, 0, 0};
  if (last < n) x[last] = T(0.0f);
}

template <class T, class I>
__global__ void __launch_bounds__(512)
    backward_kernel(std::int64_t rows, std::int64_t n, std::int64_t ignore, const Sum<T>* dloss, const T* x, const I* targets,
                    const Sum<T>* lse, T* dx) {
  using A = Sum<T>;
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const std::int64_t target = targets[row];
    const T* from = x + row * n;
    T* to = dx + row * n;
    if (target == ignore) {
      clear_row(to, n);
      continue;
    }
    const A scale = dloss[row], shift = lse[row];
    // In place, the one thread that uses it reads it before it overwrites it.
    const A chosen = target >= 0 && target < n ? A(widen(from[target])) : A(0);
    each_in_row(from, n, threadIdx.x, blockDim.x, [&](auto pack, std::int64_t at) {
#pragma unroll
      for (int e = 0; e < width(pack); ++e) pack.v[e] = narrowed<T>(scale * exp_for<T>(A(widen(pack.v[e])) - shift));
      store_at(to + at, pack);
      // p - 1 without cancellation.
      if (target >= at && target < at + width(pack)) to[target] = narrowed<T>(scale * expm1(chosen - shift));
    });
  }
}

}  // namespace

void cross_entropy(const LossProblem& p, const void* logits, const void* targets, void* loss, void* lse, void* to) {
  if (p.rows == 0) return;
  with_any_float(p.dtype, [&](auto z) {
    using T = decltype(z);
    using A = std::conditional_t<std::is_same_v<T, double>, double, float>;
    with_index(p.index, [&](auto i) {
      forward_kernel<<<blocks(p.rows, 1), stream_threads(p.classes / kPack<T>), 0, stream(to)>>>(
          p.rows, p.classes, p.ignore, static_cast<const T*>(logits), static_cast<const decltype(i)*>(targets),
          static_cast<A*>(loss), static_cast<A*>(lse));
    });
  });
  launched("cross_entropy");
}

void cross_entropy_grad(const LossProblem& p, const void* dloss, const void* logits, const void* targets, const void* lse,
                        void* dlogits, void* to) {
  if (p.rows == 0) return;
  with_any_float(p.dtype, [&](auto z) {
    using T = decltype(z);
    using A = std::conditional_t<std::is_same_v<T, double>, double, float>;
    with_index(p.index, [&](auto i) {
      backward_kernel<<<blocks(p.rows, 1), stream_threads(p.classes / kPack<T>), 0, stream(to)>>>(
          p.rows, p.classes, p.ignore, static_cast<const A*>(dloss), static_cast<const T*>(logits),
          static_cast<const decltype(i)*>(targets), static_cast<const A*>(lse), static_cast<T*>(dlogits));
    });
  });
  launched("cross_entropy_grad");
}

}  // namespace rhetor::gpu
