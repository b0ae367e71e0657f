// softmax y = exp(x - max) / sum, log_softmax y = x - max - log sum, and from their results dx = y (dy - sum dy y), dx = dy - exp(y) sum dy.
// Memory-bound: 1 read and 1 write forward, 2 reads and 1 write backward where the row stays in registers; streamed rows are read twice,
// the second time mostly from a cache. f32 inside (f64 for f64).
#include "cuda/softmax.h"

#include "cuda/row_kernels.h"

namespace rhetor::gpu {
namespace {

constexpr int kAimVectors = 4;

// e / sum; narrow results take the reciprocal.
template <class T, class A>
__device__ inline A divided(A e, A sum, A inverse) {
  return sizeof(T) == 2 ? e * inverse : e / sum;
}

template <class T, int V, bool logarithm>
__global__ void __launch_bounds__(kMostTeamThreads) kept_kernel(std::int64_t rows, int packs, const T* x, T* y) {
  constexpr int W = kPack<T>;
  __shared__ float shared[32];
  for (std::int64_t row = first_row(); row < rows; row += row_step()) {
    const T* from = x + row * packs * W;
    T* to = y + row * packs * W;
    float v[V][W];
    float top = lowest<float>(), sum = 0;
#pragma unroll
    for (int j = 0; j < V; ++j)
      if (const int i = threadIdx.x + j * blockDim.x; i < packs) {
        const auto pack = load_pack(from + i * W);
#pragma unroll
        for (int e = 0; e < W; ++e) top = fmaxf(top, v[j][e] = widen(pack.v[e]));
      }
    top = block_reduce(top, Max{}, shared, lowest<float>());
#pragma unroll
    for (int j = 0; j < V; ++j)
      if (static_cast<int>(threadIdx.x + j * blockDim.x) < packs) {
#pragma unroll
        for (int e = 0; e < W; ++e) {
          const float power = exp_for<T>(v[j][e] - top);
          sum += power;
          v[j][e] = logarithm ? v[j][e] - top : power;
        }
      }
    sum = block_reduce(sum, Add{}, shared, 0.0f);
    const float inverse = 1 / sum, log_sum = logarithm ? logf(sum) : 0;
#pragma unroll
    for (int j = 0; j < V; ++j)
      if (const int i = threadIdx.x + j * blockDim.x; i < packs) {
        Pack<T, W> pack;
#pragma unroll
        for (int e = 0; e < W; ++e) pack.v[e] = narrow<T>(logarithm ? v[j][e] - log_sum : divided<T>(v[j][e], sum, inverse));
        store_pack(to + i * W, pack);
      }
  }
}

template <class T, int V, bool logarithm>
__global__ void __launch_bounds__(kMostTeamThreads) grad_kept_kernel(std::int64_t rows, int packs, const T* y, const T* dy, T* dx) {
  constexpr int W = kPack<T>;
  __shared__ float shared[32];
  for (std::int64_t row = first_row(); row < rows; row += row_step()) {
    const std::int64_t at = row * packs * W;
    Pack<T, W> a[V], b[V];
    float sum = 0;
#pragma unroll
    for (int j = 0; j < V; ++j)
      if (const int i = threadIdx.x + j * blockDim.x; i < packs) {
        a[j] = load_pack(y + at + i * W);
        b[j] = load_pack(dy + at + i * W);
#pragma unroll
        for (int e = 0; e < W; ++e) sum += logarithm ? widen(b[j].v[e]) : widen(a[j].v[e]) * widen(b[j].v[e]);
      }
    sum = block_reduce(sum, Add{}, shared, 0.0f);
#pragma unroll
    for (int j = 0; j < V; ++j)
      if (const int i = threadIdx.x + j * blockDim.x; i < packs) {
        Pack<T, W> pack;
#pragma unroll
        for (int e = 0; e < W; ++e) {
          const float r = widen(a[j].v[e]), d = widen(b[j].v[e]);
          pack.v[e] = narrow<T>(logarithm ? d - exp_for<T>(r) * sum : r * (d - sum));
        }
        store_pack(dx + at + i * W, pack);
      }
  }
}

template <class T, bool logarithm>
__global__ void streamed_kernel(std::int64_t rows, std::int64_t cols, const T* x, T* y) {
  using A = Sum<T>;
  __shared__ A shared[32];
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T* from = x + row * cols;
    T* to = y + row * cols;
    LogSum<T> total;
    each_in_row(from, cols, threadIdx.x, blockDim.x, [&](auto pack, std::int64_t) { total.add(pack); });
    total.join(shared);
    const A inverse = 1 / total.sum, log_sum = logarithm ? log(total.sum) : A(0);
    each_in_row(from, cols, threadIdx.x, blockDim.x, [&](auto pack, std::int64_t at) {
#pragma unroll
      for (int e = 0; e < width(pack); ++e) {
        const A shifted = widen(pack.v[e]) - total.top;
        pack.v[e] = narrowed<T>(logarithm ? shifted - log_sum : divided<T>(exp_for<T>(shifted), total.sum, inverse));
      }
      store_at(to + at, pack);
    });
  }
}

template <class T, bool logarithm>
__global__ void grad_streamed_kernel(std::int64_t rows, std::int64_t cols, const T* y, const T* dy, T* dx) {
  using A = Sum<T>;
  __shared__ A shared[32];
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T *result = y + row * cols, *from = dy + row * cols;
    T* to = dx + row * cols;
    A sum = 0;
    each_in_row(from, cols, threadIdx.x, blockDim.x, [&](auto pack, std::int64_t at) {
      const auto other = *reinterpret_cast<const decltype(pack)*>(result + at);
#pragma unroll
      for (int e = 0; e < width(pack); ++e) sum += logarithm ? A(widen(pack.v[e])) : A(widen(other.v[e])) * A(widen(pack.v[e]));
    });
    sum = block_reduce(sum, Add{}, shared, A(0));
    each_in_row(from, cols, threadIdx.x, blockDim.x, [&](auto pack, std::int64_t at) {
      const auto other = *reinterpret_cast<const decltype(pack)*>(result + at);
#pragma unroll
      for (int e = 0; e < width(pack); ++e) {
        const A r = widen(other.v[e]), d = widen(pack.v[e]);
        pack.v[e] = narrowed<T>(logarithm ? d - exp_for<T>(r) * sum : r * (d - sum));
      }
      store_at(to + at, pack);
    });
  }
}

