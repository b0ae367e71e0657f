// quantize: matmul(x, W) with a parameter W becomes matmul_i8(quantize_rows(x), W as int8 rows). Weights have one scale an output
// channel, activations one a row, taken at run time. With int8_stored the parameter itself is replaced by "W.int8" and "W.scale".
// A weight stored as int4 becomes matmul_i4 alike; both it and the activations have a scale a group of 32. Where contractions run in bf16
// and many rows share a weight, it becomes matmul_w4: matrix units are fast enough to leave the activations as they are.
#include "passes/quantize.h"

#include <algorithm>
#include <map>
#include <set>

#include "graph/op.h"
#include "ops/ops.h"
#include "ops/registry.h"
#include "passes/low_precision.h"
#include "passes/passes.h"

namespace rhetor {
namespace {

// The parameter behind v, through casts that the precision pass put there; -1 if there is none.
std::int32_t parameter_behind(const Graph& graph, ValueId v) {
  while (v.valid() && graph.node(v).op->name == "cast") v = graph.node(v).inputs[0];
  return v.valid() && graph.is_input(v.node) && graph.input_kind(v.node) == InputKind::param ? v.node : -1;
}

// "" if matmul node i can run in int8 with its parameter.
std::string why_not(const Graph& graph, std::int32_t i, std::int32_t param) {
  const Node& node = graph.node(i);
  if (parameter_behind(graph, node.inputs[1]) != param) return "it is the left operand, whose rows are no output channels";
  if (graph.node(param).outputs[0].shape.rank() != 2) return "it is not a matrix";
  if (node.attrs.b("transpose_a")) return "the activations are transposed";
  if (!is_float(graph.node(param).outputs[0].dtype)) return "it is not floating-point";
  return "";
}

// From so many rows on, widening int4 weights to bf16 is repaid: by arithmetic two blocks of rows of a matrix unit.
constexpr std::int64_t kRowsToWiden = 48;

struct Form {
  bool transposed = false;  // stored [n,k]
  bool int4 = false;
};
struct Choice {
  std::map<std::int32_t, Form> weights;             // by input node
  std::map<std::int32_t, std::string> refused;      // input node -> reason
};

Choice choose(const Graph& graph) {
  Choice choice;
  const OpDef& matmul_op = all_ops().at("matmul");
  std::map<std::int32_t, std::string> readers;
  for (std::int32_t i = 0; i < graph.size(); ++i) {
    const Node& node = graph.node(i);
    for (const ValueId in : node.inputs) {
      const std::int32_t param = parameter_behind(graph, in);
      if (param < 0 || node.op->name == "cast") continue;
      if (node.op != &matmul_op) {
        readers.emplace(param, fmt::format("read by {} only", node.op->name));
        continue;
      }
      if (std::string reason = why_not(graph, i, param); !reason.empty()) {
        choice.refused.emplace(param, std::move(reason));
        continue;
      }
      choice.weights.emplace(param, Form{node.attrs.b("transpose_b")});
    }
  }
  for (const std::int32_t param : graph.input_nodes()) {
    if (graph.input_kind(param) != InputKind::param || choice.weights.contains(param)) continue;
    const auto reader = readers.find(param);
    choice.refused.emplace(param, reader == readers.end() ? "nothing reads it" : reader->second);
  }
  for (const auto& [param, form] : choice.weights) choice.refused.erase(param);
  return choice;
}

// The value whose int8 rows a product reads: the precision pass may have narrowed it.
ValueId widest(const Graph& graph, ValueId v) {
  for (;;) {
    const Node& node = graph.node(v);
    if (node.op->name != "cast") return v;
    const DType from = graph.type(node.inputs[0]).dtype;
    if (!is_float(from) || byte_size(from) <= byte_size(graph.type(v).dtype)) return v;
    v = node.inputs[0];
  }
}

// On a device and with many rows, quantising the activations is a kernel of its own. Weights whose products, with all others that read
// the same activations, gain less stay in 16 bits.
void refuse_slow(const Graph& graph, PassContext& context, Choice& choice) {
  struct Shared {
    double gain = 0, price = 0;
    std::set<std::int32_t> weights;
  };
  std::map<ValueId, Shared> by_activation;
  for (std::int32_t i = 0; i < graph.size(); ++i) {
    const Node& node = graph.node(i);
    if (node.op->name != "matmul") continue;
    const std::int32_t param = parameter_behind(graph, node.inputs[1]);
    const Type& left = graph.type(node.inputs[0]);
    if (!choice.weights.contains(param) || left.elements() < kRowsToWiden * left.shape.last()) continue;
    const double elements = static_cast<double>(left.elements());
    Shared& shared = by_activation[widest(graph, node.inputs[0])];
    shared.gain += seconds_gained(2 * elements * static_cast<double>(node.outputs[0].shape.last()), kOpsI8);
    shared.price = seconds_to_quantise(elements);
    shared.weights.insert(param);
  }
  for (const auto& [activation, shared] : by_activation) {
    const bool slow = shared.gain < shared.price;
    const std::string why = fmt::format("int8 gains {:.1f} us, quantising the activation takes {:.1f}", 1e6 * shared.gain, 1e6 * shared.price);
    for (const std::int32_t param : shared.weights) {
      context.record.details.push_back(fmt::format("{:<48} {}: {}", graph.input_name(param), slow ? "16 bits" : "int8", why));
      if (slow && choice.weights.erase(param)) choice.refused.emplace(param, why);
    }
  }
}

// The parameters of `graph` that the lists name, in place of those its own matmuls would choose.
Choice choose(const Graph& graph, const PassOptions& options) {
  Choice choice = choose(graph);
  if (!options.int8_stored || (options.int8_weights.empty() && options.int4_weights.empty())) return choice;
  for (const auto& [param, form] : choice.weights) choice.refused.emplace(param, "the model stores it as it is");
  choice.weights.clear();
  for (const std::int32_t param : graph.input_nodes()) {
    if (graph.input_kind(param) != InputKind::param) continue;
    const std::string& name = graph.input_name(param);
    const auto wide = options.int8_weights.find(name), narrow = options.int4_weights.find(name);
    const bool int4 = narrow != options.int4_weights.end();
    if (!int4 && wide == options.int8_weights.end()) continue;
    const Type& type = graph.node(param).outputs[0];
    if (type.shape.rank() != 2) fail("the weight '{}' {} cannot be stored as quantised rows: it is not a matrix", name, type.str());
    const Form form{.transposed = int4 ? narrow->second : wide->second, .int4 = int4};
    if (int4 && type.shape[form.transposed ? 1 : 0] % kInt4Group != 0)
      fail("the weight '{}' {} cannot be stored as int4: its rows are not whole groups of {}", name, type.str(), kInt4Group);
    choice.weights[param] = form;
    choice.refused.erase(param);
  }
  return choice;
}

class Quantizer {
 public:
  Quantizer(const Graph& graph, PassContext& context)
      : graph_(graph), stored_(context.options.int8_stored), choice_(choose(graph, context.options)), matmul_(&all_ops().at("matmul")),
        embedding_(&all_ops().at("embedding")) {
    if (context.options.target.device == "cuda" && !stored_) refuse_slow(graph, context, choice_);
    for (const auto& [param, reason] : choice_.refused)
      context.record.refusals.push_back(
          {"quantize", fmt::format("param '{}' {}", graph.input_name(param), graph.node(param).outputs[0].str()), reason});
  }

