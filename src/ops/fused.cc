// A group of nodes as one op: what the fusion pass makes, and what a kernel then runs in one sweep.
#include <string>

#include "graph/interpreter.h"
#include "ops/families.h"
#include "ops/ops.h"
#include "ops/samples.h"

namespace rhetor {
namespace {

// Body inputs and outputs are called "0", "1", ...
std::vector<Type> infer_fused(std::span<const Type> in, const Attrs& attrs) {
  const GraphPtr& body = attrs.graph("body");
  if (!body) fail("fused: the body is missing");
  if (body->input_nodes().size() != in.size())
    fail("fused: the body has {} inputs but {} operands are given", body->input_nodes().size(), in.size());
  for (std::size_t k = 0; k < in.size(); ++k) {
    const ValueId input = body->find_input(std::to_string(k));
    if (!input.valid()) fail("fused: the body has no input '{}'", k);
    if (body->type(input) != in[k]) fail("fused: operand {} must be {}, found {}", k, body->type(input).str(), in[k].str());
  }
  if (!body->updates().empty()) fail("fused: a body has no states");
  std::vector<Type> out;
  for (std::size_t k = 0; k < body->outputs().size(); ++k) {
    const ValueId output = body->find_output(std::to_string(k));
    if (!output.valid()) fail("fused: the body has no output '{}'", k);
    out.push_back(body->type(output));
  }
  if (out.empty()) fail("fused: the body has no output");
  return out;
}

// The arithmetic of the body; only operands and results touch memory.
Cost fused_cost(std::span<const Type> in, std::span<const Type> out, const Attrs& attrs) {
  Cost cost = bytes_only_cost(in, out, attrs);
  const Graph& body = *attrs.graph("body");
  for (std::int32_t i = 0; i < body.size(); ++i) {
    if (body.is_input(i)) continue;
    const Node& node = body.node(i);
    std::vector<Type> types;
    for (const ValueId v : node.inputs) types.push_back(v.valid() ? body.type(v) : Type{DType::boolean, Shape{}});
    cost.flops += node.op->cost(types, node.outputs, node.attrs).flops;
  }
  return cost;
}

const OpDef& fused_op() {
  static const OpDef def{
      .name = "fused",
      .doc = "Evaluates `body`: its inputs \"0\", \"1\", ... are the operands, its outputs \"0\", \"1\", ... the results. Made by the "
             "fusion pass after differentiation, so it has no gradient of its own.",
      .traits = {.kind = OpKind::opaque},
      .operands = {"operands*"},
      .attrs = {{"body", AttrKind::graph, "what is computed"},
                {"anchor", AttrKind::text, "the contraction or reduction in it, \"\" if all is pointwise", false, std::string()}},
      .infer = infer_fused,
      .grad = kNotDifferentiable,
      .cost = fused_cost,
      .shard = "",
      .reference = [](auto& call) { evaluate_body(*call.attrs.graph("body"), call); },
      .samples = [] {
        const auto share = [](Graph g) { return std::make_shared<const Graph>(std::move(g)); };
        const auto pointwise = [&](DType dtype, Shape shape) {  // gelu(x + bias) * y
          Graph g;
          const Value x = g.input("0", {dtype, shape}), bias = g.input("1", {dtype, {shape.last()}});
          const Value y = g.input("2", {dtype, shape});
          g.output("0", mul(gelu(add(x, bias)), y));
          return share(std::move(g));
        };
        const auto linear = [&](DType dtype, std::int64_t m, std::int64_t k, std::int64_t n) {  // gelu(x w + bias)
          Graph g;
          const Value x = g.input("0", {dtype, {m, k}}), w = g.input("1", {dtype, {k, n}}), bias = g.input("2", {dtype, {n}});
          g.output("0", gelu_tanh(add(matmul(x, w), bias)));
          return share(std::move(g));
        };
        const auto add_norm = [&](DType dtype, std::int64_t rows, std::int64_t n) {  // layer_norm(x + residual), and the sum
          Graph g;
          const Value x = g.input("0", {dtype, {rows, n}}), r = g.input("1", {dtype, {rows, n}});
          const Value gamma = g.input("2", {dtype, {n}}), beta = g.input("3", {dtype, {n}});
          const Value sum = add(x, r);
          g.output("0", layer_norm(sum, gamma, beta));
          g.output("1", sum);
          return share(std::move(g));
        };
        const auto columns = [&](DType dtype, std::int64_t b, std::int64_t t, std::int64_t heads, std::int64_t d) {  // causal, of one [q k v]
          Graph g;
          const Value x = g.input("0", {dtype, {b, t, 3 * heads * d}});
          std::vector<Value> parts;
          for (std::int64_t k = 0; k < 3; ++k)
            parts.push_back(reshape(slice(x, -1, k * heads * d, (k + 1) * heads * d), {b, t, heads, d}));
          g.output("0", attention(parts[0], parts[1], parts[2], {.causal = true}));
          return share(std::move(g));
        };
        std::vector<Sample> out;
        const auto sample = [&](std::string label, GraphPtr body, std::string anchor, bool benchmark) {
          Sample s{.label = std::move(label), .inputs = {}, .attrs = {}, .differentiable = false, .benchmark = benchmark,
                   .dtypes = {DType::f32}};
          for (std::size_t k = 0; k < body->input_nodes().size(); ++k)
            s.inputs.push_back({.type = body->type(body->find_input(std::to_string(k))), .fixed = true});
          s.attrs = {{"body", std::move(body)}, {"anchor", std::move(anchor)}};
          out.push_back(std::move(s));
        };
        for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
          const std::string suffix = " " + std::string(name(dtype));
          sample("pointwise" + suffix, pointwise(dtype, {3, 5, 19}), "", false);
          sample("linear gelu" + suffix, linear(dtype, 5, 7, 9), "matmul", false);
          sample("add layer_norm" + suffix, add_norm(dtype, 4, 33), "layer_norm", false);
          sample("attention of columns" + suffix, columns(dtype, 2, 9, 3, 16), "attention", false);
        }
        sample("pointwise 1024x3072", pointwise(DType::f32, {1024, 3072}), "", true);
        sample("linear gelu 512x768x3072", linear(DType::f32, 512, 768, 3072), "matmul", true);
        sample("add layer_norm 1024x768", add_norm(DType::f32, 1024, 768), "layer_norm", true);
        return out;
      },
  };
  return def;
}

}  // namespace

const std::vector<const OpDef*>& fused_ops() {
  static const std::vector<const OpDef*> ops{&fused_op()};
  return ops;
}

std::vector<Value> fused(Graph& g, const std::vector<Value>& operands, GraphPtr body, std::string anchor) {
  const std::size_t results = body->outputs().size();
  const Value first = g.add(fused_op(), operands, {{"body", std::move(body)}, {"anchor", std::move(anchor)}});
  std::vector<Value> out;
  for (std::size_t k = 0; k < results; ++k) out.push_back(result(first, static_cast<int>(k)));
  return out;
}

}  // namespace rhetor
