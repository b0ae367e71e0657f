// float8: after the precision pass, products with a weight (forward, towards the activations and towards the weight) in FP8. Weights and
// activations become e4m3, gradients e5m2, each tensor quantised once however many products read it (per-tensor current scaling, see
// ops/float8.cc). A product is dequantize_f8 x dequantize_f8 -> matmul in bf16 with f32 sums: exact for FP8 numbers, and the three nodes
// stand together, so that a device with FP8 products runs them as one. Every product dequantises for itself: what lives from the forward
// to the backward pass is the tensor of bytes.
// Embeddings, norms, softmax and attention are no such products; what PassOptions::wide_weights names (heads, chosen layers) stays bf16.
//
// At inference weights are parameters: their FP8 rows [n, k] are made once, and an activation's scale comes from a bound that holds for
// every input (float8_bounds.h), so that quantising is a multiplication and a cast, which fuse with what computes the activation. Where
// they cannot, a product must gain more than that pass over its activations costs, else it stays in bf16.
#include <fmt/format.h>

#include <map>

#include "graph/op.h"
#include "ops/ops.h"
#include "passes/float8_bounds.h"
#include "passes/index.h"
#include "passes/low_precision.h"
#include "passes/passes.h"

namespace rhetor {
namespace {

// Matrix units take FP8 in blocks of 16.
constexpr std::int64_t kBlock = 16;

class Float8 {
 public:
  Float8(const Graph& graph, PassContext& context) : graph_(graph), context_(context), fixed_(fixed_nodes(graph)) {
    gradient_.resize(at(graph.size()));
    for (std::int32_t i = 0; i < graph.size(); ++i) gradient_[at(i)] = carries_gradient(graph.node(i));
    for (std::int32_t i = 0; i < graph.size(); ++i)
      if (graph.node(i).op->name == "matmul") choose(i);
  }

  Graph run() {
    Rewriter rewriter(graph_);
    ActivationBounds bounds(graph_, rewriter, fixed_);
    bounds_ = &bounds;
    Graph out = rewriter.run([this](Rewriter& r, std::int32_t i) {
      return chosen_.contains(i) ? product(r, i) : std::vector<Value>{};
    });
    context_.record.note = fmt::format("{} products in FP8, {} in {}; {} tensors quantised to e4m3, {} to e5m2", chosen_.size(), wide_,
                                       name(DType::bf16), forward_, backward_);
    if (bounded_ > 0) context_.record.note += fmt::format("; {} activations with scales from bounds", bounded_);
    return remove_dead(out);
  }

 private:
  // A gradient is what the backward pass computes; moving or casting a forward value there does not make it one.
  bool carries_gradient(const Node& node) const {
    if (!node.scope.starts_with("grad")) return false;
    const bool moves = node.op->traits.kind == OpKind::layout || node.op->name == "cast";
    if (!moves) return true;
    for (const ValueId v : node.inputs)
      if (v.valid() && gradient_[at(v.node)]) return true;
    return false;
  }

  // The value that `v` is a moved or narrowed copy of.
  struct Path {
    ValueId root;
    std::vector<std::int32_t> moves;  // from `v` back to the root
  };
  Path path_of(ValueId v) const {
    Path path{v, {}};
    for (;;) {
      const Node& node = graph_.node(path.root);
      const bool moves = node.op->name == "reshape" || node.op->name == "transpose";
      const bool casts = node.op->name == "cast" && is_float(graph_.type(node.inputs[0]).dtype);
      if (!moves && !casts) return path;
      if (moves) path.moves.push_back(path.root.node);
      path.root = node.inputs[0];
    }
  }
  bool is_weight(ValueId root) const {
    const bool kept = graph_.is_input(root.node) ? graph_.input_kind(root.node) != InputKind::input : fixed_[at(root.node)] != 0;
    return kept && graph_.type(root).shape.rank() == 2;
  }
  // The first parameter that makes up a weight (several: a merged product) and is to stay wide; "" if none is.
  std::string wide_part(ValueId weight) const {
    if (graph_.is_input(weight.node)) {
      const std::string& name = graph_.input_name(weight.node);
      return context_.options.wide_weights.contains(name) ? name : "";
    }
    for (const ValueId v : graph_.node(weight).inputs)
      if (std::string name = v.valid() ? wide_part(v) : ""; !name.empty()) return name;
    return "";
  }
  // Nothing of the weight changes at run time, and it is read as rows or columns of one matrix.
  bool at_inference(const Node& product) const {
    return fixed_[at(product.inputs[1].node)] && !fixed_[at(product.inputs[0].node)] && !product.attrs.b("transpose_a") &&
           graph_.type(product.inputs[1]).shape.rank() == 2;
  }

  void choose(std::int32_t i) {
    const Node& node = graph_.node(i);
    if (graph_.type(node.inputs[0]).dtype != DType::bf16) return;
    const ValueId a = path_of(node.inputs[0]).root, b = path_of(node.inputs[1]).root;
    std::string why;
    ValueId weight;
    for (const ValueId v : {a, b})
      if (is_weight(v)) weight = v;
    if (weight.valid()) {
      if (const std::string name = wide_part(weight); !name.empty()) why = fmt::format("'{}' belongs to a sensitive layer", name);
    } else if (const auto forward = by_activation_.find(gradient_[at(a.node)] ? b : a); forward == by_activation_.end()) {
      why = "it has no weight";
    } else if (!forward->second) {
      why = "the forward product of its layer is in bf16";
    }
    if (why.empty()) why = odd_size(node);
    if (why.empty() && at_inference(node)) why = slower(node, a);
    if (weight.valid() && !gradient_[at(a.node)] && !gradient_[at(b.node)]) {
      // Of several products that read one activation, one in bf16 keeps the gradients of all their weights there.
      const auto [entry, first] = by_activation_.emplace(weight == b ? a : b, why.empty());
      if (!first) entry->second = entry->second && why.empty();
    }
    if (why.empty()) {
      chosen_.insert(i);
      describe(i, a, b, "");
      return;
    }
    ++wide_;
    describe(i, a, b, why);
    context_.record.refusals.push_back({"float8", fmt::format("matmul %{}", i), std::move(why)});
  }

