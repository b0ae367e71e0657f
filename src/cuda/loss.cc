// cross_entropy and its gradient: refusals and parameters.
#include "cuda/loss.h"

#include "cpu/kernel_util.h"
#include "cuda/families.h"

namespace rhetor::gpu {
namespace {

std::string refuse(DType logits) { return is_fast_float(logits) || logits == DType::f64 ? "" : "takes logits in f64, f32, f16 and bf16"; }

std::shared_ptr<LossProblem> problem_of(const KernelRequest& request, std::size_t logits) {
  const Type& x = request.in[logits];
  auto p = std::make_shared<LossProblem>();
  *p = {.rows = x.shape[0],
        .classes = x.shape[1],
        .ignore = request.node.attrs.i("ignore_index"),
        .dtype = x.dtype,
        .index = request.in[logits + 1].dtype};
  return p;
}

void run_forward(const void* params, const KernelArgs& args) {
  cross_entropy(*static_cast<const LossProblem*>(params), args.in[0], args.in[1], args.out[0], args.out[1], args.stream);
}
void run_backward(const void* params, const KernelArgs& args) {
  cross_entropy_grad(*static_cast<const LossProblem*>(params), args.in[0], args.in[1], args.in[2], args.in[3], args.out[0], args.stream);
}

std::string refuse_forward(const KernelRequest& request) { return refuse(request.in[0].dtype); }
std::string refuse_backward(const KernelRequest& request) { return refuse(request.in[1].dtype); }
Kernel prepare_forward(const KernelRequest& request) { return {.run = run_forward, .params = problem_of(request, 0)}; }
Kernel prepare_backward(const KernelRequest& request) { return {.run = run_backward, .params = problem_of(request, 1)}; }

}  // namespace

std::vector<KernelRow> loss_rows() {
  return {{"cross_entropy", {{"cuda.cross_entropy", refuse_forward, prepare_forward}}},
          {"cross_entropy_grad", {{"cuda.cross_entropy_grad", refuse_backward, prepare_backward}}}};
}

}  // namespace rhetor::gpu
