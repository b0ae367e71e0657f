#include "passes/fuse.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "graph/op.h"
#include "graph/text.h"
#include "passes/test_graphs.h"

namespace rhetor {
namespace {

using namespace rhetor::testing;
using ::testing::HasSubstr;

PipelineResult fuse_only(const Graph& g, Target target = {}) {
  PassOptions options{.target = target, .verify = true};
  for (const Pass& p : all_passes())
    if (p.name != "fuse") options.off.insert(std::string(p.name));
  return run_passes(g, options);
}
// Fused nodes by anchor.
std::map<std::string, int> anchors(const Graph& g) {
  std::map<std::string, int> out;
  for (std::int32_t i = 0; i < g.size(); ++i)
    if (g.node(i).op->name == "fused") ++out[g.node(i).attrs.s("anchor")];
  return out;
}
const Node* first_fused(const Graph& g) {
  for (std::int32_t i = 0; i < g.size(); ++i)
    if (g.node(i).op->name == "fused") return &g.node(i);
  return nullptr;
}
std::string reason(const PipelineResult& r, std::string_view candidate_part) {
  for (const PassRecord& record : r.records)
    for (const Refusal& refusal : record.refusals)
      if (refusal.candidate.find(candidate_part) != std::string::npos) return refusal.reason;
  return "(none)";
}
void expect_equal(const Graph& a, const Graph& b) {
  const Inputs inputs = random_inputs(a);
  EXPECT_LT(worst_difference(evaluate(a, inputs), evaluate(b, inputs)), 1e-14);
}

struct Linear {
  Graph g;
  Value x = g.input("x", {DType::f32, {6, 4}}), w = g.input("w", {DType::f32, {4, 5}}, InputKind::param),
        bias = g.input("bias", {DType::f32, {5}}, InputKind::param), residual = g.input("r", {DType::f32, {6, 5}});
  Value product = matmul(x, w);
};

TEST(Fuse, EpilogueTakesBiasActivationAndResidual) {
  Linear t;
  t.g.output("y", add(gelu(add(t.product, t.bias)), t.residual));
  const PipelineResult r = fuse_only(t.g);
  EXPECT_EQ(anchors(r.graph), (std::map<std::string, int>{{"matmul", 1}}));
  const Node* node = first_fused(r.graph);
  ASSERT_NE(node, nullptr);
  EXPECT_EQ(node->inputs.size(), 4u);  // x, w, bias (broadcast inside), residual
  EXPECT_EQ(node->outputs.size(), 1u);
  EXPECT_EQ(r.graph.size(), 5);
  EXPECT_EQ(node->attrs.graph("body")->find_output("0").valid(), true);
  expect_equal(t.g, r.graph);
}

TEST(Fuse, EpilogueTakesADiamondWithOneExit) {
  Linear t;
  t.g.output("y", mul(t.product, sigmoid(t.product)));
  const PipelineResult r = fuse_only(t.g);
  EXPECT_EQ(anchors(r.graph), (std::map<std::string, int>{{"matmul", 1}}));
  expect_equal(t.g, r.graph);
}

TEST(Fuse, AStoredProductIsRefusedWithAReason) {
  Linear t;
  const Value y = tanh(t.product);
  t.g.output("product", t.product);
  t.g.output("y", y);
  const PipelineResult r = fuse_only(t.g);
  EXPECT_TRUE(anchors(r.graph).empty());
  EXPECT_THAT(reason(r, "-> tanh"), HasSubstr("has to be stored"));
}

TEST(Fuse, ReductionsAndShapesAreRefusedWithAReason) {
  Linear t;
  t.g.output("y", softmax(t.product));
  t.g.output("z", reduce_sum(exp(t.residual), {0}));
  const PipelineResult r = fuse_only(t.g);
  EXPECT_EQ(reason(r, "-> softmax"), "the consumer is a reduction");
  EXPECT_EQ(reason(r, "-> reduce_sum"), "the consumer is a reduction");
}

TEST(Fuse, TargetWithoutKernelsIsRefusedWithAReason) {
  Linear t;
  t.g.output("y", gelu(add(t.product, t.residual)));
  const PipelineResult none = fuse_only(t.g, {.fuse_pointwise = false, .fuse_epilogue = false, .fuse_norm = false});
  EXPECT_TRUE(anchors(none.graph).empty());
  EXPECT_THAT(reason(none, "matmul"), HasSubstr("no kernel for epilogues on cpu"));
  EXPECT_THAT(reason(none, "-> gelu"), HasSubstr("no kernel for pointwise groups on cpu"));
  EXPECT_EQ(anchors(fuse_only(t.g, {.fuse_epilogue = false}).graph), (std::map<std::string, int>{{"", 1}}));
}

TEST(Fuse, NormTakesTheResidualAddAndGivesTheSum) {
  Graph g;
  const Value x = g.input("x", {DType::f32, {6, 8}}), y = g.input("y", {DType::f32, {6, 8}});
  const Value gamma = g.input("gamma.g", {DType::f32, {8}}), beta = g.input("beta", {DType::f32, {8}});
  const Value sum = add(x, mul(y, 0.5));
  const Value normed = layer_norm(sum, gamma, beta);
  g.output("y", tanh(normed));
  g.output("sum", sum);
  const PipelineResult r = fuse_only(g);
  EXPECT_EQ(anchors(r.graph), (std::map<std::string, int>{{"layer_norm", 1}}));
  EXPECT_EQ(first_fused(r.graph)->outputs.size(), 2u);
  expect_equal(g, r.graph);
  EXPECT_THAT(reason(r, "-> tanh"), HasSubstr("reduction"));
}

TEST(Fuse, PointwiseGroupWithSeveralResultsAndNoCycle) {
  Graph g;  // softmax written out: exp and div may not share a group across the sum between them
  const Value x = g.input("x", {DType::f32, {4, 7}});
  const Value e = exp(mul(x, 2));
  const Value p = div(e, broadcast_to(reduce_sum(e, {1}, true), {4, 7}));
  g.output("p", add(p, x));
  const PipelineResult r = fuse_only(g);
  EXPECT_EQ(anchors(r.graph), (std::map<std::string, int>{{"", 2}}));
  EXPECT_THAT(reason(r, "-> div"), HasSubstr("path through other kernels"));
  expect_equal(g, r.graph);

  Graph h;
  const Value a = h.input("a", {DType::f32, {3, 3}});
  const Value s = sin(a), c = cos(s);
  h.output("s", s);
  h.output("c", mul(c, s));
  const PipelineResult two = fuse_only(h);
  EXPECT_EQ(anchors(two.graph), (std::map<std::string, int>{{"", 1}}));
  EXPECT_EQ(first_fused(two.graph)->outputs.size(), 2u);
  expect_equal(h, two.graph);
}

TEST(Fuse, InliningPutsTheBodiesBack) {
  for (const Graph& g : {inference_graph(), training_graph({.dropout = 0.1})}) {
    const PipelineResult r = fuse_only(g);
    ASSERT_FALSE(anchors(r.graph).empty());
    const Graph back = inline_fused(r.graph, [](std::int32_t) { return true; });
    verify(back, "inline_fused");
    EXPECT_TRUE(anchors(back).empty());
    expect_equal(g, back);
    // One kind only.
    const Graph some = inline_fused(r.graph, [&](std::int32_t i) { return r.graph.node(i).attrs.s("anchor").empty(); });
    EXPECT_FALSE(anchors(some).contains(""));
    expect_equal(g, some);
  }
}

TEST(Fuse, AttentionAndItsGradientReadAndWriteColumns) {
  const Graph g = training_graph();
  const PassOptions plain{.verify = true}, strided{.target = {.strided = {"attention", "attention_grad"}}, .verify = true};
  const Graph with = run_passes(g, strided).graph;
  const std::map<std::string, int> found = anchors(with);
  EXPECT_EQ(found.at("attention"), 2);
  EXPECT_EQ(found.at("attention_grad"), 2);
  for (std::int32_t i = 0; i < with.size(); ++i) {
    EXPECT_NE(with.node(i).op->name, "slice");
    EXPECT_NE(with.node(i).op->name, "concat");
    if (with.node(i).op->name == "fused" && with.node(i).attrs.s("anchor") == "attention_grad") {
      EXPECT_EQ(with.node(i).outputs.size(), 1u);
      EXPECT_EQ(with.node(i).outputs[0].shape, Shape({2, 5, 24}));
    }
  }
  const Inputs inputs = random_inputs(g);
  EXPECT_EQ(worst_difference(evaluate(run_passes(g, plain).graph, inputs), evaluate(with, inputs)), 0);
}

TEST(Fuse, ColumnsThatAreReadElsewhereStay) {
  Graph g;
  const Value x = g.input("x", {DType::f32, {2, 4, 24}});
  std::vector<Value> parts = split(x, {8, 8, 8}, 2);
  g.output("v", parts[2]);
  for (Value& part : parts) part = reshape(part, {2, 4, 2, 4});
  g.output("o", attention(parts[0], parts[1], parts[2], {.causal = true}));
  const Graph with = fuse_only(g, {.strided = {"attention", "attention_grad"}}).graph;
  EXPECT_EQ(anchors(with), (std::map<std::string, int>{{"attention", 1}}));
  int slices = 0;
  for (std::int32_t i = 0; i < with.size(); ++i) slices += with.node(i).op->name == "slice";
  EXPECT_EQ(slices, 1);
  expect_equal(g, with);
}

TEST(Fuse, TransformerUsesAllPatterns) {
  const TransformerSpec spec{.batch = 1};
  const Graph forward = run_passes(inference_graph(spec), {.verify = true}).graph;
  const std::map<std::string, int> found = anchors(forward);
  EXPECT_EQ(found.at("matmul"), 8);  // qkv, proj, up and down in each of two layers
  EXPECT_EQ(found.at("layer_norm"), 1);  // token + position before the first norm
  // Every edge that stayed between two kernels has a reason.
  const PipelineResult training = run_passes(training_graph(spec), {.verify = true});
  EXPECT_GT(anchors(training.graph).at(""), 3);
  for (const PassRecord& record : training.records)
    for (const Refusal& refusal : record.refusals) EXPECT_NE(refusal.reason, "no pattern joins them") << refusal.candidate;
}

}  // namespace
}  // namespace rhetor
