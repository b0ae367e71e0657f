// layer_norm y = (x - mean) rstd gamma + beta, rms_norm y = x rstd gamma. Memory-bound: 1 read, 1 write.
// A row stays in registers between its mean, the squares around it (two passes: nothing cancels) and the result; longer and unaligned rows
// are read three times, from a cache but for the first. f32 inside (f64 for f64).
#include "cuda/norm.h"

#include "cuda/row_kernels.h"

namespace rhetor::gpu {
namespace {

template <class T, class G, int V, bool layer>
__global__ void __launch_bounds__(kMostTeamThreads) kept_kernel(std::int64_t rows, int packs, float eps, const T* x, const G* gamma,
                                                                const G* beta, T* y, float* mean_at, float* rstd_at) {
  constexpr int W = kPack<T>;
  __shared__ float shared[32];
  const float size = static_cast<float>(packs * W);
  for (std::int64_t row = first_row(); row < rows; row += row_step()) {
    Pack<T, W> v[V];
    const T* from = x + row * packs * W;
    float mean = 0, squares = 0;
#pragma unroll
    for (int j = 0; j < V; ++j)
      if (const int i = threadIdx.x + j * blockDim.x; i < packs) {
        v[j] = load_pack(from + i * W);
#pragma unroll
        for (int e = 0; e < W; ++e) mean += layer ? widen(v[j].v[e]) : 0.0f;
      }
    if (layer) mean = block_reduce(mean, Add{}, shared, 0.0f) / size;
#pragma unroll
    for (int j = 0; j < V; ++j)
      if (static_cast<int>(threadIdx.x + j * blockDim.x) < packs) {
#pragma unroll
        for (int e = 0; e < W; ++e) {
          const float d = widen(v[j].v[e]) - mean;
          squares += d * d;
        }
      }
    squares = block_reduce(squares, Add{}, shared, 0.0f);
    const float rstd = 1 / sqrtf(squares / size + eps);
    T* to = y + row * packs * W;
#pragma unroll
    for (int j = 0; j < V; ++j)
      if (const int i = threadIdx.x + j * blockDim.x; i < packs) {
        const auto g = *reinterpret_cast<const Pack<G, W>*>(gamma + i * W);
        Pack<G, W> b;
        if (layer) b = *reinterpret_cast<const Pack<G, W>*>(beta + i * W);
#pragma unroll
        for (int e = 0; e < W; ++e) {
          const float normal = (widen(v[j].v[e]) - mean) * rstd;
          v[j].v[e] = narrow<T>(layer ? normal * widen(g.v[e]) + widen(b.v[e]) : normal * widen(g.v[e]));
        }
        store_pack(to + i * W, v[j]);
      }
    if (threadIdx.x == 0) {
      if (mean_at) mean_at[row] = mean;
      if (rstd_at) rstd_at[row] = rstd;
    }
  }
}

template <class T, class G>
__global__ void streamed_kernel(std::int64_t rows, std::int64_t cols, Sum<T> eps, bool layer, const T* x, const G* gamma, const G* beta, T* y,
                                Sum<T>* mean_at, Sum<T>* rstd_at) {
  using A = Sum<T>;
  __shared__ A shared[32];
  const A size = static_cast<A>(cols);
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T* from = x + row * cols;
    T* to = y + row * cols;
    A mean = 0, squares = 0;
    if (layer) {
      each_in_row(from, cols, threadIdx.x, blockDim.x, [&](auto pack, std::int64_t) {
#pragma unroll
        for (int e = 0; e < width(pack); ++e) mean += widen(pack.v[e]);
      });
      mean = block_reduce(mean, Add{}, shared, A(0)) / size;
    }
    each_in_row(from, cols, threadIdx.x, blockDim.x, [&](auto pack, std::int64_t) {
#pragma unroll
      for (int e = 0; e < width(pack); ++e) squares += (widen(pack.v[e]) - mean) * (widen(pack.v[e]) - mean);
    });
    squares = block_reduce(squares, Add{}, shared, A(0));
    const A rstd = 1 / sqrt(squares / size + eps);
    each_in_row(from, cols, threadIdx.x, blockDim.x, [&](auto pack, std::int64_t at) {
#pragma unroll
      for (int e = 0; e < width(pack); ++e) {
        const A normal = (widen(pack.v[e]) - mean) * rstd * A(widen(gamma[at + e]));
        pack.v[e] = narrowed<T>(layer ? normal + A(widen(beta[at + e])) : normal);
      }
      store_at(to + at, pack);
    });
    if (threadIdx.x == 0) {
      if (mean_at) mean_at[row] = mean;
      if (rstd_at) rstd_at[row] = rstd;
    }
  }
}

Team team_of(const NormProblem& p) { return plan_team(p.rows, p.cols / pack_of(p.dtype), p.dtype == DType::f32 ? 8 : 4); }

}  // namespace

bool norm_fits(const NormProblem& p) { return p.cols % pack_of(p.dtype) == 0 && team_of(p).vectors <= kMostVectors; }

void norm_kept(const NormProblem& p, const NormForward& io, void* to) {
  if (p.rows == 0) return;
  const Team team = team_of(p);
  const int packs = static_cast<int>(p.cols / pack_of(p.dtype));
  with_float(p.dtype, [&](auto z) {
    using T = decltype(z);
    const auto launch = [&](auto gamma) {
      using G = decltype(gamma);
      with_vectors(team.vectors, [&](auto vectors) {
        with_bool(p.layer, [&](auto layer) {
          kept_kernel<T, G, vectors.value, layer.value><<<blocks(p.rows, team.teams), dim3(team.threads, team.teams), 0, stream(to)>>>(
              p.rows, packs, static_cast<float>(p.eps), static_cast<const T*>(io.x), static_cast<const G*>(io.gamma),
              static_cast<const G*>(io.beta), static_cast<T*>(io.y), static_cast<float*>(io.mean), static_cast<float*>(io.rstd));
        });
      });
    };
    if (p.gamma == p.dtype) launch(T{});
    else launch(float{});
  });
  launched("norm.registers");
}

void norm_streamed(const NormProblem& p, const NormForward& io, void* to) {
  if (p.rows == 0) return;
  with_any_float(p.dtype, [&](auto z) {
    using T = decltype(z);
    using A = std::conditional_t<std::is_same_v<T, double>, double, float>;
    with_any_float(p.gamma, [&](auto gamma) {
      using G = decltype(gamma);
      streamed_kernel<<<blocks(p.rows, 1), stream_threads(p.cols / kPack<T>), 0, stream(to)>>>(
          p.rows, p.cols, static_cast<A>(p.eps), p.layer, static_cast<const T*>(io.x), static_cast<const G*>(io.gamma),
          static_cast<const G*>(io.beta), static_cast<T*>(io.y), static_cast<A*>(io.mean), static_cast<A*>(io.rstd));
    });
  });
  launched("norm");
}

}  // namespace rhetor::gpu
