#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "graph/op.h"
#include "passes/liveness.h"
#include "passes/memory.h"
#include "passes/passes.h"
#include "passes/test_graphs.h"

namespace rhetor {
namespace {

using namespace rhetor::testing;
using ::testing::HasSubstr;

// Equal bits of everything the graph gives, in the declared precision too.
void expect_same_bits(const Graph& a, const Graph& b) {
  const Inputs inputs = random_inputs(a);
  for (const RefPrecision precision : {RefPrecision::f64, RefPrecision::declared}) {
    const EvalResult x = evaluate(a, inputs, precision), y = evaluate(b, inputs, precision);
    for (const auto part : {&EvalResult::outputs, &EvalResult::states}) {
      ASSERT_EQ((x.*part).size(), (y.*part).size());
      for (const auto& [name, tensor] : x.*part) {
        const Tensor& other = (y.*part).at(name);
        ASSERT_EQ(tensor.type(), other.type());
        EXPECT_EQ(std::memcmp(tensor.raw(), other.raw(), tensor.bytes()), 0) << name;
      }
    }
  }
}

TEST(Remat, LowersThePeakAndKeepsTheBits) {
  // Long sequences: activations outweigh the gradients of the weights.
  const TransformerSpec spec{.batch = 2, .seq = 24, .hidden = 8, .heads = 2, .vocab = 11, .layers = 4, .dropout = 0.1};
  const Graph g = training_graph(spec);
  const std::uint64_t before = plan_memory(run_passes(g, {}).graph, {}).lower_bound;
  const PipelineResult r = run_passes(g, {.verify = true, .memory_budget = before * 4 / 5});
  const std::uint64_t after = plan_memory(r.graph, {}).lower_bound;
  EXPECT_LE(after, before * 8 / 10);
  EXPECT_TRUE(record(r, "remat").refusals.empty());
  EXPECT_THAT(record(r, "remat").note, HasSubstr("recomputed"));

  const Graph simple = run_passes(g, {.off = {"fuse", "schedule"}}).graph;
  const Graph alone = only(simple, "remat", {.memory_budget = before * 3 / 4}).graph;
  EXPECT_GT(alone.size(), simple.size());
  // No contraction runs twice.
  const auto contractions = [](const Graph& graph) {
    int n = 0;
    for (std::int32_t i = 0; i < graph.size(); ++i) n += graph.node(i).op->traits.kind == OpKind::contraction;
    return n;
  };
  EXPECT_EQ(contractions(simple), contractions(alone));
  expect_same_bits(simple, alone);
}

TEST(Remat, AnImpossibleBudgetIsReported) {
  const Graph g = training_graph();
  const PipelineResult r = only(g, "remat", {.memory_budget = 1});
  EXPECT_LE(find_buffers(flow_of(r.graph)).peak, find_buffers(flow_of(g)).peak);
  ASSERT_EQ(record(r, "remat").refusals.size(), 1u);
  EXPECT_THAT(record(r, "remat").refusals[0].reason, HasSubstr("smaller batch"));
  expect_same_bits(g, r.graph);
}

TEST(Remat, DoesNothingWithinTheBudget) {
  const Graph g = training_graph();
  EXPECT_EQ(only(g, "remat", {.memory_budget = std::uint64_t{1} << 40}).graph.size(), g.size());
  EXPECT_EQ(only(g, "remat").graph.size(), g.size());
}

TEST(Schedule, NeverWorseAndBetterWhenItCanBe) {
  for (const Graph& g : {inference_graph(), training_graph()}) {
    const PipelineResult r = only(g, "schedule");
    EXPECT_LE(find_buffers(flow_of(r.graph)).peak, find_buffers(flow_of(g)).peak);
    EXPECT_EQ(r.graph.size(), g.size());
    expect_same_bits(g, r.graph);
  }
  // Eight large values made first and summed up later: the better order makes one at a time.
  Graph g;
  const Value x = g.input("x", {DType::f32, {}});
  std::vector<Value> large;
  for (int i = 0; i < 8; ++i) large.push_back(exp(broadcast_to(add(x, i), {64, 64})));
  Value sum;
  for (const Value& v : large) {
    const Value part = reduce_sum(v, {0, 1});
    sum = sum ? add(sum, part) : part;
  }
  g.output("sum", sum);
  const PipelineResult r = only(g, "schedule");
  EXPECT_GE(find_buffers(flow_of(g)).peak, 8u * 64 * 64 * 4);
  EXPECT_LE(find_buffers(flow_of(r.graph)).peak, 2u * 64 * 64 * 4 + 4096);
  expect_same_bits(g, r.graph);
}

}  // namespace
}  // namespace rhetor
