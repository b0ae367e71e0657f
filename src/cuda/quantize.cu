// Changes between floats and narrow integers or f8. All are memory-bound: quantize_rows reads a row once (kept in registers) and
// writes a quarter to a half of it; quantize_f8 reads its operand twice, since the scale is of the whole tensor, the second time
// mostly from the second-level cache; the others read and write each element once. A maximum does not depend on the order it is
// taken in.
#include "base/rng.h"
#include "cuda/quantize.h"

namespace rhetor::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kKept = 4;  // packs of a row that a thread keeps in registers between the maximum and the codes
constexpr unsigned kGrid = 132 * 16;

template <class T>
struct Computes {
  using Type = float;
};
template <>
struct Computes<double> {
  using Type = double;
};

template <class T, int W>
__device__ inline Pack<T, W> load(const T* p) {
  return *reinterpret_cast<const Pack<T, W>*>(p);
}

template <class T, int W>
__global__ void quantize_rows_kernel(std::int64_t cols, const T* x, std::int8_t* q, float* scales) {
  using F = typename Computes<T>::Type;
  __shared__ F shared[32];
  const std::int64_t row = blockIdx.x;
  const int packs = static_cast<int>(cols / W), step = blockDim.x;
  x += row * cols;
  q += row * cols;
  Pack<T, W> kept[kKept];
  F greatest = 0;
  const auto take = [&](const Pack<T, W>& v) {
#pragma unroll
    for (int e = 0; e < W; ++e) greatest = fmax(greatest, fabs(widen(v.v[e])));
  };
#pragma unroll
  for (int j = 0; j < kKept; ++j)
    if (const int i = threadIdx.x + j * step; i < packs) {
      kept[j] = load<T, W>(x + std::int64_t(i) * W);
      take(kept[j]);
    }
  for (int i = threadIdx.x + kKept * step; i < packs; i += step) take(load<T, W>(x + std::int64_t(i) * W));
  greatest = block_reduce(greatest, Max{}, shared, F(0));
  const F scale = greatest > 0 ? greatest / F(127) : F(1);
  // One division a row; a scale whose reciprocal would be infinite divides every element.
  const bool tiny = scale < F(1e-37f);
  const F factor = F(1) / scale;
  if (threadIdx.x == 0) scales[row] = static_cast<float>(scale);
  const auto put = [&](int i, const Pack<T, W>& v) {
    Pack<std::int8_t, W> codes;
#pragma unroll
    for (int e = 0; e < W; ++e) {
      const F y = tiny ? widen(v.v[e]) / scale : widen(v.v[e]) * factor;
      codes.v[e] = static_cast<std::int8_t>(max(-128, min(127, static_cast<int>(rint(y)))));
    }
    *reinterpret_cast<Pack<std::int8_t, W>*>(q + std::int64_t(i) * W) = codes;
  };
#pragma unroll
  for (int j = 0; j < kKept; ++j)
    if (const int i = threadIdx.x + j * step; i < packs) put(i, kept[j]);
  for (int i = threadIdx.x + kKept * step; i < packs; i += step) put(i, load<T, W>(x + std::int64_t(i) * W));
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    dequantize_rows_kernel(std::int64_t elements, std::int64_t cols, const std::int8_t* q, const float* scale, T* out) {
  for (std::int64_t i = blockIdx.x * std::int64_t(kThreads) + threadIdx.x; i < elements;
       i += std::int64_t(gridDim.x) * kThreads) {
    if constexpr (std::is_same_v<T, double>)
      out[i] = double(q[i]) * double(scale[i / cols]);
    else
      out[i] = narrow<T>(static_cast<float>(q[i]) * scale[i / cols]);
  }
}

// A thread widens 16 weights, half a group: 8 bytes read, 32 written where the result has 16 bits.
template <class T>
__global__ void __launch_bounds__(kThreads)
    dequantize_i4_kernel(std::int64_t halves, const uint2* q, const __half* scale, T* out) {
  for (std::int64_t i = blockIdx.x * std::int64_t(kThreads) + threadIdx.x; i < halves; i += std::int64_t(gridDim.x) * kThreads) {
    const uint2 codes = q[i];
    const float s = __half2float(scale[i / 2]);
    constexpr int kPack = 16 / sizeof(T);
#pragma unroll
    for (int at = 0; at < 16; at += kPack) {
      Pack<T, kPack> v;
#pragma unroll
      for (int e = 0; e < kPack; ++e) {
        const std::uint32_t word = at + e < 8 ? codes.x : codes.y;
        v.v[e] = narrow<T>(static_cast<float>(static_cast<int>(word >> ((at + e) % 8 * 4) & 15) - 8) * s);
      }
      *reinterpret_cast<Pack<T, kPack>*>(out + i * 16 + at) = v;
    }
  }
}

// ---- f8 ------------------------------------------------------------------------------------------
// 2^e with the least e for which greatest / 2^e is finite in the format (ops/float8.cc): both formats end at 1.75 times a power
// of two.
__device__ inline float f8_scale(DType to, float greatest) {
  const std::uint32_t u = __float_as_uint(greatest);
  if (!(greatest > 0) || u >= 0x7f800000u) return 1.0f;
  const int exponent = static_cast<int>(u >> 23) - 127;  // of 1.m; a subnormal ends at the least scale all the same
  const int top = to == DType::f8e4m3 ? 8 : 15;
  const int e = exponent - top + ((u & 0x7fffffu) <= 0x600000u ? 0 : 1);
  return __uint_as_float(static_cast<std::uint32_t>(max(-126, min(126, e)) + 127) << 23);
}

template <class T>
__global__ void __launch_bounds__(kThreads) greatest_kernel(std::int64_t elements, const T* x, float* parts) {
  __shared__ float shared[32];
  constexpr int W = 16 / sizeof(T);
  float greatest = 0;
  const std::int64_t packs = elements / W, step = std::int64_t(gridDim.x) * kThreads,
                     first = blockIdx.x * std::int64_t(kThreads) + threadIdx.x;
#pragma unroll 4
  for (std::int64_t i = first; i < packs; i += step) {
    const auto v = load<T, W>(x + i * W);
#pragma unroll
    for (int e = 0; e < W; ++e) greatest = fmaxf(greatest, fabsf(widen(v.v[e])));
  }
  if (first < elements - packs * W) greatest = fmaxf(greatest, fabsf(widen(x[packs * W + first])));
  greatest = block_reduce(greatest, Max{}, shared, 0.0f);
  if (threadIdx.x == 0) parts[blockIdx.x] = greatest;
}

// Nearest, ties to even; beyond the format e4m3 has NaN and e5m2 infinity.
template <bool e4m3>
__device__ inline std::uint8_t f8_of(float v) {
  if (e4m3 && fabsf(v) > 464.0f) v = __uint_as_float(0x7fc00000u);
  const std::uint8_t code = __nv_cvt_float_to_fp8(v, __NV_SATFINITE, e4m3 ? __NV_E4M3 : __NV_E5M2);
  return !e4m3 && fabsf(v) >= 61440.0f ? static_cast<std::uint8_t>((code & 0x80) | 0x7c) : code;
}

template <class T, bool e4m3>
__global__ void __launch_bounds__(kThreads)
    quantize_f8_kernel(std::int64_t elements, const T* x, const float* parts, int part_count, std::uint8_t* q, float* scale_out) {
  __shared__ float shared[32];
  constexpr int W = 16 / sizeof(T);
  float greatest = 0;
  for (int i = threadIdx.x; i < part_count; i += kThreads) greatest = fmaxf(greatest, parts[i]);
  greatest = block_reduce(greatest, Max{}, shared, 0.0f);
  const float scale = f8_scale(e4m3 ? DType::f8e4m3 : DType::f8e5m2, greatest), factor = 1.0f / scale;  // exact: powers of two
  const std::int64_t packs = elements / W, step = std::int64_t(gridDim.x) * kThreads,
                     first = blockIdx.x * std::int64_t(kThreads) + threadIdx.x;
  if (first == 0) *scale_out = scale;
  for (std::int64_t i = first; i < packs; i += step) {
    const auto v = load<T, W>(x + i * W);
    Pack<std::uint8_t, W> codes;
#pragma unroll
    for (int e = 0; e < W; ++e) codes.v[e] = f8_of<e4m3>(widen(v.v[e]) * factor);
    *reinterpret_cast<Pack<std::uint8_t, W>*>(q + i * W) = codes;
  }
  if (first < elements - packs * W) q[packs * W + first] = f8_of<e4m3>(widen(x[packs * W + first]) * factor);
}

template <class T, bool e4m3>
__global__ void __launch_bounds__(kThreads)
    dequantize_f8_kernel(std::int64_t elements, const std::uint8_t* q, const float* scale, T* out) {
  constexpr int W = 16 / sizeof(T);
  const float s = *scale;
  const auto value = [&](std::uint8_t code) {
    const float x = __half2float(__half(__nv_cvt_fp8_to_halfraw(code, e4m3 ? __NV_E4M3 : __NV_E5M2)));
    if constexpr (std::is_same_v<T, double>)
      return double(x) * double(s);
    else
      return narrow<T>(x * s);
  };
  const std::int64_t packs = elements / W, step = std::int64_t(gridDim.x) * kThreads,
                     first = blockIdx.x * std::int64_t(kThreads) + threadIdx.x;
  for (std::int64_t i = first; i < packs; i += step) {
    const auto codes = load<std::uint8_t, W>(q + i * W);
    Pack<T, W> v;
#pragma unroll
    for (int e = 0; e < W; ++e) v.v[e] = value(codes.v[e]);
    *reinterpret_cast<Pack<T, W>*>(out + i * W) = v;
  }
  if (first < elements - packs * W) out[packs * W + first] = value(q[packs * W + first]);
}

// A thread draws one Philox block: the words of four elements.
__global__ void __launch_bounds__(kThreads)
    stochastic_round_kernel(std::int64_t elements, std::uint64_t number, std::uint64_t offset, const float* x,
                            const std::int64_t* seed, std::uint16_t* out) {
  const std::uint64_t key = static_cast<std::uint64_t>(*seed), block0 = offset / 4;
  const auto skipped = static_cast<std::int64_t>(offset % 4), block_count = (skipped + elements + 3) / 4;
  for (std::int64_t b = blockIdx.x * std::int64_t(kThreads) + threadIdx.x; b < block_count;
       b += std::int64_t(gridDim.x) * kThreads) {
    const Philox words = random_block(key, number, block0 + static_cast<std::uint64_t>(b));
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const std::int64_t i = b * 4 - skipped + j;
      if (i < 0 || i >= elements) continue;
      const std::uint32_t u = __float_as_uint(x[i]);
      const bool special = (u & 0x7f800000u) == 0x7f800000u;  // infinity stays; NaN is made quiet
      const std::uint32_t exact = (u & 0x7fffffu) ? (u >> 16 | 0x40u) : u >> 16;
      out[i] = static_cast<std::uint16_t>(special ? exact : (u + (words[static_cast<std::size_t>(j)] >> 16)) >> 16);
    }
  }
}

}  // namespace

