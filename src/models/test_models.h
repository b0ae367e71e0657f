// Tiny models with lively weights, for tests.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <string>

#include "base/file.h"
#include "base/rng.h"
#include "graph/interpreter.h"
#include "models/model.h"
#include "ops/ops.h"
#include "passes/grad.h"
#include "tensor/compare.h"

namespace rhetor::testing {

inline ModelConfig tiny(const std::string& family) {
  ModelConfig c{.family = family, .vocab = 61, .layers = 2, .hidden = 32, .heads = 4, .kv_heads = 4, .ffn = 64, .context = 24};
  if (family == "llama") {
    c.kv_heads = 2;
    c.ffn = 48;
    c.tied_embeddings = false;
  }
  if (family == "bert") c.labels = 3;
  return c;
}

// First values plus noise, so that biases and gains matter.
inline Weights lively_weights(const Graph& graph, std::uint64_t seed = 1) {
  Weights weights = init_weights(graph, seed);
  for (auto& [name, tensor] : weights) {
    Rng rng(seed + 1, hash64(name));
    for (float& x : tensor.data<float>()) x += 0.2f * (rng.uniform() - 0.5f);
  }
  return weights;
}

inline Tensor random_ids(Shape shape, std::int64_t below, std::uint64_t seed) {
  Tensor out(DType::i32, shape);
  Rng rng(seed, 99);
  for (auto& id : out.data<std::int32_t>()) id = static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(below)));
  return out;
}

inline void fill(Tensor& to, const Tensor& from) {
  ASSERT_EQ(to.type(), from.type());
  std::memcpy(to.raw(), from.raw(), from.bytes());
}

// Compares every output of a compiled graph with the float64 interpreter, within what naive f32 arithmetic would be off by.
inline void expect_matches_oracle(const Graph& graph, const Weights& weights, const std::map<std::string, Tensor>& inputs,
                                  const CompileOptions& options = {}, double factor = 3.0) {
  std::map<std::string, Tensor> all = inputs;
  all.insert(weights.begin(), weights.end());
  const EvalResult oracle = evaluate(graph, all, RefPrecision::f64);
  const EvalResult naive = evaluate(graph, all, RefPrecision::declared);
  Session session(compile(graph, weights, options));
  for (const auto& [name, value] : inputs) fill(session.input(name), value);
  session.run();
  for (const auto& [name, expected] : oracle.outputs) {
    const Tensor& got = session.output(name);
    const double tolerance = derived_tolerance(naive.outputs.at(name), expected, got.dtype(), factor);
    const Comparison difference = compare(got, expected);
    EXPECT_TRUE(difference.within(tolerance)) << name << ": " << difference.str() << ", tolerance " << tolerance;
  }
}

// A training step: the loss graph with gradients and AdamW on every weight. Inputs "tokens", "targets", "seed", "lr", "step".
inline Graph training_graph(const ModelConfig& config, std::int64_t batch, std::int64_t seq) {
  Graph g = build_model(config, {.task = BuildSpec::Task::loss, .batch = batch, .seq = seq, .training = true, .weights = InputKind::state});
  std::vector<Value> weights;
  for (const std::int32_t i : g.input_nodes())
    if (g.input_kind(i) == InputKind::state) weights.push_back(g.value({i, 0}));
  const std::vector<Value> grads = gradients(g.value(g.find_output("loss")), weights);
  const Value lr = g.input("lr", {DType::f32, Shape{}}), step = g.input("step", {DType::f32, Shape{}});
  const Value one = scalar(g, DType::f32, 1.0);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const std::string name = g.input_name(weights[i].id().node);
    const Value m = g.input("m." + name, weights[i].type(), InputKind::state), v = g.input("v." + name, weights[i].type(), InputKind::state);
    const AdamwResult next = adamw(weights[i], grads[i], m, v, lr, step, one, {});
    g.set_update(weights[i], next.p);
    g.set_update(m, next.m);
    g.set_update(v, next.v);
  }
  return g;
}

}  // namespace rhetor::testing
