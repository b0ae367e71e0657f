// The float8 pass: which products it takes, in which formats, and that nothing but rounding changes.
#include <gmock/gmock.h>

#include "passes/test_graphs.h"

namespace rhetor::testing {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

// Sizes in blocks of 16: 16 rows, 16 wide, 16 words.
TransformerSpec blocks() { return {.batch = 2, .seq = 8, .hidden = 16, .heads = 2, .vocab = 16, .layers = 2}; }

PipelineResult in_float8(const Graph& g, std::set<std::string, std::less<>> wide) {
  PassOptions options{.verify = true, .compute = DType::f8e4m3, .wide_weights = std::move(wide)};
  for (const char* off : {"quantize", "remat", "fuse", "schedule"}) options.off.insert(off);
  return run_passes(g, options);
}

// The FP8 format that operand k of a product comes from, or its own dtype.
DType format(const Graph& g, const Node& product, std::size_t k) {
  ValueId v = product.inputs[k];
  while (g.node(v).op->name == "reshape" || g.node(v).op->name == "transpose") v = g.node(v).inputs[0];
  return g.node(v).op->name == "dequantize_f8" ? g.type(g.node(v).inputs[0]).dtype : g.type(v).dtype;
}

int nodes_called(const Graph& g, std::string_view op) {
  int n = 0;
  for (std::int32_t i = 0; i < g.size(); ++i) n += g.node(i).op->name == op;
  return n;
}

TEST(Float8, ProductsWithAWeightAndTheirGradients) {
  const Graph g = training_graph(blocks());
  const PipelineResult r = in_float8(g, {"wte"});
  int forward = 0, backward = 0, wide = 0;
  std::map<std::pair<ValueId, DType>, int> quantised;
  for (std::int32_t i = 0; i < r.graph.size(); ++i) {
    const Node& node = r.graph.node(i);
    if (node.op->name == "quantize_f8") ++quantised[{node.inputs[0], node.outputs[0].dtype}];
    if (node.op->name != "matmul") continue;
    const std::multiset<DType> formats{format(r.graph, node, 0), format(r.graph, node, 1)};
    if (formats == std::multiset<DType>{DType::f8e4m3, DType::f8e4m3}) ++forward;
    else if (formats == std::multiset<DType>{DType::f8e4m3, DType::f8e5m2}) ++backward;
    else if (formats == std::multiset<DType>{DType::bf16, DType::bf16}) ++wide;
    EXPECT_EQ(node.scope.starts_with("grad"), formats.contains(DType::f8e5m2) || (node.scope == "grad" && formats.contains(DType::bf16)))
        << node.scope;
  }
  // Two layers of four products, each with two in the backward pass; the tied head stays wide.
  EXPECT_EQ(forward, 8);
  EXPECT_EQ(backward, 16);
  EXPECT_EQ(wide, 3);
  for (const auto& [key, n] : quantised) EXPECT_EQ(n, 1) << "%" << key.first.node << " is quantised twice";
  EXPECT_EQ(quantised.size(), 8u + 8u + 8u);  // weights, activations, gradients
  const PassRecord& told = record(r, "float8");
  EXPECT_THAT(told.note, HasSubstr("24 products in FP8, 3 in bf16"));
  EXPECT_EQ(told.details.size(), 27u);
  EXPECT_THAT(told.details, Contains(HasSubstr("activation f8e4m3 x h.0.up.w f8e4m3")));
  EXPECT_THAT(told.details, Contains(HasSubstr("'wte' belongs to a sensitive layer")));
}

TEST(Float8, ChangesNothingButRounding) {
  const Graph g = training_graph(blocks());
  const PipelineResult r = in_float8(g, {"wte"});
  const Inputs inputs = random_inputs(g);
  EXPECT_LT(worst_difference(evaluate(g, inputs), evaluate(r.graph, inputs)), 1e-12);  // float64 rounds nothing
  const double exact = evaluate(g, inputs).outputs.at("loss").at(0);
  const double rounded = evaluate(r.graph, inputs, RefPrecision::declared).outputs.at("loss").at(0);
  EXPECT_NE(rounded, exact);
  EXPECT_NEAR(rounded, exact, 0.05 * exact);
}

TEST(Float8, SaysWhyAProductStaysWide) {
  const PipelineResult r = in_float8(training_graph(), {});
  EXPECT_EQ(nodes_called(r.graph, "quantize_f8"), 0);
  EXPECT_THAT(record(r, "float8").details, Contains(HasSubstr("is not made of blocks of 16 by 16")));
  // A layer that is named keeps its products and their gradients.
  const PipelineResult named = in_float8(training_graph(blocks()), {"wte", "h.0.qkv.w", "h.0.proj.w", "h.0.up.w", "h.0.down.w"});
  EXPECT_THAT(record(named, "float8").note, HasSubstr("12 products in FP8, 15 in bf16"));
  EXPECT_EQ(nodes_called(only(training_graph(blocks()), "float8", {.compute = DType::bf16}).graph, "quantize_f8"), 0);
}

TEST(Float8, AWeightStoredInBf16IsReadAsItIs) {
  Graph g;
  const Value w = g.input("w", {DType::bf16, {32, 32}}, InputKind::state);
  g.output("y", matmul(g.input("x", {DType::f32, {16, 32}}), cast(w, DType::f32)));
  const PipelineResult r = only(g, "precision", {.compute = DType::bf16});
  EXPECT_EQ(nodes_called(r.graph, "cast"), 1);  // of x
}

}  // namespace
}  // namespace rhetor::testing
