// Gradients of layer_norm and rms_norm. With n = (x - mean) rstd and d = dy gamma: dx = rstd (d - avg d - n avg(d n)), dgamma = sum of dy n and
// dbeta = sum of dy over the rows (RMS norm: mean 0, no avg d, no dbeta). Memory-bound: 2 reads, 1 write.
//
// In registers: teams walk over the rows with dy and x of one row and their columns' dgamma and dbeta in registers; a block's sums go to
// scratch [block][dgamma, dbeta][cols], and a second kernel adds the blocks' in a fixed order. Rows that do not fit: one kernel for dx, one for
// the sums. f32 inside (f64 for f64).
#include "cuda/norm.h"
#include "cuda/row_kernels.h"

namespace rhetor::gpu {
namespace {

constexpr int kMostVectorsHere = 4;   // packs a thread: it has as many sums of dgamma and of dbeta as elements
constexpr int kMostThreads = 256;     // leaves a thread 255 registers
constexpr int kSharedCols = 1024;   // the longest row of a warp: 32 lanes, 4 packs of 8

template <class T, class G, int V, bool layer>
__global__ void __launch_bounds__(kMostThreads) kept_kernel(std::int64_t rows, int packs, const T* dy, const T* x, const G* gamma,
                                                                const float* mean_at, const float* rstd_at, T* dx, float* partial) {
  constexpr int W = kPack<T>;
  __shared__ float shared[64];
  __shared__ float joined[layer ? 2 : 1][kSharedCols];
  const int cols = packs * W;
  const float inverse = 1 / static_cast<float>(cols);
  float dgamma[V][W] = {}, dbeta[V][W] = {};
  for (std::int64_t row = first_row(); row < rows; row += row_step()) {
    const std::int64_t at = row * cols;
    Pack<T, W> a[V], b[V];
#pragma unroll
    for (int j = 0; j < V; ++j)
      if (const int i = threadIdx.x + j * blockDim.x; i < packs) {
        a[j] = load_pack(dy + at + i * W);
        b[j] = load_pack(x + at + i * W);
      }
    const float rstd = rstd_at[row], mean = layer ? mean_at[row] : 0.0f;
    float average = 0, correlation = 0;
#pragma unroll
    for (int j = 0; j < V; ++j)
      if (const int i = threadIdx.x + j * blockDim.x; i < packs) {
        const auto g = *reinterpret_cast<const Pack<G, W>*>(gamma + i * W);
#pragma unroll
        for (int e = 0; e < W; ++e) {
          const float y = widen(a[j].v[e]), normal = (widen(b[j].v[e]) - mean) * rstd, d = y * widen(g.v[e]);
          average += d;
          correlation += d * normal;
          dgamma[j][e] += y * normal;
          dbeta[j][e] += y;
        }
      }
    team_sums(average, correlation, shared);
    average = layer ? average * inverse : 0.0f;
    correlation *= inverse;
#pragma unroll
    for (int j = 0; j < V; ++j)
      if (const int i = threadIdx.x + j * blockDim.x; i < packs) {
        const auto g = *reinterpret_cast<const Pack<G, W>*>(gamma + i * W);
#pragma unroll
        for (int e = 0; e < W; ++e) {
          const float normal = (widen(b[j].v[e]) - mean) * rstd;
          a[j].v[e] = narrow<T>(rstd * (widen(a[j].v[e]) * widen(g.v[e]) - average - normal * correlation));
        }
        store_pack(dx + at + i * W, a[j]);
      }
  }
  partial += static_cast<std::int64_t>(blockIdx.x) * (layer ? 2 : 1) * cols;
  // A block's teams add to `joined` in turn; the last one writes. One team alone writes at once.
  for (int turn = 0; turn < static_cast<int>(blockDim.y); ++turn) {
    const bool first = turn == 0, last = turn + 1 == static_cast<int>(blockDim.y);
    if (static_cast<int>(threadIdx.y) == turn) {
#pragma unroll
      for (int j = 0; j < V; ++j)
        if (const int i = threadIdx.x + j * blockDim.x; i < packs) {
#pragma unroll
          for (int e = 0; e < W; ++e) {
            const int c = i * W + e;
            const float g = first ? dgamma[j][e] : joined[0][c] + dgamma[j][e];
            (last ? partial[c] : joined[0][c]) = g;
            if (!layer) continue;
            constexpr int k = layer ? 1 : 0;
            const float s = first ? dbeta[j][e] : joined[k][c] + dbeta[j][e];
            (last ? partial[cols + c] : joined[k][c]) = s;
          }
        }
    }
    if (!last) __syncthreads();
  }
}

template <class T, class G>
__global__ void dx_kernel(std::int64_t rows, std::int64_t cols, bool layer, const T* dy, const T* x, const G* gamma, const Sum<T>* mean_at,
                          const Sum<T>* rstd_at, T* dx) {
  using A = Sum<T>;
  __shared__ A shared[64];
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T *y = dy + row * cols, *from = x + row * cols;
    T* to = dx + row * cols;
    const A rstd = rstd_at[row], mean = layer ? mean_at[row] : A(0);
    A average = 0, correlation = 0;
    for (std::int64_t c = threadIdx.x; c < cols; c += blockDim.x) {
      const A d = A(widen(y[c])) * A(widen(gamma[c]));
      average += d;
      correlation += d * ((widen(from[c]) - mean) * rstd);
    }
    team_sums(average, correlation, shared);
    average = layer ? average / static_cast<A>(cols) : A(0);
    correlation /= static_cast<A>(cols);
    for (std::int64_t c = threadIdx.x; c < cols; c += blockDim.x) {
      const A normal = (widen(from[c]) - mean) * rstd;
      to[c] = narrowed<T>(rstd * (A(widen(y[c])) * A(widen(gamma[c])) - average - normal * correlation));
    }
  }
}

// Sums of one strip of 32 columns over one part of the rows: blockDim = (32, 8), grid = (strips, parts).
template <class T>
__global__ void columns_kernel(std::int64_t rows, std::int64_t cols, bool layer, const T* dy, const T* x, const Sum<T>* mean_at,
                               const Sum<T>* rstd_at, Sum<T>* partial) {
  using A = Sum<T>;
  __shared__ A shared[2][8][32];
  const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * 32 + threadIdx.x;
  A dgamma = 0, dbeta = 0;
  if (c < cols)
    for (std::int64_t row = static_cast<std::int64_t>(blockIdx.y) * 8 + threadIdx.y; row < rows; row += gridDim.y * 8) {
      const A y = widen(dy[row * cols + c]), mean = layer ? mean_at[row] : A(0);
      dgamma += y * ((widen(x[row * cols + c]) - mean) * rstd_at[row]);
      dbeta += y;
    }
  shared[0][threadIdx.y][threadIdx.x] = dgamma;
  shared[1][threadIdx.y][threadIdx.x] = dbeta;
  __syncthreads();
  const int k = threadIdx.y;
  if (c >= cols || k >= (layer ? 2 : 1)) return;
  A sum = 0;
  for (int y = 0; y < 8; ++y) sum += shared[k][y][threadIdx.x];
  partial[(static_cast<std::int64_t>(blockIdx.y) * (layer ? 2 : 1) + k) * cols + c] = sum;
}

Team team_of(const NormProblem& p) {
  const std::int64_t packs = p.cols / pack_of(p.dtype);
  Team team = plan_team(p.rows, packs, kMostVectorsHere);
  if (team.threads > kMostThreads) team.threads = kMostThreads;
  const std::int64_t vectors = (packs + team.threads - 1) / team.threads;
  team.vectors = static_cast<int>(vectors < kMostVectors ? vectors : kMostVectors + 1);
  return team;
}

// Blocks of the kernel in registers: as many as processors hold at once, and two rows a team at least, since each block writes its sums.
unsigned kept_blocks(const NormProblem& p, const Team& team) {
  const int fitting = (team.vectors == kMostVectorsHere ? 384 : 512) / (team.threads * team.teams), resident = fitting < 1 ? 1 : fitting;
  return blocks(p.rows, 2 * team.teams, static_cast<std::int64_t>(p.processors) * resident);
}
unsigned column_parts(const NormProblem& p) {
  const std::int64_t strips = (p.cols + 31) / 32, wanted = (8 * p.processors + strips - 1) / strips;
  return blocks(p.rows, 64, wanted < 1024 ? wanted : 1024);
}
std::int64_t sums_of(const NormProblem& p) { return p.layer ? 2 : 1; }


// dgamma and dbeta from the blocks' sums, A[parts][sums][cols].
template <class A>
void join_sums(const NormProblem& p, unsigned parts, const NormBackward& io, const void* scratch, void* to) {
  const std::int64_t all = p.cols * sums_of(p);
  with_any_float(p.gamma, [&](auto z) {
    using G = decltype(z);
    join_parts<Add><<<blocks(all, 32), dim3(32, 32), 0, stream(to)>>>(std::int64_t{parts}, p.cols, all, A(0), A(1),
                                                                      static_cast<const A*>(scratch), static_cast<G*>(io.dgamma),
                                                                      static_cast<G*>(io.dbeta));
  });
  launched("norm_grad.sums");
}

}  // namespace

