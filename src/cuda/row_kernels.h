// What the kernels that work on rows share (norms, softmax, losses, reductions): who has which part of a row, and reading one that may
// start at any address.
//
// A team of whole warps has a row: a warp where a block has several rows (blockDim = (32, teams)), else the whole block. Short rows stay in
// registers, `vectors` packs of 16 bytes a thread; longer or unaligned ones are streamed.
#pragma once

#include <type_traits>

#include "cuda/launch.h"

namespace rhetor::gpu {

constexpr int kMostTeamThreads = 512;   // leaves a thread 128 registers
constexpr int kMostVectors = 8;

struct Team {
  int threads = 32, teams = 1, vectors = 1;
};
// Teams for `rows` rows of `packs` packs; `vectors` a thread at most where one warp can have a row. Few rows are spread over many threads:
// then latency counts. vectors > kMostVectors: the row does not fit in registers.
inline Team plan_team(std::int64_t rows, std::int64_t packs, int vectors) {
  const std::int64_t aim = rows < 512 ? 1 : vectors;
  Team team;
  if (packs <= 32 * aim) {
    team.teams = rows < 512 ? 1 : 4;
  } else {
    const std::int64_t wanted = ((packs + aim - 1) / aim + 31) / 32 * 32;
    team.threads = static_cast<int>(wanted < kMostTeamThreads ? wanted : kMostTeamThreads);
  }
  const std::int64_t each = (packs + team.threads - 1) / team.threads;
  while (team.vectors < each && team.vectors <= kMostVectors) team.vectors *= 2;
  return team;
}
// A block's threads for a streamed row of that many packs.
inline int stream_threads(std::int64_t packs) { return packs <= 32 ? 32 : packs <= 512 ? 128 : 512; }

// Elements in 16 bytes.
template <class T> constexpr int kPack = 16 / static_cast<int>(sizeof(T));
inline std::int64_t pack_of(DType dtype) { return static_cast<std::int64_t>(16 / byte_size(dtype)); }

// Calls f with std::integral_constant<int, V> for V = 1, 2, 4, 8.
template <class F>
void with_vectors(int vectors, F&& f) {
  if (vectors == 1) f(std::integral_constant<int, 1>{});
  else if (vectors == 2) f(std::integral_constant<int, 2>{});
  else if (vectors == 4) f(std::integral_constant<int, 4>{});
  else f(std::integral_constant<int, 8>{});
}
template <class F>
void with_bool(bool value, F&& f) {
  if (value) f(std::true_type{});
  else f(std::false_type{});
}

#ifdef __CUDACC__
// What sums of T are kept in.
template <class T>
using Sum = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class T, class A>
__device__ inline T narrowed(A x) {
  if constexpr (std::is_same_v<T, A> || std::is_integral_v<T>) return x;
  else return narrow<T>(static_cast<float>(x));
}

// exp of a number that is at most a little above 0. Narrow results round away far more than the approximation's error.
template <class T, class A>
__device__ inline A exp_for(A x) {
  if constexpr (sizeof(T) == 2) {   // without the cases that __expf has for results below 2^-126
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.4426950408889634f));
    return y;
  } else {
    return exp(x);
  }
}
template <class A>
__device__ inline A lowest() {
  return std::is_same_v<A, double> ? static_cast<A>(-1.7976931348623157e308) : static_cast<A>(-3.4028234663852886e38f);
}

template <class T>
__device__ inline Pack<T, kPack<T>> load_pack(const T* p) {
  return *reinterpret_cast<const Pack<T, kPack<T>>*>(p);
}
template <class T, int W>
__device__ constexpr int width(const Pack<T, W>&) {
  return W;
}
// To global memory, 16 bytes by one instruction: compilers split such a store when the pack was made element by element.
template <class T, int W>
__device__ inline void store_at(T* p, const Pack<T, W>& v) {
  if constexpr (sizeof(v) == 16) {
    uint4 bits;
    memcpy(&bits, &v, sizeof(bits));
    __stwb(reinterpret_cast<uint4*>(p), bits);
  } else {
    *reinterpret_cast<Pack<T, W>*>(p) = v;
  }
}
template <class T>
__device__ inline void store_pack(T* p, const Pack<T, kPack<T>>& v) {
  store_at(p, v);
}

// The rows of a thread's team: for (row = first_row(); row < rows; row += row_step()).
__device__ inline std::int64_t first_row() { return static_cast<std::int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; }
__device__ inline std::int64_t row_step() { return static_cast<std::int64_t>(gridDim.x) * blockDim.y; }

