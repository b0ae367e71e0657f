// A norm with a pointwise prologue as one generated kernel (codegen_norm.cc).
#include "cuda/fused_norm.h"

#include "base/error.h"
#include "cuda/codegen_text.h"
#include "cuda/nvrtc.h"

namespace rhetor::gpu {
namespace {

KernelText text_of(const KernelRequest& request) {
  const std::string& anchor = request.node.attrs.s("anchor");
  if (anchor != "layer_norm" && anchor != "rms_norm")
    throw Refused{anchor.empty() ? "the group has no norm" : "the group is built around " + anchor};
  const Graph& body = *request.node.attrs.graph("body");
  std::int32_t norm = -1;
  for (std::int32_t i = 0; i < body.size(); ++i)
    if (body.node(i).op->name == anchor) norm = i;
  if (norm < 0) throw Refused{"its body lacks the anchor"};
  std::vector<ValueId> inputs, outputs;
  for (std::size_t k = 0; k < request.in.size(); ++k) inputs.push_back(body.find_input(fmt::format("{}", k)));
  for (std::size_t k = 0; k < request.out.size(); ++k) outputs.push_back(body.find_output(fmt::format("{}", k)));
  return norm_kernel(body, norm, inputs, outputs);
}

std::string refuse(const KernelRequest& request) {
  try {
    text_of(request);
    return nvrtc_missing();
  } catch (const Refused& refused) {
    return refused.reason;
  }
}

void run(const void* params, const KernelArgs& args) {
  static_cast<const GeneratedKernel*>(params)->launch(args.in, args.out, args.stream);
}

Kernel prepare(const KernelRequest& request) {
  const GeneratedPtr kernel = generated(*request.device, text_of(request));
  return {.run = run, .params = kernel, .detail = kernel->text()};
}

}  // namespace

KernelRow fused_norm_row() { return {"fused", {{"cuda.fused_norm", refuse, prepare}}}; }

}  // namespace rhetor::gpu