  Graph run(PassContext& context) {
    Graph out = Rewriter(graph_).run([this](Rewriter& r, std::int32_t i) { return visit(r, i); });
    const auto narrow = std::count_if(choice_.weights.begin(), choice_.weights.end(), [](const auto& one) { return one.second.int4; });
    context.record.note = fmt::format("{} weights, {} matmuls and {} embeddings in {}{}", choice_.weights.size(), matmuls_, embeddings_,
                                      narrow ? fmt::format("int8 or int4 ({} weights)", narrow) : "int8", stored_ ? ", stored so" : "");
    return remove_dead(out);
  }

 private:
  std::vector<Value> visit(Rewriter& r, std::int32_t i) {
    const Node& node = graph_.node(i);
    if (choice_.weights.contains(i)) return declare(r, i);
    if (node.op == matmul_) {
      const std::int32_t param = parameter_behind(graph_, node.inputs[1]);
      if (!choice_.weights.contains(param) || !why_not(graph_, i, param).empty() || choice_.weights.at(param).transposed != node.attrs.b("transpose_b"))
        return generic(r, i);
      const bool int4 = choice_.weights.at(param).int4;
      const Type& left = graph_.type(node.inputs[0]);
      if (int4 && left.dtype == DType::bf16 && left.elements() >= kRowsToWiden * left.shape.last()) {
        const Quantized w = weight(r, param);
        ++matmuls_;
        return {matmul_w4(r.map(node.inputs[0]), w.q, w.scale, node.attrs.dtype("out"))};
      }
      const Quantized w = weight(r, param), x = activation(r, node.inputs[0], int4);
      ++matmuls_;
      if (int4) return {matmul_i4(x.q, x.scale, w.q, w.scale, node.attrs.dtype("out"))};
      return {matmul_i8(x.q, x.scale, w.q, w.scale, node.attrs.dtype("out"))};
    }
    if (node.op == embedding_) {
      const std::int32_t param = parameter_behind(graph_, node.inputs[0]);
      // Rows of an [n,k] weight are rows of the table: look up the row and its scales.
      if (choice_.weights.contains(param) && choice_.weights.at(param).transposed) {
        const Quantized w = weight(r, param);
        const Value ids = r.map(node.inputs[1]);
        ++embeddings_;
        if (choice_.weights.at(param).int4) return {dequantize_i4(embedding(w.q, ids), embedding(w.scale, ids), node.outputs[0].dtype)};
        return {dequantize_rows(embedding(w.q, ids), gather(w.scale, ids, 0), node.outputs[0].dtype)};
      }
    }
    return generic(r, i);
  }