// Elements in front of the first address at or after p that is a multiple of 16, at most n.
template <class T>
__device__ inline int misaligned(const T* p, std::int64_t n) {
  const int head = static_cast<int>((16 - (reinterpret_cast<std::uintptr_t>(p) & 15)) & 15) / static_cast<int>(sizeof(T));
  return n < head ? static_cast<int>(n) : head;
}

// Calls f(pack, index of its first element) for this thread's part of x[0, n): packs of 16 bytes between single elements up to the first
// aligned address and after the last whole pack. Four packs are loaded before the first is used. Needs more threads than a pack has elements;
// the part depends on x's address modulo 16, n and the threads alone.
template <class T, class F>
__device__ inline void each_in_row(const T* x, std::int64_t n, int thread, int threads, F f) {
  constexpr int W = kPack<T>, kAhead = 4;
  const int head = misaligned(x, n);
  if (thread < head) f(Pack<T, 1>{{x[thread]}}, std::int64_t{thread});
  const std::int64_t packs = (n - head) / W;
  std::int64_t i = thread;
  for (; i + (kAhead - 1) * threads < packs; i += kAhead * threads) {
    Pack<T, W> ahead[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) ahead[j] = load_pack(x + head + (i + j * threads) * W);
#pragma unroll
    for (int j = 0; j < kAhead; ++j) f(ahead[j], head + (i + j * threads) * W);
  }
  for (; i < packs; i += threads) f(load_pack(x + head + i * W), head + i * W);
  const std::int64_t last = head + packs * W + thread;
  if (last < n) f(Pack<T, 1>{{x[last]}}, last);
}

// Both sums over the team; `shared` holds 64 values.
template <class A>
__device__ inline void team_sums(A& a, A& b, A* shared) {
  a = warp_reduce(a, Add{});
  b = warp_reduce(b, Add{});
  const int warps = blockDim.x / 32, lane = threadIdx.x % 32;
  if (warps == 1) return;
  __syncthreads();   // `shared` may still be read from the row before
  if (lane == 0) {
    shared[threadIdx.x / 32] = a;
    shared[32 + threadIdx.x / 32] = b;
  }
  __syncthreads();
  a = warp_reduce(lane < warps ? shared[lane] : A(0), Add{});
  b = warp_reduce(lane < warps ? shared[32 + lane] : A(0), Add{});
}

// Running maximum and sum of exponentials, in one pass. The maximum starts at the lowest number, not at -inf: then leading -inf add nothing.
template <class T>
struct LogSum {
  using A = Sum<T>;
  A top = lowest<A>(), sum = 0;
  template <int W>
  __device__ void add(const Pack<T, W>& pack) {
    A greatest = widen(pack.v[0]);
#pragma unroll
    for (int e = 1; e < W; ++e) greatest = fmax(greatest, A(widen(pack.v[e])));
    if (greatest > top) {
      sum *= exp_for<T>(top - greatest);
      top = greatest;
    }
#pragma unroll
    for (int e = 0; e < W; ++e) sum += exp_for<T>(widen(pack.v[e]) - top);
  }
  // Over the team; `shared` holds 32 values.
  __device__ void join(A* shared) {
    const A all = block_reduce(top, Max{}, shared, lowest<A>());
    sum = block_reduce(sum * exp_for<T>(top - all), Add{}, shared, A(0));
    top = all;
  }
};

// The second of two stages: out[c] = partial[0][c] op partial[1][c] op ..., over `divisor`, in a fixed order. Columns from `cols` on go to
// `second`; a null place is skipped. blockDim = (32, 32): 32 columns, each thread every 32nd part.
template <class Op, class A, class Out>
__global__ void join_parts(std::int64_t parts, std::int64_t cols, std::int64_t all, A neutral, A divisor, const A* partial, Out* first,
                           Out* second) {
  __shared__ A shared[32][33];
  const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * 32 + threadIdx.x;
  A sum = neutral;
  if (c < all) {
#pragma unroll 4
    for (std::int64_t part = threadIdx.y; part < parts; part += 32) sum = Op{}(sum, partial[part * all + c]);
  }
  shared[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  sum = warp_reduce(shared[threadIdx.x][threadIdx.y], Op{});   // transposed: a warp has a column
  const std::int64_t mine = static_cast<std::int64_t>(blockIdx.x) * 32 + threadIdx.y;
  if (threadIdx.x != 0 || mine >= all) return;
  Out* to = mine < cols ? first : second;
  if (to) to[mine < cols ? mine : mine - cols] = narrowed<Out>(static_cast<A>(sum / divisor));
}
#endif

}  // namespace rhetor::gpu
