#include "graph/interpreter.h"

#include <gtest/gtest.h>

#include <cmath>

#include "ops/ops.h"
#include "ops/registry.h"
#include "tensor/compare.h"

namespace rhetor {
namespace {

TEST(Interpreter, EvaluatesInFloat64AndInDeclaredPrecision) {
  Graph g;
  const Value x = g.input("x", {DType::bf16, {3}});
  g.output("y", add(mul(x, 3), 1));
  const std::map<std::string, Tensor> in{{"x", Tensor::of<double>({3}, {1, 0.1, 1e-3})}};
  const Tensor exact = evaluate(g, in).outputs.at("y"), rough = evaluate(g, in, RefPrecision::declared).outputs.at("y");
  EXPECT_EQ(exact.dtype(), DType::f64);
  EXPECT_DOUBLE_EQ(exact.at(1), 0.1 * 3 + 1);
  EXPECT_EQ(rough.dtype(), DType::bf16);
  EXPECT_TRUE(compare(rough, exact).within(2 * 0.0078125 * 4));
  EXPECT_FALSE(compare(rough, exact).within(0));
}

TEST(Interpreter, StatesUpdateAndIntegersWrap) {
  Graph g;
  const Value s = g.input("s", {DType::i8, {2}}, InputKind::state);
  const Value next = add(s, s);
  g.set_update(s, next);
  g.output("before", s);
  const EvalResult r = evaluate(g, {{"s", Tensor::of<std::int8_t>({2}, {100, -3})}});
  EXPECT_EQ(r.states.at("s").to_doubles(), (std::vector<double>{-56, -6}));
  EXPECT_EQ(r.outputs.at("before").to_doubles(), (std::vector<double>{100, -3}));
}

TEST(Interpreter, WatchSeesEveryNode) {
  Graph g;
  g.output("y", relu(neg(g.input("x", {DType::f32, {1}}))));
  std::vector<double> seen;
  evaluate(g, {{"x", Tensor::scalar<float>(-2).reshaped({1})}}, RefPrecision::f64,
           [&](std::int32_t, const std::vector<Tensor>& results) { seen.push_back(results.at(0).at(0)); });
  EXPECT_EQ(seen, (std::vector<double>{-2, 2, 2}));
}

TEST(Interpreter, NamesAMissingOrWrongInput) {
  Graph g;
  g.output("y", neg(g.input("weights", {DType::f32, {2}}, InputKind::param)));
  const auto message = [&](const std::map<std::string, Tensor>& in) {
    try {
      evaluate(g, in);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(message({}), "the graph's param 'weights' (f32[2]) is not given");
  EXPECT_EQ(message({{"weights", Tensor(DType::f32, {3})}}), "the graph's param 'weights' must be f32[2], found f32[3]");
  EXPECT_NE(message({{"weights", Tensor(DType::i32, {2})}}), "");
}

TEST(Interpreter, EagerModeTakesAbsentOperands) {
  const Tensor q = Tensor::from_doubles({DType::f32, {1, 1, 1, 2}}, std::vector<double>{1, 2});
  const auto r = evaluate_op(all_ops().at("attention"), {q, q, q, Tensor(), Tensor::of<std::int32_t>({1}, {0})}, {});
  EXPECT_DOUBLE_EQ(r.at(0).at(1), 2);
}

// ---- several ranks ---------------------------------------------------------------------------------

std::map<std::string, Tensor> one(const char* name, std::vector<double> values) {
  return {{name, Tensor::from_doubles({DType::f32, Shape{static_cast<std::int64_t>(values.size())}}, values)}};
}

TEST(Ranks, CollectivesSeeTheWholeGroup) {
  Graph g;
  const Value x = g.input("x", {DType::f32, {2}});
  g.output("sum", all_reduce(x, "data", 2));
  g.output("all", all_gather(x, 0, "data", 2));
  g.output("part", reduce_scatter(x, 0, "data", 2));
  g.output("turned", all_to_all(x, 0, 0, "data", 2));
  const auto r = evaluate_ranks({&g}, {{"data", 2}}, {one("x", {1, 2}), one("x", {10, 20})});
  using V = std::vector<double>;
  for (int rank = 0; rank < 2; ++rank) {
    EXPECT_EQ(r[static_cast<std::size_t>(rank)].outputs.at("sum").to_doubles(), (V{11, 22}));
    EXPECT_EQ(r[static_cast<std::size_t>(rank)].outputs.at("all").to_doubles(), (V{1, 2, 10, 20}));
  }
  EXPECT_EQ(r[0].outputs.at("part").to_doubles(), (V{11}));
  EXPECT_EQ(r[1].outputs.at("part").to_doubles(), (V{22}));
  EXPECT_EQ(r[0].outputs.at("turned").to_doubles(), (V{1, 10}));
  EXPECT_EQ(r[1].outputs.at("turned").to_doubles(), (V{2, 20}));
}

TEST(Ranks, GroupsFollowTheMesh) {
  Graph g;
  const Value x = g.input("x", {DType::f32, {1}});
  const Value row = all_reduce(x, "tensor", 3);
  g.output("row", row);
  g.output("all", all_reduce(row, "data", 2));
  std::vector<std::map<std::string, Tensor>> in;
  for (int r = 0; r < 6; ++r) in.push_back(one("x", {std::pow(10.0, r)}));
  const auto r = evaluate_ranks({&g}, {{"data", 2}, {"tensor", 3}}, in);
  EXPECT_EQ(r[1].outputs.at("row").at(0), 111);
  EXPECT_EQ(r[5].outputs.at("row").at(0), 111000);
  EXPECT_EQ(r[3].outputs.at("all").at(0), 111111);
}

TEST(Ranks, AreDifferentGraphsInLockStep) {
  Graph a, b;
  a.output("y", all_reduce(a.input("x", {DType::f32, {1}}), "data", 2));
  b.output("y", neg(all_reduce(mul(b.input("x", {DType::f32, {1}}), 5), "data", 2)));
  const auto r = evaluate_ranks({&a, &b}, {{"data", 2}}, {one("x", {1}), one("x", {2})});
  EXPECT_EQ(r[0].outputs.at("y").at(0), 11);
  EXPECT_EQ(r[1].outputs.at("y").at(0), -11);
}

TEST(Ranks, DisagreementIsFound) {
  Graph none, sum, gather;
  none.output("y", neg(none.input("x", {DType::f32, {2}})));
  sum.output("y", all_reduce(sum.input("x", {DType::f32, {2}}), "data", 2));
  gather.output("y", reduce_scatter(gather.input("x", {DType::f32, {2}}), 0, "data", 2));
  const std::vector<std::map<std::string, Tensor>> in{one("x", {1, 2}), one("x", {1, 2})};
  EXPECT_THROW(evaluate_ranks({&none, &sum}, {{"data", 2}}, in), Error);
  EXPECT_THROW(evaluate_ranks({&gather, &sum}, {{"data", 2}}, in), Error);
  EXPECT_THROW(evaluate_ranks({&sum}, {{"model", 2}}, in), Error);
  EXPECT_THROW(evaluate(sum, in[0]), Error) << "one rank of two cannot run alone";
}

}  // namespace
}  // namespace rhetor
