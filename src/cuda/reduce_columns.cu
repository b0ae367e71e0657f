// Reductions of columns: x [r0, k0, r1, k1] -> [k0, k1], k1 > 1 (gradients of biases: [16384, 3072] -> [3072]). Memory-bound: 1 read.
// A block has up to 32 packs of neighbouring columns and a part of the rows, its threads every 8th to 32nd row; a second kernel joins the
// parts in a fixed order. f32 inside (f64 for f64, integers as they are).
#include "cuda/reduce_join.h"

namespace rhetor::gpu {
namespace {

constexpr int kThreads = 256;

// grid = (k0 strips, parts); blockDim = (tx, kThreads / tx).
template <ReduceKind kind, class T, int W>
__global__ void __launch_bounds__(kThreads) columns_kernel(ReduceProblem p, std::int64_t strips, const T* x, T* out, Joined<T>* partial,
                                                           Joined<T> divisor) {
  using A = Joined<T>;
  __shared__ A shared[kThreads * W];
  const int strip_cols = blockDim.x * W;
  const std::int64_t k = blockIdx.x / strips, strip = blockIdx.x % strips * strip_cols, c = strip + threadIdx.x * W;
  const std::int64_t rows = p.r0 * p.r1, part = blockIdx.y, end = rows * (part + 1) / gridDim.y;
  A sum[W];
#pragma unroll
  for (int e = 0; e < W; ++e) sum[e] = neutral<kind, A>();
  if (c < p.k1) {
#pragma unroll 4
    for (std::int64_t row = rows * part / gridDim.y + threadIdx.y; row < end; row += blockDim.y) {
      const std::int64_t at = p.r0 == 1 ? k * p.r1 + row : (row / p.r1 * p.k0 + k) * p.r1 + row % p.r1;
      const auto pack = *reinterpret_cast<const Pack<T, W>*>(x + at * p.k1 + c);
#pragma unroll
      for (int e = 0; e < W; ++e) sum[e] = Join<kind>{}(sum[e], element<kind>(pack.v[e]));
    }
  }
#pragma unroll
  for (int e = 0; e < W; ++e) shared[threadIdx.y * strip_cols + threadIdx.x * W + e] = sum[e];
  __syncthreads();
  // A thread joins one column (strip_cols <= kThreads).
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  if (thread >= strip_cols || strip + thread >= p.k1) return;
  A all = shared[thread];
  for (int y = 1; y < static_cast<int>(blockDim.y); ++y) all = Join<kind>{}(all, shared[y * strip_cols + thread]);
  const std::int64_t to = k * p.k1 + strip + thread;
  if (partial) partial[part * p.k0 * p.k1 + to] = all;
  else out[to] = finished<T>(all, divisor);
}

// Elements of a pack: 16 bytes of a float, or one element.
int pack_width(const ReduceProblem& p) {
  return is_float(p.dtype) && p.k1 % pack_of(p.dtype) == 0 ? static_cast<int>(pack_of(p.dtype)) : 1;
}
int threads_across(const ReduceProblem& p) {
  const std::int64_t packs = p.k1 / pack_width(p);
  return packs <= 8 ? 8 : packs <= 16 ? 16 : 32;
}
std::int64_t strips_of(const ReduceProblem& p) {
  const std::int64_t cols = threads_across(p) * pack_width(p);
  return (p.k1 + cols - 1) / cols;
}

}  // namespace

unsigned reduce_columns_parts(const ReduceProblem& p, int processors) {
  const std::int64_t own = p.k0 * strips_of(p), aim = 8 * processors;
  if (own == 0 || own >= aim) return 1;
  return blocks(p.r0 * p.r1, 4 * kThreads / threads_across(p), aim / own);   // four rows a thread at least
}

void reduce_columns(const ReduceProblem& p, const void* x, void* out, void* scratch, void* to) {
  const std::int64_t strips = strips_of(p), all = p.k0 * p.k1;
  if (all == 0) return;
  const int across = threads_across(p);
  with_number(p.dtype, [&](auto z) {
    using T = decltype(z);
    using A = Joined<T>;
    with_kind(p.kind, [&](auto kind) {
      A* partial = p.parts > 1 ? static_cast<A*>(scratch) : nullptr;
      const auto launch = [&](auto width) {
        columns_kernel<kind.value, T, width.value>
            <<<dim3(static_cast<unsigned>(p.k0 * strips), p.parts), dim3(across, kThreads / across), 0, stream(to)>>>(
                p, strips, static_cast<const T*>(x), static_cast<T*>(out), partial, static_cast<A>(p.divisor));
      };
      if constexpr (std::is_integral_v<T>) {
        launch(std::integral_constant<int, 1>{});
      } else {
        if (pack_width(p) == 1) launch(std::integral_constant<int, 1>{});
        else launch(std::integral_constant<int, kPack<T>>{});
      }
      if (partial)
        join_parts<Join<kind.value>><<<blocks(all, 32), dim3(32, 32), 0, stream(to)>>>(
            std::int64_t{p.parts}, all, all, neutral<kind.value, A>(), static_cast<A>(p.divisor), static_cast<const A*>(partial),
            static_cast<T*>(out), static_cast<T*>(nullptr));
    });
  });
  launched("reduce.columns");
}

}  // namespace rhetor::gpu
