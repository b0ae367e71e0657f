#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "graph/op.h"
#include "graph/text.h"
#include "passes/test_graphs.h"

namespace rhetor {
namespace {

using namespace rhetor::testing;

Graph simplified(const Graph& g) {
  PassOptions options{.verify = true};
  for (const Pass& p : all_passes())
    if (p.name != "simplify") options.off.insert(std::string(p.name));
  return run_passes(g, options).graph;
}
// Ops left, inputs aside, in order: "add tanh".
std::string ops(const Graph& g) {
  std::string out;
  for (std::int32_t i = 0; i < g.size(); ++i)
    if (!g.is_input(i)) out += (out.empty() ? "" : " ") + std::string(g.node(i).op->name);
  return out;
}
// Builds one graph on x f32[2,3] and y f32[2,3] and gives the ops that simplify leaves, after checking equal results.
template <class F>
std::string left(F build) {
  Graph g;
  const Value x = g.input("x", {DType::f32, {2, 3}}), y = g.input("y", {DType::f32, {2, 3}});
  g.output("out", build(g, x, y));
  const Graph s = simplified(g);
  const Inputs inputs = random_inputs(g);
  EXPECT_EQ(worst_difference(evaluate(g, inputs), evaluate(s, inputs)), 0);
  return ops(s);
}

TEST(Simplify, FoldsConstants) {
  EXPECT_EQ(left([](Graph& g, Value x, Value) { return add(x, broadcast_to(mul(scalar(g, DType::f32, 2), scalar(g, DType::f32, 3)), {2, 3})); }),
            "constant add");
}

TEST(Simplify, MergesEqualNodes) {
  EXPECT_EQ(left([](Graph&, Value x, Value y) { return mul(tanh(add(x, y)), tanh(add(y, x))); }), "add tanh mul");
  // Different streams of random numbers are different nodes.
  Graph g;
  const Value x = g.input("x", {DType::f32, {4, 4}}), seed = g.input("seed", {DType::i64, {}});
  g.output("same", add(dropout(x, seed, 0.5, 1), dropout(x, seed, 0.5, 1)));
  g.output("other", dropout(x, seed, 0.5, 2));
  EXPECT_EQ(ops(simplified(g)), "dropout add dropout");
}

TEST(Simplify, ExactIdentities) {
  EXPECT_EQ(left([](Graph&, Value x, Value) { return mul(x, 1); }), "");
  EXPECT_EQ(left([](Graph&, Value x, Value) { return neg(neg(x)); }), "");
  EXPECT_EQ(left([](Graph&, Value x, Value y) { return add(x, neg(y)); }), "sub");
  EXPECT_EQ(left([](Graph&, Value x, Value y) { return sub(x, neg(y)); }), "add");
  EXPECT_EQ(left([](Graph& g, Value x, Value) { return div(x, scalar(g, DType::f32, 8)); }), ops([] {
              Graph g;
              const Value x = g.input("x", {DType::f32, {2, 3}});
              g.output("y", mul(x, 0.125));
              return simplified(g);
            }()));
  EXPECT_EQ(left([](Graph&, Value x, Value) { return maximum(x, x); }), "");
  EXPECT_EQ(left([](Graph&, Value x, Value) { return relu(relu(x)); }), "relu");
  EXPECT_EQ(left([](Graph&, Value x, Value y) { return where(less(x, y), x, x); }), "");
}

TEST(Simplify, KeepsWhatOnlyLooksNeutral) {
  // -0 + 0 is +0, and 0 * inf is NaN: neither is an identity.
  EXPECT_THAT(left([](Graph&, Value x, Value) { return add(x, 0.0); }), ::testing::HasSubstr("add"));
  EXPECT_THAT(left([](Graph&, Value x, Value) { return mul(x, 0.0); }), ::testing::HasSubstr("mul"));
  EXPECT_THAT(left([](Graph& g, Value x, Value) { return div(x, scalar(g, DType::f32, 3)); }), ::testing::HasSubstr("div"));
  EXPECT_EQ(left([](Graph&, Value x, Value) { return cast(cast(x, DType::bf16), DType::f32); }), "cast cast");
}

TEST(Simplify, Layout) {
  EXPECT_EQ(left([](Graph&, Value x, Value) { return reshape(reshape(x, {6}), {2, 3}); }), "");
  EXPECT_EQ(left([](Graph&, Value x, Value) { return reshape(reshape(x, {6}), {3, 2}); }), "reshape");
  EXPECT_EQ(left([](Graph&, Value x, Value) { return transpose(transpose(x, {1, 0}), {1, 0}); }), "");
  EXPECT_EQ(left([](Graph&, Value x, Value) { return transpose(reshape(x, {2, 1, 3}), {0, 2, 1}); }), "reshape");
  EXPECT_EQ(left([](Graph&, Value x, Value) { return broadcast_to(broadcast_to(x, {1, 2, 3}), {4, 2, 3}); }), "broadcast_to");
  EXPECT_EQ(left([](Graph&, Value x, Value) { return concat(split(x, {1, 2}, 1), 1); }), "");
  EXPECT_EQ(left([](Graph&, Value x, Value) { return slice(slice(x, 1, 1, 3), 1, 1, 2); }), "slice");
  EXPECT_EQ(left([](Graph&, Value x, Value) { return cast(cast(x, DType::f64), DType::f32); }), "");
  EXPECT_EQ(left([](Graph&, Value x, Value) { return reduce_max(reshape(x, {2, 3, 1}), {2}); }), "");
}

TEST(Simplify, MatmulReadsTransposedOperandsInPlace) {
  EXPECT_EQ(left([](Graph&, Value x, Value y) { return matmul(x, transpose(y, {1, 0})); }), "matmul");
  EXPECT_EQ(left([](Graph&, Value x, Value y) { return matmul(transpose(x, {1, 0}), y); }), "matmul");
}

TEST(Simplify, DropsDeadNodesAndKeepsInputs) {
  Graph g;
  const Value x = g.input("x", {DType::f32, {2}});
  g.input("unused", {DType::f32, {2}});
  exp(x);
  g.output("y", tanh(x));
  const Graph s = simplified(g);
  EXPECT_EQ(s.size(), 3);
  EXPECT_TRUE(s.find_input("unused").valid());
}

TEST(Simplify, IsAFixpoint) {
  const Graph once = simplified(training_graph());
  EXPECT_EQ(to_text(simplified(once)), to_text(once));
}

}  // namespace
}  // namespace rhetor
