// top_k by radix selection. Every element has a key of its own that orders as the op does: its value's bits made monotonic (NaN above all,
// -0 as 0), then its index counted from the end. A block a row narrows down the k-th largest key by 11 bits a pass over the row, collects
// the k keys from there on, and ranks them by comparing all pairs. Keys differ, so the order in which they are collected is of no account.
// Memory-bound: 3 or 4 reads of a row, all but the first from the second-level cache.
#include "cuda/top_k.h"

#include "cuda/launch.h"

namespace rhetor::gpu {
namespace {

constexpr int kThreads = 1024, kDigit = 11, kBins = 1 << kDigit;
constexpr std::int64_t kShared = 2048;   // keys collected in shared memory; more go through scratch

// Monotonic bits of values: larger value, larger number.
template <class U>
__device__ U ordered(U bits) {
  constexpr U sign = U{1} << (sizeof(U) * 8 - 1);
  return bits & sign ? ~bits : bits | sign;
}
__device__ std::uint32_t order(float v) {
  if (v != v) return 0xffffffffu;
  return ordered(__float_as_uint(v == 0 ? 0.0f : v));
}
__device__ std::uint64_t order(double v) {
  if (v != v) return ~std::uint64_t{0};
  return ordered(static_cast<std::uint64_t>(__double_as_longlong(v == 0 ? 0.0 : v)));
}
__device__ std::uint32_t order(__half v) { return order(__half2float(v)); }
__device__ std::uint32_t order(__nv_bfloat16 v) { return order(__bfloat162float(v)); }
__device__ std::uint32_t order(__nv_fp8_e4m3 v) { return order(static_cast<float>(v)); }
__device__ std::uint32_t order(__nv_fp8_e5m2 v) { return order(static_cast<float>(v)); }
__device__ std::uint32_t order(std::int32_t v) { return static_cast<std::uint32_t>(v) ^ 0x80000000u; }
__device__ std::uint32_t order(std::int8_t v) { return order(static_cast<std::int32_t>(v)); }
__device__ std::uint32_t order(std::uint8_t v) { return v; }
__device__ std::uint64_t order(std::int64_t v) { return static_cast<std::uint64_t>(v) ^ (std::uint64_t{1} << 63); }

// The value's bits above 32 bits of the index from the end.
template <class T>
using KeyOf = std::conditional_t<sizeof(T) == 8, unsigned __int128, std::uint64_t>;
template <class T>
__device__ KeyOf<T> key_of(T v, std::int64_t i) {
  return static_cast<KeyOf<T>>(order(v)) << 32 | static_cast<std::uint32_t>(~static_cast<std::uint32_t>(i));
}
template <class K>
__device__ std::int64_t index_of(K key) {
  return static_cast<std::int64_t>(~static_cast<std::uint32_t>(key));
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    top_k_kernel(TopKProblem p, const T* __restrict__ x, T* __restrict__ values, std::int32_t* __restrict__ indices, KeyOf<T>* scratch) {
  using K = KeyOf<T>;
  constexpr int kBits = sizeof(T) == 8 ? 96 : 64;
  __shared__ int bins[kBins], warps[32], chosen, above, in_bin, filled;
  alignas(16) __shared__ unsigned char memory[kShared * sizeof(K)];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (std::int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    const T* from = x + row * p.size;
    K* list = p.k <= kShared ? reinterpret_cast<K*>(memory) : scratch + row * p.k;
    // Invariant: the k-th largest key begins with the bits of `least` above `open`; `wanted` of those that do are among the k.
    K least = 0;
    int open = kBits;
    std::int64_t wanted = p.k;
    bool whole = p.k == p.size;
    while (!whole && open > 0) {
      const int shift = open > kDigit ? open - kDigit : 0, digits = open - shift;
      for (int b = threadIdx.x; b < kBins; b += kThreads) bins[b] = 0;
      __syncthreads();
      for (std::int64_t i = threadIdx.x; i < p.size; i += kThreads) {
        const K key = key_of(from[i], i);
        if (open == kBits || (key >> open) == (least >> open)) atomicAdd(&bins[static_cast<int>(key >> shift) & ((1 << digits) - 1)], 1);
      }
      __syncthreads();
      // From the highest bin down, two bins a thread: how many keys lie above its two?
      const int high = kBins - 1 - 2 * static_cast<int>(threadIdx.x), own_high = bins[high], own = own_high + bins[high - 1];
      int through = own;
#pragma unroll
      for (int d = 1; d < 32; d *= 2) {
        const int other = __shfl_up_sync(0xffffffffu, through, d);
        if (lane >= d) through += other;
      }
      if (lane == 31) warps[warp] = through;
      __syncthreads();
      int over = through - own;
      for (int w = 0; w < warp; ++w) over += warps[w];
      if (over < wanted && wanted <= over + own) {
        const bool upper = wanted <= over + own_high;
        chosen = upper ? high : high - 1;
        above = upper ? over : over + own_high;
        in_bin = upper ? own_high : own - own_high;
      }
      __syncthreads();
      least |= static_cast<K>(chosen) << shift;
      wanted -= above;
      whole = wanted == in_bin;
      open = shift;
    }
    if (threadIdx.x == 0) filled = 0;
    __syncthreads();
    for (std::int64_t i = threadIdx.x; i < p.size; i += kThreads) {
      const K key = key_of(from[i], i);
      if (key >= least) list[atomicAdd(&filled, 1)] = key;
    }
    __syncthreads();
    for (std::int64_t j = threadIdx.x; j < p.k; j += kThreads) {
      const K key = list[j];
      std::int64_t rank = 0;
      for (std::int64_t other = 0; other < p.k; ++other) rank += list[other] > key;
      const std::int64_t i = index_of(key);
      values[row * p.k + rank] = from[i];
      indices[row * p.k + rank] = static_cast<std::int32_t>(i);
    }
    __syncthreads();   // the next row uses the list again
  }
}

template <class F>
void with_element(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f64: return f(double{});
    case DType::f8e4m3: return f(__nv_fp8_e4m3{});
    case DType::f8e5m2: return f(__nv_fp8_e5m2{});
    case DType::i64: return f(std::int64_t{});
    case DType::i32: return f(std::int32_t{});
    case DType::i8: return f(std::int8_t{});
    case DType::u8:
    case DType::boolean: return f(std::uint8_t{});
    default: with_float(dtype, static_cast<F&&>(f));
  }
}

}  // namespace

std::uint64_t top_k_scratch(const TopKProblem& p) {
  return p.k <= kShared ? 0 : static_cast<std::uint64_t>(p.rows * p.k) * (byte_size(p.dtype) == 8 ? 16 : 8);
}

void top_k(const TopKProblem& p, const void* x, void* values, void* indices, void* scratch, void* s) {
  if (p.rows == 0) return;
  with_element(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    top_k_kernel<T><<<blocks(p.rows, 1), kThreads, 0, stream(s)>>>(p, static_cast<const T*>(x), static_cast<T*>(values),
                                                                   static_cast<std::int32_t*>(indices), static_cast<KeyOf<T>*>(scratch));
  });
  launched("top_k");
}

}  // namespace rhetor::gpu
