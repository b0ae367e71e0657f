// Few rows times weights [n, k]: memory-bound by the weights, all of them read once. What one such kernel costs beyond that is its
// beginning and its end, when no weights are on their way; so it begins early (launch_early()) and fills its rings of copies with
// weights while the kernel before still runs, and only then waits for x. A step's kernels overlap, and the memory never rests.
//
// The rows of x lie in shared memory, normalised there if a norm comes before. The matrix units' operands are laid out as in
// small_matmul.cu: lane (g, t) holds chunk t of column g, and of row g of x.
#include "cuda/small_matmul_ring.h"
#include "cuda/small_matmul_stream.h"

namespace rhetor::gpu {
namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps, kChunk = 8, kStep = 4 * kChunk, kKept = 2;

__device__ inline void multiply(__nv_bfloat16, float (&c)[4], std::uint32_t a0, std::uint32_t a2, std::uint32_t b0, std::uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %5}, {%7, %8}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a0), "r"(0), "r"(a2), "r"(b0), "r"(b1));
#endif
}
__device__ inline void multiply(__half, float (&c)[4], std::uint32_t a0, std::uint32_t a2, std::uint32_t b0, std::uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %5}, {%7, %8}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a0), "r"(0), "r"(a2), "r"(b0), "r"(b1));
#endif
}

template <int J>
constexpr int stages() { return J == 1 ? 12 : 7; }
// Elements from a row of x in shared memory to the next: an odd number of 64 bytes, so that two rows' chunks lie in different banks.
__host__ __device__ inline int x_row(std::int64_t k) { return static_cast<int>((k + kStep - 1) / kStep / 2 * 2 + 1) * kStep; }
template <int J>
std::size_t shared_bytes(const StreamProduct& p) {
  return sizeof(uint4) * kThreads * stages<J>() * J + static_cast<std::size_t>(p.m) * static_cast<std::size_t>(x_row(p.k)) * 2;
}

