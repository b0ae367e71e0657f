// Small graphs and helpers that the tests of the passes share.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/rng.h"
#include "graph/interpreter.h"
#include "graph/verify.h"
#include "ops/ops.h"
#include "passes/grad.h"
#include "passes/pipeline.h"
#include "tensor/compare.h"

namespace rhetor::testing {

using Inputs = std::map<std::string, Tensor>;

struct TransformerSpec {
  std::int64_t batch = 2, seq = 5, hidden = 8, heads = 2, vocab = 11, layers = 2;
  InputKind weights = InputKind::param;
  bool causal = true, tied = true;
  double dropout = 0;
};

// A GPT-2-like stack written the way models are: tokens i32 [B,S] -> logits [B*S,V].
inline Value transformer(Graph& g, const TransformerSpec& spec, std::vector<Value>* weights = nullptr) {
  const std::int64_t B = spec.batch, S = spec.seq, C = spec.hidden, H = spec.heads;
  const auto param = [&](const std::string& name, Shape shape) {
    const Value w = g.input(name, {DType::f32, shape}, spec.weights, "normal:0.2");
    if (weights) weights->push_back(w);
    return w;
  };
  const Value tokens = g.input("tokens", {DType::i32, {B, S}});
  const Value seed = spec.dropout > 0 ? g.input("seed", {DType::i64, {}}) : Value();
  const Value wte = param("wte", {spec.vocab, C}), wpe = param("wpe", {S, C});
  std::int64_t stream = 0;
  const auto drop = [&](Value x) { return spec.dropout > 0 ? dropout(x, seed, spec.dropout, ++stream) : x; };
  Value x = drop(add(embedding(wte, tokens), wpe));
  for (std::int64_t l = 0; l < spec.layers; ++l) {
    const std::string h = "h." + std::to_string(l) + ".";
    auto scope = g.scope("h." + std::to_string(l));
    const Value a = layer_norm(x, param(h + "ln1.g", {C}), param(h + "ln1.b", {C}));
    const Value qkv = add(matmul(a, param(h + "qkv.w", {C, 3 * C})), param(h + "qkv.b", {3 * C}));
    std::vector<Value> parts = split(qkv, {C, C, C}, 2);
    for (Value& part : parts) part = reshape(part, {B, S, H, C / H});
    const Value o = reshape(attention(parts[0], parts[1], parts[2], {.causal = spec.causal}), {B, S, C});
    x = add(x, drop(add(matmul(o, param(h + "proj.w", {C, C})), param(h + "proj.b", {C}))));
    const Value b = layer_norm(x, param(h + "ln2.g", {C}), param(h + "ln2.b", {C}));
    const Value up = gelu(add(matmul(b, param(h + "up.w", {C, 4 * C})), param(h + "up.b", {4 * C})));
    x = add(x, drop(add(matmul(up, param(h + "down.w", {4 * C, C})), param(h + "down.b", {C}))));
  }
  x = layer_norm(x, param("lnf.g", {C}), param("lnf.b", {C}));
  const Value rows = reshape(x, {B * S, C});
  return spec.tied ? matmul(rows, wte, false, true) : matmul(rows, param("head", {C, spec.vocab}));
}

inline Graph inference_graph(const TransformerSpec& spec = {}) {
  Graph g;
  const Value logits = transformer(g, spec);
  g.output("logits", logits);
  return g;
}

// Forward, backward and AdamW; weights and moments are states.
inline Graph training_graph(TransformerSpec spec = {}) {
  spec.weights = InputKind::state;
  Graph g;
  std::vector<Value> weights;
  const Value logits = transformer(g, spec, &weights);
  const Value targets = g.input("targets", {DType::i32, {spec.batch * spec.seq}});
  const Value loss = mean_cross_entropy(logits, targets);
  const Value lr = g.input("lr", {DType::f32, {}}), step = g.input("step", {DType::f32, {}});
  const std::vector<Value> grads = gradients(loss, weights);
  Value squares;
  for (const Value& d : grads) squares = squares ? add(squares, sum_squares(d)) : sum_squares(d);
  const Value scale = minimum(scalar(g, DType::f32, 1), div(scalar(g, DType::f32, 1), sqrt(squares)));
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const std::string name = g.input_name(weights[i].id().node);
    const Value m = g.input(name + ".m", weights[i].type(), InputKind::state);
    const Value v = g.input(name + ".v", weights[i].type(), InputKind::state);
    const AdamwResult r = adamw(weights[i], grads[i], m, v, lr, step, scale, {.weight_decay = 0.1});
    g.set_update(weights[i], r.p);
    g.set_update(m, r.m);
    g.set_update(v, r.v);
  }
  g.output("loss", loss);
  return g;
}

// Deterministic data for every input of a graph.
inline Inputs random_inputs(const Graph& g, std::int64_t vocab = 11) {
  Inputs out;
  for (const std::int32_t i : g.input_nodes()) {
    const std::string& name = g.input_name(i);
    const Type& type = g.node(i).outputs[0];
    Tensor t(type);
    Rng rng(7, static_cast<std::uint64_t>(i));
    for (std::int64_t k = 0; k < t.elements(); ++k) {
      if (!is_float(type.dtype)) t.set(k, static_cast<double>(rng.below(static_cast<std::uint64_t>(vocab))));
      else if (name == "lr") t.set(k, 0.01);
      else if (name == "step") t.set(k, 3);
      else if (name.ends_with(".v")) t.set(k, 0.01 + 0.1 * rng.uniform());
      else t.set(k, (name.ends_with(".g") ? 1.0 : 0.0) + 0.3 * rng.normal());
    }
    out.emplace(name, std::move(t));
  }
  return out;
}

// The largest difference of any output or state, relative to the scale of the value.
inline double worst_difference(const EvalResult& a, const EvalResult& b) {
  double worst = a.outputs.size() == b.outputs.size() && a.states.size() == b.states.size() ? 0 : 1e30;
  const auto both = [&](const std::map<std::string, Tensor>& x, const std::map<std::string, Tensor>& y) {
    for (const auto& [name, tensor] : x) {
      const auto other = y.find(name);
      if (other == y.end()) return void(worst = 1e30);
      const Comparison c = compare(other->second, tensor);
      if (!c.same_type || c.nonfinite_mismatches) return void(worst = 1e30);
      double scale = 1e-3;
      for (const double v : tensor.to_doubles()) scale = std::max(scale, std::abs(v));
      worst = std::max(worst, c.max_abs / scale);
    }
  };
  both(a.outputs, b.outputs);
  both(a.states, b.states);
  return worst;
}

// The graph after one pass alone, verified.
inline PipelineResult only(const Graph& g, const char* pass, PassOptions options = {}) {
  for (const Pass& p : all_passes())
    if (p.name != pass) options.off.insert(std::string(p.name));
  options.verify = true;
  return run_passes(g, options);
}
inline const PassRecord& record(const PipelineResult& r, std::string_view pass) {
  for (const PassRecord& p : r.records)
    if (p.name == pass) return p;
  throw std::runtime_error("no such pass");
}

}  // namespace rhetor::testing
