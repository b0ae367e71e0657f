#include "runtime/executable.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "base/test_util.h"
#include "ops/ops.h"
#include "runtime/impl.h"
#include "runtime/explain.h"
#include "runtime/profile.h"

namespace rhetor {
namespace {

using ::testing::HasSubstr;

using testing::error_of;

// y = gelu(x w + b)
Graph layer() {
  Graph g;
  const Value x = g.input("x", {DType::f32, Shape{2, 3}});
  const Value w = g.input("w", {DType::f32, Shape{3, 2}}, InputKind::param), b = g.input("b", {DType::f32, Shape{2}}, InputKind::param);
  g.output("y", relu(add(matmul(x, w), b)));
  return g;
}
Weights layer_weights() {
  return {{"w", Tensor::of<float>(Shape{3, 2}, {1, 2, 3, 4, 5, 6})}, {"b", Tensor::of<float>(Shape{2}, {-30, 1})}};
}
void set(Tensor& to, const std::vector<double>& values) {
  for (std::size_t i = 0; i < values.size(); ++i) to.set(static_cast<std::int64_t>(i), values[i]);
}

TEST(Compile, RunsALayer) {
  Session session(compile(layer(), layer_weights()));
  set(session.input("x"), {1, 1, 1, 2, 2, 2});
  session.run();
  EXPECT_EQ(session.output("y").to_doubles(), (std::vector<double>{0, 13, 0, 25}));
}

TEST(Compile, WeightsAreNamedInErrors) {
  Weights weights = layer_weights();
  weights.erase("b");
  EXPECT_THAT(error_of([&] { compile(layer(), weights); }), HasSubstr("the weight 'b' (f32[2]) is missing"));
  weights["b"] = Tensor(DType::f32, Shape{3});
  EXPECT_THAT(error_of([&] { compile(layer(), weights); }), HasSubstr("'b' is f32[3], but the graph expects f32[2]"));
  weights = layer_weights();
  weights["c"] = Tensor(DType::f32, Shape{3});
  EXPECT_EQ(error_of([&] { compile(layer(), weights); }), "");
  EXPECT_THAT(error_of([&] { compile(layer(), weights, {.exact_weights = true}); }), HasSubstr("'c' (f32[3]) belongs to no input"));
}

TEST(Compile, UnknownNamesOfASession) {
  Session session(compile(layer(), layer_weights()));
  EXPECT_THAT(error_of([&] { session.input("z"); }), HasSubstr("no input 'z'; its inputs are: x"));
  EXPECT_THAT(error_of([&] { session.output("z"); }), HasSubstr("no output 'z'; its outputs are: y"));
  EXPECT_THAT(error_of([&] { session.state("x"); }), HasSubstr("no state 'x'"));
}

TEST(Compile, MisalignedWeightsAndInputsAreTaken) {
  Tensor store(DType::f32, Shape{32});
  Tensor w = Tensor::view({DType::f32, Shape{3, 2}}, store.data<float>().data() + 1, std::make_shared<Tensor>(store));
  set(w, {1, 2, 3, 4, 5, 6});
  Weights weights = layer_weights();
  weights["w"] = w;
  Session session(compile(layer(), weights));
  Tensor x = Tensor::view({DType::f32, Shape{2, 3}}, store.data<float>().data() + 11, std::make_shared<Tensor>(store));
  set(x, {1, 1, 1, 2, 2, 2});
  session.input("x") = x;
  session.run();
  EXPECT_EQ(session.output("y").to_doubles(), (std::vector<double>{0, 13, 0, 25}));
  session.input("x") = Tensor(DType::f32, Shape{3, 3});
  EXPECT_THAT(error_of([&] { session.run(); }), HasSubstr("'x' was given as f32[3,3], but the graph expects f32[2,3]"));
}

TEST(Compile, PackedWeightsAreLetGo) {
  for (const bool keep : {false, true}) {
    Weights weights = layer_weights();
    auto owner = std::make_shared<Tensor>(weights.at("w").clone());
    weights["w"] = Tensor::view(owner->type(), owner->raw(), owner);
    const std::weak_ptr<Tensor> alive = owner;
    owner.reset();
    const ExecutablePtr e = compile(layer(), weights, {.keep_weights = keep});
    weights.clear();
    EXPECT_GT(e->report().packed_bytes, 0u);
    EXPECT_EQ(alive.expired(), !keep);
  }
}

TEST(Compile, NoFusedNodeFallsToTheReference) {
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
    Graph g;
    const Value x = g.input("x", {dtype, Shape{2, 3}}), w = g.input("w", {dtype, Shape{3, 2}}, InputKind::param);
    const Value b = g.input("b", {dtype, Shape{2}}, InputKind::param);
    g.output("y", relu(add(matmul(x, w), b)));
    Weights weights = layer_weights();
    for (auto& [name, tensor] : weights) tensor = tensor.cast(dtype);
    const ExecutablePtr e = compile(g, weights);
    for (const auto& choice : e->report().choices)
      EXPECT_FALSE(e->graph().node(choice.node).op->name == "fused" && choice.kernel == "reference") << name(dtype);
    Session session(e);
    set(session.input("x"), {1, 1, 1, 2, 2, 2});
    session.run();
    EXPECT_EQ(session.output("y").to_doubles(), (std::vector<double>{0, 13, 0, 25})) << name(dtype);
  }
}

TEST(Fold, WhatDependsOnWeightsAloneRunsOnce) {
  Graph g;
  const Value x = g.input("x", {DType::f32, Shape{8, 8}});
  const Value w = g.input("w", {DType::f32, Shape{8, 8}}, InputKind::param);
  g.output("y", matmul(x, transpose(exp(w), {1, 0})));
  Tensor w_data(DType::f32, Shape{8, 8});
  for (std::int64_t i = 0; i < 64; ++i) w_data.set(i, 0.01 * static_cast<double>(i));
  CompileOptions options{.keep_weights = true};
  const ExecutablePtr e = compile(g, {{"w", w_data}}, options);
  EXPECT_EQ(e->instructions().size(), 1u);
  EXPECT_FALSE(e->graph().find_input("w").valid());  // nothing reads it any more
  ASSERT_EQ(e->impl().kept.size(), 1u);
  const Tensor& folded = e->impl().kept.begin()->second;
  EXPECT_NEAR(folded.at(9), std::exp(0.09), 1e-6);  // on the diagonal: transposed or not
}

TEST(Fold, DoesNotMaterialiseBroadcasts) {
  Graph g;
  const Value x = g.input("x", {DType::f32, Shape{512, 512}});
  const Value b = g.input("b", {DType::f32, Shape{512}}, InputKind::param);
  g.output("y", add(x, b));
  const Folded folded = fold(g, {{"b", Tensor(DType::f32, Shape{512})}}, default_pool());
  EXPECT_EQ(folded.nodes, 0);
}

TEST(Session, StatesAreSharedAndUpdated) {
  Graph g;
  const Value x = g.input("x", {DType::f32, Shape{2}});
  const Value sum = g.input("sum", {DType::f32, Shape{2}}, InputKind::state);
  const Value next = add(sum, x);
  g.output("before", mul(sum, 1.0));
  g.output("after", next);
  g.set_update(sum, next);
  const ExecutablePtr e = compile(g, {});
  const auto states = std::make_shared<StateStore>();
  Session a(e, states), b(e, states);
  for (Session* s : {&a, &b}) set(s->input("x"), {1, 2});
  a.run();
  b.run();
  a.run();
  EXPECT_EQ(a.state("sum").to_doubles(), (std::vector<double>{3, 6}));
  EXPECT_EQ(a.output("before").to_doubles(), (std::vector<double>{2, 4}));
  EXPECT_EQ(a.output("after").to_doubles(), (std::vector<double>{3, 6}));
  // A state given from outside (a checkpoint) is picked up by sessions that exist already.
  states->set("sum", Tensor::of<float>(Shape{2}, {10, 10}));
  b.run();
  EXPECT_EQ(b.output("after").to_doubles(), (std::vector<double>{11, 12}));
  states->set("sum", Tensor(DType::f32, Shape{3}));
  EXPECT_THAT(error_of([&] { b.run(); }), HasSubstr("'sum' was given as f32[3]"));
}

TEST(Session, OutputsThatAreNotComputed) {
  Graph g;
  const Value x = g.input("x", {DType::f32, Shape{2, 2}});
  const Value s = g.input("s", {DType::f32, Shape{2}}, InputKind::state);
  const Value p = g.input("p", {DType::f32, Shape{2}}, InputKind::param);
  const Value y = exp(x);
  g.output("x", x);
  g.output("flat", reshape(x, Shape{4}));
  g.output("y", y);
  g.output("y_again", y);
  g.output("y_flat", reshape(y, Shape{4}));
  g.output("s", s);
  g.output("p", p);
  g.output("c", g.constant(Tensor::of<float>(Shape{2}, {5, 6})));
  g.set_update(s, add(s, 1.0));
  Session session(compile(g, {{"p", Tensor::of<float>(Shape{2}, {3, 4})}}));
  set(session.input("x"), {0, 0, 1, 1});
  session.run();
  session.run();
  EXPECT_EQ(session.output("x").to_doubles(), (std::vector<double>{0, 0, 1, 1}));
  EXPECT_EQ(session.output("flat").to_doubles(), (std::vector<double>{0, 0, 1, 1}));
  for (const char* name : {"y", "y_again", "y_flat"}) EXPECT_NEAR(session.output(name).at(3), std::exp(1.0), 1e-6) << name;
  EXPECT_EQ(session.output("s").to_doubles(), (std::vector<double>{1, 1}));
  EXPECT_EQ(session.state("s").to_doubles(), (std::vector<double>{2, 2}));
  EXPECT_EQ(session.output("p").to_doubles(), (std::vector<double>{3, 4}));
  EXPECT_EQ(session.output("c").to_doubles(), (std::vector<double>{5, 6}));
}

TEST(Profile, CoversEveryInstruction) {
  Session session(compile(layer(), layer_weights()));
  const auto rows = profile(session, 2);
  EXPECT_EQ(rows.size(), session.executable().instructions().size());
  EXPECT_THAT(profile_table(merge_by_kernel(rows)), HasSubstr("total"));
}

TEST(Explain, EscapesAndNames) {
  const Graph g = layer();
  const Explanation e = explain("a <b>", *compile(g, layer_weights()), &g);
  EXPECT_THAT(e.html, HasSubstr("a &lt;b&gt;"));
  EXPECT_THAT(e.html, HasSubstr("<svg"));
  EXPECT_THAT(e.text, HasSubstr("matmul"));
}

TEST(Buckets, SmallestThatFitsCompiledOnce) {
  std::atomic<int> built{0};
  Buckets buckets("seq", {64, 16, 4}, [&](std::int64_t) {
    ++built;
    return compile(layer(), layer_weights());
  });
  EXPECT_EQ(buckets.bucket(1), 4);
  EXPECT_EQ(buckets.bucket(5), 16);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back([&] { buckets.get(16); });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(built, 1);
  EXPECT_THAT(error_of([&] { buckets.get(65); }), HasSubstr("seq = 65 is larger than the largest bucket, 64"));
  EXPECT_THAT(error_of([] { Buckets("seq", {}, {}); }), HasSubstr("at least one bucket"));
}

}  // namespace
}  // namespace rhetor
