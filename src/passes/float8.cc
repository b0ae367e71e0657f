// float8: after the precision pass, products with a weight (forward, towards the activations and towards the weight) in FP8. Weights and
// activations become e4m3, gradients e5m2, each tensor quantised once however many products read it (per-tensor current scaling, see
// ops/float8.cc). A product is dequantize_f8 x dequantize_f8 -> matmul in bf16 with f32 sums: exact for FP8 numbers, and the three nodes
// stand together, so that a device with FP8 products runs them as one. Every product dequantises for itself: what lives from the forward
// to the backward pass is the tensor of bytes.
// Embeddings, norms, softmax and attention are no such products; what PassOptions::wide_weights names (heads, chosen layers) stays bf16.
#include <fmt/format.h>

#include <map>

#include "graph/op.h"
#include "ops/ops.h"
#include "passes/index.h"
#include "passes/passes.h"

namespace rhetor {
namespace {

// Matrix units take FP8 in blocks of 16.
constexpr std::int64_t kBlock = 16;

class Float8 {
 public:
  Float8(const Graph& graph, PassContext& context) : graph_(graph), context_(context) {
    gradient_.resize(at(graph.size()));
    for (std::int32_t i = 0; i < graph.size(); ++i) gradient_[at(i)] = carries_gradient(graph.node(i));
    for (std::int32_t i = 0; i < graph.size(); ++i)
      if (graph.node(i).op->name == "matmul") choose(i);
  }

  Graph run() {
    Graph out = Rewriter(graph_).run([this](Rewriter& r, std::int32_t i) {
      return chosen_.contains(i) ? product(r, i) : std::vector<Value>{};
    });
    context_.record.note = fmt::format("{} products in FP8, {} in {}; {} tensors quantised to e4m3, {} to e5m2", chosen_.size(), wide_,
                                       name(DType::bf16), forward_, backward_);
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
    return graph_.is_input(root.node) && graph_.input_kind(root.node) != InputKind::input && graph_.type(root).shape.rank() == 2;
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
      const std::string& name = graph_.input_name(weight.node);
      if (context_.options.wide_weights.contains(name)) why = fmt::format("'{}' belongs to a sensitive layer", name);
    } else if (const auto forward = by_activation_.find(gradient_[at(a.node)] ? b : a); forward == by_activation_.end()) {
      why = "it has no weight";
    } else if (!forward->second) {
      why = "the forward product of its layer is in bf16";
    }
    if (why.empty()) why = odd_size(node);
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
      if (shape.last() % kBlock != 0 || shape.elements(0, shape.rank() - 1) % kBlock != 0)
        return fmt::format("its operand {} is not made of blocks of {} by {}", shape.str(), kBlock, kBlock);
    }
    return "";
  }

  DType format(ValueId root) const { return gradient_[at(root.node)] ? DType::f8e5m2 : DType::f8e4m3; }
  std::string label(ValueId root) const {
    if (graph_.is_input(root.node)) return graph_.input_name(root.node);
    return gradient_[at(root.node)] ? "gradient" : "activation";
  }
  void describe(std::int32_t i, ValueId a, ValueId b, const std::string& why) {
    const Node& node = graph_.node(i);
    std::string& line = context_.record.details.emplace_back(
        fmt::format("{:<34} {} {} x {} {}", node.scope, label(a), name(why.empty() ? format(a) : DType::bf16), label(b),
                    name(why.empty() ? format(b) : DType::bf16)));
    if (!why.empty()) line += ": " + why;
  }

  Value operand(Rewriter& r, ValueId v) {
    const Path path = path_of(v);
    auto& made = quantised_[path.root];
    if (!made.q) {
      made = quantize_f8(r.map(path.root), format(path.root));
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
    const Value a = operand(r, node.inputs[0]), b = operand(r, node.inputs[1]);
    return {r.to().add(*node.op, {a, b}, node.attrs)};
  }

  const Graph& graph_;
  PassContext& context_;
  std::vector<char> gradient_;             // by node
  std::map<ValueId, bool> by_activation_;  // of forward products: all of them in FP8?
  std::set<std::int32_t> chosen_;
  std::map<ValueId, Quantized> quantised_;
  int wide_ = 0, forward_ = 0, backward_ = 0;
};

}  // namespace

Graph float8_pass(const Graph& graph, PassContext& context) {
  if (context.options.compute != DType::f8e4m3) return graph;
  return Float8(graph, context).run();
}

}  // namespace rhetor
