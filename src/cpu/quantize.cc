// Memory-bound: quantize_rows reads a row twice (the second time from cache) and writes a quarter of it.
#include "cpu/quantize.h"

#include "cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/quantize.cc"
#include "hwy/foreach_target.h"  // NOLINT: re-includes this file per instruction set
#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rhetor {
namespace HWY_NAMESPACE {

template <class T>
void scale_typed(const std::int32_t* sums, float x_scale, const float* w_scale, T* out, std::int64_t n) {
  const VF xs = set(x_scale);
  std::int64_t i = 0;
  for (; i + lanes() <= n; i += lanes())
    store(hn::Mul(hn::ConvertTo(F32(), hn::LoadU(I32(), sums + i)), hn::Mul(xs, load(w_scale + i))), out + i);
  for (; i < n; ++i) {
    const float value = static_cast<float>(sums[i]) * (x_scale * w_scale[i]);
    store_n(set(value), out + i, 1);
  }
}
void scale_target(const std::int32_t* sums, float x_scale, const float* w_scale, DType dtype, void* out, std::int64_t n) {
  if (dtype == DType::f32)
    scale_typed(sums, x_scale, w_scale, static_cast<float*>(out), n);
  else if (dtype == DType::bf16)
    scale_typed(sums, x_scale, w_scale, static_cast<bf16*>(out), n);
  else
    scale_typed(sums, x_scale, w_scale, static_cast<f16*>(out), n);
}

template <class T>
float quantize_typed(const T* x, std::int8_t* q, std::int64_t n) {
  const std::int64_t step = lanes(), tail = n % step, whole = n - tail;
  VF largest = zero();
  for (std::int64_t i = 0; i < whole; i += step) largest = hn::Max(largest, hn::Abs(load(x + i)));
  if (tail) largest = hn::Max(largest, hn::Abs(load_n(x + whole, tail)));
  const float peak = max_lanes(largest);
  const float scale = peak == 0.0f ? 1.0f : peak / 127.0f;
  // One division a row. A value within 2^-23 of the middle between two codes may get either, as in any f32 evaluation.
  const VF divisor = set(scale), factor = set(1.0f / scale);
  const bool tiny = scale < 1e-37f;  // its reciprocal would be infinite
  const auto codes = [&](VF v) { return hn::NearestInt(tiny ? hn::Div(v, divisor) : hn::Mul(v, factor)); };
  const hn::Rebind<std::int8_t, F32> bytes;
  // The rounding mode is nearest even.
  for (std::int64_t i = 0; i < whole; i += step)
    hn::StoreU(hn::DemoteTo(bytes, codes(load(x + i))), bytes, q + i);
  if (tail) {
    std::int8_t last[64];
    hn::StoreU(hn::DemoteTo(bytes, codes(load_n(x + whole, tail))), bytes, last);
    std::memcpy(q + whole, last, static_cast<std::size_t>(tail));
  }
  return scale;
}
float quantize_target(DType dtype, const void* x, std::int8_t* q, std::int64_t n) {
  if (dtype == DType::f32) return quantize_typed(static_cast<const float*>(x), q, n);
  if (dtype == DType::bf16) return quantize_typed(static_cast<const bf16*>(x), q, n);
  return quantize_typed(static_cast<const f16*>(x), q, n);
}

template <class T>
void dequantize_typed(const std::int8_t* q, float scale, T* out, std::int64_t n) {
  const VF s = set(scale);
  std::int64_t i = 0;
  for (; i + lanes() <= n; i += lanes()) store(hn::Mul(load(q + i), s), out + i);
  if (i < n) store_n(hn::Mul(load_n(q + i, n - i), s), out + i, n - i);
}
void dequantize_target(const std::int8_t* q, float scale, DType dtype, void* out, std::int64_t n) {
  if (dtype == DType::f32)
    dequantize_typed(q, scale, static_cast<float*>(out), n);
  else if (dtype == DType::bf16)
    dequantize_typed(q, scale, static_cast<bf16*>(out), n);
  else
    dequantize_typed(q, scale, static_cast<f16*>(out), n);
}

}  // namespace HWY_NAMESPACE
}  // namespace rhetor
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "cpu/families.h"