bool norm_grad_fits(const NormProblem& p) { return p.cols % pack_of(p.dtype) == 0 && team_of(p).vectors <= kMostVectorsHere; }
std::uint64_t norm_grad_kept_scratch(const NormProblem& p) {
  return static_cast<std::uint64_t>(kept_blocks(p, team_of(p)) * sums_of(p) * p.cols) * sizeof(float);
}

void norm_grad_kept(const NormProblem& p, const NormBackward& io, void* scratch, void* to) {
  const Team team = team_of(p);
  const unsigned grid = kept_blocks(p, team);
  const int packs = static_cast<int>(p.cols / pack_of(p.dtype));
  with_float(p.dtype, [&](auto z) {
    using T = decltype(z);
    const auto launch = [&](auto gamma, auto vectors) {
      using G = decltype(gamma);
      with_bool(p.layer, [&](auto layer) {
        kept_kernel<T, G, vectors.value, layer.value><<<grid, dim3(team.threads, team.teams), 0, stream(to)>>>(
            p.rows, packs, static_cast<const T*>(io.dy), static_cast<const T*>(io.x), static_cast<const G*>(io.gamma),
            static_cast<const float*>(io.mean), static_cast<const float*>(io.rstd), static_cast<T*>(io.dx), static_cast<float*>(scratch));
      });
    };
    const auto with_gamma = [&](auto vectors) {
      if (p.gamma == p.dtype) launch(T{}, vectors);
      else launch(float{}, vectors);
    };
    if (team.vectors == 1) with_gamma(std::integral_constant<int, 1>{});
    else if (team.vectors == 2) with_gamma(std::integral_constant<int, 2>{});
    else if (team.vectors == 3) with_gamma(std::integral_constant<int, 3>{});
    else with_gamma(std::integral_constant<int, 4>{});
  });
  launched("norm_grad.registers");
  join_sums<float>(p, grid, io, scratch, to);
}