  // The parameter's node: with int8_stored two inputs stand in its place.
  std::vector<Value> declare(Rewriter& r, std::int32_t i) {
    const Type& type = graph_.node(i).outputs[0];
    if (!stored_) return {};
    const auto [transposed, int4] = choice_.weights.at(i);
    const Dim n = type.shape.dim(transposed ? 0 : 1), k = type.shape.dim(transposed ? 1 : 0);
    const Type q = int4 ? Type{DType::u8, Shape{n, k.size / 2}} : Type{DType::i8, Shape{n, k}};
    const Type scale = int4 ? Type{DType::f16, Shape{n, k.size / kInt4Group}} : Type{DType::f32, Shape{n}};
    Quantized w;
    w.q = r.to().input(graph_.input_name(i) + (int4 ? ".int4" : ".int8"), q, InputKind::param);
    w.scale = r.to().input(graph_.input_name(i) + ".scale", scale, InputKind::param);
    quantized_[i] = w;
    r.set({i, 0}, Value());
    return {};
  }

  Quantized weight(Rewriter& r, std::int32_t param) {
    auto& found = quantized_[param];
    if (found.q) return found;
    Value w = r.map({param, 0});
    if (!choice_.weights.at(param).transposed) w = transpose(w, {1, 0});
    return found = quantize_rows(w);
  }

  // An activation quantised once however many matmuls read it (query, key and value share theirs); by groups for int4 weights.
  Quantized activation(Rewriter& r, ValueId v, bool groups) {
    v = widest(graph_, v);
    auto& found = (groups ? grouped_ : activations_)[v];
    if (found.q) return found;
    const Value x = r.map(v);
    if (!groups) return found = quantize_rows(x);
    Shape split = x.shape();
    split.set_dim(-1, split.last() / kInt4Group);
    split.append(kInt4Group);
    found = quantize_rows(reshape(x, split));
    found.q = reshape(found.q, x.shape());
    return found;
  }

  // Any other reader of a replaced parameter reads it dequantised; the runtime folds that before the first run.
  std::vector<Value> generic(Rewriter& r, std::int32_t i) {
    if (!stored_ || graph_.is_input(i)) return {};
    bool reads = false;
    for (const ValueId v : graph_.node(i).inputs) reads = reads || (v.valid() && choice_.weights.contains(v.node));
    if (!reads) return {};
    std::vector<Value> in;
    for (const ValueId v : graph_.node(i).inputs) {
      if (!v.valid() || !choice_.weights.contains(v.node)) {
        in.push_back(r.map(v));
        continue;
      }
      Value& w = dequantized_[v.node];
      if (!w) {
        const Quantized q = weight(r, v.node);
        const auto [transposed, int4] = choice_.weights.at(v.node);
        w = int4 ? dequantize_i4(q.q, q.scale, graph_.type(v).dtype) : dequantize_rows(q.q, q.scale, graph_.type(v).dtype);
        if (!transposed) w = transpose(w, {1, 0});
      }
      in.push_back(w);
    }
    const Value first = r.to().add(*graph_.node(i).op, in, graph_.node(i).attrs);
    std::vector<Value> out;
    for (std::size_t k = 0; k < graph_.node(i).outputs.size(); ++k)
      out.emplace_back(&r.to(), ValueId{first.id().node, static_cast<std::int32_t>(k)});
    return out;
  }

  const Graph& graph_;
  bool stored_;
  Choice choice_;
  const OpDef *matmul_, *embedding_;
  std::map<std::int32_t, Quantized> quantized_;
  std::map<ValueId, Quantized> activations_, grouped_;
  std::map<std::int32_t, Value> dequantized_;
  int matmuls_ = 0, embeddings_ = 0;
};

}  // namespace

std::vector<QuantizableWeight> quantizable_weights(const Graph& graph) {
  std::vector<QuantizableWeight> out;
  for (const auto& [param, form] : choose(graph).weights) {
    const Shape& shape = graph.node(param).outputs[0].shape;
    out.push_back({.name = graph.input_name(param), .transposed = form.transposed, .n = shape[form.transposed ? 0 : 1],
                   .k = shape[form.transposed ? 1 : 0]});
  }
  return out;
}

Graph quantize_pass(const Graph& graph, PassContext& context) {
  if (!context.options.int8) {
    if (context.options.int8_stored) fail("int8_stored says how weights arrive for int8 inference; set int8 as well");
    return graph;
  }
  return Quantizer(graph, context).run(context);
}

}  // namespace rhetor
