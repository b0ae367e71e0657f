#include "train/storage.h"

#include "graph/op.h"
#include "ops/ops.h"

namespace rhetor {

Graph store_in_bf16(const Graph& graph) {
  return Rewriter(graph).run([&](Rewriter& r, std::int32_t i) -> std::vector<Value> {
    if (!graph.is_input(i) || graph.input_kind(i) != InputKind::state || graph.node(i).outputs[0].dtype != DType::f32) return {};
    const Node& node = graph.node(i);
    const Value state =
        r.to().input(graph.input_name(i), {DType::bf16, node.outputs[0].shape}, InputKind::state, node.attrs.s("init"));
    return {cast(state, DType::f32)};
  });
}

Value weight_value(Graph& graph, std::int32_t node) {
  if (graph.node(node).outputs[0].dtype != DType::bf16) return graph.value({node, 0});
  for (std::int32_t i = node + 1; i < graph.size(); ++i)
    if (graph.node(i).op->name == "cast" && graph.node(i).inputs[0] == ValueId{node, 0}) return graph.value({i, 0});
  check(false, "a weight that is kept in bf16 is read through a cast");
  return {};
}

}  // namespace rhetor
