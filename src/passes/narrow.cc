// The second half of the precision pass for inference on devices: not only contractions but all that lies between them is held in the
// compute dtype, so that a residual stream moves two bytes an element. Kernels still sum in f32; what an op itself keeps wide (the
// statistics of a norm, log-sum-exp) stays wide, and so does what it cannot do narrow.
#include <map>

#include "graph/op.h"
#include "ops/ops.h"
#include "passes/passes.h"

namespace rhetor {
namespace {

class AllNarrow {
 public:
  AllNarrow(const Graph& graph, PassContext& context, DType dtype) : graph_(graph), context_(context), dtype_(dtype) {
    given_.resize(static_cast<std::size_t>(graph.size()), 0);
    for (const GraphOutput& output : graph.outputs()) given_[static_cast<std::size_t>(output.value.node)] = 1;
    for (const StateUpdate& update : graph.updates()) given_[static_cast<std::size_t>(update.value.node)] = 1;
  }

  Graph run() {
    Graph out = Rewriter(graph_).run([this](Rewriter& r, std::int32_t i) { return visit(r, i); });
    context_.record.note = fmt::format("{} of {} nodes in {}", narrowed_, graph_.size(), name(dtype_));
    return remove_dead(out);
  }

 private:
  bool may_narrow(const Node& node) const {
    switch (node.op->traits.kind) {
      case OpKind::pointwise:
      case OpKind::broadcast:
      case OpKind::contraction:
        return true;
      case OpKind::layout:
        return !node.inputs.empty();
      case OpKind::reduction:   // norms and softmax, not sums
        return node.inputs[0].valid() && node.outputs[0].shape == graph_.type(node.inputs[0]).shape;
      default:
        return node.op->name == "embedding" || node.op->name == "rope";
    }
  }

  std::vector<Value> visit(Rewriter& r, std::int32_t i) {
    const Node& node = graph_.node(i);
    if (graph_.is_input(i) || graph_.is_constant(i) || node.inputs.empty() || !may_narrow(node)) return {};
    std::vector<Type> in;
    bool any = false;
    for (const ValueId v : node.inputs) {
      in.push_back(v.valid() ? graph_.type(v) : Type{DType::boolean, Shape{}});
      if (!v.valid() || in.back().dtype != DType::f32) continue;
      in.back().dtype = dtype_;
      any = true;
    }
    if (!any) return {};
    if (node.op->name == "cast") {
      if (node.outputs[0].dtype == dtype_) return {narrow(r, node.inputs[0])};
      return {};
    }
    Attrs attrs = node.attrs;
    const AttrValue* out_attr = attrs.find("out");
    const bool chooses = out_attr && kind_of(*out_attr) == AttrKind::dtype;
    // Logits that the graph gives stay as exact as the sums behind them.
    if (chooses && !given_[static_cast<std::size_t>(i)] && std::get<DType>(*out_attr) == DType::f32) attrs.set("out", dtype_);
    std::vector<Value> operands;
    for (const ValueId v : node.inputs) operands.push_back(v.valid() && graph_.type(v).dtype == DType::f32 ? narrow(r, v) : r.map(v));
    Value first;
    try {
      node.op->infer(in, attrs);
      first = r.to().add(*node.op, operands, attrs);
    } catch (const Error& error) {
      context_.record.refusals.push_back({"precision", fmt::format("{} %{}", node.op->name, i), error.what()});
      return {};
    }
    ++narrowed_;
    std::vector<Value> results;
    for (std::size_t k = 0; k < node.outputs.size(); ++k) {
      const Value made(&r.to(), {first.id().node, static_cast<std::int32_t>(k)});
      const bool same = made.dtype() == node.outputs[k].dtype;
      if (!same) narrow_[{i, static_cast<std::int32_t>(k)}] = made;
      results.push_back(same ? made : cast(made, node.outputs[k].dtype));
    }
    return results;
  }

  Value narrow(Rewriter& r, ValueId v) {
    if (const auto found = narrow_.find(v); found != narrow_.end()) return found->second;
    const Node& node = graph_.node(v);
    const bool stored = node.op->name == "cast" && graph_.type(node.inputs[0]).dtype == dtype_;
    return narrow_[v] = stored ? r.map(node.inputs[0]) : cast(r.map(v), dtype_);
  }

  const Graph& graph_;
  PassContext& context_;
  DType dtype_;
  std::vector<char> given_;   // nodes whose results the graph gives
  std::map<ValueId, Value> narrow_;
  int narrowed_ = 0;
};

}  // namespace

Graph narrow_all(const Graph& graph, PassContext& context) {
  const DType compute = context.options.compute;
  return AllNarrow(graph, context, compute == DType::f8e4m3 ? DType::bf16 : compute).run();
}

}  // namespace rhetor
