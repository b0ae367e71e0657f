// adamw and sgd: refusals and parameters.
#include "cuda/optimizer.h"

#include "cpu/kernel_util.h"
#include "cuda/families.h"

namespace rhetor::gpu {
namespace {

std::string refuse(const KernelRequest& request) {
  const DType g = request.in[1].dtype;
  return is_fast_float(g) || g == DType::f64 ? "" : "takes gradients in f64, f32, f16 and bf16";
}

std::shared_ptr<UpdateProblem> problem_of(const KernelRequest& request) {
  auto u = std::make_shared<UpdateProblem>();
  u->elements = request.in[0].elements();
  u->weights = request.in[0].dtype;
  u->gradient = request.in[1].dtype;
  return u;
}

// `apply`, the last operand, may be missing from the list.
template <bool has_apply>
void run_adamw(const void* params, const KernelArgs& args) {
  const auto& u = *static_cast<const UpdateProblem*>(params);
  adamw(u, args.in[0], args.in[1],
        {.m = args.in[2],
         .v = args.in[3],
         .lr = args.in[4],
         .step = args.in[5],
         .g_scale = args.in[6],
         .apply = has_apply ? args.in[7] : nullptr,
         .new_m = args.out[1],
         .new_v = args.out[2]},
        args.out[0], args.stream);
}
void run_sgd(const void* params, const KernelArgs& args) {
  sgd(*static_cast<const UpdateProblem*>(params), args.in[0], args.in[1], args.in[2], args.in[3], args.out[0], args.stream);
}

Kernel prepare_adamw(const KernelRequest& request) {
  auto u = problem_of(request);
  const Attrs& attrs = request.node.attrs;
  u->beta1 = attrs.f("beta1");
  u->beta2 = attrs.f("beta2");
  u->eps = attrs.f("eps");
  u->decay = attrs.f("weight_decay");
  return {.run = present(request, 7) ? run_adamw<true> : run_adamw<false>, .params = u};
}
Kernel prepare_sgd(const KernelRequest& request) { return {.run = run_sgd, .params = problem_of(request)}; }

}  // namespace

std::vector<KernelRow> optimizer_rows() {
  return {{"adamw", {{"cuda.adamw", refuse, prepare_adamw}}}, {"sgd", {{"cuda.sgd", refuse, prepare_sgd}}}};
}

}  // namespace rhetor::gpu
