// softmax, log_softmax and their gradients: refusals and parameters.
#include "cuda/softmax.h"

#include "cpu/kernel_util.h"
#include "cuda/families.h"

namespace rhetor::gpu {
namespace {

SoftmaxProblem problem_of(const KernelRequest& request) {
  const Type& x = request.in[0];
  const std::int64_t cols = x.shape.last();
  return {.rows = cols == 0 ? 0 : x.elements() / cols,
          .cols = cols,
          .dtype = x.dtype,
          .logarithm = request.node.op->name.starts_with("log_")};
}

std::string refuse_kept(const KernelRequest& request) {
  if (!is_fast_float(request.in[0].dtype)) return "takes f32, f16 and bf16";
  if (request.in[0].elements() == 0) return "the operand is empty";
  return softmax_fits(problem_of(request)) ? "" : "rows are no whole multiple of 16 bytes, or too long for registers";
}
std::string refuse_streamed(const KernelRequest& request) {
  const DType dtype = request.in[0].dtype;
  return is_fast_float(dtype) || dtype == DType::f64 ? "" : "takes f64, f32, f16 and bf16";
}

template <auto launch>
Kernel prepare_forward(const KernelRequest& request) {
  return {.run =
              [](const void* params, const KernelArgs& args) {
                launch(*static_cast<const SoftmaxProblem*>(params), args.in[0], args.out[0], args.stream);
              },
          .params = std::make_shared<SoftmaxProblem>(problem_of(request))};
}
template <auto launch>
Kernel prepare_backward(const KernelRequest& request) {
  return {.run =
              [](const void* params, const KernelArgs& args) {
                launch(*static_cast<const SoftmaxProblem*>(params), args.in[0], args.in[1], args.out[0], args.stream);
              },
          .params = std::make_shared<SoftmaxProblem>(problem_of(request))};
}

}  // namespace

std::vector<KernelRow> softmax_rows() {
  std::vector<KernelRow> rows;
  for (const std::string_view op : {"softmax", "log_softmax"})
    rows.push_back({op,
                    {{"cuda.softmax.registers", refuse_kept, prepare_forward<softmax_kept>},
                     {"cuda.softmax", refuse_streamed, prepare_forward<softmax_streamed>}}});
  for (const std::string_view op : {"softmax_grad", "log_softmax_grad"})
    rows.push_back({op,
                    {{"cuda.softmax_grad.registers", refuse_kept, prepare_backward<softmax_grad_kept>},
                     {"cuda.softmax_grad", refuse_streamed, prepare_backward<softmax_grad_streamed>}}});
  return rows;
}

}  // namespace rhetor::gpu