void quantize_rows(std::int64_t rows, std::int64_t cols, DType from, const void* x, void* q, void* scale, void* handle) {
  if (rows == 0) return;
  with_any_float(from, [&](auto type) {
    using T = decltype(type);
    constexpr int W = 16 / sizeof(T);
    const auto run = [&](auto kernel, std::int64_t packs) {
      const std::int64_t wanted =
          (packs + kKept - 1) / kKept;  // a long row is kept in registers, a short one spread over a warp or more
      const unsigned threads = static_cast<unsigned>(packs <= 128    ? (packs + 31) / 32 * 32
                                                     : wanted <= 128 ? 128
                                                                     : (wanted + 31) / 32 * 32);
      kernel<<<static_cast<unsigned>(rows), threads<32 ? 32 : threads> 1024 ? 1024 : threads, 0, stream(handle)>>>(
          cols, static_cast<const T*>(x), static_cast<std::int8_t*>(q), static_cast<float*>(scale));
    };
    if (cols % W == 0)
      run(quantize_rows_kernel<T, W>, cols / W);
    else
      run(quantize_rows_kernel<T, 1>, cols);
  });
  launched("quantize_rows");
}

void dequantize_rows(std::int64_t rows, std::int64_t cols, DType to, const void* q, const void* scale, void* out, void* handle) {
  if (rows * cols == 0) return;
  with_any_float(to, [&](auto type) {
    using T = decltype(type);
    dequantize_rows_kernel<T><<<blocks(rows * cols, kThreads, kGrid), kThreads, 0, stream(handle)>>>(
        rows * cols, cols, static_cast<const std::int8_t*>(q), static_cast<const float*>(scale), static_cast<T*>(out));
  });
  launched("dequantize_rows");
}

