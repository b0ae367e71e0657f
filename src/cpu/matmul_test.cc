// Products large enough to be split, blocked and packed at run time: the paths that the op matrix' small samples do not reach.
#include <gtest/gtest.h>

#include <array>
#include <thread>

#include "cpu/kernel_testing.h"
#include "cpu/library_scope.h"
#include "ops/ops.h"

namespace rhetor {
namespace {

struct MatmulCase {
  const char* label;
  Shape a, b;
  bool transpose_a = false, transpose_b = false;
};

class LargeMatmul : public testing::TestWithParam<MatmulCase> {};

TEST_P(LargeMatmul, AgreesWithTheOracle) {
  const MatmulCase& c = GetParam();
  for (const DType dtype : {DType::f32, DType::bf16}) {
    SCOPED_TRACE(name(dtype));
    Graph g;
    const Value a = g.input("0", {dtype, c.a}), b = g.input("1", {dtype, c.b});
    g.output("0", matmul(a, b, c.transpose_a, c.transpose_b));
    EXPECT_FALSE(check_all(Prepared(std::move(g), {random_tensor({dtype, c.a}, 1), random_tensor({dtype, c.b}, 2)})).empty());
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, LargeMatmul,
    testing::Values(MatmulCase{"split n", {70, 64}, {64, 300}}, MatmulCase{"split n tb", {70, 64}, {300, 64}, false, true},
                    MatmulCase{"split m", {300, 40}, {40, 70}}, MatmulCase{"split batch", {5, 20, 30}, {5, 30, 40}},
                    MatmulCase{"two of a batch", {2, 70, 30}, {2, 30, 150}}, MatmulCase{"ta", {96, 70}, {96, 200}, true, false},
                    MatmulCase{"ta tb", {96, 70}, {200, 96}, true, true},
                    MatmulCase{"ta shared b", {3, 40, 33}, {40, 200}, true, false}, MatmulCase{"few rows", {3, 256}, {256, 500}},
                    MatmulCase{"few rows tb", {1, 700}, {333, 700}, false, true}, MatmulCase{"row blocks", {2053, 8}, {8, 400}}),
    [](const auto& test) {
      std::string label = test.param.label;
      for (char& ch : label)
        if (ch == ' ') ch = '_';
      return label;
    });

TEST(MatmulI8, IsExactAtTheExtremes) {
  // -128 x -128 overflows the 16-bit sums that saturating instructions use; here every product is the largest there is.
  for (const std::int64_t m : {1, 6, 40}) {
    const std::int64_t k = 260, n = 150;
    Graph g;
    const Value xq = g.input("0", {DType::i8, {m, k}}), xs = g.input("1", {DType::f32, {m}});
    const Value wq = g.input("2", {DType::i8, {n, k}}), ws = g.input("3", {DType::f32, {n}});
    g.output("0", matmul_i8(xq, xs, wq, ws));
    Tensor x(DType::i8, {m, k}), w(DType::i8, {n, k}), one_m(DType::f32, {m}), one_n(DType::f32, {n});
    for (std::int64_t i = 0; i < x.elements(); ++i) x.set(i, i % 7 == 3 ? 127 : -128);
    for (std::int64_t i = 0; i < w.elements(); ++i) w.set(i, i % 5 == 1 ? 127 : -128);
    for (std::int64_t i = 0; i < m; ++i) one_m.set(i, 1);
    for (std::int64_t i = 0; i < n; ++i) one_n.set(i, 1);
    // The sums are below 2^24: with scales of 1 the f32 result must be the integer itself.
    const Prepared p(std::move(g), {x, one_m, w, one_n});
    for (const int threads : {1, 2}) {
      for (const KernelRow& row : kernel_table()) {
        if (row.op != "matmul_i8") continue;
        for (const Candidate& candidate : row.candidates) {
          const KernelRequest request = p.request(true, threads);
          if (!candidate.refuse(request).empty()) continue;
          const Kernel kernel = choose_kernel(request, candidate.name).kernel;
          const Buffer out(static_cast<std::size_t>(m * n) * 4), scratch(kernel.scratch_bytes);
          const void* in[] = {x.raw(), one_m.raw(), nullptr, one_n.raw()};
          void* results[] = {out.data()};
          kernel.run(kernel.params.get(), {.in = in, .out = results, .scratch = scratch.data(), .pool = test_pool(threads)});
          const auto* got = static_cast<const float*>(out.data());
          for (std::int64_t i = 0; i < m * n; ++i)
            ASSERT_EQ(got[i], static_cast<float>(p.oracle.at("0").at(i))) << candidate.name << " at " << i;
        }
      }
    }
  }
}

TEST(MatmulI8, LargeAgreesWithTheOracle) {
  for (const auto& [m, k, n] : {std::array<std::int64_t, 3>{3, 700, 333}, {70, 129, 300}, {300, 64, 20}}) {
    SCOPED_TRACE(fmt::format("{} x {} x {}", m, k, n));
    Graph g;
    const Value xq = g.input("0", {DType::i8, {m, k}}), xs = g.input("1", {DType::f32, {m}});
    const Value wq = g.input("2", {DType::i8, {n, k}}), ws = g.input("3", {DType::f32, {n}});
    g.output("0", matmul_i8(xq, xs, wq, ws));
    EXPECT_FALSE(check_all(Prepared(std::move(g), {random_tensor({DType::i8, {m, k}}, 1), random_tensor({DType::f32, {m}}, 2),
                                                   random_tensor({DType::i8, {n, k}}, 3), random_tensor({DType::f32, {n}}, 4)}))
                     .empty());
  }
}

// A linear layer as the fusion pass makes it: gelu(x w + bias) + residual.
Prepared fused_linear(DType dtype, std::int64_t m, std::int64_t k, std::int64_t n) {
  Graph body;
  const Value x = body.input("0", {dtype, {m, k}}), w = body.input("1", {dtype, {k, n}}), bias = body.input("2", {dtype, {n}});
  const Value residual = body.input("3", {dtype, {m, n}});
  body.output("0", add(gelu_tanh(add(matmul(x, w), bias)), residual));
  Graph g;
  std::vector<Value> operands;
  std::vector<Tensor> tensors;
  for (int i = 0; i < 4; ++i) {
    const Type type = body.type(body.find_input(std::to_string(i)));
    operands.push_back(g.input(std::to_string(i), type));
    tensors.push_back(random_tensor(type, static_cast<std::uint64_t>(i)));
  }
  g.output("0", fused(g, operands, std::make_shared<const Graph>(std::move(body)), "matmul")[0]);
  return Prepared(std::move(g), std::move(tensors));
}

TEST(FusedMatmul, SplitAndBlocked) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const auto& [m, k, n] : {std::array<std::int64_t, 3>{3, 256, 500}, {70, 64, 300}, {300, 40, 70}, {2053, 8, 400}}) {
      SCOPED_TRACE(fmt::format("{} {} x {} x {}", name(dtype), m, k, n));
      EXPECT_FALSE(check_all(fused_linear(dtype, m, k, n)).empty());
    }
}

TEST(FusedMatmul, Int8) {
  for (const auto& [m, k, n] : {std::array<std::int64_t, 3>{3, 700, 333}, {70, 128, 300}}) {
    SCOPED_TRACE(fmt::format("{} x {} x {}", m, k, n));
    Graph body;
    const std::vector<Type> types = {
        {DType::i8, {m, k}}, {DType::f32, {m}}, {DType::i8, {n, k}}, {DType::f32, {n}}, {DType::f32, {n}}};
    std::vector<Value> in, operands;
    Graph g;
    std::vector<Tensor> tensors;
    for (std::size_t i = 0; i < types.size(); ++i) {
      in.push_back(body.input(std::to_string(i), types[i]));
      operands.push_back(g.input(std::to_string(i), types[i]));
      tensors.push_back(random_tensor(types[i], i));
    }
    body.output("0", relu(add(matmul_i8(in[0], in[1], in[2], in[3]), in[4])));
    g.output("0", fused(g, operands, std::make_shared<const Graph>(std::move(body)), "matmul_i8")[0]);
    const auto ran = check_all(Prepared(std::move(g), std::move(tensors)));
    EXPECT_FALSE(ran.empty());
  }
}

// One kernel, several callers at once, each with its own buffers.
TEST(Matmul, ConcurrentRunsAgree) {
  const Prepared p = fused_linear(DType::f32, 70, 64, 300);
  const Kernel kernel = choose_kernel(p.request(true, 2)).kernel;
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i)
    callers.emplace_back([&] {
      for (int repeat = 0; repeat < 5; ++repeat) run_and_compare(p, kernel, 2, false);
    });
  for (auto& caller : callers) caller.join();
}

TEST(Matmul, RunsAreBitIdentical) {
  const Prepared p = fused_linear(DType::bf16, 70, 64, 300);
  const Kernel kernel = choose_kernel(p.request(true, 2)).kernel;
  const auto once = [&] {
    std::vector<const void*> in;
    for (std::size_t k = 0; k < p.operands.size(); ++k) in.push_back(kernel.absorbed[k] ? nullptr : p.operands[k].raw());
    const Buffer scratch(kernel.scratch_bytes), out(p.node.outputs[0].bytes());
    void* results[] = {out.data()};
    kernel.run(kernel.params.get(), {.in = in.data(), .out = results, .scratch = scratch.data(), .pool = test_pool(2)});
    return std::string(static_cast<const char*>(out.data()), p.node.outputs[0].bytes());
  };
  const std::string first = once();
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(once() == first);
  EXPECT_FALSE(LibraryScope::inside());
}

}  // namespace
}  // namespace rhetor
