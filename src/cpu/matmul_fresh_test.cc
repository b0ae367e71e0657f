// Products of two operands that change at every run, beyond what the op matrix' small samples reach: every order in memory, tails, several
// passes over k, several groups, either operand held. Skipped, by refusal, where there is no AMX.
#include <gtest/gtest.h>

#include "cpu/kernel_testing.h"
#include "ops/ops.h"

namespace rhetor {
namespace {

struct FreshCase {
  DType dtype;
  std::int64_t m, k, n;
  bool transpose_a, transpose_b;
};

class MatmulFresh : public testing::TestWithParam<FreshCase> {};

TEST_P(MatmulFresh, AgreesWithTheOracle) {
  const FreshCase& c = GetParam();
  const Shape a = c.transpose_a ? Shape{c.k, c.m} : Shape{c.m, c.k}, b = c.transpose_b ? Shape{c.n, c.k} : Shape{c.k, c.n};
  Graph g;
  g.output("0", matmul(g.input("0", {c.dtype, a}), g.input("1", {c.dtype, b}), c.transpose_a, c.transpose_b, DType::f32));
  const Prepared p(std::move(g), {random_tensor({c.dtype, a}, 1), random_tensor({c.dtype, b}, 2)});
  if (cpu_isa() < Isa::amx) GTEST_SKIP() << "needs AMX";
  for (const int threads : {1, 2, 3}) {
    const ChosenKernel chosen = choose_kernel(p.request(false, threads), "cpu.matmul.fresh");
    SCOPED_TRACE(chosen.kernel.detail);
    run_and_compare(p, chosen.kernel, threads, false);
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, MatmulFresh,
    testing::Values(FreshCase{DType::f32, 257, 50, 300, false, false}, FreshCase{DType::f32, 272, 31, 256, true, false},
                    FreshCase{DType::f32, 300, 33, 290, false, true}, FreshCase{DType::f32, 256, 64, 280, true, true},
                    FreshCase{DType::f32, 256, 1570, 260, false, true},   // three passes over k
                    FreshCase{DType::f32, 900, 400, 256, true, false},    // several groups of a
                    FreshCase{DType::bf16, 40, 70, 50, false, false}, FreshCase{DType::bf16, 49, 33, 31, true, false},
                    FreshCase{DType::bf16, 33, 100, 70, false, true}, FreshCase{DType::bf16, 64, 64, 96, true, true},
                    FreshCase{DType::bf16, 35, 4200, 40, true, false},    // three passes
                    FreshCase{DType::bf16, 48, 2040, 700, false, true}),  // several groups of b
    [](const auto& test) {
      const FreshCase& c = test.param;
      return fmt::format("{}_m{}_k{}_n{}{}{}", name(c.dtype), c.m, c.k, c.n, c.transpose_a ? "_ta" : "", c.transpose_b ? "_tb" : "");
    });

}  // namespace
}  // namespace rhetor
