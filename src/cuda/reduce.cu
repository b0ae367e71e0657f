// Reductions of contiguous runs (rows, whole tensors, sums of squares) and, slower, along any axes. Memory-bound: 1 read.
// A warp or a block has a row; few long rows are cut in parts, joined by a second kernel. f32 inside (f64 for f64, integers as they are).
#include "cuda/reduce_join.h"

namespace rhetor::gpu {
namespace {

// grid.y: parts, of r0 where that is more than 1, else of r1.
template <ReduceKind kind, class T>
__global__ void __launch_bounds__(512) rows_kernel(std::int64_t k0, std::int64_t r0, std::int64_t r1, const T* x, Reduced<kind, T>* out,
                                                   Joined<T>* partial, Joined<T> divisor) {
  using A = Joined<T>;
  __shared__ A shared[32];
  const std::int64_t part = blockIdx.y, parts = gridDim.y;
  const bool outer = r0 > 1;
  const std::int64_t first = outer ? r0 * part / parts : 0, last = outer ? r0 * (part + 1) / parts : 1;
  const std::int64_t begin = outer ? 0 : r1 * part / parts, end = outer ? r1 : r1 * (part + 1) / parts;
  for (std::int64_t k = first_row(); k < k0; k += row_step()) {
    A sum = neutral<kind, A>();
    for (std::int64_t r = first; r < last; ++r)
      each_in_row(x + (r * k0 + k) * r1 + begin, end - begin, threadIdx.x, blockDim.x, [&](auto pack, std::int64_t) {
#pragma unroll
        for (int e = 0; e < width(pack); ++e) sum = Join<kind>{}(sum, element<kind>(pack.v[e]));
      });
    sum = block_reduce(sum, Join<kind>{}, shared, neutral<kind, A>());
    if (threadIdx.x != 0) continue;
    if (partial) partial[part * k0 + k] = sum;
    else out[k] = finished<Reduced<kind, T>>(sum, divisor);
  }
}

__device__ inline std::int64_t offset(std::int64_t i, int dims, const std::int64_t* size, const std::int64_t* stride) {
  std::int64_t at = 0;
  for (int d = dims - 1; d >= 0; --d) {
    at += i % size[d] * stride[d];
    i /= size[d];
  }
  return at;
}

// A thread has a result, or a block where `cooperate`.
template <ReduceKind kind, class T, bool cooperate>
__global__ void strided_kernel(StridedReduce p, const T* x, T* out, Joined<T> divisor) {
  using A = Joined<T>;
  __shared__ A shared[32];
  const std::int64_t start = cooperate ? blockIdx.x : static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const std::int64_t step = cooperate ? gridDim.x : static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t k = start; k < p.kept; k += step) {
    const T* from = x + offset(k, p.kept_dims, p.kept_size, p.kept_stride);
    A sum = neutral<kind, A>();
    for (std::int64_t r = cooperate ? threadIdx.x : 0; r < p.reduced; r += cooperate ? blockDim.x : 1)
      sum = Join<kind>{}(sum, element<kind>(from[offset(r, p.reduced_dims, p.reduced_size, p.reduced_stride)]));
    if (cooperate) sum = block_reduce(sum, Join<kind>{}, shared, neutral<kind, A>());
    if (!cooperate || threadIdx.x == 0) out[k] = finished<T>(sum, divisor);
  }
}

template <ReduceKind kind, class T>
void rows(const ReduceProblem& p, const T* x, void* out, void* scratch, void* to) {
  using A = Joined<T>;
  using Out = Reduced<kind, T>;
  const std::int64_t packs = p.r1 / kPack<T>;
  const dim3 team = packs <= 128 && p.parts == 1 ? dim3(32, 4) : dim3(packs <= 512 ? 128 : 512, 1);
  rows_kernel<kind><<<dim3(blocks(p.k0, team.y), p.parts), team, 0, stream(to)>>>(
      p.k0, p.r0, p.r1, x, static_cast<Out*>(out), p.parts > 1 ? static_cast<A*>(scratch) : nullptr, static_cast<A>(p.divisor));
  if (p.parts > 1)
    join_parts<Join<kind>><<<blocks(p.k0, 32), dim3(32, 32), 0, stream(to)>>>(std::int64_t{p.parts}, p.k0, p.k0, neutral<kind, A>(),
                                                                              static_cast<A>(p.divisor), static_cast<const A*>(scratch),
                                                                              static_cast<Out*>(out), static_cast<Out*>(nullptr));
}

}  // namespace

std::uint64_t reduce_scratch(const ReduceProblem& p) {
  if (p.parts == 1) return 0;
  return static_cast<std::uint64_t>(p.parts * p.k0 * p.k1) * (p.dtype == DType::f64 || p.dtype == DType::i64 ? 8 : 4);
}

unsigned reduce_runs_parts(const ReduceProblem& p, int processors) {
  const std::int64_t aim = 4 * processors;
  if (p.k0 >= aim || p.k0 == 0) return 1;
  // At least 8,192 elements a part: below, a second kernel costs more than it saves.
  return blocks(p.r0 > 1 ? (p.r0 * p.r1 < 16384 ? 1 : p.r0) : p.r1, p.r0 > 1 ? (8191 + p.r1) / (p.r1 > 0 ? p.r1 : 1) : 8192, aim / p.k0);
}

void reduce_runs(const ReduceProblem& p, const void* x, void* out, void* scratch, void* to) {
  if (p.k0 == 0) return;
  if (p.kind == ReduceKind::squares)
    with_any_float(p.dtype, [&](auto z) { rows<ReduceKind::squares>(p, static_cast<const decltype(z)*>(x), out, scratch, to); });
  else
    with_number(p.dtype, [&](auto z) {
      with_kind(p.kind, [&](auto kind) { rows<kind.value>(p, static_cast<const decltype(z)*>(x), out, scratch, to); });
    });
  launched("reduce.rows");
}

void reduce_strided(const StridedReduce& p, const void* x, void* out, void* to) {
  if (p.kept == 0) return;
  with_number(p.dtype, [&](auto z) {
    using T = decltype(z);
    with_kind(p.kind, [&](auto kind) {
      const T* from = static_cast<const T*>(x);
      T* result = static_cast<T*>(out);
      const auto divisor = static_cast<Joined<T>>(p.divisor);
      if (p.reduced >= 64)
        strided_kernel<kind.value, T, true><<<blocks(p.kept, 1), 128, 0, stream(to)>>>(p, from, result, divisor);
      else
        strided_kernel<kind.value, T, false><<<blocks(p.kept, 256), 256, 0, stream(to)>>>(p, from, result, divisor);
    });
  });
  launched("reduce");
}

}  // namespace rhetor::gpu
