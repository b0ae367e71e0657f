// What may follow a product inside its own kernel: sum [+ bias] [activation] [+ residual] [times a number, stored in e4m3], in this
// order, in f32, rounded once.
#pragma once

#include "cuda/launch.h"

namespace rhetor::gpu {

enum class Activation : std::uint8_t { none, relu, gelu, gelu_tanh, silu, tanh };

// The epilogue of one launch; a kernel parameter. bias [n] repeats for every row, residual [rows, n] is as large as the result.
struct Finish {
  const void* bias = nullptr;
  const void* residual = nullptr;
  DType bias_dtype = DType::f32, residual_dtype = DType::f32;
  Activation activation = Activation::none;
  const void* factor = nullptr;  // of factor_dtype, on the device: f32 or bf16
  DType factor_dtype = DType::f32;
};

#ifdef __CUDACC__

// One element of a tensor whose dtype only the launch knows: a uniform branch, cheap beside the memory access.
__device__ inline float element(const void* p, DType dtype, std::int64_t i) {
  if (dtype == DType::f32) return static_cast<const float*>(p)[i];
  if (dtype == DType::bf16) return __bfloat162float(static_cast<const __nv_bfloat16*>(p)[i]);
  if (dtype == DType::f16) return __half2float(static_cast<const __half*>(p)[i]);
  if (dtype == DType::i32) return static_cast<float>(static_cast<const std::int32_t*>(p)[i]);
  return static_cast<float>(static_cast<const double*>(p)[i]);
}
__device__ inline void store_element(void* p, DType dtype, std::int64_t i, float x) {
  if (dtype == DType::f32)
    static_cast<float*>(p)[i] = x;
  else if (dtype == DType::bf16)
    static_cast<__nv_bfloat16*>(p)[i] = __float2bfloat16_rn(x);
  else if (dtype == DType::f16)
    static_cast<__half*>(p)[i] = __float2half_rn(x);
  else if (dtype == DType::f8e4m3)
    static_cast<__nv_fp8_storage_t*>(p)[i] = __nv_cvt_float_to_fp8(x, __NV_NOSAT, __NV_E4M3);
  else if (dtype == DType::f8e5m2)
    static_cast<__nv_fp8_storage_t*>(p)[i] = __nv_cvt_float_to_fp8(x, __NV_NOSAT, __NV_E5M2);
  else
    static_cast<double*>(p)[i] = static_cast<double>(x);
}

// W neighbours at a multiple of W, W = 8 in 16-byte accesses.
template <int W>
__device__ inline void elements(const void* p, DType dtype, std::int64_t i, float (&x)[W]) {
  if constexpr (W == 8) {
    if (dtype == DType::f32 || dtype == DType::i32) {
      const auto* q = reinterpret_cast<const uint4*>(static_cast<const std::uint32_t*>(p) + i);
      const uint4 a = q[0], b = q[1];
      const std::uint32_t u[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
      for (int e = 0; e < 8; ++e)
        x[e] = dtype == DType::f32 ? __uint_as_float(u[e]) : static_cast<float>(static_cast<std::int32_t>(u[e]));
      return;
    }
    if (dtype == DType::bf16) {
      const auto v = *reinterpret_cast<const Pack<__nv_bfloat16, 8>*>(static_cast<const __nv_bfloat16*>(p) + i);
#pragma unroll
      for (int e = 0; e < 8; ++e) x[e] = __bfloat162float(v.v[e]);
      return;
    }
    if (dtype == DType::f16) {
      const auto v = *reinterpret_cast<const Pack<__half, 8>*>(static_cast<const __half*>(p) + i);
#pragma unroll
      for (int e = 0; e < 8; ++e) x[e] = __half2float(v.v[e]);
      return;
    }
  }
#pragma unroll
  for (int e = 0; e < W; ++e) x[e] = element(p, dtype, i + e);
}
template <int W>
__device__ inline void store_elements(void* p, DType dtype, std::int64_t i, const float (&x)[W]) {
  if constexpr (W == 8) {
    if (dtype == DType::f32) {
      auto* q = reinterpret_cast<float4*>(static_cast<float*>(p) + i);
      q[0] = make_float4(x[0], x[1], x[2], x[3]);
      q[1] = make_float4(x[4], x[5], x[6], x[7]);
      return;
    }
    if (dtype == DType::bf16) {
      Pack<__nv_bfloat16, 8> v;
#pragma unroll
      for (int e = 0; e < 8; ++e) v.v[e] = __float2bfloat16_rn(x[e]);
      *reinterpret_cast<Pack<__nv_bfloat16, 8>*>(static_cast<__nv_bfloat16*>(p) + i) = v;
      return;
    }
    if (dtype == DType::f16) {
      Pack<__half, 8> v;
#pragma unroll
      for (int e = 0; e < 8; ++e) v.v[e] = __float2half_rn(x[e]);
      *reinterpret_cast<Pack<__half, 8>*>(static_cast<__half*>(p) + i) = v;
      return;
    }
  }
#pragma unroll
  for (int e = 0; e < W; ++e) store_element(p, dtype, i + e, x[e]);
}

// erf to 1.5e-7 absolutely, far below a 16-bit result's rounding, at a third of erff's price: Abramowitz and Stegun, 7.1.26.
__device__ inline float fast_erf(float x) {
  const float a = fabsf(x), t = __frcp_rn(fmaf(0.3275911f, a, 1.0f));
  const float poly =
      t * fmaf(t, fmaf(t, fmaf(t, fmaf(t, 1.061405429f, -1.453152027f), 1.421413741f), -0.284496736f), 0.254829592f);
  return copysignf(fmaf(-poly, __expf(-a * a), 1.0f), x);
}

// fast: the result is rounded to 16 bits.
template <bool fast>
__device__ inline float activate(Activation activation, float x) {
  const auto exp_of = [](float y) { return fast ? __expf(y) : expf(y); };
  const auto over = [](float a, float b) { return fast ? __fdividef(a, b) : a / b; };
  switch (activation) {
    case Activation::relu:
      return x < 0.0f ? 0.0f : x;  // NaN stays
    case Activation::gelu:
      return 0.5f * x * (1.0f + (fast ? fast_erf(x * 0.70710678f) : erff(x * 0.70710678f)));
    case Activation::gelu_tanh: {  // (1 + tanh u) / 2 = 1 / (1 + e^-2u); the clamp keeps the quotient out of __fdividef's 0 at
                                   // 2^126
      const float u = -2.0f * 0.7978845608f * fmaf(0.044715f * x * x, x, x);
      return over(x, 1.0f + exp_of(fminf(u, 80.0f)));
    }
    case Activation::silu:
      return over(x, 1.0f + exp_of(fminf(-x, 80.0f)));
    case Activation::tanh:
      return tanhf(x);
    default:
      return x;
  }
}

// The epilogue of W neighbours: `flat` is their place in the result, `col` in its row. A result may overwrite the residual: each
// element is read here before its thread stores it.
template <bool fast, int W>
__device__ inline void finish(const Finish& f, std::int64_t flat, std::int64_t col, float (&x)[W]) {
  float y[W];
  if (f.bias) {
    elements(f.bias, f.bias_dtype, col, y);
#pragma unroll
    for (int e = 0; e < W; ++e) x[e] += y[e];
  }
  if (f.activation != Activation::none) {
#pragma unroll
    for (int e = 0; e < W; ++e) x[e] = activate<fast>(f.activation, x[e]);
  }
  if (f.residual) {
    elements(f.residual, f.residual_dtype, flat, y);
#pragma unroll
    for (int e = 0; e < W; ++e) x[e] += y[e];
  }
}

#endif

}  // namespace rhetor::gpu
