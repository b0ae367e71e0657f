#include "passes/quantize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "graph/op.h"
#include "passes/test_graphs.h"

namespace rhetor {
namespace {

using namespace rhetor::testing;
using ::testing::HasSubstr;

int count(const Graph& g, std::string_view op) {
  int n = 0;
  for (std::int32_t i = 0; i < g.size(); ++i) n += g.node(i).op->name == op;
  return n;
}
// The weights of `inputs` as a quantised model file holds them.
Inputs stored(const Graph& g, Inputs inputs) {
  for (const QuantizableWeight& w : quantizable_weights(g)) {
    const Tensor& full = inputs.at(w.name);
    Graph q;
    const Value x = q.input("w", full.type());
    const Quantized r = quantize_rows(w.transposed ? x : transpose(x, {1, 0}));
    q.output("q", r.q);
    q.output("scale", r.scale);
    EvalResult e = evaluate(q, {{"w", full}});
    inputs[w.name + ".int8"] = e.outputs.at("q");
    inputs[w.name + ".scale"] = e.outputs.at("scale");
    inputs.erase(w.name);
  }
  return inputs;
}

// On a device a product must gain more than quantising its activations costs; few rows, which read the weights only, always do.
TEST(Quantize, RefusesToSlowADown) {
  for (const std::int64_t rows : {8, 4096}) {
    Graph g;
    const Value x = g.input("x", {DType::bf16, {rows, 768}});
    const auto weight = [&](const char* name, std::int64_t n) { return g.input(name, {DType::bf16, {n, 768}}, InputKind::param); };
    g.output("up", matmul(x, weight("up", 3072), false, true));
    g.output("narrow", matmul(relu(x), weight("narrow", 768), false, true));
    PassOptions options{.int8 = true};
    options.target.device = "cuda";
    const PipelineResult r = only(g, "quantize", options);
    EXPECT_EQ(count(r.graph, "matmul_i8"), rows == 8 ? 2 : 1);
    if (rows == 8) continue;
    ASSERT_EQ(record(r, "quantize").refusals.size(), 1u);
    EXPECT_THAT(record(r, "quantize").refusals[0].candidate, HasSubstr("'narrow'"));
    EXPECT_THAT(record(r, "quantize").refusals[0].reason, HasSubstr("int8 gains"));
  }
}

TEST(Quantize, ErrorIsWithinTheDerivedBound) {
  // x has error at most sx/2 an element and W at most sw/2, with s = max|row| / 127:
  // |y - y'| <= sum_k |x| sw/2 + |w| sx/2 + sx sw/4.
  Graph g;
  const std::int64_t m = 5, k = 64, n = 7;
  g.output("y", matmul(g.input("x", {DType::f32, {m, k}}), g.input("w", {DType::f32, {k, n}}, InputKind::param)));
  const PipelineResult r = only(g, "quantize", {.int8 = true});
  EXPECT_EQ(count(r.graph, "matmul_i8"), 1);
  EXPECT_EQ(count(r.graph, "matmul"), 0);
  const Inputs inputs = random_inputs(g);
  const Tensor exact = evaluate(g, inputs).outputs.at("y"), got = evaluate(r.graph, inputs).outputs.at("y");
  const Tensor &x = inputs.at("x"), &w = inputs.at("w");
  for (std::int64_t i = 0; i < m; ++i)
    for (std::int64_t j = 0; j < n; ++j) {
      double sx = 0, sw = 0;
      for (std::int64_t c = 0; c < k; ++c) {
        sx = std::max(sx, std::abs(x.at(i * k + c)) / 127);
        sw = std::max(sw, std::abs(w.at(c * n + j)) / 127);
      }
      double bound = 1e-6;
      for (std::int64_t c = 0; c < k; ++c)
        bound += std::abs(x.at(i * k + c)) * sw / 2 + std::abs(w.at(c * n + j)) * sx / 2 + sx * sw / 4;
      EXPECT_LE(std::abs(got.at(i * n + j) - exact.at(i * n + j)), bound);
    }
}

TEST(Quantize, TiedTableServesEmbeddingAndHead) {
  const Graph g = inference_graph();
  const Inputs inputs = random_inputs(g);
  const PipelineResult in_graph = only(g, "quantize", {.int8 = true});
  EXPECT_EQ(count(in_graph.graph, "matmul"), 0);
  EXPECT_EQ(count(in_graph.graph, "matmul_i8"), 9);
  EXPECT_EQ(count(in_graph.graph, "quantize_rows"), 9 + 9);  // one a weight, one an activation
  const PipelineResult as_stored = only(g, "quantize", {.int8 = true, .int8_stored = true});
  EXPECT_FALSE(as_stored.graph.find_input("wte").valid());
  EXPECT_TRUE(as_stored.graph.find_input("wte.int8").valid());
  EXPECT_TRUE(as_stored.graph.find_input("h.0.qkv.w.scale").valid());
  EXPECT_TRUE(as_stored.graph.find_input("wpe").valid());
  const EvalResult a = evaluate(in_graph.graph, inputs), b = evaluate(as_stored.graph, stored(g, inputs));
  EXPECT_LT(worst_difference(a, b), 1e-6);  // stored scales are rounded to f32
  EXPECT_LT(worst_difference(evaluate(g, inputs), a), 0.2);
}

TEST(Quantize, SaysWhyAWeightIsLeftAlone) {
  const PipelineResult r = only(inference_graph(), "quantize", {.int8 = true});
  std::map<std::string, std::string> reasons;
  for (const Refusal& refusal : record(r, "quantize").refusals) reasons[refusal.candidate] = refusal.reason;
  EXPECT_EQ(reasons.size(), 1u + 2 * 8 + 2);  // wpe; norms and biases of two layers; the last norm
  for (const auto& [candidate, reason] : reasons) EXPECT_THAT(reason, HasSubstr("only")) << candidate;
  EXPECT_THROW(only(inference_graph(), "quantize", {.int8_stored = true}), Error);
}

TEST(Quantize, OtherReadersGetTheDequantisedWeight) {
  Graph g;
  const Value x = g.input("x", {DType::f32, {3, 4}}), w = g.input("w", {DType::f32, {4, 4}}, InputKind::param);
  g.output("y", matmul(x, w));
  g.output("norm", reduce_sum(square(w), {0, 1}));
  const PipelineResult r = only(g, "quantize", {.int8 = true, .int8_stored = true});
  const Inputs inputs = random_inputs(g);
  EXPECT_LT(worst_difference(evaluate(g, inputs), evaluate(r.graph, stored(g, inputs))), 0.03);
}

TEST(Quantize, AListDecidesWhateverThisGraphReads) {
  // Here the table is only looked up; the model's other graph multiplies by it. `v` is a matrix the model keeps in float.
  Graph g;
  const Value table = g.input("table", {DType::f32, {6, 4}}, InputKind::param), v = g.input("v", {DType::f32, {4, 4}}, InputKind::param);
  const Value rows = embedding(table, g.input("ids", {DType::i32, {3}}));
  g.output("y", matmul(rows, v));
  const PipelineResult r = only(g, "quantize", {.int8 = true, .int8_stored = true, .int8_weights = {{"table", true}, {"elsewhere", false}}});
  EXPECT_EQ(count(r.graph, "matmul"), 1);
  EXPECT_EQ(count(r.graph, "matmul_i8"), 0);
  EXPECT_TRUE(r.graph.find_input("table.int8").valid());
  EXPECT_FALSE(r.graph.find_input("table").valid());
  EXPECT_TRUE(r.graph.find_input("v").valid());
  EXPECT_EQ(record(r, "quantize").refusals.back().reason, "the model stores it as it is");
}

TEST(Quantize, Int4WeightsArriveInGroups) {
  // x = 1 in every place and all nibbles 9 or 7 (weights 1 and -1): a sum of scales, but for the rounding of x, which is exact here.
  Graph g;
  const Value table = g.input("table", {DType::f32, {3, 64}}, InputKind::param);
  const Value x = embedding(table, g.input("ids", {DType::i32, {2}}));
  g.output("rows", x);
  g.output("y", matmul(g.input("x", {DType::f32, {2, 64}}), table, false, true));
  const PipelineResult r = only(g, "quantize", {.int8 = true, .int8_stored = true, .int4_weights = {{"table", true}}});
  EXPECT_EQ(count(r.graph, "matmul_i4"), 1);
  EXPECT_EQ(count(r.graph, "dequantize_i4"), 1);
  EXPECT_EQ(count(r.graph, "matmul"), 0);
  const EvalResult e = evaluate(r.graph, {{"ids", Tensor::of<std::int32_t>({2}, {2, 0})},
                                          {"x", Tensor::from_doubles({DType::f32, {2, 64}}, std::vector<double>(128, 1.0))},
                                          {"table.int4", Tensor::from_doubles({DType::u8, {3, 32}}, std::vector<double>(96, 0x99))},
                                          {"table.scale", Tensor::from_doubles({DType::f16, {3, 2}}, std::vector<double>{1, 2, 3, 4, 5, 6})}});
  EXPECT_EQ(e.outputs.at("rows").at(0), 5);
  EXPECT_EQ(e.outputs.at("rows").at(127), 2);
  for (const int i : {0, 1, 2}) EXPECT_NEAR(e.outputs.at("y").at(i), 32 * (4 * i + 3), 1e-9);
  EXPECT_THROW(only(inference_graph(), "quantize", {.int8 = true, .int8_stored = true, .int4_weights = {{"h.0.qkv.w", false}}}), Error);
}

TEST(Quantize, Int4KeepsNarrowActivationsOfManyRows) {
  for (const std::int64_t rows : {8, 64}) {
    Graph g;
    const Value w = g.input("w", {DType::f32, {3, 64}}, InputKind::param);
    g.output("y", matmul(g.input("x", {DType::bf16, {rows, 64}}), cast(w, DType::bf16), false, true, DType::f32));
    const PipelineResult r = only(g, "quantize", {.int8 = true, .int8_stored = true, .int4_weights = {{"w", true}}});
    EXPECT_EQ(count(r.graph, "matmul_w4"), rows == 64 ? 1 : 0) << rows;
    EXPECT_EQ(count(r.graph, "matmul_i4"), rows == 64 ? 0 : 1) << rows;
  }
}

TEST(Precision, ContractionsRunNarrowAndEverythingElseStaysWide) {
  for (const DType narrow : {DType::bf16, DType::f16}) {
    const Graph g = training_graph();
    const PipelineResult r = only(g, "precision", {.compute = narrow});
    std::map<ValueId, int> casts;
    for (std::int32_t i = 0; i < r.graph.size(); ++i) {
      const Node& node = r.graph.node(i);
      bool any = false;
      for (const ValueId v : node.inputs) any = any || (v.valid() && r.graph.type(v).dtype == narrow);
      if (node.op->traits.kind == OpKind::contraction) {
        EXPECT_TRUE(any) << node.op->name;
      } else if (any) {
        EXPECT_TRUE(node.op->traits.kind == OpKind::layout || node.op->name == "cast") << node.op->name;
      }
      if (node.op->name == "cast" && node.outputs[0].dtype == narrow) ++casts[node.inputs[0]];
    }
    for (const auto& [value, n] : casts) EXPECT_EQ(n, 1) << "%" << value.node << " is cast twice";
    const Inputs inputs = random_inputs(g);
    EXPECT_LT(worst_difference(evaluate(g, inputs), evaluate(r.graph, inputs)), 1e-12);
    for (const GraphOutput& output : r.graph.outputs()) EXPECT_EQ(r.graph.type(output.value).dtype, DType::f32);
  }
  EXPECT_THROW(only(Graph(), "precision", {.compute = DType::i8}), Error);
}

TEST(Precision, FewQueriesReadACacheAsItIs) {
  for (const std::int64_t queries : {1, 4, 64}) {
    Graph g;
    const Value cache = g.input("cache", {DType::f32, {1, 128, 2, 8}}, InputKind::state);
    const Value x = g.input("x", {DType::f32, {1, queries, 2, 8}});
    const Value next = cache_write(cache, x, g.input("positions", {DType::i32, {1}}));
    g.set_update(cache, next);
    g.output("o", attention(x, next, next, {.causal = true}));
    const PipelineResult r = only(g, "precision", {.compute = DType::bf16});
    EXPECT_EQ(count(r.graph, "cast") > 0, queries >= 32) << queries;
    EXPECT_EQ(record(r, "precision").refusals.empty(), queries >= 32) << queries;
  }
}

TEST(Precision, ComposesWithQuantize) {
  const Graph g = inference_graph();
  const PipelineResult r = run_passes(g, {.verify = true, .compute = DType::bf16, .int8 = true, .int8_stored = true});
  const Inputs inputs = random_inputs(g);
  EXPECT_LT(worst_difference(evaluate(g, inputs), evaluate(r.graph, stored(g, inputs))), 0.2);
  EXPECT_EQ(count(r.graph, "matmul"), 0);
}

}  // namespace
}  // namespace rhetor