  std::string odd_size(const Node& node) const {
    for (const ValueId v : node.inputs) {
      const Shape& shape = graph_.type(v).shape;   // leading dims are rows too: one of the operands has none
      if (v == node.inputs[0] && at_inference(node) && shape.last() % kBlock == 0) continue;   // any number of rows
      if (shape.last() % kBlock != 0 || shape.elements(0, shape.rank() - 1) % kBlock != 0)
        return fmt::format("its operand {} is not made of blocks of {} by {}", shape.str(), kBlock, kBlock);
    }
    return "";
  }

  // Is what makes the activation followed by quantising it in its own kernel?
  bool quantised_for_free(ValueId v) const {
    const Node& node = graph_.node(v);
    if (node.op->name == "layer_norm" || node.op->name == "rms_norm" || node.op->name == "matmul") return true;
    if (node.op->traits.kind != OpKind::pointwise) return false;
    for (const ValueId in : node.inputs)
      if (in.valid() && quantised_for_free(in)) return true;
    return false;
  }
  // On a device with both kinds of products: does this one gain what quantising its activation costs?
  std::string slower(const Node& node, ValueId activation) const {
    if (!context_.options.target.float8 || quantised_for_free(activation)) return "";
    const double elements = static_cast<double>(graph_.type(activation).elements());
    const double flops = 2 * elements * static_cast<double>(node.outputs[0].shape.last());
    const double gain = seconds_gained(flops, kFlopsF8), price = seconds_to_quantise(elements);
    if (gain > price) return "";
    return fmt::format("it would gain {:.1f} us, and quantising its activation take {:.1f}", 1e6 * gain, 1e6 * price);
  }

  DType format(ValueId root) const { return gradient_[at(root.node)] ? DType::f8e5m2 : DType::f8e4m3; }
  std::string label(ValueId root) const {
    if (graph_.is_input(root.node)) return graph_.input_name(root.node);
    if (fixed_[at(root.node)]) return "weight";
    return gradient_[at(root.node)] ? "gradient" : "activation";
  }
  void describe(std::int32_t i, ValueId a, ValueId b, const std::string& why) {
    const Node& node = graph_.node(i);
    std::string& line = context_.record.details.emplace_back(
        fmt::format("{:<34} {} {} x {} {}", node.scope, label(a), name(why.empty() ? format(a) : DType::bf16), label(b),
                    name(why.empty() ? format(b) : DType::bf16)));
    if (!why.empty()) line += ": " + why;
  }

  // FP8 rows [n, k] of a weight, however it is stored.
  Value rows(Rewriter& r, ValueId weight, bool by_rows) {
    auto& made = rows_[{weight, by_rows}];
    if (!made.q) {
      const Value w = r.map(weight);
      made = quantize_f8(by_rows ? w : transpose(w, {1, 0}), DType::f8e4m3);
      ++forward_;
    }
    return dequantize_f8(made.q, made.scale, DType::bf16);
  }
  Quantized bounded(Value x, Value greatest) {
    ++bounded_;
    const Value scale = quantize_f8(greatest, DType::f8e4m3).scale;   // the power of two with which the bound is finite
    return {cast(mul(x, cast(reciprocal(scale), x.dtype())), DType::f8e4m3), scale};
  }
  Value operand(Rewriter& r, ValueId v, bool inference = false) {
    const Path path = path_of(v);
    auto& made = quantised_[path.root];
    if (!made.q) {
      const Value greatest = inference ? bounds_->greatest(path.root) : Value();
      made = greatest ? bounded(r.map(path.root), greatest) : quantize_f8(r.map(path.root), format(path.root));
      ++(format(path.root) == DType::f8e5m2 ? backward_ : forward_);
    }
    Value out = dequantize_f8(made.q, made.scale, DType::bf16);
    for (auto move = path.moves.rbegin(); move != path.moves.rend(); ++move) {
      const Node& node = graph_.node(*move);
      out = r.to().add(*node.op, {out}, node.attrs);
    }
    return out;
  }
  std::vector<Value> product(Rewriter& r, std::int32_t i) {
    const Node& node = graph_.node(i);
    if (at_inference(node)) {
      const Value w = rows(r, node.inputs[1], node.attrs.b("transpose_b"));
      return {matmul(operand(r, node.inputs[0], true), w, false, true, node.outputs[0].dtype)};
    }
    const Value a = operand(r, node.inputs[0]), b = operand(r, node.inputs[1]);
    return {r.to().add(*node.op, {a, b}, node.attrs)};
  }

  const Graph& graph_;
  PassContext& context_;
  const std::vector<char> fixed_;          // by node
  std::vector<char> gradient_;             // by node
  ActivationBounds* bounds_ = nullptr;
  std::map<ValueId, bool> by_activation_;  // of forward products: all of them in FP8?
  std::set<std::int32_t> chosen_;
  std::map<ValueId, Quantized> quantised_;
  std::map<std::pair<ValueId, bool>, Quantized> rows_;
  int wide_ = 0, forward_ = 0, backward_ = 0, bounded_ = 0;
};

}  // namespace

Graph float8_pass(const Graph& graph, PassContext& context) {
  if (context.options.compute != DType::f8e4m3) return graph;
  return Float8(graph, context).run();
}

}  // namespace rhetor