std::uint64_t norm_grad_streamed_scratch(const NormProblem& p) {
  return static_cast<std::uint64_t>(column_parts(p) * sums_of(p) * p.cols) * (p.dtype == DType::f64 ? sizeof(double) : sizeof(float));
}

void norm_grad_streamed(const NormProblem& p, const NormBackward& io, void* scratch, void* to) {
  if (p.cols == 0) return;
  const unsigned parts = column_parts(p);
  with_any_float(p.dtype, [&](auto z) {
    using T = decltype(z);
    using A = std::conditional_t<std::is_same_v<T, double>, double, float>;
    const T *dy = static_cast<const T*>(io.dy), *x = static_cast<const T*>(io.x);
    const A *mean = static_cast<const A*>(io.mean), *rstd = static_cast<const A*>(io.rstd);
    with_any_float(p.gamma, [&](auto gamma) {
      using G = decltype(gamma);
      if (p.rows > 0)
        dx_kernel<<<blocks(p.rows, 1), stream_threads(p.cols / 4), 0, stream(to)>>>(
            p.rows, p.cols, p.layer, dy, x, static_cast<const G*>(io.gamma), mean, rstd, static_cast<T*>(io.dx));
    });
    columns_kernel<<<dim3(blocks(p.cols, 32), parts), dim3(32, 8), 0, stream(to)>>>(p.rows, p.cols, p.layer, dy, x, mean, rstd,
                                                                                    static_cast<A*>(scratch));
  });
  launched("norm_grad");
  if (p.dtype == DType::f64) join_sums<double>(p, parts, io, scratch, to);
  else join_sums<float>(p, parts, io, scratch, to);
}

}  // namespace rhetor::gpu