// A block makes 8 J columns of one part, or, gated, the same 8 columns of both parts (J = 2).
template <class T, int J>
__global__ void __launch_bounds__(kThreads, 2) stream_kernel(StreamProduct p) {
  constexpr int kStages = stages<J>();
  extern __shared__ uint4 ring[];  // [stage][J][thread], then x [m][x_row]
  __shared__ float reduced[32];
  T* rows = reinterpret_cast<T*>(ring + kStages * J * kThreads);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4, row_step = x_row(p.k);
  int part = 0;
  std::int64_t tile = blockIdx.x;
  if (!p.gated) {
#pragma unroll
    for (int i = 0; i + 1 < kStreamParts; ++i) {
      const std::int64_t tiles = (p.n[i] + 8 * J - 1) / (8 * J);
      if (part != i || i + 1 >= p.parts || tile < tiles) continue;
      tile -= tiles;
      part = i + 1;
    }
  }
  const std::int64_t n = p.n[part], n0 = tile * (p.gated ? 8 : 8 * J);
  const T* from[J];
  bool there[J];
#pragma unroll
  for (int j = 0; j < J; ++j) {
    const std::int64_t column = n0 + g + (p.gated ? 0 : 8 * j);
    from[j] = static_cast<const T*>(p.w[p.gated ? j : part]) + column * p.k;
    there[j] = column < n;
  }
  const int steps = static_cast<int>(((p.k + kStep - 1) / kStep - warp + kWarps - 1) / kWarps);  // of this warp
  const auto slot = [&](int stage, int j) { return ring + (stage * J + j) * kThreads + threadIdx.x; };
  const auto place = [&](int i) { return (std::int64_t(i) * kWarps + warp) * kStep + t * kChunk; };
  const auto copy = [&](int i) {
    const std::int64_t k = place(i);
    const bool wanted = i < steps && k < p.k;
#pragma unroll
    for (int j = 0; j < J; ++j) copy_async<16, true>(slot(i % kStages, j), from[j] + k, wanted && there[j]);
    close_group();
  };
  const auto begin = [&] {
#pragma unroll
    for (int i = 0; i < kStages - 1; ++i) copy(i);
  };
  const int packs = static_cast<int>(p.k / 8);
  float gamma[kKept][8];
  const auto scales = [&](int c, float (&to)[8]) { elements(p.gamma, p.gamma_dtype, c * std::int64_t(8), to); };
  if (p.early) {
    begin();
    if (p.gamma) {
#pragma unroll
      for (int i = 0; i < kKept; ++i)
        if (const int c = threadIdx.x + i * kThreads; c < packs) scales(c, gamma[i]);
    }
  }
  let_next_begin();
  wait_for_previous();
  if (!p.early) begin();

  // The result of this thread, if it makes one, and what is added to it.
  const int columns = p.gated ? 8 : 8 * J, row = threadIdx.x / columns, col = threadIdx.x % columns;
  const bool mine = row < p.m && n0 + col < n;
  const std::int64_t flat = row * n + n0 + col;
  const float residual = mine && p.finish.residual ? element(p.finish.residual, p.finish.residual_dtype, flat) : 0.0f;

  for (int r = 0; r < p.m; ++r) {
    const T* x = static_cast<const T*>(p.x) + r * p.k;
    T* to = rows + r * row_step;
    float squares = 0;
    for (int c = threadIdx.x; c < packs; c += kThreads) {
      const auto v = *reinterpret_cast<const Pack<T, 8>*>(x + c * 8);
      *reinterpret_cast<Pack<T, 8>*>(to + c * 8) = v;
#pragma unroll
      for (int e = 0; e < 8; ++e) squares = fmaf(widen(v.v[e]), widen(v.v[e]), squares);
    }
    if (!p.gamma) continue;
    const float mean = block_reduce(squares, Add{}, reduced, 0.0f) / static_cast<float>(p.k), rstd = 1 / sqrtf(mean + p.eps);
    const auto scale = [&](int c, const float (&by)[8]) {  // what this thread wrote itself
      auto v = *reinterpret_cast<const Pack<T, 8>*>(to + c * 8);
#pragma unroll
      for (int e = 0; e < 8; ++e) v.v[e] = narrow<T>(widen(v.v[e]) * rstd * by[e]);
      *reinterpret_cast<Pack<T, 8>*>(to + c * 8) = v;
    };
    int c = threadIdx.x;
    if (p.early) {
#pragma unroll
      for (int i = 0; i < kKept; ++i, c += kThreads)
        if (c < packs) scale(c, gamma[i]);
    }
    for (; c < packs; c += kThreads) {
      float by[8];
      scales(c, by);
      scale(c, by);
    }
  }
  __syncthreads();

  float sum[J][4] = {};
  for (int i = 0; i < steps; ++i) {
    wait_groups<kStages - 2>();
    const std::int64_t k = place(i);
    const uint4 a = g < p.m && k < p.k ? *reinterpret_cast<const uint4*>(rows + g * row_step + k) : uint4{};
#pragma unroll
    for (int j = 0; j < J; ++j) {
      const uint4 v = *slot(i % kStages, j);
      multiply(T{}, sum[j], a.x, a.y, v.x, v.y);
      multiply(T{}, sum[j], a.z, a.w, v.z, v.w);
    }
    copy(i + kStages - 1);  // into the stage read before this one
  }
  wait_groups<0>();
  __syncthreads();  // nobody's copies are on their way: the ring now holds the warps' sums

  auto* parts = reinterpret_cast<float2*>(ring);  // [warp][j][lane]: row g, columns 2 t and 2 t + 1
#pragma unroll
  for (int j = 0; j < J; ++j) parts[(warp * J + j) * 32 + lane] = {sum[j][0], sum[j][1]};
  __syncthreads();
  if (!mine) return;
  const auto total = [&](int j, int c) {
    const auto* at = reinterpret_cast<const float*>(parts + j * 32 + row * 4) + c;
    float s = 0;
#pragma unroll
    for (int v = 0; v < kWarps; ++v) s += at[v * J * 64];
    return s;
  };
  float value[1];
  if (p.gated) {
    value[0] = activate<false>(p.gate, total(0, col)) * total(J - 1, col);
  } else {
    value[0] = total(col / 8, col % 8);
    Finish f = p.finish;
    f.residual = nullptr;
    finish<false>(f, flat, n0 + col, value);
    value[0] += residual;
  }
  store_element(p.out[part], p.out_dtype, flat, value[0]);
}

template <class T, int J>
void start(const StreamProduct& p, void* handle) {
  std::int64_t tiles = 0;
  const std::int64_t width = p.gated ? 8 : 8 * J;
  for (int i = 0; i < (p.gated ? 1 : p.parts); ++i) tiles += (p.n[i] + width - 1) / width;
  launch_early(stream_kernel<T, J>, p.overlaps, dim3(static_cast<unsigned>(tiles)), 1, kThreads, shared_bytes<J>(p), handle, p);
}

}  // namespace

const char* refuse_stream(const StreamProduct& p) {
  if (p.in != DType::bf16 && p.in != DType::f16) return "made for bf16 and f16";
  if (p.out_dtype != DType::f32 && p.out_dtype != DType::bf16 && p.out_dtype != DType::f16) return "writes f32, bf16 and f16";
  if (p.m < 1 || p.m > kStreamRows) return "has not from 1 to 8 rows";
  if (p.k < 8 || p.k % 8 != 0) return "k is not a multiple of 8";
  if (p.m * x_row(p.k) * 2 > kStreamBytes) return "the rows of x are too long for shared memory";
  for (int i = 0; i < p.parts; ++i)
    if (p.n[i] < 1) return "a weight is empty";
  return "";
}

void stream_matmul(const StreamProduct& p, void* handle) {
  std::int64_t n = 0;
  for (int i = 0; i < p.parts; ++i) n += p.n[i];
  const bool wide = p.gated || n / 16 >= 2 * p.processors;  // 16 columns a block, where that leaves two blocks for each processor
  if (p.in == DType::f16) (wide ? start<__half, 2> : start<__half, 1>)(p, handle);
  else (wide ? start<__nv_bfloat16, 2> : start<__nv_bfloat16, 1>)(p, handle);
}

}  // namespace rhetor::gpu
