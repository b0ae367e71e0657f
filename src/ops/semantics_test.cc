// What the op matrix cannot derive: hand-computed values, the corners that ops.h promises, and the sentences of errors.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "graph/interpreter.h"
#include "ops/ops.h"
#include "ops/registry.h"

namespace rhetor {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pointwise;

Tensor f32(Shape shape, std::vector<float> values) { return Tensor::of<float>(shape, values); }
Tensor i32(Shape shape, std::vector<std::int32_t> values) { return Tensor::of<std::int32_t>(shape, values); }

std::vector<Tensor> eval(std::string_view op, const std::vector<Tensor>& inputs, Attrs attrs = {}) {
  const OpDef& def = all_ops().at(op);
  for (const AttrSpec& spec : def.attrs)
    if (!attrs.has(spec.name) && !spec.required) attrs.set(spec.name, spec.fallback);
  return evaluate_op(def, inputs, attrs);
}
std::vector<double> values(const Tensor& t) { return t.to_doubles(); }

// The sentence of the Error that `f` throws.
template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::invalid) << e.what();
    return e.what();
  }
  return "no error";
}

TEST(Matmul, TransposesAndSharedWeights) {
  const Tensor a = f32({2, 3}, {1, 2, 3, 4, 5, 6}), b = f32({3, 1}, {1, 0, -1});
  EXPECT_THAT(values(eval("matmul", {a, b}, {{"out", DType::f32}})[0]), ElementsAre(-2, -2));
  EXPECT_THAT(values(eval("matmul", {a, a}, {{"out", DType::f32}, {"transpose_b", true}})[0]), ElementsAre(14, 32, 32, 77));
  EXPECT_THAT(values(eval("matmul", {a, a}, {{"out", DType::f32}, {"transpose_a", true}})[0]),
              ElementsAre(17, 22, 27, 22, 29, 36, 27, 36, 45));
  const Tensor rows = f32({2, 1, 3}, {1, 2, 3, 4, 5, 6});
  const Tensor shared = eval("matmul", {rows, b}, {{"out", DType::f32}})[0];
  EXPECT_EQ(shared.shape(), (Shape{2, 1, 1}));
  EXPECT_THAT(values(shared), ElementsAre(-2, -2));
}

TEST(Matmul, ErrorsNameOperandExpectedAndFound) {
  Graph g;
  const Value a = g.input("a", {DType::f32, {2, 3}}), b = g.input("b", {DType::f32, {4, 5}});
  const Value half = g.input("half", {DType::bf16, {3, 5}}), batched = g.input("batched", {DType::f32, {7, 3, 5}});
  EXPECT_THAT(error_of([&] { matmul(a, b); }), HasSubstr("matmul: operand 'b' must have 3 as its dim 0"));
  EXPECT_THAT(error_of([&] { matmul(a, half); }), HasSubstr("must be f32, found bf16[3,5]"));
  EXPECT_THAT(error_of([&] { matmul(a, batched); }), HasSubstr("must have rank 2 or the leading dims of 'a'"));
}

TEST(MatmulI8, ScalesRowsAndChannels) {
  const Tensor x = Tensor::of<std::int8_t>(Shape{1, 2}, {127, -127}), w = Tensor::of<std::int8_t>(Shape{2, 2}, {127, -127, 1, 1});
  const auto out = eval("matmul_i8", {x, f32({1}, {0.5}), w, f32({2}, {1, 4})});
  EXPECT_THAT(values(out[0]), ElementsAre(0.5 * (2 * 127 * 127), 0));
}

TEST(Conv2d, HandComputed) {
  const Tensor x = f32({1, 1, 3, 3}, {1, 2, 3, 4, 5, 6, 7, 8, 9}), w = f32({1, 1, 2, 2}, {1, 0, 0, -1});
  EXPECT_THAT(values(eval("conv2d", {x, w})[0]), ElementsAre(-4, -4, -4, -4));  // a cross-correlation, not flipped
  const Attrs padded{{"pad_before", std::vector<std::int64_t>{1, 1}}, {"stride", std::vector<std::int64_t>{2, 2}}};
  EXPECT_THAT(values(eval("conv2d", {x, w}, padded)[0]), ElementsAre(-1, -3, -7, -4));
  EXPECT_THAT(error_of([&] { eval("conv2d", {x, f32({1, 1, 4, 1}, {1, 1, 1, 1})}); }),
              HasSubstr("does not fit into operand 'x'"));
}

