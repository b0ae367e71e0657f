// A communicator moves runs of bytes; a tensor is cut along a dim. With `outer` the product of the sizes before that dim, the
// whole is [outer, ranks, run] and what travels is [ranks, outer, run]: the same bytes where outer is 1, else packed in scratch
// memory.
#include "runtime/collective.h"

#include <cstring>

#include "comm/communicator.h"

namespace rhetor {
namespace {

struct Cut {
  std::size_t outer = 1, ranks = 1, run = 0;  // run: bytes
  std::size_t bytes() const { return outer * ranks * run; }
  bool packed() const { return outer > 1; }
};

struct CollectiveParams {
  Communicator* communicator = nullptr;
  std::string name;
  DType dtype = DType::f32;
  std::int64_t count = 0;  // elements of the whole
  Cut from, to;            // of the operand where it is cut, of the result where it is joined
};

Cut cut_of(const Type& whole, std::int64_t dim, std::int64_t ranks) {
  const int rank = whole.shape.rank(), d = normalize_axis(dim, rank, "collective");
  const auto bytes = static_cast<std::size_t>(whole.bytes());
  Cut cut{.outer = static_cast<std::size_t>(whole.shape.elements(0, d)), .ranks = static_cast<std::size_t>(ranks)};
  if (bytes > 0) cut.run = bytes / cut.outer / cut.ranks;
  return cut;
}

void to_blocks(const Cut& cut, const void* whole, void* blocks) {
  for (std::size_t r = 0; r < cut.ranks; ++r)
    for (std::size_t o = 0; o < cut.outer; ++o)
      std::memcpy(static_cast<char*>(blocks) + (r * cut.outer + o) * cut.run,
                  static_cast<const char*>(whole) + (o * cut.ranks + r) * cut.run, cut.run);
}

void from_blocks(const Cut& cut, const void* blocks, void* whole) {
  for (std::size_t r = 0; r < cut.ranks; ++r)
    for (std::size_t o = 0; o < cut.outer; ++o)
      std::memcpy(static_cast<char*>(whole) + (o * cut.ranks + r) * cut.run,
                  static_cast<const char*>(blocks) + (r * cut.outer + o) * cut.run, cut.run);
}

std::int64_t part(const CollectiveParams& p) { return p.count / p.communicator->size(); }

void run_all_reduce(const void* params, const KernelArgs& args) {
  const auto& p = *static_cast<const CollectiveParams*>(params);
  if (args.out[0] != args.in[0]) std::memcpy(args.out[0], args.in[0], p.from.bytes());
  p.communicator->all_reduce({args.out[0], p.dtype, p.count}, Reduce::sum, p.name);
}

void run_all_gather(const void* params, const KernelArgs& args) {
  const auto& p = *static_cast<const CollectiveParams*>(params);
  void* blocks = p.to.packed() ? args.scratch : args.out[0];
  p.communicator->all_gather(ConstElements(args.in[0], p.dtype, part(p)), {blocks, p.dtype, p.count}, p.name);
  if (p.to.packed()) from_blocks(p.to, blocks, args.out[0]);
}

void run_reduce_scatter(const void* params, const KernelArgs& args) {
  const auto& p = *static_cast<const CollectiveParams*>(params);
  if (p.from.packed()) to_blocks(p.from, args.in[0], args.scratch);
  const void* blocks = p.from.packed() ? args.scratch : args.in[0];
  p.communicator->reduce_scatter(ConstElements(blocks, p.dtype, p.count), {args.out[0], p.dtype, part(p)}, Reduce::sum, p.name);
}

void run_all_to_all(const void* params, const KernelArgs& args) {
  const auto& p = *static_cast<const CollectiveParams*>(params);
  auto* scratch = static_cast<char*>(args.scratch);
  if (p.from.packed()) to_blocks(p.from, args.in[0], scratch);
  const void* in = p.from.packed() ? scratch : args.in[0];
  void* out = p.to.packed() ? scratch + p.from.bytes() : args.out[0];
  p.communicator->all_to_all(ConstElements(in, p.dtype, p.count), {out, p.dtype, p.count}, p.name);
  if (p.to.packed()) from_blocks(p.to, out, args.out[0]);
}

std::string input_of(const Graph& graph, const Node& node) {
  for (const ValueId v : node.inputs)
    if (v.valid() && graph.is_input(v.node) && graph.input_kind(v.node) == InputKind::state) return graph.input_name(v.node);
  return "";
}

// What people call the tensor: the state it is, the state it becomes, the state whose update reads it, or an output. Else its
// place among the collectives of the graph. The same on every rank.
std::string tensor_name(const Graph& graph, const Node& node) {
  std::int32_t self = 0, before = 0;
  for (; &graph.node(self) != &node; ++self) before += graph.node(self).op->traits.kind == OpKind::collective ? 1 : 0;
  const ValueId operand = node.inputs[0];
  if (graph.is_input(operand.node)) return graph.input_name(operand.node);
  for (const StateUpdate& update : graph.updates())
    if (update.value.node == self) return "next " + graph.input_name(update.state);
  for (const auto& output : graph.outputs())
    if (output.value.node == self) return output.name;
  for (std::int32_t i = self + 1; i < graph.size(); ++i)
    for (const ValueId v : graph.node(i).inputs)
      if (v.valid() && v.node == self)
        if (const std::string name = input_of(graph, graph.node(i)); !name.empty()) return "gradient of " + name;
  std::vector<char> depends(static_cast<std::size_t>(graph.size()), 0);
  depends[static_cast<std::size_t>(self)] = 1;
  for (std::int32_t i = self + 1; i < graph.size(); ++i) {
    char& mine = depends[static_cast<std::size_t>(i)];
    for (const ValueId v : graph.node(i).inputs)
      if (v.valid() && depends[static_cast<std::size_t>(v.node)]) mine = 1;
    for (const auto& output : graph.outputs())
      if (mine && output.value.node == i) return fmt::format("a part of {}", output.name);
  }
  return fmt::format("value {}", before);
}

}  // namespace

ChosenKernel collective_kernel(const KernelRequest& request, Communicator& communicator) {
  const Node& node = request.node;
  const std::int64_t ranks = node.attrs.i("group");
  if (ranks != communicator.size())
    fail("a graph for {} ranks along '{}' was compiled for a communicator of {}", ranks, node.attrs.s("axis"),
         communicator.size());
  auto params = std::make_shared<CollectiveParams>();
  params->communicator = &communicator;
  params->name = tensor_name(request.graph, node);
  params->dtype = request.in[0].dtype;
  const std::string_view op = node.op->name;
  const Type& in = request.in[0];
  const Type& out = request.out[0];
  params->count = (op == "all_gather" ? out : in).elements();
  params->from = Cut{.ranks = 1, .run = static_cast<std::size_t>(in.bytes())};
  Kernel kernel;
  kernel.detail = fmt::format("'{}' over {} ranks, {}", params->name, ranks, communicator.backend());
  if (op == "all_reduce") {
    kernel.run = run_all_reduce;
  } else if (op == "all_gather") {
    params->to = cut_of(out, node.attrs.i("dim"), ranks);
    kernel.run = run_all_gather;
    kernel.scratch_bytes = params->to.packed() ? params->to.bytes() : 0;
  } else if (op == "reduce_scatter") {
    params->from = cut_of(in, node.attrs.i("dim"), ranks);
    kernel.run = run_reduce_scatter;
    kernel.scratch_bytes = params->from.packed() ? params->from.bytes() : 0;
  } else {
    check(op == "all_to_all", "a collective that has no kernel");
    params->from = cut_of(in, node.attrs.i("split_dim"), ranks);
    params->to = cut_of(out, node.attrs.i("concat_dim"), ranks);
    kernel.run = run_all_to_all;
    kernel.scratch_bytes = params->from.bytes() + params->to.bytes();
  }
  kernel.params = std::move(params);
  return {.name = fmt::format("cpu.{}", op), .kernel = std::move(kernel), .refused = {}};
}

}  // namespace rhetor
