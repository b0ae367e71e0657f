// The precision pass for devices: not only contractions but all that lies between them is held in the
// compute dtype, so that a residual stream moves two bytes an element. Kernels still sum in f32; what an op itself keeps wide
// (the statistics of a norm, log-sum-exp) stays wide, and so does what it cannot do narrow.
#include <map>
#include <set>

#include "graph/op.h"
#include "ops/ops.h"
#include "passes/passes.h"

namespace rhetor {
namespace {

class AllNarrow {
 public:
  AllNarrow(const Graph& graph, PassContext& context, DType dtype) : graph_(graph), context_(context), dtype_(dtype) {
    read_narrow_.resize(static_cast<std::size_t>(graph.size()), 0);
    for (std::int32_t i = 0; i < graph.size(); ++i)
      for (const ValueId v : graph.node(i).inputs)
        if (v.valid() && may_narrow(graph.node(i))) read_narrow_[static_cast<std::size_t>(v.node)] = 1;
  }

  Graph run() {
    Graph out = Rewriter(graph_).run([this](Rewriter& r, std::int32_t i) { return visit(r, i); });
    context_.record.note = fmt::format("{} of {} nodes in {}", narrowed_, graph_.size(), name(dtype_));
    return remove_dead(out);
  }

 private:
  // Everything but what updates states or measures them: master weights, moments and the norm of all gradients stay wide.
  static bool may_narrow(const Node& node) {
    static const std::set<std::string_view> kWide = {"adamw",  "sgd",    "sum_squares",     "top_k",
                                                     "argmax", "cumsum", "stochastic_round"};
    const OpKind kind = node.op->traits.kind;
    return kind != OpKind::source && kind != OpKind::collective && !kWide.contains(node.op->name);
  }
  bool pinned(ValueId v) const { return pinned_.contains(v); }
  // Activations and parameters; not numbers, and not one number a row that was computed (losses, their gradients, statistics).
  bool narrows(ValueId v) const {
    if (!v.valid() || graph_.type(v).dtype != DType::f32 || pinned(v)) return false;
    return graph_.type(v).shape.rank() >= 2 || (graph_.type(v).elements() > 1 && graph_.is_input(v.node));
  }

  std::vector<Value> visit(Rewriter& r, std::int32_t i) {
    const Node& node = graph_.node(i);
    if (graph_.is_input(i) || graph_.is_constant(i) || node.inputs.empty() || !may_narrow(node)) return {};
    std::vector<Type> in;
    bool any = false;
    for (const ValueId v : node.inputs) {
      in.push_back(v.valid() ? graph_.type(v) : Type{DType::boolean, Shape{}});
      if (!narrows(v)) continue;
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
    // Logits that the graph gives, and gradients that an optimiser reads, stay as exact as the sums behind them.
    if (chooses && std::get<DType>(*out_attr) == DType::f32 && read_narrow_[static_cast<std::size_t>(i)])
      attrs.set("out", dtype_);
    std::vector<Value> operands;
    for (const ValueId v : node.inputs) operands.push_back(narrows(v) ? narrow(r, v) : r.map(v));
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
      const ValueId old{i, static_cast<std::int32_t>(k)};
      const bool same = made.dtype() == node.outputs[k].dtype;
      if (!same)
        narrow_[old] = made;
      else if (made.dtype() == DType::f32 && !chooses)
        pinned_.insert(old);  // a statistic: its readers want it so
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
  std::vector<char> read_narrow_;  // nodes whose results somebody reads who can do it narrow
  std::set<ValueId> pinned_;
  std::map<ValueId, Value> narrow_;
  int narrowed_ = 0;
};

}  // namespace

Graph narrow_all(const Graph& graph, PassContext& context) {
  const DType compute = context.options.compute;
  return AllNarrow(graph, context, compute == DType::f8e4m3 ? DType::bf16 : compute).run();
}

}  // namespace rhetor