TEST(Pooling, PaddingIsAbsentFromMaximaAndMeans) {
  const Tensor x = f32({1, 1, 2, 2}, {-1, -2, -3, -4});
  const std::vector<std::int64_t> two{2, 2}, one{1, 1};
  const Attrs attrs{{"kernel", two}, {"stride", two}, {"pad_before", one}, {"pad_after", one}};
  EXPECT_THAT(values(eval("max_pool2d", {x}, attrs)[0]), ElementsAre(-1, -2, -3, -4));
  EXPECT_THAT(values(eval("avg_pool2d", {x}, attrs)[0]), ElementsAre(-1, -2, -3, -4));
  Attrs counting = attrs;
  counting.set("count_padding", true);
  EXPECT_THAT(values(eval("avg_pool2d", {x}, counting)[0]), ElementsAre(-0.25, -0.5, -0.75, -1));
  EXPECT_THAT(error_of([&] { eval("max_pool2d", {x}, {{"kernel", one}, {"pad_after", one}}); }),
              HasSubstr("padding must be smaller than the kernel"));
}

TEST(Softmax, SurvivesLargeLogits) {
  EXPECT_THAT(values(eval("softmax", {f32({2}, {1000, 1000})})[0]), ElementsAre(0.5, 0.5));
  EXPECT_THAT(values(eval("log_softmax", {f32({2}, {-1000, 1000})})[0]), ElementsAre(-2000, 0));
}

TEST(Norm, HandComputed) {
  const Tensor x = f32({1, 2}, {1, 3}), gamma = f32({2}, {2, 2}), beta = f32({2}, {0, 1});
  const auto layer = eval("layer_norm", {x, gamma, beta}, {{"eps", 0.0}});
  EXPECT_THAT(values(layer[0]), ElementsAre(-2, 3));
  EXPECT_THAT(values(layer[1]), ElementsAre(2));
  EXPECT_THAT(values(layer[2]), ElementsAre(1));
  const auto rms = eval("rms_norm", {x, gamma}, {{"eps", 0.0}});
  EXPECT_THAT(values(rms[0]), Pointwise(DoubleNear(1e-12), {2 / std::sqrt(5), 6 / std::sqrt(5)}));
}

// With keys of 0 every visible key weighs the same: o is the mean of the visible values, lse the log of their number.
class AttentionMask : public ::testing::Test {
 protected:
  // o and lse of S queries over T keys with values 1, 2, 4, 8, ...
  std::vector<Tensor> run(std::int64_t s, std::int64_t t, bool causal, Tensor lengths = {}, Tensor offsets = {}) {
    Tensor v(DType::f32, Shape{1, t, 1, 1});
    for (std::int64_t j = 0; j < t; ++j) v.set(j, std::ldexp(1.0, static_cast<int>(j)));
    return eval("attention", {Tensor(DType::f32, Shape{1, s, 1, 1}), Tensor(DType::f32, v.shape()), v, lengths, offsets},
                {{"causal", causal}});
  }
};

TEST_F(AttentionMask, FullCausalLengthsOffsets) {
  EXPECT_THAT(values(run(1, 2, false)[0]), ElementsAre(1.5));
  EXPECT_THAT(values(run(3, 3, true)[0]), Pointwise(DoubleNear(1e-12), {1.0, 1.5, 7.0 / 3}));
  EXPECT_THAT(values(run(2, 4, true)[0]), Pointwise(DoubleNear(1e-12), {7.0 / 3, 15.0 / 4}));  // offset T - S
  EXPECT_THAT(values(run(2, 4, true, {}, i32({1}, {0}))[0]), ElementsAre(1, 1.5));
  EXPECT_THAT(values(run(2, 4, false, i32({1}, {2}))[0]), ElementsAre(1.5, 1.5));
  EXPECT_THAT(values(run(2, 4, true, i32({1}, {1}), i32({1}, {1}))[0]), ElementsAre(1, 1));
  EXPECT_THAT(values(run(1, 4, false)[1]), Pointwise(DoubleNear(1e-12), {std::log(4)}));
}

TEST_F(AttentionMask, AQueryThatSeesNoKeyGivesZero) {
  const auto out = run(2, 1, true);  // offset -1: the first query is before the only key
  EXPECT_THAT(values(out[0]), ElementsAre(0, 1));
  EXPECT_THAT(values(out[1]), ElementsAre(-std::numeric_limits<double>::infinity(), 0));
}

