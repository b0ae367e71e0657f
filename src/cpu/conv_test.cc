// Convolutions large enough to be split: by images, by groups, by channels of the result.
#include <gtest/gtest.h>

#include "cpu/kernel_testing.h"
#include "ops/ops.h"

namespace rhetor {
namespace {

struct ConvCase {
  const char* label;
  Shape x, w;
  ConvOptions options;
};

class LargeConv : public testing::TestWithParam<ConvCase> {};

void expect_agreement(Graph g, std::vector<Tensor> operands) {
  EXPECT_FALSE(check_all(Prepared(std::move(g), std::move(operands))).empty());
}

TEST_P(LargeConv, AgreesWithTheOracle) {
  const ConvCase& c = GetParam();
  for (const DType dtype : {DType::f32, DType::bf16}) {
    SCOPED_TRACE(name(dtype));
    const Type x{dtype, c.x}, w{dtype, c.w};
    Graph forward;
    const Value y = conv2d(forward.input("0", x), forward.input("1", w), c.options);
    const Type yt = y.type();
    forward.output("0", y);
    expect_agreement(std::move(forward), {random_tensor(x, 1), random_tensor(w, 2)});
    Graph input_grad;
    input_grad.output("0", conv2d_input_grad(input_grad.input("0", yt), input_grad.input("1", w), c.x, c.options));
    expect_agreement(std::move(input_grad), {random_tensor(yt, 3), random_tensor(w, 2)});
    Graph weight_grad;
    weight_grad.output("0", conv2d_weight_grad(weight_grad.input("0", x), weight_grad.input("1", yt), c.w, c.options));
    expect_agreement(std::move(weight_grad), {random_tensor(x, 1), random_tensor(yt, 3)});
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, LargeConv,
    testing::Values(
        ConvCase{"images", {4, 5, 9, 11}, {16, 5, 3, 3}, {.pad_before = {1, 1}, .pad_after = {1, 1}}},
        ConvCase{"channels", {1, 18, 10, 9}, {20, 18, 3, 3}, {.stride = {2, 1}, .pad_before = {1, 0}, .pad_after = {0, 1}}},
        ConvCase{"groups", {1, 12, 11, 10}, {24, 4, 3, 3}, {.groups = 3}},
        ConvCase{"depthwise", {1, 40, 13, 12}, {40, 1, 5, 5}, {.pad_before = {2, 2}, .pad_after = {2, 2}, .groups = 40}}),
    [](const auto& test) { return std::string(test.param.label); });

}  // namespace
}  // namespace rhetor
