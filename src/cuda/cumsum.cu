// out[o, i, b] = sum over j <= i (reverse: j >= i) of x[o, j, b]; floats in f32 (f64 in f64), integers modulo 2^64.
// Memory-bound: one read, one write.
#include "cuda/cumsum.h"

#include "cuda/launch.h"

namespace rhetor::gpu {
namespace {

constexpr int kThreads = 256, kEach = 4;

// A thread for every (o, b): neighbours read neighbouring b.
template <class T, class Sum, class Widen, class Narrow>
__global__ void __launch_bounds__(kThreads) columns_kernel(CumsumProblem p, const T* __restrict__ x, T* __restrict__ out, Widen wide, Narrow small) {
  const std::int64_t columns = p.outer * p.inner, step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; c < columns; c += step) {
    const std::int64_t first = c / p.inner * p.size * p.inner + c % p.inner;
    Sum sum{};
    for (std::int64_t i = 0; i < p.size; ++i) {
      const std::int64_t at = first + (p.reverse ? p.size - 1 - i : i) * p.inner;
      sum += wide(x[at]);
      out[at] = small(sum);
    }
  }
}

// A block for every row, kEach neighbours a thread: sums within threads, of threads within warps, of warps, carried from piece to piece.
template <class T, class Sum, class Widen, class Narrow>
__global__ void __launch_bounds__(kThreads) rows_kernel(CumsumProblem p, const T* __restrict__ x, T* __restrict__ out, Widen wide, Narrow small) {
  __shared__ Sum warps[kThreads / 32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (std::int64_t row = blockIdx.x; row < p.outer; row += gridDim.x) {
    const T* from = x + row * p.size;
    T* to = out + row * p.size;
    Sum carried{};
    for (std::int64_t begin = 0; begin < p.size; begin += kThreads * kEach) {
      Sum sums[kEach];
      Sum own{};
#pragma unroll
      for (int e = 0; e < kEach; ++e) {
        const std::int64_t i = begin + threadIdx.x * kEach + e;
        if (i < p.size) own += wide(from[p.reverse ? p.size - 1 - i : i]);
        sums[e] = own;
      }
      Sum through = own;                      // of this thread and the lanes before it
#pragma unroll
      for (int d = 1; d < 32; d *= 2) {
        const Sum other = __shfl_up_sync(0xffffffffu, through, d);
        if (lane >= d) through += other;
      }
      __syncthreads();                        // the piece before has read `warps`
      if (lane == 31) warps[warp] = through;
      __syncthreads();
      Sum before = carried, all{};
#pragma unroll
      for (int w = 0; w < kThreads / 32; ++w) {
        if (w < warp) before += warps[w];
        all += warps[w];
      }
      const Sum lanes_before = __shfl_up_sync(0xffffffffu, through, 1);
      if (lane > 0) before += lanes_before;
#pragma unroll
      for (int e = 0; e < kEach; ++e) {
        const std::int64_t i = begin + threadIdx.x * kEach + e;
        if (i < p.size) to[p.reverse ? p.size - 1 - i : i] = small(before + sums[e]);
      }
      carried += all;
    }
  }
}

template <class T, class Sum, class Widen, class Narrow>
void launch(const CumsumProblem& p, const void* in, void* out, Widen wide, Narrow small, void* s) {
  const auto* x = static_cast<const T*>(in);
  auto* y = static_cast<T*>(out);
  if (p.inner == 1) rows_kernel<T, Sum><<<blocks(p.outer, 1), kThreads, 0, stream(s)>>>(p, x, y, wide, small);
  else columns_kernel<T, Sum><<<blocks(p.outer * p.inner, kThreads), kThreads, 0, stream(s)>>>(p, x, y, wide, small);
  launched("cumsum");
}

struct WidenFloat {
  template <class T> __device__ auto operator()(T v) const { return widen(v); }
};
template <class T>
struct NarrowFloat {
  __device__ T operator()(float v) const { return narrow<T>(v); }
  __device__ T operator()(double v) const { return static_cast<T>(v); }
};
struct WidenInteger {
  template <class T> __device__ unsigned long long operator()(T v) const { return static_cast<unsigned long long>(static_cast<long long>(v)); }
};
template <class T>
struct NarrowInteger {
  __device__ T operator()(unsigned long long v) const { return static_cast<T>(v); }
};

}  // namespace

void cumsum(const CumsumProblem& p, const void* in, void* out, void* s) {
  if (p.outer * p.size * p.inner == 0) return;
  const auto integers = [&](auto zero) {
    using T = decltype(zero);
    launch<T, unsigned long long>(p, in, out, WidenInteger{}, NarrowInteger<T>{}, s);
  };
  switch (p.dtype) {
    case DType::f64: return launch<double, double>(p, in, out, WidenFloat{}, NarrowFloat<double>{}, s);
    case DType::i64: return integers(std::int64_t{});
    case DType::i32: return integers(std::int32_t{});
    case DType::i8: return integers(std::int8_t{});
    case DType::u8: return integers(std::uint8_t{});
    default:
      with_float(p.dtype, [&](auto zero) {
        using T = decltype(zero);
        launch<T, float>(p, in, out, WidenFloat{}, NarrowFloat<T>{}, s);
      });
  }
}

}  // namespace rhetor::gpu
