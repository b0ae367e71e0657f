#include "graph/text.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/rng.h"
#include "graph/verify.h"
#include "ops/ops.h"
#include "ops/registry.h"

namespace rhetor {
namespace {

// Uses every construct of the grammar: kinds of input, scopes, names, several results, absent operands, sub-graphs,
// constants of every dtype, states.
Graph rich_graph() {
  Graph g;
  const Value x = g.input("x \"quoted\"\n\\", {DType::f32, {Dim(2, "batch"), 8}});
  const Value w = g.input("w", {DType::f32, {8, 8}}, InputKind::param, "normal:0.02");
  const Value m = g.input("m", {DType::f32, {2, 8}}, InputKind::state, "zeros");
  Value h;
  {
    auto outer = g.scope("h.0");
    auto inner = g.scope("mlp \x01");
    h = gelu(matmul(x, w));
  }
  const TopK top = top_k(h, 2);
  {
    auto scope = g.scope("h.1");
    Graph body;
    const Value a = body.input("0", {DType::f32, {2, 8}});
    auto deep = body.scope("deep");
    body.output("0", add(a, 0.1));
    h = fused(g, {h}, std::make_shared<const Graph>(std::move(body)), "")[0];
  }
  const Value q = reshape(h, {1, 2, 2, 4});
  AttentionOptions options;
  options.offsets = g.constant(Tensor::of<std::int32_t>({1}, {0}));
  const Value o = attention(q, q, q, options);  // lengths stay absent
  for (std::size_t d = 0; d < kDTypes.size(); ++d) {
    Tensor t(static_cast<DType>(d), {3});
    t.set(1, 1);
    g.output("c" + std::to_string(d), g.constant(t));
  }
  g.output("indices", top.indices);
  g.output("o", o);
  g.set_update(m, h);
  return g;
}

std::string parse_error(std::string_view text) {
  try {
    parse_graph(text, all_ops());
  } catch (const Error& error) {
    EXPECT_NE(error.kind(), ErrorKind::internal) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "accepted: " << text;
  return "";
}

TEST(Text, RoundTripsExactly) {
  const Graph g = rich_graph();
  const std::string text = to_text(g);
  const Graph back = parse_graph(text, all_ops());
  verify(back, "parse");
  EXPECT_EQ(to_text(back), text);
  ASSERT_EQ(back.size(), g.size());
  for (std::int32_t i = 0; i < g.size(); ++i) {
    EXPECT_EQ(back.node(i).op, g.node(i).op);
    EXPECT_EQ(back.node(i).inputs, g.node(i).inputs);
    EXPECT_EQ(back.node(i).scope, g.node(i).scope);
    EXPECT_TRUE(back.node(i).attrs == g.node(i).attrs) << i;
    for (std::size_t k = 0; k < g.node(i).outputs.size(); ++k)
      EXPECT_EQ(back.node(i).outputs[k].str(), g.node(i).outputs[k].str());
  }
  EXPECT_EQ(back.updates().size(), 1u);
}

TEST(Text, ConstantsAreExactToTheBit) {
  Graph g;
  const auto f = [](std::uint32_t bits) { return std::bit_cast<float>(bits); };
  g.constant(Tensor::of<float>({7}, {0.1f, -0.0f, f(1), f(0x7fc00001), -INFINITY, 3.4028235e38f, f(0xff800001)}));
  g.constant(Tensor::of<double>({4}, {0.1, 5e-324, std::bit_cast<double>(0x7ff8000000000123ull), 1.7976931348623157e308}));
  g.constant(Tensor::of<std::int64_t>({2}, {std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max()}));
  Tensor all(DType::f16, {65536});  // every f16, NaNs too
  for (std::size_t i = 0; i < 65536; ++i) all.data<f16>()[i] = {static_cast<std::uint16_t>(i)};
  g.constant(all);
  for (std::int64_t row = 0; row < 65536; row += 4096) g.constant(all.rows(row, row + 64));  // short enough for decimals
  const Graph back = parse_graph(to_text(g), all_ops());
  for (std::int32_t i = 0; i < g.size(); ++i) EXPECT_TRUE(back.node(i).attrs == g.node(i).attrs) << i;
}

TEST(Text, RealsAndListsKeepTheirKind) {
  const OpDef op{.name = "probe",
                 .doc = "",
                 .traits = {},
                 .operands = {},
                 .attrs = {{"a", AttrKind::real, ""},
                           {"b", AttrKind::reals, ""},
                           {"c", AttrKind::integers, ""},
                           {"d", AttrKind::real, ""},
                           {"e", AttrKind::dtype, ""},
                           {"f", AttrKind::boolean, ""},
                           {"g", AttrKind::real, ""}},
                 .infer = [](std::span<const Type>, const Attrs&) { return std::vector<Type>{{}}; },
                 .grad = kNotDifferentiable,
                 .cost = bytes_only_cost,
                 .shard = "",
                 .reference = {},
                 .samples = nullptr};
  const OpTable table({&op});
  Graph g;
  g.add(op, {},
        {{"a", 3.0},
         {"b", std::vector<double>{1, -INFINITY, NAN, -0.0}},
         {"c", std::vector<std::int64_t>{}},
         {"d", 1e300},
         {"e", DType::boolean},
         {"f", true},
         {"g", -std::numeric_limits<double>::quiet_NaN()}});
  const std::string text = to_text(g);
  const Graph back = parse_graph(text, table);
  EXPECT_TRUE(back.node(0).attrs == g.node(0).attrs) << text;
}

TEST(Text, LongConstantsCanBeElidedForReading) {
  Graph g;
  g.constant(Tensor(DType::f32, {100}));
  EXPECT_NE(to_text(g, {.max_constant_elements = 8}).find("..."), std::string::npos);
  EXPECT_NE(parse_error(to_text(g, {.max_constant_elements = 8})).find("shortened"), std::string::npos);
}

TEST(Text, ErrorsNameThePlace) {
  EXPECT_EQ(parse_error("graph {\n  %1 = input \"x\" : f32[]\n}"), "graph text, line 2, column 4: expected node number 0");
  EXPECT_NE(parse_error("graph {\n  %0 = input \"x\" : f33[]\n}").find("line 2, column 20"), std::string::npos);
  EXPECT_NE(parse_error("graph {\n  %0 = input \"x\" : f32[]\n  %1 = gelo(%0) : f32[]\n}").find("did you mean 'gelu'"),
            std::string::npos);
  EXPECT_NE(parse_error("graph {\n  %0 = input \"x\" : f32[2]\n  %1 = gelu(%0) : f32[3]\n}").find("line 3, column 19"),
            std::string::npos);
  EXPECT_NE(parse_error("graph {\n  %0 = gelu(%0) : f32[2]\n}").find("not an earlier node"), std::string::npos);
  EXPECT_NE(parse_error("graph {\n  output \"y\" = %7\n}").find("not an earlier node"), std::string::npos);
  EXPECT_NE(parse_error("graph {").find("the end of the text"), std::string::npos);
  EXPECT_NE(parse_error("graph {} x").find("the end of the text, found 'x'"), std::string::npos);
  EXPECT_NE(parse_error("").find("'graph'"), std::string::npos);
}

TEST(Text, HostileTextIsRefusedBeforeItCostsAnything) {
  const auto constant = [](const std::string& value) { return "graph {\n %0 = constant() {value = " + value + "} : f32[]\n}"; };
  parse_error(constant("f32[1000000000000] {1}"));
  parse_error(constant("f32[1000000000000] x\"00\""));
  parse_error(constant("f32[9223372036854775807,9223372036854775807] {}"));
  parse_error(constant("f32[-1] {}"));
  parse_error(constant("f32[1,1,1,1,1,1,1,1,1] {1}"));
  parse_error(constant("bool[1] {2}"));
  parse_error(constant("i8[1] {300}"));
  parse_error(constant("f16[1] {0x12345}"));
  std::string deep = "graph {\n", close;
  for (int i = 0; i < 100000; ++i) deep += "%0 = fused() {body = graph {\n";
  EXPECT_NE(parse_error(deep).find("nested deeper"), std::string::npos);
  std::string dims = "graph {\n";
  for (int i = 0; i < 3000; ++i) dims += fmt::format("%{} = input \"{}\" : f32[n{}:1]\n", i, i, i);
  EXPECT_NE(parse_error(dims + "}").find("dim names"), std::string::npos);
  parse_error("graph {\n %0 = state \"s\" : f32[2]\n %1 = input \"x\" : f32[3]\n update \"s\" = %1\n}");
  parse_error("graph {\n %0 = input \"s\" : f32[2]\n update \"s\" = %0\n}");
  parse_error("graph {\n %0 = state \"s\" : f32[2]\n update \"s\" = %0\n update \"s\" = %0\n}");
  parse_error("graph {\n %0 = input \"s\" : f32[2]\n %1 = input \"s\" : f32[2]\n}");
}

// Whatever bytes come, the parser answers with a graph that verifies or with an Error that is not our bug.
TEST(Text, SurvivesMutations) {
  const std::string good = to_text(rich_graph());
  Rng rng(11);
  for (int round = 0; round < 3000; ++round) {
    std::string text = good;
    const int edits = 1 + static_cast<int>(rng.below(3));
    for (int e = 0; e < edits; ++e) {
      const std::size_t at = rng.below(text.size());
      switch (rng.below(4)) {
        case 0: text[at] = static_cast<char>(rng.below(256)); break;
        case 1: text.erase(at, 1 + rng.below(8)); break;
        case 2: text.insert(at, text.substr(rng.below(text.size()), rng.below(12))); break;
        default: text[at] = "0123456789-%_.[]{}"[rng.below(18)];
      }
      if (text.empty()) text = "g";
    }
    try {
      const Graph g = parse_graph(text, all_ops());
      verify(g, "parse");
      EXPECT_EQ(to_text(parse_graph(to_text(g), all_ops())), to_text(g));
    } catch (const Error& error) {
      EXPECT_NE(error.kind(), ErrorKind::internal) << error.what() << "\n" << text;
    }
  }
}

}  // namespace
}  // namespace rhetor
