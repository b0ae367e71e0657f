#include "passes/grad.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "graph/op.h"
#include "passes/test_graphs.h"

namespace rhetor {
namespace {

using namespace rhetor::testing;
using ::testing::HasSubstr;

TEST(Gradients, TransformerAgainstCentralDifferences) {
  TransformerSpec spec{.batch = 1, .seq = 4, .hidden = 4, .heads = 2, .vocab = 7, .layers = 2};
  Graph g;
  std::vector<Value> weights;
  const Value logits = transformer(g, spec, &weights);
  const Value targets = g.input("targets", {DType::i32, {spec.batch * spec.seq}});
  const Value loss = mean_cross_entropy(logits, targets);
  g.output("loss", loss);
  Graph forward = g;
  const std::vector<Value> grads = gradients(loss, weights);
  for (std::size_t i = 0; i < grads.size(); ++i) {
    EXPECT_EQ(grads[i].type(), weights[i].type());
    g.output("grad." + std::to_string(i), grads[i]);
  }
  verify(g, "gradients");
  Inputs inputs = random_inputs(g, spec.vocab);
  for (auto& [name, tensor] : inputs)
    if (is_float(tensor.dtype())) tensor = tensor.cast(DType::f64);
  const EvalResult exact = evaluate(g, inputs);
  // Along a random direction per weight: the derivative is the inner product of gradient and direction.
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const std::string& name = g.input_name(weights[i].id().node);
    const Tensor& grad = exact.outputs.at("grad." + std::to_string(i));
    Rng rng(3, i);
    constexpr double h = 1e-5;
    Inputs plus = inputs, minus = inputs;
    plus[name] = inputs[name].clone();
    minus[name] = inputs[name].clone();
    double expected = 0, scale = 0;
    for (std::int64_t k = 0; k < grad.elements(); ++k) {
      const double direction = rng.normal();
      plus[name].set(k, inputs[name].at(k) + h * direction);
      minus[name].set(k, inputs[name].at(k) - h * direction);
      expected += grad.at(k) * direction;
      scale += std::abs(grad.at(k) * direction);
    }
    const double measured =
        (evaluate(forward, plus).outputs.at("loss").at(0) - evaluate(forward, minus).outputs.at("loss").at(0)) / (2 * h);
    EXPECT_NEAR(measured, expected, 1e-6 * (scale + 1e-2)) << name;
  }
}

TEST(Gradients, AccumulateOverReadersAndBuildNoZeros) {
  Graph g;
  const Value x = g.input("x", {DType::f32, {3}}), unused = g.input("unused", {DType::f32, {2}});
  const Value y = add(mul(x, x), x);
  const Value loss = reduce_sum(y, {0});
  const std::int32_t before = g.size();
  const std::vector<Value> d = gradients(loss, {x, unused});
  g.output("dx", d[0]);
  g.output("du", d[1]);
  const Tensor at = Tensor::of<float>({3}, {1, -2, 3});
  const EvalResult r = evaluate(g, {{"x", at}, {"unused", Tensor(DType::f32, {2})}});
  EXPECT_EQ(r.outputs.at("dx").to_doubles(), (std::vector<double>{3, -3, 7}));
  EXPECT_EQ(r.outputs.at("du").to_doubles(), (std::vector<double>{0, 0}));
  EXPECT_LT(g.size() - before, 14);
}

TEST(Gradients, SlicesOfOneValueAreJoinedNotPadded) {
  Graph g;
  const Value x = g.input("x", {DType::f32, {2, 6}});
  const std::vector<Value> parts = split(x, {1, 2, 3}, 1);
  Value loss;
  for (std::size_t k = 0; k < parts.size(); ++k) {
    const Value term = mul(reduce_sum(square(parts[k]), {0, 1}), static_cast<double>(k + 1));
    loss = loss ? add(loss, term) : term;
  }
  g.output("dx", gradients(loss, {x})[0]);
  const Graph live = remove_dead(g);
  for (std::int32_t i = 0; i < live.size(); ++i) EXPECT_NE(live.node(i).op->name, "pad");
  const Tensor at = Tensor::of<float>({2, 6}, {1, 2, 3, 4, 5, 6, -1, -2, -3, -4, -5, -6});
  EXPECT_EQ(evaluate(g, {{"x", at}}).outputs.at("dx").to_doubles(),
            (std::vector<double>{2, 8, 12, 24, 30, 36, -2, -8, -12, -24, -30, -36}));
}

TEST(Gradients, StopAtIntegersAndFailAtOpsWithoutGradient) {
  Graph g;
  const Value x = g.input("x", {DType::f32, {4}});
  // The path through argmax is made of integers: it carries no gradient and is no error.
  const Value picked = gather(mul(x, 2.0), reshape(argmax(x, 0), {1}), 0);
  const std::vector<Value> d = gradients(reduce_sum(picked, {0}), {x});
  g.output("dx", d[0]);
  EXPECT_EQ(evaluate(g, {{"x", Tensor::of<float>({4}, {1, 5, 2, 3})}}).outputs.at("dx").to_doubles(),
            (std::vector<double>{0, 2, 0, 0}));

  Graph h;
  const Value p = h.input("p", {DType::f32, {2}}), one = scalar(h, DType::f32, 1);
  const Value stepped = sgd(p, mul(p, p), one, one);
  try {
    gradients(reduce_sum(stepped, {0}), {p});
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("sgd"));
  }
  EXPECT_THROW(gradients(p, {p}), Error);
}

TEST(Gradients, KeepTheDtypeOfTheValue) {
  Graph g;
  const Value x = g.input("x", {DType::bf16, {2, 3}});
  const Value loss = reduce_sum(square(cast(x, DType::f32)), {0, 1});
  const std::vector<Value> d = gradients(loss, {x});
  EXPECT_EQ(d[0].dtype(), DType::bf16);
  EXPECT_EQ(d[0].shape(), x.shape());
}

}  // namespace
}  // namespace rhetor
