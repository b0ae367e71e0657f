#include <gtest/gtest.h>

#include "base/rng.h"
#include "graph/interpreter.h"
#include "graph/op.h"
#include "graph/verify.h"
#include "ops/ops.h"
#include "passes/pipeline.h"

namespace rhetor {
namespace {

// Query, key and value of the same rows, as an encoder layer has them.
Graph projections(bool with_bias) {
  Graph g;
  const Value x = g.input("x", {DType::f32, {2, 6, 8}});
  std::vector<Value> heads;
  for (const char* name : {"q", "k", "v"}) {
    Value y = matmul(x, g.input(fmt::format("{}.weight", name), {DType::f32, {8, 8}}, InputKind::param), false, true);
    if (with_bias)
      y = add(y, broadcast_to(g.input(fmt::format("{}.bias", name), {DType::f32, {8}}, InputKind::param), y.shape()));
    heads.push_back(reshape(y, {2, 6, 2, 4}));
  }
  g.output("y", attention(heads[0], heads[1], heads[2], {.causal = true}));
  return g;
}

std::map<std::string, Tensor> random_operands(const Graph& g) {
  std::map<std::string, Tensor> out;
  for (const std::int32_t i : g.input_nodes()) {
    Tensor t(g.node(i).outputs[0]);
    Rng rng(3, static_cast<std::uint64_t>(i));
    for (std::int64_t k = 0; k < t.elements(); ++k) t.set(k, rng.uniform() - 0.5);
    out[g.input_name(i)] = t;
  }
  return out;
}

int nodes_of(const Graph& g, std::string_view op) {
  int n = 0;
  for (std::int32_t i = 0; i < g.size(); ++i) n += g.node(i).op->name == op;
  return n;
}

TEST(Merge, ProjectionsOfTheSameRowsBecomeOneAndTheSlicesJoinTheAttention) {
  for (const bool with_bias : {false, true}) {
    const Graph g = projections(with_bias);
    PassOptions options{.verify = true};
    options.target.strided = {"attention"};
    options.off = {"schedule"};
    const Graph merged = run_passes(g, options).graph;
    EXPECT_EQ(nodes_of(merged, "slice"), 0);
    EXPECT_EQ(nodes_of(merged, "matmul") + nodes_of(merged, "fused"), 2);  // the product, and attention with its slices
    const auto in = random_operands(g);
    const auto before = evaluate(g, in, RefPrecision::f64).outputs, after = evaluate(merged, in, RefPrecision::f64).outputs;
    const Tensor &a = before.at("y"), &b = after.at("y");
    for (std::int64_t k = 0; k < a.elements(); ++k) ASSERT_NEAR(a.at(k), b.at(k), 1e-12);
  }
}

TEST(Merge, NothingHappensWhereSlicesWouldBeCopies) {
  const Graph g = projections(true);
  EXPECT_EQ(nodes_of(run_passes(g, {}).graph, "concat"), 0);
}

TEST(Narrow, WhatLiesBetweenContractionsIsNarrowTooAndResultsKeepTheirType) {
  Graph g;
  const Value x = g.input("x", {DType::f32, {3, 8}}), w = g.input("w", {DType::f32, {8, 8}}, InputKind::param);
  const Value gamma = g.input("gamma", {DType::f32, {8}}, InputKind::param),
              beta = g.input("beta", {DType::f32, {8}}, InputKind::param);
  g.output("y", layer_norm(add(x, gelu(matmul(x, w))), gamma, beta));
  PassOptions options{.verify = true, .compute = DType::f16, .narrow = true};
  options.off = {"fuse", "schedule"};
  const Graph narrow = run_passes(g, options).graph;
  EXPECT_EQ(narrow.type(narrow.find_output("y")).dtype, DType::f32);
  for (std::int32_t i = 0; i < narrow.size(); ++i) {
    const Node& node = narrow.node(i);
    if (narrow.is_input(i) || node.op->name == "cast") continue;
    EXPECT_EQ(node.outputs[0].dtype, DType::f16) << node.op->name;
  }
  const auto in = random_operands(g);
  const Tensor exact = evaluate(g, in, RefPrecision::f64).outputs.at("y");
  const Tensor got = evaluate(narrow, in, RefPrecision::declared).outputs.at("y");
  for (std::int64_t k = 0; k < exact.elements(); ++k) EXPECT_NEAR(exact.at(k), got.at(k), 0.02);
}

}  // namespace
}  // namespace rhetor
