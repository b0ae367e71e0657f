// c[m, n] = sum_k x[m, k] w[n, k] (or w[k, n]) for m <= 16. Memory-bound by w: every byte of it is read once, 16 a lane and copy,
// several steps ahead (small_matmul_ring.h). Matrix units do the sums (m16n8k16, m16n8k32 for int8), with x as their left
// operand, so that up to 16 rows cost the same.
//
// The order of k inside a step is free as long as x and w agree: a lane's 16 bytes of x and of w are fed to the units as they
// lie, and no shuffle is needed. The sum over k is split among the warps of a block (and for [k, n] among the blocks of a
// cluster), and the parts are added in a fixed order.
#include <cooperative_groups.h>

#include "cuda/small_matmul.h"
#include "cuda/small_matmul_ring.h"

namespace rhetor::gpu {
namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps;

// One kind of operand: its element and its instruction. Before sm_80 there is none, and the host does not ask.
struct Bf16 {
  using Element = __nv_bfloat16;
  using Sum = float;
  __device__ static void mma(float (&c)[4], std::uint32_t a0, std::uint32_t a1, std::uint32_t a2, std::uint32_t a3,
                             std::uint32_t b0, std::uint32_t b1) {
#if __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#endif
  }
};
struct F16 {
  using Element = __half;
  using Sum = float;
  __device__ static void mma(float (&c)[4], std::uint32_t a0, std::uint32_t a1, std::uint32_t a2, std::uint32_t a3,
                             std::uint32_t b0, std::uint32_t b1) {
#if __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#endif
  }
};
struct I8 {
  using Element = std::int8_t;
  using Sum = std::int32_t;
  __device__ static void mma(std::int32_t (&c)[4], std::uint32_t a0, std::uint32_t a1, std::uint32_t a2, std::uint32_t a3,
                             std::uint32_t b0, std::uint32_t b1) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#endif
  }
};

// One result: scales, epilogue, store.
__device__ inline void put(const SmallProduct& p, float sum, const float* x_scale, const float* w_scale, const Finish& f,
                           void* out, int row, std::int64_t col) {
  float v[1] = {x_scale ? sum * (x_scale[row] * w_scale[col]) : sum};
  const std::int64_t flat = row * p.n + col;
  finish<false>(f, flat, col, v);
  store_element(out, p.out, flat, v[0]);
}

// ---- w [n, k] ------------------------------------------------------------------------------------
template <int J, bool tall>
struct RowsShape {
  static constexpr int kHigh = tall ? 2 : 1, kPieces = J + kHigh, kStages = J == 1 ? 8 : 6;
  static constexpr std::size_t kShared = sizeof(uint4) * kThreads * kStages * kPieces;
};

// A block makes 8 J columns of up to 8 (tall: 16) rows; its warps take steps of 64 bytes of every row of w in turn, so that
// together they read 512 neighbouring bytes. Lane (g, t) = (lane / 4, lane % 4) reads chunk t of column g.
template <class Kind, int J, bool tall>
__global__ void __launch_bounds__(kThreads)
    rows_kernel(SmallProduct p, const typename Kind::Element* x, const typename Kind::Element* w, const float* x_scale,
                const float* w_scale, Finish f, void* out) {
  using Sum = typename Kind::Sum;
  using Shape = RowsShape<J, tall>;
  constexpr int kChunk = 16 / sizeof(typename Kind::Element), kStep = 4 * kChunk, kHigh = Shape::kHigh, kStages = Shape::kStages;
  extern __shared__ uint4 ring[];  // [stage][piece][thread]
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const std::int64_t n0 = blockIdx.x * std::int64_t(8 * J);
  const int steps = static_cast<int>(((p.k + kStep - 1) / kStep - warp + kWarps - 1) / kWarps);  // of this warp
  w += (n0 + g) * p.k;
  x += g * p.k;
  const auto slot = [&](int stage, int piece) { return ring + (stage * Shape::kPieces + piece) * kThreads + threadIdx.x; };
  const auto copy = [&](int i) {
    const std::int64_t k = (std::int64_t(i) * kWarps + warp) * kStep + t * kChunk;
    const bool wanted = i < steps && k < p.k;
#pragma unroll
    for (int j = 0; j < J; ++j) copy_async<16, true>(slot(i % kStages, j), w + 8 * j * p.k + k, wanted && n0 + 8 * j + g < p.n);
#pragma unroll
    for (int h = 0; h < kHigh; ++h)
      copy_async<16, false>(slot(i % kStages, J + h), x + 8 * h * p.k + k, wanted && g + 8 * h < p.m);
    close_group();
  };
#pragma unroll
  for (int i = 0; i < kStages - 1; ++i) copy(i);

  Sum sum[J][4] = {};
  for (int i = 0; i < steps; ++i) {
    wait_groups<kStages - 2>();
    const uint4 low = *slot(i % kStages, J), high = tall ? *slot(i % kStages, J + kHigh - 1) : uint4{};
#pragma unroll
    for (int j = 0; j < J; ++j) {
      const uint4 v = *slot(i % kStages, j);
      Kind::mma(sum[j], low.x, high.x, low.y, high.y, v.x, v.y);
      Kind::mma(sum[j], low.z, high.z, low.w, high.w, v.z, v.w);
    }
    copy(i + kStages - 1);  // into the stage read before this one
  }
  wait_groups<0>();
  __syncthreads();  // nobody's copies are on their way: the ring now holds the warps' sums

  auto* parts = reinterpret_cast<Sum*>(ring);  // [warp][column / 8][lane][register]
#pragma unroll
  for (int j = 0; j < J; ++j)
#pragma unroll
    for (int r = 0; r < 4; ++r) parts[((warp * J + j) * 32 + lane) * 4 + r] = sum[j][r];
  __syncthreads();
  for (int i = threadIdx.x; i < 8 * kHigh * 8 * J; i += kThreads) {
    const int row = i / (8 * J), col = i % (8 * J), from = row % 8 * 4 + col % 8 / 2, r = row / 8 * 2 + col % 2;
    if (row >= p.m || n0 + col >= p.n) continue;
    Sum total = 0;
#pragma unroll
    for (int v = 0; v < kWarps; ++v) total += parts[((v * J + col / 8) * 32 + from) * 4 + r];
    put(p, static_cast<float>(total), x_scale, w_scale, f, out, row, n0 + col);
  }
}