void dequantize_i4(std::int64_t elements, DType to, const void* q, const void* scale, void* out, void* handle) {
  if (elements == 0) return;
  with_any_float(to, [&](auto type) {
    using T = decltype(type);
    dequantize_i4_kernel<T><<<blocks(elements / 16, kThreads, kGrid), kThreads, 0, stream(handle)>>>(
        elements / 16, static_cast<const uint2*>(q), static_cast<const __half*>(scale), static_cast<T*>(out));
  });
  launched("dequantize_i4");
}

void quantize_f8(std::int64_t elements, DType from, DType to, const void* x, void* q, void* scale, void* scratch, void* handle) {
  with_float(from, [&](auto type) {
    using T = decltype(type);
    const unsigned grid = blocks(elements, kThreads * 32, kF8Parts);
    auto* parts = static_cast<float*>(scratch);
    greatest_kernel<T><<<grid, kThreads, 0, stream(handle)>>>(elements, static_cast<const T*>(x), parts);
    const auto run = [&](auto kernel) {
      kernel<<<grid, kThreads, 0, stream(handle)>>>(elements, static_cast<const T*>(x), parts, static_cast<int>(grid),
                                                    static_cast<std::uint8_t*>(q), static_cast<float*>(scale));
    };
    if (to == DType::f8e4m3)
      run(quantize_f8_kernel<T, true>);
    else
      run(quantize_f8_kernel<T, false>);
  });
  launched("quantize_f8");
}

void dequantize_f8(std::int64_t elements, DType from, DType to, const void* q, const void* scale, void* out, void* handle) {
  if (elements == 0) return;
  with_any_float(to, [&](auto type) {
    using T = decltype(type);
    const auto run = [&](auto kernel) {
      kernel<<<blocks(elements, kThreads * 8, kGrid), kThreads, 0, stream(handle)>>>(
          elements, static_cast<const std::uint8_t*>(q), static_cast<const float*>(scale), static_cast<T*>(out));
    };
    if (from == DType::f8e4m3)
      run(dequantize_f8_kernel<T, true>);
    else
      run(dequantize_f8_kernel<T, false>);
  });
  launched("dequantize_f8");
}

void stochastic_round(std::int64_t elements, std::uint64_t number, std::uint64_t offset, const void* x, const void* seed,
                      void* out, void* handle) {
  if (elements == 0) return;
  stochastic_round_kernel<<<blocks(elements / 4 + 2, kThreads, kGrid), kThreads, 0, stream(handle)>>>(
      elements, number, offset, static_cast<const float*>(x), static_cast<const std::int64_t*>(seed),
      static_cast<std::uint16_t*>(out));
  launched("stochastic_round");
}

}  // namespace rhetor::gpu
