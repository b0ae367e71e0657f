// Rows of quantize_rows, dequantize_rows, dequantize_i4, quantize_f8, dequantize_f8 and stochastic_round.
#include "cuda/quantize.h"

#include "base/error.h"
#include "cuda/families.h"

namespace rhetor::gpu {
namespace {

struct Params {
  std::int64_t rows = 0, cols = 0, elements = 0;
  DType from = DType::f32, to = DType::f32;
  std::uint64_t number = 0, offset = 0;
};
const Params& of(const void* params) { return *static_cast<const Params*>(params); }

std::string refuse_floats(DType dtype, std::initializer_list<DType> taken) {
  for (const DType one : taken)
    if (dtype == one) return "";
  return fmt::format("has no {}", name(dtype));
}
std::string refuse_narrow(DType dtype) { return refuse_floats(dtype, {DType::f32, DType::bf16, DType::f16}); }
std::string refuse_any(DType dtype) { return refuse_floats(dtype, {DType::f64, DType::f32, DType::bf16, DType::f16}); }

Kernel kernel_of(KernelFn run, Params params, std::uint64_t scratch = 0) {
  Kernel kernel;
  kernel.run = run;
  kernel.params = std::make_shared<const Params>(params);
  kernel.scratch_bytes = scratch;
  return kernel;
}
Params rows_of(const Type& matrix) {
  const std::int64_t cols = matrix.shape.last();
  return {.rows = matrix.shape.elements(0, matrix.shape.rank() - 1), .cols = cols};
}

Kernel prepare_quantize_rows(const KernelRequest& r) {
  Params p = rows_of(r.in[0]);
  p.from = r.in[0].dtype;
  return kernel_of(
      [](const void* params, const KernelArgs& a) {
        const Params& q = of(params);
        quantize_rows(q.rows, q.cols, q.from, a.in[0], a.out[0], a.out[1], a.stream);
      },
      p);
}

Kernel prepare_dequantize_rows(const KernelRequest& r) {
  Params p = rows_of(r.in[0]);
  p.to = r.out[0].dtype;
  return kernel_of(
      [](const void* params, const KernelArgs& a) {
        const Params& q = of(params);
        dequantize_rows(q.rows, q.cols, q.to, a.in[0], a.in[1], a.out[0], a.stream);
      },
      p);
}

Kernel prepare_dequantize_i4(const KernelRequest& r) {
  return kernel_of(
      [](const void* params, const KernelArgs& a) {
        const Params& q = of(params);
        dequantize_i4(q.elements, q.to, a.in[0], a.in[1], a.out[0], a.stream);
      },
      {.elements = r.out[0].elements(), .to = r.out[0].dtype});
}

Kernel prepare_quantize_f8(const KernelRequest& r) {
  return kernel_of(
      [](const void* params, const KernelArgs& a) {
        const Params& q = of(params);
        quantize_f8(q.elements, q.from, q.to, a.in[0], a.out[0], a.out[1], a.scratch, a.stream);
      },
      {.elements = r.in[0].elements(), .from = r.in[0].dtype, .to = r.out[0].dtype}, kF8Parts * sizeof(float));
}

Kernel prepare_dequantize_f8(const KernelRequest& r) {
  return kernel_of(
      [](const void* params, const KernelArgs& a) {
        const Params& q = of(params);
        dequantize_f8(q.elements, q.from, q.to, a.in[0], a.in[1], a.out[0], a.stream);
      },
      {.elements = r.in[0].elements(), .from = r.in[0].dtype, .to = r.out[0].dtype});
}

Kernel prepare_stochastic_round(const KernelRequest& r) {
  return kernel_of(
      [](const void* params, const KernelArgs& a) {
        const Params& q = of(params);
        stochastic_round(q.elements, q.number, q.offset, a.in[0], a.in[1], a.out[0], a.stream);
      },
      {.elements = r.in[0].elements(),
       .number = static_cast<std::uint64_t>(r.node.attrs.i("stream")),
       .offset = static_cast<std::uint64_t>(r.node.attrs.i("offset"))});
}

}  // namespace

std::vector<KernelRow> quantize_rows() {
  return {
      {"quantize_rows",
       {{"cuda.quantize_rows", [](const KernelRequest& r) { return refuse_any(r.in[0].dtype); }, prepare_quantize_rows}}},
      {"dequantize_rows",
       {{"cuda.dequantize_rows", [](const KernelRequest& r) { return refuse_any(r.out[0].dtype); }, prepare_dequantize_rows}}},
      {"dequantize_i4",
       {{"cuda.dequantize_i4", [](const KernelRequest& r) { return refuse_any(r.out[0].dtype); }, prepare_dequantize_i4}}},
      {"quantize_f8",
       {{"cuda.quantize_f8", [](const KernelRequest& r) { return refuse_narrow(r.in[0].dtype); }, prepare_quantize_f8}}},
      {"dequantize_f8",
       {{"cuda.dequantize_f8", [](const KernelRequest& r) { return refuse_any(r.out[0].dtype); }, prepare_dequantize_f8}}},
      {"stochastic_round",
       {{"cuda.stochastic_round", [](const KernelRequest&) { return std::string(); }, prepare_stochastic_round}}}};
}

}  // namespace rhetor::gpu
