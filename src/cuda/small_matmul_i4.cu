// c[m, n] = sum over groups g of 32 of x_scale[m, g] w_scale[n, g] sum_{k in g} x[m, k] w[n, k] for m <= 16, w two to a byte.
// Memory-bound by w: a lane reads the 16 bytes of one group of each of its columns. Sums of a group by dp4a: of a word's eight
// weights the low nibbles are the even k, the high ones the odd, and x is parted alike once for all columns. Weights stand 8
// above their value: 8 sum x is taken off.
#include "cuda/small_matmul.h"
#include "cuda/small_matmul_ring.h"

namespace rhetor::gpu {
namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps, kColumns = 4, kStages = 4;  // columns a lane
constexpr std::size_t kShared = sizeof(uint4) * kThreads * kColumns * kStages;

__device__ inline int dot4(std::uint32_t a, std::uint32_t b, int c) {
  return __dp4a(static_cast<int>(a), static_cast<int>(b), c);
}

// Lane (g, t) = (lane / 4, lane % 4): columns g, g + 8, ... of the block's 32, and group t of a step of four.
template <int M>
__global__ void __launch_bounds__(kThreads) i4_kernel(SmallProduct p, const std::int8_t* x, const float* x_scale,
                                                      const std::uint8_t* w, const __half* w_scale, Finish f, void* out) {
  constexpr int kBlock = 8 * kColumns;
  extern __shared__ uint4 ring[];  // [stage][column][thread]
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const std::int64_t n0 = blockIdx.x * std::int64_t(kBlock), groups = p.k / 32;
  const int first = warp * 4 + t, steps = static_cast<int>((groups - warp * 4 + kWarps * 4 - 1) / (kWarps * 4));  // of this warp
  const auto slot = [&](int stage, int j) { return ring + (stage * kColumns + j) * kThreads + threadIdx.x; };
  const auto copy = [&](int i) {
    const std::int64_t group = std::int64_t(i) * kWarps * 4 + first;
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      const std::int64_t n = n0 + g + 8 * j;
      copy_async<16, true>(slot(i % kStages, j), w + (n * groups + group) * 16, i < steps && group < groups && n < p.n);
    }
    close_group();
  };
#pragma unroll
  for (int i = 0; i < kStages - 1; ++i) copy(i);

  float sum[M][kColumns] = {};
  for (int i = 0; i < steps; ++i) {
    const std::int64_t group = std::int64_t(i) * kWarps * 4 + first;
    const bool there = group < groups;
    float scale[kColumns];
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      const std::int64_t n = n0 + g + 8 * j;
      scale[j] = there && n < p.n ? __half2float(w_scale[n * groups + group]) : 0.0f;
    }
    wait_groups<kStages - 2>();
    uint4 q[kColumns];
#pragma unroll
    for (int j = 0; j < kColumns; ++j) q[j] = *slot(i % kStages, j);
#pragma unroll
    for (int m = 0; m < M; ++m) {
      if (m >= p.m || !there) break;
      const auto* row = reinterpret_cast<const uint4*>(x + m * p.k + group * 32);
      const uint4 a = row[0], b = row[1];
      const std::uint32_t words[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
      std::uint32_t even[4], odd[4];
      int shift = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        even[i] = __byte_perm(words[2 * i], words[2 * i + 1], 0x6420);
        odd[i] = __byte_perm(words[2 * i], words[2 * i + 1], 0x7531);
        shift = dot4(even[i], 0x01010101u, dot4(odd[i], 0x01010101u, shift));
      }
      const float factor = x_scale[m * groups + group];
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        const std::uint32_t codes[4] = {q[j].x, q[j].y, q[j].z, q[j].w};
        int dot = -8 * shift;
#pragma unroll
        for (int i = 0; i < 4; ++i) dot = dot4(codes[i] & 0x0f0f0f0fu, even[i], dot4(codes[i] >> 4 & 0x0f0f0f0fu, odd[i], dot));
        sum[m][j] = fmaf(factor * scale[j], static_cast<float>(dot), sum[m][j]);
      }
    }
    copy(i + kStages - 1);  // into the stage read before this one
  }
  wait_groups<0>();
  __syncthreads();  // nobody's copies are on their way: the ring now holds the warps' sums

  auto* parts = reinterpret_cast<float*>(ring);  // [warp][row][column]
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      float s = sum[m][j];
      s += __shfl_xor_sync(0xffffffffu, s, 1);
      s += __shfl_xor_sync(0xffffffffu, s, 2);
      if (t == 0) parts[(warp * M + m) * kBlock + g + 8 * j] = s;
    }
  __syncthreads();
  for (int i = threadIdx.x; i < M * kBlock; i += kThreads) {
    const int row = i / kBlock;
    const std::int64_t col = n0 + i % kBlock;
    if (row >= p.m || col >= p.n) continue;
    float v[1] = {0};
#pragma unroll
    for (int one = 0; one < kWarps; ++one) v[0] += parts[(one * M + row) * kBlock + i % kBlock];
    const std::int64_t flat = row * p.n + col;
    finish<false>(f, flat, col, v);
    store_element(out, p.out, flat, v[0]);
  }
}

}  // namespace

void small_matmul_i4(const SmallProduct& p, const void* x, const void* x_scale, const void* w, const void* w_scale,
                     const Finish& f, void* out, void* handle) {
  const auto run = [&](auto kernel) {
    launch_shared(kernel, dim3(static_cast<unsigned>((p.n + 31) / 32)), 1, kThreads, kShared, handle, p,
                  static_cast<const std::int8_t*>(x), static_cast<const float*>(x_scale), static_cast<const std::uint8_t*>(w),
                  static_cast<const __half*>(w_scale), f, out);
  };
  if (p.m <= 1)
    run(i4_kernel<1>);
  else if (p.m <= 4)
    run(i4_kernel<4>);
  else if (p.m <= 8)
    run(i4_kernel<8>);
  else
    run(i4_kernel<16>);
}

}  // namespace rhetor::gpu
