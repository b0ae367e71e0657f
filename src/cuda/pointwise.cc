// Pointwise ops, casts, broadcasts, random numbers, counters and purely pointwise `fused` nodes: one generated kernel each
// (codegen.h). Memory-bound: every operand read once, every result written once.
#include "cuda/codegen.h"
#include "cuda/families.h"
#include "cuda/fused_norm.h"
#include "cuda/nvrtc.h"
#include "ops/families.h"

namespace rhetor::gpu {
namespace {

// What is compiled: a fused node's body, or the node by itself as a body of one.
struct Body {
  Graph own;
  const Graph* graph = nullptr;
  std::vector<ValueId> inputs, outputs;
};

std::string body_of(const KernelRequest& request, Body& body) {
  if (request.node.op->name != "fused") {
    std::vector<Value> operands;
    for (std::size_t k = 0; k < request.in.size(); ++k) {
      operands.push_back(body.own.input(fmt::format("{}", k), request.in[k]));
      body.inputs.push_back(operands.back().id());
    }
    body.outputs.push_back(body.own.add(*request.node.op, operands, request.node.attrs).id());
    body.graph = &body.own;
    return "";
  }
  if (const std::string& anchor = request.node.attrs.s("anchor"); !anchor.empty())
    return fmt::format("the group is built around '{}'", anchor);
  body.graph = request.node.attrs.graph("body").get();
  for (std::size_t k = 0; k < request.in.size(); ++k) body.inputs.push_back(body.graph->find_input(fmt::format("{}", k)));
  for (std::size_t k = 0; k < request.out.size(); ++k) body.outputs.push_back(body.graph->find_output(fmt::format("{}", k)));
  return "";
}

std::string refuse(const KernelRequest& request) {
  Body body;
  if (std::string why = body_of(request, body); !why.empty()) return why;
  if (std::string why = refuse_pointwise(*body.graph, body.inputs, body.outputs); !why.empty()) return why;
  return nvrtc_missing();
}

void run(const void* params, const KernelArgs& args) {
  static_cast<const GeneratedKernel*>(params)->launch(args.in, args.out, args.stream);
}

Kernel prepare(const KernelRequest& request) {
  Body body;
  body_of(request, body);
  const GeneratedPtr kernel = generate_pointwise(*request.device, *body.graph, body.inputs, body.outputs);
  return {.run = run, .params = kernel, .detail = kernel->text()};
}

}  // namespace

std::vector<KernelRow> pointwise_rows() {
  std::vector<KernelRow> rows;
  for (const OpDef* op : pointwise_ops()) rows.push_back({op->name, {{"cuda.pointwise", refuse, prepare}}});
  for (const std::string_view op : {"broadcast_to", "cast", "dropout", "iota", "random_uniform", "random_normal", "fused"})
    rows.push_back({op, {{"cuda.pointwise", refuse, prepare}}});
  rows.push_back(fused_norm_row());
  return rows;
}

}  // namespace rhetor::gpu
