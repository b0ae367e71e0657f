#include "passes/grad.h"

#include <map>

#include "graph/op.h"
#include "ops/ops.h"
#include "passes/index.h"

namespace rhetor {
namespace {

// The state of one backward walk over the nodes that existed when it began.
class Backward {
 public:
  Backward(Value loss, const std::vector<Value>& wrt) : graph_(loss.graph()), last_(loss.id().node) {
    grads_.resize(at(last_) + 1);
    for (std::int32_t i = 0; i <= last_; ++i) grads_[at(i)].resize(graph_.node(i).outputs.size());
    mark(wrt);
    grads_[at(last_)][at(loss.id().output)].push_back(loss.shape().rank() ? full_like(loss, 1) : scalar(graph_, loss.dtype(), 1));
  }

  void run() {
    const std::string outer = graph_.current_scope();
    for (std::int32_t i = last_; i >= 0; --i) visit(i);
    graph_.set_current_scope(outer);
  }

  Value grad(Value of) {
    if (of.id().node <= last_)
      if (const Value g = combined(grads_[at(of.id().node)][at(of.id().output)])) return g;
    return full_like(of, 0);
  }

 private:
  // Which nodes compute something that a gradient is wanted for, through floating-point operands.
  void mark(const std::vector<Value>& wrt) {
    depends_.assign(at(last_) + 1, 0);
    for (const Value& w : wrt)
      if (w.id().node <= last_) depends_[at(w.id().node)] = 1;
    for (std::int32_t i = 0; i <= last_; ++i)
      for (const ValueId v : graph_.node(i).inputs)
        if (v.valid() && depends_[at(v.node)] && is_float(graph_.type(v).dtype)) depends_[at(i)] = 1;
  }
  bool wanted(ValueId v) const { return v.valid() && depends_[at(v.node)] && is_float(graph_.type(v).dtype); }

  void visit(std::int32_t i) {
    const Node& node = graph_.node(i);
    bool reached = false, feeds = false;
    for (const std::vector<Value>& parts : grads_[at(i)]) reached = reached || !parts.empty();
    for (const ValueId v : node.inputs) feeds = feeds || wanted(v);
    if (!reached || !feeds) return;
    if (node.op->grad == kNotDifferentiable)
      fail("the gradient of '{}' (node %{}{}) is needed but the op has none; a path to a trained parameter must not cross it",
           node.op->name, i, node.scope.empty() ? "" : " in " + node.scope);

    graph_.set_current_scope(node.scope.empty() ? "grad" : "grad." + node.scope);
    GradCall call{.graph = graph_, .attrs = node.attrs, .in = {}, .out = {}, .grad_out = {}};
    for (std::vector<Value>& parts : grads_[at(i)]) call.grad_out.push_back(combined(parts));
    for (const ValueId v : node.inputs) call.in.push_back(v.valid() ? Value(&graph_, v) : Value());
    for (std::size_t k = 0; k < node.outputs.size(); ++k) call.out.emplace_back(&graph_, ValueId{i, static_cast<std::int32_t>(k)});
    const std::vector<Value> found = node.op->grad(call);
    if (found.size() > node.inputs.size())
      fail(ErrorKind::internal, "the gradient of '{}' gives {} values for {} operands", node.op->name, found.size(), node.inputs.size());
    for (std::size_t k = 0; k < found.size(); ++k)
      if (found[k] && wanted(node.inputs[k])) accumulate(node.inputs[k], found[k], *node.op);
  }

  void accumulate(ValueId v, Value g, const OpDef& op) {
    const Type& type = graph_.type(v);
    if (g.shape() != type.shape)
      fail(ErrorKind::internal, "the gradient of '{}' has type {} for an operand of type {}", op.name, g.type().str(), type.str());
    if (g.dtype() != type.dtype) g = cast(g, type.dtype);
    grads_[at(v.node)][at(v.output)].push_back(g);
  }

  // The sum of what the readers of a value contribute; no value if nobody does.
  Value combined(std::vector<Value>& parts) {
    if (parts.empty()) return {};
    Value sum = parts.size() > 1 ? joined(parts) : Value();
    if (!sum) {
      sum = parts[0];
      for (std::size_t k = 1; k < parts.size(); ++k) sum = add(sum, parts[k]);
    }
    parts = {sum};
    return sum;
  }

  // A value that was cut into slices (query, key, value) gets its gradient as their concatenation, not as a sum of padded pieces.
  static Value joined(const std::vector<Value>& parts) {
    int axis = -1;
    std::map<std::int64_t, Value> pieces;  // by first row
    for (const Value& part : parts) {
      const Node& node = part.graph().node(part.id());
      if (node.op->name != "pad" || node.attrs.f("value") != 0) return {};
      const Value piece(&part.graph(), node.inputs[0]);
      for (int d = 0; d < part.shape().rank(); ++d) {
        if (piece.shape()[d] == part.shape()[d]) continue;
        if (axis >= 0 && axis != d) return {};
        axis = d;
      }
      if (axis < 0 || !pieces.emplace(node.attrs.ints("before")[at(axis)], piece).second) return {};
    }
    std::vector<Value> ordered;
    std::int64_t next = 0;
    for (const auto& [begin, piece] : pieces) {
      if (begin != next) return {};
      next += piece.shape()[axis];
      ordered.push_back(piece);
    }
    return next == parts[0].shape()[axis] ? concat(ordered, axis) : Value();
  }

  Graph& graph_;
  std::int32_t last_;
  std::vector<char> depends_;
  std::vector<std::vector<std::vector<Value>>> grads_;  // [node][output] -> contributions
};

}  // namespace

std::vector<Value> gradients(Value loss, const std::vector<Value>& wrt) {
  check(static_cast<bool>(loss), "gradients of no value");
  if (!is_float(loss.dtype()) || loss.type().elements() != 1)
    fail("gradients: the loss must be one floating-point number, not {}", loss.type().str());
  for (const Value& w : wrt) {
    check(w && &w.graph() == &loss.graph(), "gradients with respect to a value of another graph");
    if (!is_float(w.dtype())) fail("gradients: node %{} of type {} is not floating-point", w.id().node, w.type().str());
  }
  Backward backward(loss, wrt);
  backward.run();
  std::vector<Value> out;
  for (const Value& w : wrt) out.push_back(backward.grad(w));
  return out;
}

}  // namespace rhetor