// ---- w [k, n] ------------------------------------------------------------------------------------
template <bool tall>
struct ColsShape {
  static constexpr int kHigh = tall ? 2 : 1, kStages = 4;
  static constexpr std::size_t kShared = kThreads * kStages * (4 * sizeof(uint4) + kHigh * sizeof(uint2));
};

// A warp's step is 16 k by 64 columns: lane (g, t) reads columns 8 g ... 8 g + 7 of the rows 4 t ... 4 t + 3, 128 neighbouring
// bytes a row. Unit j multiplies the columns {8 g + j}: the halves of two rows make a register of its right operand.
template <class Kind, bool tall>
__global__ void __launch_bounds__(kThreads)
    cols_kernel(SmallProduct p, const typename Kind::Element* x, const typename Kind::Element* w, Finish f, void* out) {
  using Shape = ColsShape<tall>;
  constexpr int kHigh = Shape::kHigh, kCols = 64, kDepth = 16, kRows = 8 * kHigh, kStages = Shape::kStages;
  extern __shared__ uint4 ring[];  // [stage][row of 4 t ...][thread], then x as uint2 [stage][high][thread]
  auto* x_ring = reinterpret_cast<uint2*>(ring + kStages * 4 * kThreads);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const int split = gridDim.y, part = blockIdx.y, first = part * kWarps + warp, stride = split * kWarps;
  const std::int64_t n0 = blockIdx.x * std::int64_t(kCols);
  const int steps = static_cast<int>(((p.k + kDepth - 1) / kDepth - first + stride - 1) / stride);  // of this warp; may be 0
  w += n0 + 8 * g;
  x += g * p.k;
  const auto slot = [&](int stage, int i) { return ring + (stage * 4 + i) * kThreads + threadIdx.x; };
  const auto x_slot = [&](int stage, int h) { return x_ring + (stage * kHigh + h) * kThreads + threadIdx.x; };
  const auto copy = [&](int i) {
    const std::int64_t k =
        (std::int64_t(i) * stride + first) * kDepth + 4 * t;  // a multiple of 4, as p.k: four rows are there, or none
    const bool wanted = i < steps && k < p.k;
#pragma unroll
    for (int r = 0; r < 4; ++r) copy_async<16, true>(slot(i % kStages, r), w + (k + r) * p.n, wanted && n0 + 8 * g < p.n);
#pragma unroll
    for (int h = 0; h < kHigh; ++h) copy_async<8, false>(x_slot(i % kStages, h), x + 8 * h * p.k + k, wanted && g + 8 * h < p.m);
    close_group();
  };
#pragma unroll
  for (int i = 0; i < kStages - 1; ++i) copy(i);

  float sum[8][4] = {};
  for (int i = 0; i < steps; ++i) {
    wait_groups<kStages - 2>();
    const uint2 low = *x_slot(i % kStages, 0), high = tall ? *x_slot(i % kStages, kHigh - 1) : uint2{};
    uint4 v[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) v[r] = *slot(i % kStages, r);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      std::uint32_t word[4];
#pragma unroll
      for (int r = 0; r < 4; ++r) word[r] = j / 2 == 0 ? v[r].x : j / 2 == 1 ? v[r].y : j / 2 == 2 ? v[r].z : v[r].w;
      const std::uint32_t halves = j % 2 ? 0x7632u : 0x5410u;
      Kind::mma(sum[j], low.x, high.x, low.y, high.y, __byte_perm(word[0], word[1], halves),
                __byte_perm(word[2], word[3], halves));
    }
    copy(i + kStages - 1);  // into the stage read before this one
  }
  wait_groups<0>();
  __syncthreads();  // nobody's copies are on their way: the ring now holds the warps' sums

  auto* parts = reinterpret_cast<float*>(ring);  // [warp][row][column]
  __shared__ float totals[kRows * kCols];
