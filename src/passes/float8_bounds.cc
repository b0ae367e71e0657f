#include "passes/float8_bounds.h"

#include <cmath>

#include "graph/op.h"
#include "ops/ops.h"
#include "passes/index.h"

namespace rhetor {
namespace {

// Operands rounded to e4m3 may each be longer by 1/16, and what is stored in 16 bits is rounded too.
constexpr double kRounded = 1.15;

std::vector<std::int64_t> all_axes(const Value& x) {
  std::vector<std::int64_t> axes;
  for (int d = 0; d < x.shape().rank(); ++d) axes.push_back(d);
  return axes;
}
Value greatest_of(Value x) {
  x = abs(x);
  return cast(x.shape().rank() == 0 ? x : reduce_max(x, all_axes(x)), DType::f32);
}

}  // namespace

std::vector<char> fixed_nodes(const Graph& graph) {
  std::vector<char> fixed(at(graph.size()), 0);
  for (std::int32_t i = 0; i < graph.size(); ++i) {
    bool all = !graph.is_input(i) || graph.input_kind(i) == InputKind::param;
    for (const ValueId v : graph.node(i).inputs) all = all && (!v.valid() || fixed[at(v.node)]);
    fixed[at(i)] = all && graph.node(i).op->traits.deterministic;
  }
  return fixed;
}

Value ActivationBounds::number(double value) { return scalar(r_.to(), DType::f32, value); }

ActivationBounds::Bound ActivationBounds::bound(ValueId v) {
  const auto found = known_.find(v);
  return found != known_.end() ? found->second : known_[v] = find(v);
}

ActivationBounds::Bound ActivationBounds::of_norm(const Node& node, bool centered) {
  const Value gamma = cast(r_.map(node.inputs[1]), DType::f32);
  const Value root = number(std::sqrt(static_cast<double>(gamma.type().elements())));
  if (!centered) {
    const Value length = mul(greatest_of(gamma), root);
    return {length, length};
  }
  const Value beta = cast(r_.map(node.inputs[2]), DType::f32);
  return {reduce_max(add(mul(abs(gamma), root), abs(beta)), {0}),
          add(mul(greatest_of(gamma), root), sqrt(reduce_sum(square(beta), {0})))};
}

ActivationBounds::Bound ActivationBounds::of_product(const Node& node) {
  if (!fixed(node.inputs[1]) || node.attrs.b("transpose_a") || graph_.type(node.inputs[1]).shape.rank() != 2) return {};
  const Bound x = bound(node.inputs[0]);
  if (!x.greatest) return {};
  const Value w = r_.map(node.inputs[1]);
  const bool by_rows = node.attrs.b("transpose_b");
  const Value length =
      x.length ? x.length : mul(x.greatest, number(std::sqrt(static_cast<double>(w.shape()[by_rows ? 1 : 0]))));
  // In the weight's own dtype until one number a row is left: what is larger than its operands would not be folded.
  const Value longest = greatest_of(sqrt(reduce_sum(square(w), {by_rows ? 1 : 0})));
  return {mul(mul(longest, length), number(kRounded)), {}};
}

ActivationBounds::Bound ActivationBounds::find(ValueId v) {
  const Node& node = graph_.node(v);
  const std::string_view op = node.op->name;
  if (op == "broadcast_to") return {bound(node.inputs[0]).greatest, {}};   // before it is written out
  if (fixed(v)) return {greatest_of(r_.map(v)), {}};
  if (v.output != 0 || node.inputs.empty()) return {};
  if (op == "layer_norm") return of_norm(node, true);
  if (op == "rms_norm") return of_norm(node, false);
  if (op == "matmul") return of_product(node);
  if (op == "attention") return {bound(node.inputs[2]).greatest, {}};
  if (op == "gelu" || op == "gelu_tanh" || op == "relu" || op == "silu") return {bound(node.inputs[0]).greatest, {}};
  if (op == "cast" || op == "reshape" || op == "transpose" || op == "slice") {
    if (!is_float(graph_.type(node.inputs[0]).dtype)) return {};
    Bound b = bound(node.inputs[0]);
    const Shape &from = graph_.type(node.inputs[0]).shape, &to = graph_.type(v).shape;
    const bool rows_stay = op != "transpose" && from.rank() > 0 && to.rank() > 0 && from.last() == to.last();
    if (!rows_stay) b.length = {};
    return b;
  }
  if (op == "add" || op == "mul") {
    const Value a = bound(node.inputs[0]).greatest;
    if (!a) return {};
    const Value b = bound(node.inputs[1]).greatest;
    if (!b) return {};
    return {op == "add" ? add(a, b) : mul(a, b), {}};
  }
  return {};
}

}  // namespace rhetor
