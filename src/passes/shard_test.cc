#include "passes/shard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "base/rng.h"
#include "base/file.h"
#include "graph/verify.h"
#include "ops/ops.h"
#include "passes/grad.h"
#include "tensor/compare.h"

namespace rhetor {
namespace {

using ::testing::HasSubstr;
using Tensors = std::map<std::string, Tensor>;

Tensor drawn(Type type, std::uint64_t stream) {
  Rng rng(11, stream);
  Tensor t = Tensor::uninitialized(type);
  for (std::int64_t i = 0; i < t.elements(); ++i)
    t.set(i, is_float(type.dtype) ? 2.0 * rng.uniform() - 1 : static_cast<double>(rng.below(5)));
  return t;
}

// The part of `whole` that a rank holds.
Tensor part_of(const Tensor& whole, const Placement& placed, const ShardSpec& spec) {
  Tensor out = whole;
  for (std::size_t d = 0; d < placed.dims.size(); ++d) {
    if (placed.dims[d] < 0) continue;
    const auto axis = static_cast<std::size_t>(placed.dims[d]);
    const int dim = static_cast<int>(d);
    Type type = out.type();
    const std::int64_t size = type.shape[dim] / spec.mesh[axis].size, begin = size * spec.position[axis];
    const std::int64_t inner = type.shape.elements(dim + 1, type.shape.rank()), outer = type.shape.elements(0, dim),
                       from = type.shape[dim];
    type.shape.set_dim(dim, Dim(size));
    Tensor part = Tensor::uninitialized(type);
    for (std::int64_t o = 0; o < outer; ++o)
      for (std::int64_t i = 0; i < size * inner; ++i) part.set(o * size * inner + i, out.at((o * from + begin) * inner + i));
    out = part;
  }
  return out;
}

using Places = std::map<std::string, Placement>;

// Runs `whole` on one rank and its parts on all ranks of the mesh; every rank's outputs must be the whole ones, its new states
// their parts. Returns what the first rank took part in.
ShardReport expect_same(const Graph& whole, const std::vector<MeshAxis>& mesh, const Places& places) {
  Tensors inputs;
  for (const std::int32_t i : whole.input_nodes())
    inputs[whole.input_name(i)] = drawn(whole.node(i).outputs[0], hash64(whole.input_name(i)));
  const EvalResult expected = evaluate(whole, inputs);
  std::vector<ShardSpec> specs;
  std::vector<std::int64_t> position(mesh.size());
  for (;;) {
    specs.push_back({mesh, position, [&places](const Graph& g, std::int32_t i) {
                       const auto found = places.find(g.input_name(i));
                       return found == places.end() ? Placement{} : found->second;
                     }});
    std::size_t a = mesh.size();
    while (a > 0 && ++position[a - 1] == mesh[a - 1].size) position[--a] = 0;
    if (a == 0) break;
  }
  const auto placed = [&](const std::string& name) {
    const auto found = places.find(name);
    return found == places.end() ? Placement{} : found->second;
  };
  ShardReport report;
  std::vector<Graph> graphs;
  std::vector<const Graph*> pointers;
  std::vector<Tensors> given;
  for (const ShardSpec& spec : specs) {
    graphs.push_back(shard(whole, spec, graphs.empty() ? &report : nullptr));
    verify(graphs.back(), "shard");
    Tensors local;
    for (const auto& [name, tensor] : inputs) {
      local[name] = part_of(tensor, placed(name), spec);
      // Partial sums that begin on the first rank.
      const bool first = std::all_of(spec.position.begin(), spec.position.end(), [](auto p) { return p == 0; });
      if (placed(name).partial && !first) local[name] = Tensor(local[name].type());
    }
    given.push_back(local);
  }
  for (const Graph& g : graphs) pointers.push_back(&g);
  const std::vector<EvalResult> results = evaluate_ranks(pointers, mesh, given);
  for (std::size_t r = 0; r < results.size(); ++r) {
    for (const auto& [name, tensor] : expected.outputs)
      EXPECT_TRUE(compare(results[r].outputs.at(name), tensor).within(1e-9)) << name << " on rank " << r;
    for (const auto& [name, tensor] : expected.states) {
      if (placed(name).partial) continue;
      EXPECT_TRUE(compare(results[r].states.at(name), part_of(tensor, placed(name), specs[r])).within(1e-9))
          << name << " on rank " << r;
    }
  }
  for (const auto& [name, tensor] : expected.states) {
    if (!placed(name).partial) continue;
    Tensor sum = results[0].states.at(name).clone();
    for (std::size_t r = 1; r < results.size(); ++r)
      for (std::int64_t i = 0; i < sum.elements(); ++i) sum.set(i, sum.at(i) + results[r].states.at(name).at(i));
    EXPECT_TRUE(compare(sum, tensor).within(1e-9)) << name << ", summed over the ranks";
  }
  return report;
}

std::int64_t calls(const ShardReport& report, std::string_view op) {
  for (const auto& row : report.rows)
    if (row.op == op) return row.calls;
  return 0;
}

Type f32(Shape shape) { return {DType::f32, shape}; }

// y = gelu(x w1) w2, the mean of its squares over the places that count, dropout in between, a momentum update.
Graph small_step(bool update) {
  Graph g;
  const Value x = g.input("x", f32({6, 4})), counted = g.input("counted", f32({6}));
  const Value w1 = g.input("w1", f32({4, 12}), InputKind::state), w2 = g.input("w2", f32({12, 6}), InputKind::state);
  const Value seed = g.input("seed", {DType::i64, Shape{}});
  const Value h = dropout(gelu(matmul(x, w1)), seed, 0.3, 5);
  const Value y = matmul(h, w2);
  const Value loss = div(reduce_sum(mul(reduce_sum(square(y), {1}), counted), {0}), add(reduce_sum(square(counted), {0}), 1.0));
  g.output("loss", loss);
  const auto grads = gradients(loss, {w1, w2});
  Value total = add(sum_squares(grads[0]), sum_squares(grads[1]));
  g.output("norm", sqrt(total));
  const std::vector<Value> weights{w1, w2};
  for (std::size_t k = 0; k < 2; ++k) {
    const Value m = g.input(fmt::format("m{}", k + 1), weights[k].type(), InputKind::state);
    const Value sum = update ? add(mul(m, 0.9), grads[k]) : add(m, grads[k]);
    g.set_update(m, sum);
    if (update) g.set_update(weights[k], sub(weights[k], mul(sum, 0.1)));
  }
  return g;
}

const Placement kBatch{.dims = {0}};
Placement stored(std::vector<int> dims) { return {.dims = std::move(dims), .storage = true}; }

TEST(Shard, DataParallelStepIsTheWholeStep) {
  for (const std::int64_t ranks : {2, 3, 6}) {
    const ShardReport report = expect_same(small_step(true), {{"data", ranks}}, {{"x", kBatch}, {"counted", kBatch}});
    EXPECT_EQ(calls(report, "all_reduce"), 4) << "two gradients, the sum and the count of the loss";
    EXPECT_EQ(calls(report, "all_gather"), 0);
  }
}

TEST(Shard, CutMomentsScatterTheGradientsAndGatherTheWeights) {
  const ShardReport report = expect_same(small_step(true), {{"data", 2}},
                                         {{"x", kBatch}, {"counted", kBatch}, {"m1", stored({0, -1})}, {"m2", stored({0, -1})}});
  EXPECT_EQ(calls(report, "reduce_scatter"), 2);
  EXPECT_EQ(calls(report, "all_gather"), 2) << "the new weights";
  EXPECT_EQ(calls(report, "all_reduce"), 3) << "the loss's sum and count, the norm";
}

TEST(Shard, CutWeightsAreGatheredByEveryReader) {
  const ShardReport report = expect_same(small_step(true), {{"data", 2}},
                                         {{"x", kBatch},
                                          {"counted", kBatch},
                                          {"m1", stored({0, -1})},
                                          {"m2", stored({-1, 0})},
                                          {"w1", stored({0, -1})},
                                          {"w2", stored({-1, 0})}});
  EXPECT_EQ(calls(report, "reduce_scatter"), 2);
  EXPECT_EQ(calls(report, "all_gather"), 3) << "w1 forward, w2 forward and backward";
}

TEST(Shard, MicroBatchesAddUpWithoutTalking) {
  const ShardReport report =
      expect_same(small_step(false), {{"data", 2}},
                  {{"x", kBatch}, {"counted", kBatch}, {"m1", {.dims = {}, .partial = 1}}, {"m2", {.dims = {}, .partial = 1}}});
  // The norm of one micro-batch asks for its gradients here; the sums themselves stay partial.
  EXPECT_EQ(calls(report, "all_reduce"), 4);
  EXPECT_EQ(calls(report, "reduce_scatter"), 0);
}

TEST(Shard, WeightsCutForWorkMakeTensorParallelism) {
  // Columns of w1, rows of w2: one all_reduce forward (Shoeybi et al., Megatron-LM, 2019).
  Graph g;
  const Value x = g.input("x", f32({6, 4}));
  const Value w1 = g.input("w1", f32({4, 12}), InputKind::param), w2 = g.input("w2", f32({12, 6}), InputKind::param);
  g.output("y", matmul(gelu(matmul(x, w1)), w2));
  const ShardReport report = expect_same(g, {{"model", 2}}, {{"w1", {.dims = {-1, 0}}}, {"w2", {.dims = {0, -1}}}});
  EXPECT_EQ(calls(report, "all_reduce"), 1);
  EXPECT_EQ(calls(report, "all_gather"), 0);
}

TEST(Shard, TwoAxes) {
  Graph g;
  const Value x = g.input("x", f32({6, 4}));
  const Value w1 = g.input("w1", f32({4, 12}), InputKind::state), w2 = g.input("w2", f32({12, 6}), InputKind::state);
  const Value loss = reduce_sum(square(matmul(gelu(matmul(x, w1)), w2)), {0, 1});
  g.output("loss", loss);
  const auto grads = gradients(loss, {w1, w2});
  g.set_update(w1, sub(w1, mul(grads[0], 0.1)));
  g.set_update(w2, sub(w2, mul(grads[1], 0.1)));
  expect_same(g, {{"data", 3}, {"model", 2}}, {{"x", kBatch}, {"w1", {.dims = {-1, 1}}}, {"w2", {.dims = {1, -1}}}});
}

TEST(Shard, WhatCannotBeCutIsGathered) {
  Graph g;
  const Value x = g.input("x", f32({4, 6}));
  g.output("y", cumsum(x, 0));
  g.output("z", transpose(x, {1, 0}));
  g.output("r", random_uniform(g.input("seed", {DType::i64, Shape{}}), f32({4, 6}), 3));
  const ShardReport report = expect_same(g, {{"data", 2}}, {{"x", kBatch}});
  EXPECT_GE(calls(report, "all_gather"), 1);
}

TEST(Shard, AnUnevenBatchIsNamed) {
  try {
    expect_same(small_step(true), {{"data", 4}}, {{"x", kBatch}, {"counted", kBatch}});
    FAIL() << "6 rows on 4 ranks";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("'x'"));
    EXPECT_THAT(error.what(), HasSubstr("6 is no multiple of 4"));
  }
}

}  // namespace
}  // namespace rhetor