#pragma unroll
  for (int j = 0; j < 8; ++j)
#pragma unroll
    for (int r = 0; r < 2 * kHigh; ++r) {  // register r: row g + 8 (r / 2), column 2 t + r % 2 of unit j
      const int row = g + r / 2 * 8, col = 8 * (2 * t + r % 2) + j;
      parts[(warp * kRows + row) * kCols + col] = sum[j][r];
    }
  __syncthreads();
  for (int i = threadIdx.x; i < kRows * kCols; i += kThreads) {
    float total = 0;
#pragma unroll
    for (int v = 0; v < kWarps; ++v) total += parts[v * kRows * kCols + i];
    totals[i] = total;
  }
#if __CUDA_ARCH__ >= 900
  if (split > 1) {  // each block of the cluster finishes its share of the results, adding the others' parts in their order
    const auto cluster = cooperative_groups::this_cluster();
    cluster.sync();
    const int share = kRows * kCols / split;  // split is a power of two
    for (int i = part * share + threadIdx.x; i < (part + 1) * share; i += kThreads) {
      const int row = i / kCols, col = i % kCols;
      if (row >= p.m || n0 + col >= p.n) continue;
      float total = 0;
      for (int other = 0; other < split; ++other) total += *cluster.map_shared_rank(totals + i, other);
      put(p, total, nullptr, nullptr, f, out, row, n0 + col);
    }
    cluster.sync();  // nobody leaves while its parts are read
    return;
  }
#endif
  __syncthreads();
  for (int i = threadIdx.x; i < kRows * kCols; i += kThreads)
    if (i / kCols < p.m && n0 + i % kCols < p.n) put(p, totals[i], nullptr, nullptr, f, out, i / kCols, n0 + i % kCols);
}

template <class Kind, int J, bool tall>
void launch_rows(const SmallProduct& p, const void* x, const void* w, const float* x_scale, const float* w_scale, const Finish& f,
                 void* out, void* handle) {
  using T = typename Kind::Element;
  launch_shared(rows_kernel<Kind, J, tall>, dim3(static_cast<unsigned>((p.n + 8 * J - 1) / (8 * J))), 1, kThreads,
                RowsShape<J, tall>::kShared, handle, p, static_cast<const T*>(x), static_cast<const T*>(w), x_scale, w_scale, f,
                out);
}

template <class Kind, bool tall>
void launch_cols(const SmallProduct& p, const void* x, const void* w, const Finish& f, void* out, void* handle) {
  using T = typename Kind::Element;
  const std::int64_t tiles = (p.n + 63) / 64, steps = (p.k + 15) / 16;
  unsigned split = 1;  // until there is a block for every processor, or a warp has but a step or two
  while (p.clusters && split < 8 && tiles * split < p.processors && steps >= 2 * static_cast<std::int64_t>(split) * kWarps)
    split *= 2;
  launch_shared(cols_kernel<Kind, tall>, dim3(static_cast<unsigned>(tiles), split), split, kThreads, ColsShape<tall>::kShared,
                handle, p, static_cast<const T*>(x), static_cast<const T*>(w), f, out);
}

}  // namespace

void small_matmul_rows(const SmallProduct& p, const void* x, const void* w, const float* x_scale, const float* w_scale,
                       const Finish& f, void* out, void* handle) {
  // 16 columns a block where that still gives every processor two blocks: x is then read half as often.
  const bool wide = p.n / 16 >= 2 * p.processors;
  const auto run = [&](auto kind) {
    using Kind = decltype(kind);
    const auto go = p.m > 8 ? (wide ? launch_rows<Kind, 2, true> : launch_rows<Kind, 1, true>)
                            : (wide ? launch_rows<Kind, 2, false> : launch_rows<Kind, 1, false>);
    go(p, x, w, x_scale, w_scale, f, out, handle);
  };
  if (p.in == DType::i8)
    run(I8{});
  else if (p.in == DType::f16)
    run(F16{});
  else
    run(Bf16{});
}

void small_matmul_cols(const SmallProduct& p, const void* x, const void* w, const Finish& f, void* out, void* handle) {
  if (p.in == DType::f16)
    (p.m > 8 ? launch_cols<F16, true> : launch_cols<F16, false>)(p, x, w, f, out, handle);
  else
    (p.m > 8 ? launch_cols<Bf16, true> : launch_cols<Bf16, false>)(p, x, w, f, out, handle);
}

}  // namespace rhetor::gpu
