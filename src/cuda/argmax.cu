// argmax along the middle dim of [outer, size, inner]. Memory-bound: 1 read. A warp or a block has a contiguous line, a thread a strided one.
#include "cuda/reduce_join.h"

namespace rhetor::gpu {
namespace {

constexpr int kNowhere = 0x7fffffff;

// Is a above b, where NaN is below everything?
template <class A>
__device__ inline bool above(A a, A b) {
  return a > b || (b != b && a == a);
}

template <class A>
struct Best {
  A value;
  int at;
  // Equal ones (two NaN too): the first.
  __device__ void take(A other, int where) {
    if (above(other, value) || (where < at && !above(value, other))) {
      value = other;
      at = where;
    }
  }
  __device__ void join_warp() {
#pragma unroll
    for (int d = 16; d > 0; d >>= 1) {
      const A other = __shfl_xor_sync(0xffffffffu, value, d);
      take(other, __shfl_xor_sync(0xffffffffu, at, d));
    }
  }
};
// Below everything: NaN, or the least integer; at nowhere, so that whatever equals it comes first.
template <class A>
__device__ inline Best<A> nothing() {
  if constexpr (std::is_integral_v<A>) return {neutral<ReduceKind::max, A>(), kNowhere};
  else return {static_cast<A>(nan("")), kNowhere};
}

template <class T>
__global__ void rows_kernel(std::int64_t rows, std::int64_t size, const T* x, std::int32_t* out) {
  using A = Joined<T>;
  __shared__ A values[32];
  __shared__ int places[32];
  const int warps = blockDim.x / 32, lane = threadIdx.x % 32;
  for (std::int64_t row = first_row(); row < rows; row += row_step()) {
    Best<A> best = nothing<A>();
    each_in_row(x + row * size, size, threadIdx.x, blockDim.x, [&](auto pack, std::int64_t at) {
#pragma unroll
      for (int e = 0; e < width(pack); ++e) best.take(element<ReduceKind::max>(pack.v[e]), static_cast<int>(at) + e);
    });
    best.join_warp();
    if (warps > 1) {
      __syncthreads();   // the row before may still be read
      if (lane == 0) {
        values[threadIdx.x / 32] = best.value;
        places[threadIdx.x / 32] = best.at;
      }
      __syncthreads();
      best = nothing<A>();
      if (lane < warps) best = {values[lane], places[lane]};
      best.join_warp();
    }
    if (threadIdx.x == 0) out[row] = best.at;
  }
}

template <class T>
__global__ void lines_kernel(std::int64_t lines, std::int64_t size, std::int64_t inner, const T* x, std::int32_t* out) {
  const std::int64_t line = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (line >= lines) return;
  const T* from = x + line / inner * size * inner + line % inner;
  Best<Joined<T>> best{element<ReduceKind::max>(from[0]), 0};
  for (std::int64_t i = 1; i < size; ++i) best.take(element<ReduceKind::max>(from[i * inner]), static_cast<int>(i));
  out[line] = best.at;
}

}  // namespace

void argmax(const ArgmaxProblem& p, const void* x, void* out, void* to) {
  const std::int64_t lines = p.outer * p.inner;
  if (lines == 0) return;
  with_number(p.dtype, [&](auto z) {
    using T = decltype(z);
    const auto* from = static_cast<const T*>(x);
    auto* result = static_cast<std::int32_t*>(out);
    if (p.inner == 1) {
      const std::int64_t packs = p.size / kPack<T>;
      const dim3 team = packs <= 128 ? dim3(32, 4) : dim3(packs <= 1024 ? 128 : 512, 1);
      rows_kernel<<<blocks(lines, team.y), team, 0, stream(to)>>>(lines, p.size, from, result);
    } else {
      lines_kernel<<<blocks(lines, 128, 1 << 30), 128, 0, stream(to)>>>(lines, p.size, p.inner, from, result);
    }
  });
  launched("argmax");
}

}  // namespace rhetor::gpu