TEST(Attention, HeadsMustDivide) {
  Graph g;
  const Value q = g.input("q", {DType::f32, {1, 2, 3, 4}}), k = g.input("k", {DType::f32, {1, 2, 2, 4}});
  EXPECT_THAT(error_of([&] { attention(q, k, k); }), HasSubstr("the 2 heads of 'k' must divide the 3 heads of 'q'"));
}

TEST(CacheWrite, DropsRowsOutside) {
  const Tensor cache = f32({2, 3, 1, 1}, {1, 2, 3, 4, 5, 6}), rows = f32({2, 2, 1, 1}, {10, 20, 30, 40});
  EXPECT_THAT(values(eval("cache_write", {cache, rows, i32({2}, {2, -1})})[0]), ElementsAre(1, 2, 10, 40, 5, 6));
}

TEST(Rope, RotatesPairsHalfADimApart) {
  const Tensor x = f32({1, 1, 1, 4}, {1, 1, 0, 0}), at = i32({1, 1}, {3});
  const auto y = values(eval("rope", {x, at}, {{"theta", 100.0}})[0]);
  EXPECT_THAT(y, Pointwise(DoubleNear(1e-12), {std::cos(3), std::cos(0.3), std::sin(3), std::sin(0.3)}));
}

TEST(Indexing, OutOfRangeFailsAndSaysWhere) {
  const Tensor table = f32({3, 2}, {1, 2, 3, 4, 5, 6});
  EXPECT_THAT(values(eval("embedding", {table, i32({2}, {2, 0})})[0]), ElementsAre(5, 6, 1, 2));
  EXPECT_EQ(error_of([&] { eval("embedding", {table, i32({1}, {3})}); }), "embedding: id 3 is out of range, expected 0 to 2");
  EXPECT_EQ(error_of([&] { eval("gather", {table, i32({1}, {-1})}, {{"axis", std::int64_t{0}}}); }),
            "gather: index -1 is out of range, expected 0 to 2");
  EXPECT_THAT(error_of([&] { eval("cross_entropy", {table, i32({3}, {0, 2, 0})}); }),
              HasSubstr("the target of row 1 is 2, expected 0 to 1"));
}

TEST(TopK, DescendingTiesByLowerIndexNanFirst) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto out = eval("top_k", {f32({2, 4}, {1, 3, 3, 2, 5, nan, 7, 5})}, {{"k", std::int64_t{3}}});
  EXPECT_THAT(values(out[1]), ElementsAre(1, 2, 3, 1, 2, 0));
}

TEST(CrossEntropy, IgnoredRowsCountNowhere) {
  Graph g;
  const Value logits = g.input("logits", {DType::f32, {3, 2}}), targets = g.input("targets", {DType::i32, {3}});
  g.output("mean", mean_cross_entropy(logits, targets));
  const Tensor x = f32({3, 2}, {0, 0, 5, 5, 100, -100});
  const auto mean = [&](std::vector<std::int32_t> t) {
    return evaluate(g, {{"logits", x}, {"targets", i32({3}, std::move(t))}}).outputs.at("mean").at(0);
  };
  EXPECT_NEAR(mean({0, 1, -100}), std::log(2), 1e-12);
  EXPECT_NEAR(mean({0, -100, 0}), std::log(2) / 2, 1e-12);
  EXPECT_EQ(mean({-100, -100, -100}), 0);
}

TEST(Adamw, FirstStepMovesByTheLearningRate) {
  const auto scalar = [](float v) { return Tensor::scalar(v); };
  const Tensor p = f32({2}, {1, 1}), zero = f32({2}, {0, 0});
  const auto out = eval("adamw", {p, f32({2}, {4, -4}), zero, zero, scalar(0.5F), scalar(1), scalar(0.25F)},
                        {{"weight_decay", 0.5}});
  EXPECT_THAT(values(out[0]), Pointwise(DoubleNear(1e-6), {0.25, 1.25}));
  EXPECT_THAT(values(out[1]), Pointwise(DoubleNear(1e-6), {0.1, -0.1}));
  EXPECT_THAT(values(out[2]), Pointwise(DoubleNear(1e-6), {0.001, 0.001}));
}

}  // namespace
}  // namespace rhetor
