// Pointwise ops, casts, broadcasts, dropout and purely pointwise `fused` nodes: all run by the pointwise program (program.h).
// Memory-bound: every operand read once, every result written once.
#include <cstring>

#include "cpu/families.h"
#include "cpu/program.h"
#include "ops/families.h"

namespace rhetor {
namespace {

struct Params {
  ProgramPtr program;
  std::int64_t elements = 0;
  std::uint64_t scratch_each = 0;
};

// Elements a thread should have before a second one is worth waking.
constexpr std::int64_t kGrain = 8192;

// A node by itself as a body: its operands become inputs "0", "1", ...
struct Single {
  Graph graph;
  std::vector<ValueId> inputs, outputs;
};
Single single(const KernelRequest& request) {
  Single body;
  std::vector<Value> operands;
  for (std::size_t k = 0; k < request.in.size(); ++k) {
    operands.push_back(body.graph.input(fmt::format("{}", k), request.in[k]));
    body.inputs.push_back(operands.back().id());
  }
  body.outputs.push_back(body.graph.add(*request.node.op, operands, request.node.attrs).id());
  return body;
}

ProgramPtr program_of(const KernelRequest& request, std::string* why_not) {
  if (request.node.op->name != "fused") {
    const Single body = single(request);
    return compile_program(body.graph, body.inputs, body.outputs, why_not);
  }
  if (!request.node.attrs.s("anchor").empty()) {
    *why_not = fmt::format("the group is built around '{}'", request.node.attrs.s("anchor"));
    return nullptr;
  }
  const Graph& body = *request.node.attrs.graph("body");
  std::vector<ValueId> inputs, outputs;
  for (std::size_t k = 0; k < request.in.size(); ++k) inputs.push_back(body.find_input(fmt::format("{}", k)));
  for (std::size_t k = 0; k < request.out.size(); ++k) outputs.push_back(body.find_output(fmt::format("{}", k)));
  return compile_program(body, inputs, outputs, why_not);
}

std::string refuse(const KernelRequest& request) {
  std::string why_not;
  return program_of(request, &why_not) ? "" : why_not;
}

void run(const void* opaque, const KernelArgs& args) {
  const auto& p = *static_cast<const Params*>(opaque);
  struct Context {
    const Params& p;
    const KernelArgs& args;
    std::int64_t chunks, tasks;
  };
  const std::int64_t chunks = (p.elements + kGrain - 1) / kGrain;
  Context context{p, args, chunks, std::min<std::int64_t>(chunks, args.pool.threads())};
  args.pool.run(static_cast<int>(context.tasks), [](void* raw, int i) {
    const auto& c = *static_cast<const Context*>(raw);
    const std::int64_t begin = c.chunks * i / c.tasks * kGrain;
    const std::int64_t end = std::min(c.chunks * (i + 1) / c.tasks * kGrain, c.p.elements);
    run_program_elements(*c.p.program, c.args.in, c.args.out, begin, end,
                         static_cast<char*>(c.args.scratch) + static_cast<std::uint64_t>(i) * c.p.scratch_each);
  }, &context);
}

Kernel prepare(const KernelRequest& request) {
  std::string why_not;
  auto params = std::make_shared<Params>();
  params->program = program_of(request, &why_not);
  params->elements = request.out[0].elements();
  params->scratch_each = (program_scratch_bytes(*params->program) + 63) / 64 * 64;
  return {.run = run, .params = params,
          .scratch_bytes = params->scratch_each * static_cast<std::uint64_t>(request.threads),
          .detail = program_text(*params->program)};
}

}  // namespace

std::vector<KernelRow> pointwise_rows() {
  std::vector<KernelRow> rows;
  for (const OpDef* op : pointwise_ops()) rows.push_back({op->name, {{"cpu.pointwise", refuse, prepare}}});
  for (const std::string_view op : {"broadcast_to", "cast", "dropout", "fused"}) rows.push_back({op, {{"cpu.pointwise", refuse, prepare}}});
  return rows;
}

}  // namespace rhetor
