#include "passes/fuse_strided.h"

#include <algorithm>
#include <functional>

#include "graph/op.h"
#include "passes/fuse_groups.h"
#include "passes/index.h"

namespace rhetor {
namespace {

bool moves_columns(const Node& node) {
  const bool layout = node.op->traits.kind == OpKind::layout && node.inputs.size() == 1 && node.outputs.size() == 1;
  return layout && (node.op->traits.alias || cuts_columns(node));
}

}  // namespace

Graph separate_columns(const Graph& graph, const Target& target) {
  if (target.strided.empty()) return graph;
  const auto reads_columns = [&](const Node& node) { return target.strided.contains(node.op->name); };
  // Is a result read, through slices and reshapes, by ops that read columns alone? List order is topological.
  std::vector<char> elsewhere(at(graph.size()), 0);
  for (const GraphOutput& output : graph.outputs()) elsewhere[at(output.value.node)] = 1;
  for (const StateUpdate& update : graph.updates()) elsewhere[at(update.value.node)] = 1;
  for (std::int32_t i = graph.size() - 1; i >= 0; --i) {
    const Node& node = graph.node(i);
    if (reads_columns(node) || (moves_columns(node) && !elsewhere[at(i)])) continue;
    for (const ValueId v : node.inputs)
      if (v.valid()) elsewhere[at(v.node)] = 1;
  }
  return remove_dead(Rewriter(graph).run([&](Rewriter& r, std::int32_t i) -> std::vector<Value> {
    const Node& node = graph.node(i);
    if (!reads_columns(node)) return {};
    const std::function<Value(ValueId)> own = [&](ValueId v) {
      if (!v.valid()) return Value();
      const Node& from = graph.node(v);
      if (!moves_columns(from) || elsewhere[at(v.node)]) return r.map(v);
      const Value source = own(from.inputs[0]);
      r.to().set_current_scope(from.scope);
      return r.to().add(*from.op, {source}, from.attrs);
    };
    std::vector<Value> in;
    for (const ValueId v : node.inputs) in.push_back(own(v));
    r.to().set_current_scope(node.scope);
    const Value first = r.to().add(*node.op, in, node.attrs);
    std::vector<Value> results;
    for (std::size_t k = 0; k < node.outputs.size(); ++k)
      results.push_back(Value(&r.to(), {first.id().node, static_cast<std::int32_t>(k)}));
    return results;
  }));
}

}  // namespace rhetor