Team team_of(const SoftmaxProblem& p) { return plan_team(p.rows, p.cols / pack_of(p.dtype), kAimVectors); }

}  // namespace

bool softmax_fits(const SoftmaxProblem& p) {
  return p.cols % pack_of(p.dtype) == 0 && team_of(p).vectors <= kMostVectors;
}

void softmax_kept(const SoftmaxProblem& p, const void* x, void* y, void* to) {
  const Team team = team_of(p);
  const int packs = static_cast<int>(p.cols / pack_of(p.dtype));
  with_float(p.dtype, [&](auto z) {
    using T = decltype(z);
    with_vectors(team.vectors, [&](auto vectors) {
      with_bool(p.logarithm, [&](auto logarithm) {
        kept_kernel<T, vectors.value, logarithm.value><<<blocks(p.rows, team.teams), dim3(team.threads, team.teams), 0, stream(to)>>>(
            p.rows, packs, static_cast<const T*>(x), static_cast<T*>(y));
      });
    });
  });
  launched("softmax.registers");
}

void softmax_grad_kept(const SoftmaxProblem& p, const void* y, const void* dy, void* dx, void* to) {
  const Team team = team_of(p);
  const int packs = static_cast<int>(p.cols / pack_of(p.dtype));
  with_float(p.dtype, [&](auto z) {
    using T = decltype(z);
    with_vectors(team.vectors, [&](auto vectors) {
      with_bool(p.logarithm, [&](auto logarithm) {
        grad_kept_kernel<T, vectors.value, logarithm.value>
            <<<blocks(p.rows, team.teams), dim3(team.threads, team.teams), 0, stream(to)>>>(
                p.rows, packs, static_cast<const T*>(y), static_cast<const T*>(dy), static_cast<T*>(dx));
      });
    });
  });
  launched("softmax_grad.registers");
}

void softmax_streamed(const SoftmaxProblem& p, const void* x, void* y, void* to) {
  if (p.rows == 0) return;
  with_any_float(p.dtype, [&](auto z) {
    using T = decltype(z);
    with_bool(p.logarithm, [&](auto logarithm) {
      streamed_kernel<T, logarithm.value><<<blocks(p.rows, 1), stream_threads(p.cols / kPack<T>), 0, stream(to)>>>(
          p.rows, p.cols, static_cast<const T*>(x), static_cast<T*>(y));
    });
  });
  launched("softmax");
}

void softmax_grad_streamed(const SoftmaxProblem& p, const void* y, const void* dy, void* dx, void* to) {
  if (p.rows == 0) return;
  with_any_float(p.dtype, [&](auto z) {
    using T = decltype(z);
    with_bool(p.logarithm, [&](auto logarithm) {
      grad_streamed_kernel<T, logarithm.value><<<blocks(p.rows, 1), stream_threads(p.cols / kPack<T>), 0, stream(to)>>>(
          p.rows, p.cols, static_cast<const T*>(y), static_cast<const T*>(dy), static_cast<T*>(dx));
    });
  });
  launched("softmax_grad");
}

}  // namespace rhetor::gpu
