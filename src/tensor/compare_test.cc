#include "tensor/compare.h"

#include <gtest/gtest.h>

#include <cmath>

namespace rhetor {
namespace {

TEST(Compare, FindsTheWorstPlace) {
  const Tensor a = Tensor::of<float>({2, 3}, {1, 2, 3, 4, 5, 6}), b = Tensor::of<float>({2, 3}, {1, 2, 3, 4, 5.5f, 6});
  const Comparison c = compare(a, b);
  EXPECT_EQ(c.worst, 4);
  EXPECT_EQ(c.max_abs, 0.5);
  EXPECT_NEAR(c.max_rel_to_scale, 0.5 / 6, 1e-12);
  EXPECT_TRUE(c.within(0.5));
  EXPECT_FALSE(c.within(0.49));
  EXPECT_NE(c.str().find("[1,1]: 5 against 5.5"), std::string::npos) << c.str();
}

TEST(Compare, NonfinitePlacesMustAgree) {
  const float inf = INFINITY, nan = NAN;
  EXPECT_TRUE(compare(Tensor::of<float>({3}, {inf, nan, -inf}), Tensor::of<float>({3}, {inf, nan, -inf})).within(0));
  const Comparison c = compare(Tensor::of<float>({3}, {inf, nan, 1}), Tensor::of<float>({3}, {-inf, 1, nan}));
  EXPECT_EQ(c.nonfinite_mismatches, 3);
  EXPECT_FALSE(c.within(1e9));
  EXPECT_NE(c.str().find("first at [0]"), std::string::npos) << c.str();
}

TEST(Compare, ShapesMustAgreeDTypesNeedNot) {
  EXPECT_FALSE(compare(Tensor(DType::f32, {2, 3}), Tensor(DType::f32, {3, 2})).same_type);
  EXPECT_FALSE(compare(Tensor(), Tensor(DType::f32, {})).same_type);
  EXPECT_TRUE(compare(Tensor::of<double>({1}, {0.5}), Tensor::of<float>({1}, {0.5f})).within(0));
  EXPECT_TRUE(compare(Tensor(DType::f32, {0}), Tensor(DType::f32, {0})).within(0));
}

TEST(Compare, DerivedToleranceHasAFloorOfOneUnit) {
  const Tensor exact = Tensor::of<double>({2}, {100, 1});
  EXPECT_DOUBLE_EQ(derived_tolerance(exact, exact, DType::bf16), 100 * 0.0078125);
  EXPECT_DOUBLE_EQ(derived_tolerance(Tensor::of<double>({2}, {102, 1}), exact, DType::f32), 6);
}

}  // namespace
}  // namespace rhetor
