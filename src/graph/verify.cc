#include "graph/verify.h"

#include <set>
#include <string>

#include "graph/op.h"

namespace rhetor {
namespace {

[[noreturn]] void broken(std::string_view after, const Graph& graph, std::int32_t node, const std::string& what) {
  const std::string where = node < 0 ? std::string("the graph")
                                     : fmt::format("%{} = {}{}", node, graph.node(node).op ? graph.node(node).op->name : "?",
                                                   graph.node(node).scope.empty() ? "" : " in " + graph.node(node).scope);
  fail(ErrorKind::internal, "verify{}{}: {}: {}", after.empty() ? "" : " after ", after, where, what);
}

void verify_attrs(const Graph& graph, std::int32_t i, std::string_view after) {
  const Node& node = graph.node(i);
  for (const AttrSpec& spec : node.op->attrs) {
    const AttrValue* value = node.attrs.find(spec.name);
    if (!value) broken(after, graph, i, fmt::format("attribute '{}' is missing", spec.name));
    if (kind_of(*value) != spec.kind) broken(after, graph, i, fmt::format("attribute '{}' has the wrong kind", spec.name));
    if (spec.kind == AttrKind::tensor && !std::get<Tensor>(*value).defined())
      broken(after, graph, i, fmt::format("attribute '{}' is an undefined tensor", spec.name));
    if (spec.kind == AttrKind::graph) {
      const GraphPtr& sub = std::get<GraphPtr>(*value);
      if (!sub) broken(after, graph, i, fmt::format("attribute '{}' is no graph", spec.name));
      verify(*sub, fmt::format("{}{}body of %{} {}", after, after.empty() ? "" : ", ", i, node.op->name));
    }
  }
  if (node.attrs.size() != node.op->attrs.size()) broken(after, graph, i, "it has attributes its op does not know");
}

void verify_operands(const Graph& graph, std::int32_t i, std::string_view after) {
  const Node& node = graph.node(i);
  const auto& names = node.op->operands;
  const bool variadic = !names.empty() && names.back().ends_with('*');
  if (node.inputs.size() > names.size() && !variadic)
    broken(after, graph, i, fmt::format("{} operands, at most {} expected", node.inputs.size(), names.size()));
  for (std::size_t k = 0; k < node.inputs.size() || k < names.size(); ++k) {
    const ValueId v = k < node.inputs.size() ? node.inputs[k] : ValueId{};
    if (!v.valid()) {
      if (k < names.size() && !names[k].ends_with('?') && !names[k].ends_with('*'))
        broken(after, graph, i, fmt::format("operand {} ('{}') is missing", k, names[k]));
      continue;
    }
    if (v.node >= i) broken(after, graph, i, fmt::format("operand {} is %{}, which is not an earlier node", k, v.node));
    if (v.output < 0 || v.output >= static_cast<std::int32_t>(graph.node(v).outputs.size()))
      broken(after, graph, i,
             fmt::format("operand {} is result {} of %{}, which has {}", k, v.output, v.node, graph.node(v).outputs.size()));
  }
}

void verify_types(const Graph& graph, std::int32_t i, std::string_view after) {
  const Node& node = graph.node(i);
  if (graph.is_input(i)) {
    if (node.outputs.size() != 1) broken(after, graph, i, "an input has one result");
    return;
  }
  std::vector<Type> in;
  for (const ValueId v : node.inputs) in.push_back(v.valid() ? graph.type(v) : Type{DType::boolean, Shape{}});
  std::vector<Type> out;
  try {
    out = node.op->infer(in, node.attrs);
  } catch (const Error& error) {
    broken(after, graph, i, error.what());
  }
  if (out.size() != node.outputs.size())
    broken(after, graph, i, fmt::format("{} results recorded, its op gives {}", node.outputs.size(), out.size()));
  for (std::size_t k = 0; k < out.size(); ++k)
    if (out[k] != node.outputs[k])
      broken(after, graph, i,
             fmt::format("result {} is recorded as {}, its op gives {}", k, node.outputs[k].str(), out[k].str()));
}

}  // namespace

void verify(const Graph& graph, std::string_view after) {
  std::set<std::string> inputs;
  for (std::int32_t i = 0; i < graph.size(); ++i) {
    if (!graph.node(i).op) broken(after, graph, i, "it has no op");
    verify_attrs(graph, i, after);
    verify_operands(graph, i, after);
    verify_types(graph, i, after);
    if (!graph.is_input(i)) continue;
    const std::string& name = graph.input_name(i);
    if (!inputs.insert(name).second) broken(after, graph, i, fmt::format("a second input called '{}'", name));
    if (graph.find_input(name) != ValueId{i, 0})
      broken(after, graph, i, fmt::format("the input '{}' is not found by its name", name));
    const std::string& kind = graph.node(i).attrs.s("kind");
    if (kind != "input" && kind != "param" && kind != "state")
      broken(after, graph, i, fmt::format("'{}' is no kind of input", kind));
  }
  const auto exists = [&](ValueId v) {
    return v.valid() && v.node < graph.size() && v.output >= 0 &&
           v.output < static_cast<std::int32_t>(graph.node(v).outputs.size());
  };
  std::set<std::string> outputs;
  for (const GraphOutput& output : graph.outputs()) {
    if (!outputs.insert(output.name).second) broken(after, graph, -1, fmt::format("two outputs are called '{}'", output.name));
    if (!exists(output.value)) broken(after, graph, -1, fmt::format("the output '{}' names no value", output.name));
  }
  std::set<std::int32_t> updated;
  for (const StateUpdate& update : graph.updates()) {
    const bool state = update.state >= 0 && update.state < graph.size() && graph.is_input(update.state) &&
                       graph.input_kind(update.state) == InputKind::state;
    if (!state) broken(after, graph, -1, fmt::format("an update of %{}, which is no state", update.state));
    if (!updated.insert(update.state).second) broken(after, graph, update.state, "it is updated twice");
    if (!exists(update.value)) broken(after, graph, update.state, "its update names no value");
    if (graph.type(update.value) != graph.type({update.state, 0}))
      broken(after, graph, update.state, fmt::format("it is {} but its update is {}", graph.type({update.state, 0}).str(),
                                                     graph.type(update.value).str()));
  }
}

}  // namespace rhetor
