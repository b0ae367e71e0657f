// layer_norm, rms_norm and their gradients: refusals and parameters.
#include "cuda/norm.h"

#include "cpu/kernel_util.h"
#include "cuda/families.h"

namespace rhetor::gpu {
namespace {

NormProblem problem_of(const KernelRequest& request) {
  const std::string_view op = request.node.op->name;
  const bool backward = op.ends_with("_grad");
  const Type &x = request.in[backward ? 1 : 0], &gamma = request.in[backward ? 2 : 1];
  return {.rows = x.shape.elements(0, x.shape.rank() - 1),
          .cols = x.shape.last(),
          .dtype = x.dtype,
          .gamma = gamma.dtype,
          .layer = op.starts_with("layer"),
          .eps = backward ? 0 : request.node.attrs.f("eps"),
          .processors = request.device->processors};
}

template <bool (*fits)(const NormProblem&)>
std::string refuse_kept(const KernelRequest& request) {
  const NormProblem p = problem_of(request);
  if (!is_fast_float(p.dtype)) return "takes f32, f16 and bf16";
  if (p.gamma != p.dtype && p.gamma != DType::f32) return "gamma is neither f32 nor of x's dtype";
  if (p.cols == 0) return "rows are empty";
  return fits(p) ? "" : "rows are no whole multiple of 16 bytes, or too long for registers";
}
std::string refuse_streamed(const KernelRequest& request) {
  const NormProblem p = problem_of(request);
  for (const DType dtype : {p.dtype, p.gamma})
    if (!is_fast_float(dtype) && dtype != DType::f64) return "takes f64, f32, f16 and bf16";
  return "";
}

template <auto launch>
Kernel prepare_forward(const KernelRequest& request) {
  return {.run =
              [](const void* params, const KernelArgs& args) {
                const auto& p = *static_cast<const NormProblem*>(params);
                const void* beta = p.layer ? args.in[2] : nullptr;
                void* mean = p.layer ? args.out[1] : nullptr;
                void* rstd = args.out[p.layer ? 2 : 1];
                launch(p, {.x = args.in[0], .gamma = args.in[1], .beta = beta, .y = args.out[0], .mean = mean, .rstd = rstd}, args.stream);
              },
          .params = std::make_shared<NormProblem>(problem_of(request))};
}
template <auto launch, auto scratch>
Kernel prepare_backward(const KernelRequest& request) {
  auto p = std::make_shared<NormProblem>(problem_of(request));
  const std::uint64_t bytes = scratch(*p);
  return {.run =
              [](const void* params, const KernelArgs& args) {
                const auto& q = *static_cast<const NormProblem*>(params);
                launch(q,
                       {.dy = args.in[0],
                        .x = args.in[1],
                        .gamma = args.in[2],
                        .mean = q.layer ? args.in[3] : nullptr,
                        .rstd = args.in[q.layer ? 4 : 3],
                        .dx = args.out[0],
                        .dgamma = args.out[1],
                        .dbeta = q.layer ? args.out[2] : nullptr},
                       args.scratch, args.stream);
              },
          .params = p, .scratch_bytes = bytes};
}

}  // namespace

std::vector<KernelRow> norm_rows() {
  std::vector<KernelRow> rows;
  for (const std::string_view op : {"layer_norm", "rms_norm"})
    rows.push_back({op,
                    {{"cuda.norm.registers", refuse_kept<norm_fits>, prepare_forward<norm_kept>},
                     {"cuda.norm", refuse_streamed, prepare_forward<norm_streamed>}}});
  for (const std::string_view op : {"layer_norm_grad", "rms_norm_grad"})
    rows.push_back({op,
                    {{"cuda.norm_grad.registers", refuse_kept<norm_grad_fits>, prepare_backward<norm_grad_kept, norm_grad_kept_scratch>},
                     {"cuda.norm_grad", refuse_streamed, prepare_backward<norm_grad_streamed, norm_grad_streamed_scratch>}}});
  return rows;
}

}  // namespace rhetor::gpu
