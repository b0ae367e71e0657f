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

// On a device: quantising is part of what makes an activation, and a product of FP8 tensors one node with what follows it.
PipelineResult on_a_device(const Graph& g) {
  PassOptions options{.verify = true, .compute = DType::f8e4m3, .narrow = true};
  options.target = {.device = "cuda", .strided = {"attention"}, .float8 = true};
  return run_passes(g, options);
}

TEST(Float8, InferenceHasScalesFromBoundsAndFusesQuantising) {
  const Graph g = inference_graph(blocks());
  const PipelineResult r = on_a_device(g);
  int products = 0, in_f8 = 0, norms = 0;
  const std::vector<char> fixed = [&] {
    std::vector<char> out;
    for (std::int32_t i = 0; i < r.graph.size(); ++i) {
      bool all = !r.graph.is_input(i) || r.graph.input_kind(i) == InputKind::param;
      for (const ValueId v : r.graph.node(i).inputs) all = all && (!v.valid() || out[static_cast<std::size_t>(v.node)]);
      out.push_back(all);
    }
    return out;
  }();
  for (std::int32_t i = 0; i < r.graph.size(); ++i) {
    const Node& node = r.graph.node(i);
    if (fixed[static_cast<std::size_t>(i)]) continue;
    EXPECT_NE(node.op->name, "quantize_f8");      // the scale does not wait for the data
    EXPECT_NE(node.op->name, "dequantize_f8");
    EXPECT_FALSE(node.op->name == "cast" && node.outputs[0].dtype == DType::f8e4m3) << "quantised by itself";
    if (node.op->name != "fused") continue;
    const std::string& anchor = node.attrs.s("anchor");
    const Graph& body = *node.attrs.graph("body");
    if (anchor == "layer_norm") norms += node.outputs.back().dtype == DType::f8e4m3;
    if (anchor != "matmul" || nodes_called(body, "dequantize_f8") != 2) continue;
    ++products;
    in_f8 += node.outputs[0].dtype == DType::f8e4m3;
  }
  // Two layers of three products (the fourth would not repay quantising attention's result) and the head.
  EXPECT_EQ(products, 7);
  EXPECT_EQ(in_f8, 2);    // the upper half of the feed-forward
  EXPECT_EQ(norms, 5);
  const PassRecord& told = record(r, "float8");
  EXPECT_THAT(told.note, HasSubstr("7 products in FP8, 2 in bf16"));
  EXPECT_THAT(told.note, HasSubstr("7 activations with scales from bounds"));
  EXPECT_THAT(told.details, Contains(HasSubstr("and quantising its activation take")));

  const Inputs inputs = random_inputs(g);
  EXPECT_LT(worst_difference(evaluate(g, inputs), evaluate(r.graph, inputs)), 1e-12);   // float64 rounds nothing
  // As near as scales from the data themselves come (0.18).
  const Graph wider = inference_graph({.batch = 2, .seq = 8, .hidden = 64, .heads = 2, .vocab = 16, .layers = 2});
  const Inputs given = random_inputs(wider);
  EXPECT_LT(worst_difference(evaluate(wider, given), evaluate(on_a_device(wider).graph, given, RefPrecision::declared)), 0.2);
}

// No input can leave the format: the largest ones reach the upper half of its range and not its end.
TEST(Float8, BoundsHold) {
  Graph g;
  const std::int64_t c = 64;
  const Value x = g.input("x", {DType::f32, {16, c}});
  const Value y = layer_norm(x, g.input("n.g", {DType::f32, {c}}, InputKind::param), g.input("n.b", {DType::f32, {c}}, InputKind::param));
  const Value h = relu(matmul(y, g.input("up.w", {DType::f32, {c, 2 * c}}, InputKind::param)));
  g.output("z", matmul(h, g.input("down.w", {DType::f32, {2 * c, c}}, InputKind::param)));
  Inputs inputs = random_inputs(g);
  Tensor& one_hot = inputs.at("x");   // what a norm makes largest
  for (std::int64_t i = 0; i < one_hot.elements(); ++i) one_hot.set(i, i % c == i / c ? 1e4 : 0.0);
  for (const char* name : {"n.g", "n.b"})
    for (std::int64_t i = 0; i < c; ++i) inputs.at(name).set(i, name[2] == 'g' ? 2.0 : 0.25);
  PipelineResult r = on_a_device(g);
  double greatest = 0;
  for (std::int32_t i = 0; i < r.graph.size(); ++i)
    for (std::size_t k = 0; k < r.graph.node(i).outputs.size(); ++k)
      if (r.graph.node(i).op->name == "fused" && r.graph.node(i).outputs[k].dtype == DType::f8e4m3)
        r.graph.output(fmt::format("q{}.{}", i, k), Value(&r.graph, {i, static_cast<std::int32_t>(k)}));
  const EvalResult result = evaluate(r.graph, inputs, RefPrecision::declared);
  for (const auto& [name, tensor] : result.outputs) {
    if (name == "z") continue;
    for (const double v : tensor.to_doubles()) greatest = std::max(greatest, std::abs(v));
  }
  EXPECT_EQ(result.outputs.size(), 3u);
  EXPECT_GE(greatest, 112);
  EXPECT_LE(greatest, 448);
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
