// precision: contractions (matmul, convolution, attention and their backward ops) in bf16 or f16 as inserted casts. Everything else,
// that is reductions, norms, softmax, losses, optimisers and pointwise work, stays in f32, and so do the master weights.
#include <map>

#include "graph/op.h"
#include "ops/ops.h"
#include "passes/passes.h"

namespace rhetor {
namespace {

class Narrowing {
 public:
  Narrowing(const Graph& graph, PassContext& context)
      : graph_(graph), context_(context), to_dtype_(context.options.compute == DType::f8e4m3 ? DType::bf16 : context.options.compute), pinned_(static_cast<std::size_t>(graph.size())) {
    readers_.resize(static_cast<std::size_t>(graph.size()));
    for (std::int32_t i = 0; i < graph.size(); ++i)
      for (const ValueId v : graph.node(i).inputs)
        if (v.valid()) readers_[static_cast<std::size_t>(v.node)].push_back(i);
    for (const GraphOutput& output : graph.outputs()) readers_[static_cast<std::size_t>(output.value.node)].push_back(-1);
    for (const StateUpdate& update : graph.updates()) readers_[static_cast<std::size_t>(update.value.node)].push_back(-1);
  }

  Graph run() {
    Graph out = Rewriter(graph_).run([this](Rewriter& r, std::int32_t i) { return visit(r, i); });
    context_.record.note = fmt::format("{} contractions in {}, {} casts", narrowed_, name(to_dtype_), casts_);
    return remove_dead(out);
  }

 private:
  std::vector<Value> visit(Rewriter& r, std::int32_t i) {
    const Node& node = graph_.node(i);
    if (node.op->traits.kind != OpKind::contraction) return {};
    if (std::string why = why_wide(node); !why.empty()) return refuse(i, why);
    std::vector<Type> in;
    std::vector<bool> narrow;
    for (const ValueId v : node.inputs) {
      in.push_back(v.valid() ? graph_.type(v) : Type{DType::boolean, Shape{}});
      narrow.push_back(v.valid() && in.back().dtype == DType::f32 && !pinned(v));
      if (v.valid() && in.back().dtype == DType::i8) return refuse(i, "it is quantised");
      if (narrow.back()) in.back().dtype = to_dtype_;
    }
    bool any = false;
    for (const bool n : narrow) any = any || n;
    if (!any) return {};
    Attrs attrs = node.attrs;
    const AttrValue* out_attr = attrs.find("out");
    const bool chooses_result = out_attr && kind_of(*out_attr) == AttrKind::dtype;
    if (chooses_result && std::get<DType>(*out_attr) == DType::f32 && only_narrow_readers({i, 0})) attrs.set("out", to_dtype_);
    std::vector<Type> types;
    try {
      types = node.op->infer(in, attrs);
    } catch (const Error& error) {
      return refuse(i, error.what());
    }
    ++narrowed_;
    std::vector<Value> operands;
    for (std::size_t k = 0; k < narrow.size(); ++k) operands.push_back(narrow[k] ? narrowed(r, node.inputs[k]) : r.map(node.inputs[k]));
    const Value first = r.to().add(*node.op, operands, attrs);
    std::vector<Value> results;
    for (std::size_t k = 0; k < node.outputs.size(); ++k) {
      const ValueId old{i, static_cast<std::int32_t>(k)};
      const Value made(&r.to(), {first.id().node, static_cast<std::int32_t>(k)});
      if (made.dtype() == node.outputs[k].dtype) {
        // A statistic that the op keeps in f32 (log-sum-exp): its readers want it so.
        if (!chooses_result) pinned_[static_cast<std::size_t>(i)].insert(old.output);
        results.push_back(made);
      } else {
        narrow_[old] = made;
        results.push_back(cast(made, node.outputs[k].dtype));
      }
    }
    return results;
  }

  std::vector<Value> refuse(std::int32_t i, std::string reason) {
    context_.record.refusals.push_back({"precision", fmt::format("{} %{}", graph_.node(i).op->name, i), std::move(reason)});
    return {};
  }
  bool pinned(ValueId v) const { return pinned_[static_cast<std::size_t>(v.node)].contains(v.output); }

  // One narrow copy a value: a parameter is cast once however many read it. A reshape, transpose or slice read by contractions
  // only moves narrow elements instead of casting moved ones.
  Value narrowed(Rewriter& r, ValueId v) {
    if (const auto found = narrow_.find(v); found != narrow_.end()) return found->second;
    const Node& node = graph_.node(v);
    Value out;
    if (node.op->traits.kind == OpKind::layout && node.inputs.size() == 1 && only_narrow_readers(v)) {
      const Value source = narrowed(r, node.inputs[0]);
      out = r.to().add(*node.op, {source}, node.attrs);
    } else if (node.op->name == "cast" && graph_.type(node.inputs[0]).dtype == to_dtype_) {
      out = r.map(node.inputs[0]);  // a weight that is stored narrow
    } else {
      out = cast(r.map(v), to_dtype_);
      ++casts_;
    }
    return narrow_[v] = out;
  }

  // Casting a cache goes over all of it at every run, whatever part is in use: few queries do not repay that. From about this many
  // queries that share a key head on, faster products do (0.6 ns an element cast; 2 flops a query and element, at 80 against 215 GF/s).
  static constexpr std::int64_t kQueriesWorthACast = 32;
  std::string why_wide(const Node& node) const {
    if (node.op->name != "attention") return "";
    const Shape &q = graph_.type(node.inputs[0]).shape, &k = graph_.type(node.inputs[1]).shape;
    if (q[1] * (q[2] / k[2]) >= kQueriesWorthACast) return "";
    for (const ValueId v : {node.inputs[1], node.inputs[2]})
      if (graph_.type(v).dtype == DType::f32 && is_cache(v)) return "few queries read a cache in f32, which would be cast whole";
    return "";
  }
  bool is_cache(ValueId v) const {
    while (graph_.node(v).op->name == "cache_write") v = graph_.node(v).inputs[0];
    return graph_.is_input(v.node) && graph_.input_kind(v.node) == InputKind::state;
  }

  // Every reader casts it (or a moved copy of it) to the narrow type.
  bool only_narrow_readers(ValueId v) const {
    const auto& readers = readers_[static_cast<std::size_t>(v.node)];
    if (readers.empty() || graph_.node(v).outputs.size() != 1) return false;
    for (const std::int32_t reader : readers) {
      if (reader < 0) return false;
      const Node& node = graph_.node(reader);
      if (node.op->traits.kind == OpKind::contraction) {
        for (const ValueId in : node.inputs)
          if (in.valid() && graph_.type(in).dtype == DType::i8) return false;
        continue;
      }
      if (node.op->traits.kind != OpKind::layout || node.inputs.size() != 1 || !only_narrow_readers({reader, 0})) return false;
    }
    return true;
  }

  const Graph& graph_;
  PassContext& context_;
  DType to_dtype_;
  std::vector<std::vector<std::int32_t>> readers_;
  std::vector<std::set<std::int32_t>> pinned_;
  std::map<ValueId, Value> narrow_;
  int narrowed_ = 0, casts_ = 0;
};

}  // namespace

Graph precision_pass(const Graph& graph, PassContext& context) {
  const DType compute = context.options.compute;
  if (compute == DType::f32) return graph;
  if (compute != DType::bf16 && compute != DType::f16 && compute != DType::f8e4m3)
    fail("contractions can be computed in f32, bf16, f16 or f8e4m3 (FP8), not in {}", name(compute));
  if (context.options.narrow) return narrow_all(graph, context);
  return Narrowing(graph, context).run();
}

}  // namespace rhetor
