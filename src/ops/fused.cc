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
    // A cache that is written in place: its few new rows are nothing beside what is read of it.
    const int cache = node.op->traits.kind == OpKind::opaque ? node.op->traits.inplace : -1;
    if (cache >= 0 && body.is_input(node.inputs[static_cast<std::size_t>(cache)].node))
      for (const GraphOutput& output : body.outputs())
        if (output.value == ValueId{i, 0}) cost.bytes -= static_cast<double>(node.outputs[0].bytes());
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
        // Of one rows' norm: three products; or a gate and what it lets through.
        const auto products = [&](DType dtype, std::int64_t m, std::int64_t k, std::int64_t n, bool gated) {
          Graph g;
          const Value x = g.input("0", {dtype, {m, 1, k}}), gamma = g.input("1", {dtype, {k}});
          const Value rows = rms_norm(x, gamma);
          std::vector<Value> y;
          for (const char* w : {"2", "3", "4"})
            if (!gated || *w < '4') y.push_back(matmul(rows, g.input(w, {dtype, {gated || *w != '3' ? n : n / 2, k}}), false, true, dtype));
          if (gated) y = {mul(silu(y[0]), y[1])};
          for (std::size_t i = 0; i < y.size(); ++i) g.output(std::to_string(i), y[i]);
          return share(std::move(g));
        };
        // One token a sequence: rope, the writes into the caches, attention over them.
        const auto step = [&](DType dtype, std::int64_t b, std::int64_t t, std::int64_t heads, std::int64_t key_heads, std::int64_t d) {
          Graph g;
          const Value q = g.input("0", {dtype, {b, 1, heads * d}}), kv = g.input("1", {dtype, {b, 1, 2 * key_heads * d}});
          const Value places = g.input("2", {DType::i32, {b, 1}}), offsets = g.input("3", {DType::i32, {b}});
          const Shape rows{b, 1, key_heads, d}, cache{b, t, key_heads, d};
          const Value k = rope(reshape(slice(kv, -1, 0, key_heads * d), rows), places);
          const Value v = reshape(slice(kv, -1, key_heads * d, 2 * key_heads * d), rows);
          const Value keys = cache_write(g.input("4", {dtype, cache}), k, offsets), values = cache_write(g.input("5", {dtype, cache}), v, offsets);
          AttentionOptions options{.causal = true};
          options.offsets = offsets;
          g.output("0", attention(rope(reshape(q, {b, 1, heads, d}), places), keys, values, options));
          g.output("1", keys);
          g.output("2", values);
          return share(std::move(g));
        };
        // Its gradient, d [q k v] as one tensor again.
        const auto columns_grad = [&](DType dtype, std::int64_t b, std::int64_t t, std::int64_t heads, std::int64_t d) {
          Graph g;
          const Value x = g.input("0", {dtype, {b, t, 3 * heads * d}}), d_o = g.input("1", {dtype, {b, t, heads, d}});
          const Value o = g.input("2", {dtype, {b, t, heads, d}}), lse = g.input("3", {DType::f32, {b, heads, t}});
          std::vector<Value> parts;
          for (std::int64_t k = 0; k < 3; ++k)
            parts.push_back(reshape(slice(x, -1, k * heads * d, (k + 1) * heads * d), {b, t, heads, d}));
          const AttentionGrads grads = attention_grad(d_o, parts[0], parts[1], parts[2], o, lse, {.causal = true});
          const Shape rows{b, t, heads * d};
          g.output("0", concat({reshape(grads.dq, rows), reshape(grads.dk, rows), reshape(grads.dv, rows)}, -1));
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
        const auto numbered = [&](std::string_view label, std::vector<std::int32_t> places) {   // the step's positions and offsets
          const auto b = static_cast<std::int64_t>(places.size());
          out.back().label = label;
          out.back().inputs[2].value = Tensor::of<std::int32_t>(Shape{b, 1}, places);
          out.back().inputs[3].value = Tensor::of<std::int32_t>(Shape{b}, places);
        };
        for (const DType dtype : {DType::bf16, DType::f16}) {
          const std::string suffix = " " + std::string(name(dtype));
          sample("norm and three products" + suffix, products(dtype, 1, 264, 300, false), "products", false);
          sample("norm, gate and up" + suffix, products(dtype, 5, 1056, 172, true), "products", false);
          sample("norm and products of many blocks" + suffix, products(dtype, 2, 40, 6000, false), "products", false);
          sample("", step(dtype, 3, 70, 4, 2, 32), "attention_step", false);
          numbered("step of 3 sequences" + suffix, {0, 69, 33});
          sample("", step(dtype, 2, 9, 3, 3, 48), "attention_step", false);
          numbered("step past the cache" + suffix, {9, 4});
          sample("", step(dtype, 1, 300, 2, 1, 128), "attention_step", false);
          numbered("step of one sequence" + suffix, {257});
        }
        for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
          const std::string suffix = " " + std::string(name(dtype));
          sample("pointwise" + suffix, pointwise(dtype, {3, 5, 19}), "", false);
          sample("linear gelu" + suffix, linear(dtype, 5, 7, 9), "matmul", false);
          sample("add layer_norm" + suffix, add_norm(dtype, 4, 33), "layer_norm", false);
          sample("attention of columns" + suffix, columns(dtype, 2, 9, 3, 16), "attention", false);
          for (const std::int64_t d : {16, 64}) {
            sample(fmt::format("attention_grad of columns {}{}", d, suffix), columns_grad(dtype, 2, 70, 3, d), "attention_grad", false);
            out.back().inputs[3].low = 1;   // lse
            out.back().inputs[3].high = 3;
          }
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
