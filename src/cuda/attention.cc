// attention and its gradient: who takes which request.
#include <cmath>
#include <limits>

#include "cuda/attention_rows.h"

namespace rhetor::gpu {

AttentionProblem attention_problem(const KernelRequest& request, std::size_t q) {
  const Shape &qs = request.in[q].shape, &ks = request.in[q + 1].shape;
  const double scale = request.node.attrs.f("scale");
  const auto dim = [](std::int64_t size) { return static_cast<int>(size); };
  return {.b = dim(qs[0]), .s = dim(qs[1]), .t = dim(ks[1]), .h = dim(qs[2]), .g = dim(ks[2]), .d = dim(qs[3]),
          .causal = request.node.attrs.b("causal"), .scale = scale == 0 ? 1 / std::sqrt(static_cast<double>(qs[3])) : scale,
          .dtype = request.in[q].dtype};
}
AttentionPointers attention_pointers(const KernelArgs& args) {
  return {.q = args.in[0], .k = args.in[1], .v = args.in[2], .lengths = static_cast<const std::int32_t*>(args.in[3]),
          .offsets = static_cast<const std::int32_t*>(args.in[4]), .o = args.out[0], .lse = args.out[1]};
}
AttentionGradPointers attention_grad_pointers(const KernelArgs& args) {
  return {.d_o = args.in[0], .q = args.in[1], .k = args.in[2], .v = args.in[3], .o = args.in[4], .lse = args.in[5],
          .lengths = static_cast<const std::int32_t*>(args.in[6]), .offsets = static_cast<const std::int32_t*>(args.in[7]),
          .dq = args.out[0], .dk = args.out[1], .dv = args.out[2]};
}

namespace {

// The general kernels index rows by 32 bits and launch one warp for a few of them.
std::string refuse_general(const Type& q, const Type& k) {
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
  for (const Type* type : {&q, &k})
    for (int i = 0; i < 4; ++i)
      if (type->shape[i] > most) return "a dim is longer than 2^31";
  for (const DType dtype : {DType::f8e4m3, DType::f8e5m2})
    if (q.dtype == dtype) return "no arithmetic in f8";
  return "";
}

Kernel prepare_forward(const KernelRequest& request) {
  return {.run =
              [](const void* params, const KernelArgs& args) {
                attention_general(*static_cast<const AttentionProblem*>(params), attention_pointers(args), args.stream);
              },
          .params = std::make_shared<AttentionProblem>(attention_problem(request, 0))};
}
Kernel prepare_backward(const KernelRequest& request) {
  return {.run =
              [](const void* params, const KernelArgs& args) {
                attention_grad_general(*static_cast<const AttentionProblem*>(params), attention_grad_pointers(args), args.stream);
              },
          .params = std::make_shared<AttentionProblem>(attention_problem(request, 1))};
}

const Candidate kForward = {"cuda.attention", [](const KernelRequest& r) { return refuse_general(r.in[0], r.in[1]); }, prepare_forward};
const Candidate kBackward = {"cuda.attention_grad", [](const KernelRequest& r) { return refuse_general(r.in[1], r.in[2]); }, prepare_backward};

}  // namespace

std::vector<KernelRow> attention_rows() {
  return join_families({rope_rows, attention_mma_rows, [] {
                          return std::vector<KernelRow>{{"attention", {kForward}}, {"attention_grad", {kBackward}}};
                        }});
}

}  // namespace rhetor::gpu