namespace rhetor {

HWY_EXPORT(scale_target);
HWY_EXPORT(quantize_target);
HWY_EXPORT(dequantize_target);

void scale_sums(const std::int32_t* sums, float x_scale, const float* w_scale, DType dtype, void* out, std::int64_t n) {
  HWY_DYNAMIC_DISPATCH(scale_target)(sums, x_scale, w_scale, dtype, out, n);
}
float quantize_row(DType dtype, const void* x, std::int8_t* q, std::int64_t n) {
  return HWY_DYNAMIC_DISPATCH(quantize_target)(dtype, x, q, n);
}
void dequantize_row(const std::int8_t* q, float scale, DType dtype, void* out, std::int64_t n) {
  HWY_DYNAMIC_DISPATCH(dequantize_target)(q, scale, dtype, out, n);
}

namespace {

struct RowParams {
  std::int64_t rows, cols, grain;
  DType dtype;
};

RowParams row_params(const Type& matrix, DType dtype) {
  const std::int64_t cols = matrix.shape.last(), rows = cols ? matrix.elements() / cols : 0;
  return {rows, cols, cols ? std::max<std::int64_t>(1, 8192 / cols) : 1, dtype};
}
std::string refuse_float(DType dtype, const Type& matrix) {
  if (dtype != DType::f32 && dtype != DType::bf16 && dtype != DType::f16)
    return fmt::format("made for f32, bf16 and f16, not {}", name(dtype));
  if (matrix.shape.rank() == 0 || matrix.elements() == 0) return "the operand is empty or a scalar";
  return "";
}

void run_quantize(const void* opaque, const KernelArgs& args) {
  const auto& p = *static_cast<const RowParams*>(opaque);
  args.pool.parallel_for(p.rows, p.grain, [&](std::int64_t begin, std::int64_t end) {
    const auto* x = static_cast<const std::byte*>(args.in[0]);
    auto* q = static_cast<std::int8_t*>(args.out[0]);
    auto* scale = static_cast<float*>(args.out[1]);
    for (std::int64_t row = begin; row < end; ++row)
      scale[row] =
          quantize_row(p.dtype, x + row * p.cols * static_cast<std::int64_t>(byte_size(p.dtype)), q + row * p.cols, p.cols);
  });
}
void run_dequantize(const void* opaque, const KernelArgs& args) {
  const auto& p = *static_cast<const RowParams*>(opaque);
  args.pool.parallel_for(p.rows, p.grain, [&](std::int64_t begin, std::int64_t end) {
    const auto* q = static_cast<const std::int8_t*>(args.in[0]);
    const auto* scale = static_cast<const float*>(args.in[1]);
    auto* out = static_cast<std::byte*>(args.out[0]);
    for (std::int64_t row = begin; row < end; ++row)
      dequantize_row(q + row * p.cols, scale[row], p.dtype, out + row * p.cols * static_cast<std::int64_t>(byte_size(p.dtype)),
                     p.cols);
  });
}

Kernel row_kernel(KernelFn run, RowParams params) {
  Kernel kernel;
  kernel.run = run;
  kernel.params = std::make_shared<RowParams>(params);
  kernel.detail = "one pass a row";
  return kernel;
}

}  // namespace

std::vector<KernelRow> quantize_rows_rows() {
  return {
      {"quantize_rows",
       {{.name = "cpu.quantize_rows",
         .refuse = [](const KernelRequest& r) { return refuse_float(r.in[0].dtype, r.in[0]); },
         .prepare = [](const KernelRequest& r) { return row_kernel(run_quantize, row_params(r.in[0], r.in[0].dtype)); }}}},
      {"dequantize_rows",
       {{.name = "cpu.dequantize_rows",
         .refuse = [](const KernelRequest& r) { return refuse_float(r.out[0].dtype, r.in[0]); },
         .prepare = [](const KernelRequest& r) { return row_kernel(run_dequantize, row_params(r.in[0], r.out[0].dtype)); }}}}};
}

}  // namespace rhetor
#endif  // HWY_ONCE
