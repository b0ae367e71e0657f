// Products by AMX tiles beyond what the op matrix' small samples reach: several passes over k, every tail, packing at run time,
// threads that share rows or columns. Skipped, by refusal, where there is no AMX.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>

#include "cpu/kernel_testing.h"
#include "ops/ops.h"

namespace rhetor {
namespace {

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// Only the candidate `name`, with and without constant weights, on 1 to 3 threads.
void check_one(const Prepared& p, std::string_view name) {
  for (const bool constants : {false, true})
    for (const int threads : {1, 2, 3}) {
      const KernelRequest request = p.request(constants, threads);
      const auto row =
          std::find_if(kernel_table().begin(), kernel_table().end(), [&](const KernelRow& r) { return r.op == p.node.op->name; });
      const auto candidate =
          std::find_if(row->candidates.begin(), row->candidates.end(), [&](const Candidate& c) { return c.name == name; });
      if (const std::string why = candidate->refuse(request); !why.empty()) {
        const bool expected = why == "needs AMX" || why.find("not repa") != std::string::npos;
        EXPECT_TRUE(expected) << why;
        continue;
      }
      const Kernel kernel = choose_kernel(request, name).kernel;
      SCOPED_TRACE(fmt::format("{}, {} threads: {}", name, threads, kernel.detail));
      run_and_compare(p, kernel, threads, false);
    }
}

struct TileCase {
  std::int64_t m, k, n;
  bool transpose_a, transpose_b;
};

class Tiles : public testing::TestWithParam<TileCase> {};

TEST_P(Tiles, AgreeWithTheOracle) {
  const TileCase& c = GetParam();
  for (const DType dtype : {DType::f32, DType::bf16}) {
    SCOPED_TRACE(name(dtype));
    const Shape a = c.transpose_a ? Shape{c.k, c.m} : Shape{c.m, c.k}, b = c.transpose_b ? Shape{c.n, c.k} : Shape{c.k, c.n};
    Graph g;
    const Value va = g.input("0", {dtype, a}), vb = g.input("1", {dtype, b});
    g.output("0", matmul(va, vb, c.transpose_a, c.transpose_b));
    check_one(Prepared(std::move(g), {random_tensor({dtype, a}, 1), random_tensor({dtype, b}, 2)}), "cpu.matmul.tiles");
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, Tiles,
    testing::Values(TileCase{9, 1, 1, false, false}, TileCase{16, 31, 33, false, true}, TileCase{33, 33, 70, true, false},
                    TileCase{49, 100, 31, true, true}, TileCase{64, 64, 64, false, false}, TileCase{48, 96, 70, false, true},
                    TileCase{450, 40, 64, false, true}, TileCase{290, 70, 260, true, false},  // rows shared by the threads
                    TileCase{40, 1700, 40, false, true},                                      // three passes over k in f32
                    TileCase{33, 3300, 17, true, false}),                                     // two in bf16
    [](const auto& test) {
      const TileCase& c = test.param;
      return fmt::format("m{}_k{}_n{}{}{}", c.m, c.k, c.n, c.transpose_a ? "_ta" : "", c.transpose_b ? "_tb" : "");
    });

TEST(TilesI8, AgreeWithTheOracle) {
  for (const auto& [m, k, n] :
       {std::array<std::int64_t, 3>{9, 5, 7}, {33, 129, 300}, {48, 128, 70}, {450, 64, 20}, {20, 6300, 40}}) {
    SCOPED_TRACE(fmt::format("{} x {} x {}", m, k, n));
    const std::vector<Type> types = {{DType::i8, {m, k}}, {DType::f32, {m}}, {DType::i8, {n, k}}, {DType::f32, {n}}};
    Graph g;
    std::vector<Value> in;
    std::vector<Tensor> tensors;
    for (std::size_t i = 0; i < types.size(); ++i) {
      in.push_back(g.input(std::to_string(i), types[i]));
      tensors.push_back(random_tensor(types[i], i));
    }
    g.output("0", matmul_i8(in[0], in[1], in[2], in[3]));
    check_one(Prepared(std::move(g), std::move(tensors)), "cpu.matmul_i8.tiles");
  }
}

// Three bf16 parts hold every bit of an f32: times 1 a value comes back as it was.
TEST(Tiles, F32KeepsEveryBit) {
  constexpr std::int64_t n = 48;
  Tensor a(DType::f32, {n, n}), b(DType::f32, {n, n});
  Rng rng(3, 1);
  for (std::int64_t i = 0; i < n * n; ++i) {
    a.set(i, static_cast<double>(
                 static_cast<float>((rng.uniform() - 0.5) * std::ldexp(1.0, static_cast<int>(rng.below(200)) - 75))));
    b.set(i, i / n == i % n ? 1 : 0);
  }
  a.set(5, static_cast<double>(std::numeric_limits<float>::max()));
  Graph g;
  g.output("0", matmul(g.input("0", {DType::f32, {n, n}}), g.input("1", {DType::f32, {n, n}})));
  const Prepared p(std::move(g), {a, b});
  const KernelRequest request = p.request(true, 1);
  if (cpu_isa() < Isa::amx) GTEST_SKIP() << "needs AMX";
  const Kernel kernel = choose_kernel(request, "cpu.matmul.tiles").kernel;
  const Buffer out(n * n * 4), scratch(kernel.scratch_bytes);
  const void* in[] = {a.raw(), nullptr};
  void* results[] = {out.data()};
  kernel.run(kernel.params.get(), {.in = in, .out = results, .scratch = scratch.data(), .pool = test_pool(1)});
  for (std::int64_t i = 0; i < n * n; ++i) ASSERT_EQ(static_cast<const float*>(out.data())[i], static_cast<float>(a.at(i))) << i;
}

// Epilogues in every form the tiles hand over: the one-pass chain, the machine, several results, ragged edges.
TEST(Tiles, FusedAgreesWithTheOracle) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const auto& [m, n] : {std::pair<std::int64_t, std::int64_t>{70, 45}, {64, 96}})
      for (const char* form : {"gelu", "residual", "machine", "two results", "column"}) {
        SCOPED_TRACE(fmt::format("{} {} x {} {}", name(dtype), m, n, form));
        const std::string_view f = form;
        const std::vector<Type> types = {
            {dtype, {m, 80}}, {dtype, {n, 80}}, {DType::f32, {n}}, {dtype, {m, n}}, {DType::f32, {m, 1}}};
        Graph g, body;
        std::vector<Value> in, outer;
        std::vector<Tensor> tensors;
        for (std::size_t i = 0; i < types.size(); ++i) {
          in.push_back(body.input(std::to_string(i), types[i]));
          outer.push_back(g.input(std::to_string(i), types[i]));
          tensors.push_back(random_tensor(types[i], i));
        }
        const Shape shape{m, n};
        const Value sum = add(matmul(in[0], in[1], false, true, DType::f32), broadcast_to(in[2], shape));
        const Value full = dtype == DType::f32 ? in[3] : cast(in[3], DType::f32);
        const Value column = broadcast_to(in[4], shape);
        const auto narrow = [&](Value v) { return dtype == DType::f32 ? v : cast(v, dtype); };
        body.output("0", f == "gelu"       ? narrow(gelu(sum))
                         : f == "residual" ? add(sum, full)
                         : f == "machine"  ? narrow(mul(sub(full, sum), column))
                         : f == "column"   ? add(relu(mul(sum, column)), full)
                                           : gelu(sum));
        if (f == "two results") body.output("1", narrow(sum));
        const auto results = fused(g, outer, std::make_shared<const Graph>(std::move(body)), "matmul");
        for (std::size_t k = 0; k < results.size(); ++k) g.output(std::to_string(k), results[k]);
        const auto ran = check_all(Prepared(std::move(g), std::move(tensors)));
        if (cpu_isa() >= Isa::amx) {
          EXPECT_TRUE(contains(ran, "cpu.fused_matmul.tiles"));
        }
      }
}

// int4 weights that become tiles on the way, with an epilogue: several passes over k, ragged edges, the wide and the narrow result.
TEST(Tiles, FusedInt4AgreesWithTheOracle) {
  for (const auto& [m, k, n] : {std::array<std::int64_t, 3>{48, 96, 70}, {70, 1632, 45}, {33, 32, 32}})
    for (const bool narrow : {false, true}) {
      SCOPED_TRACE(fmt::format("{} x {} x {}{}", m, k, n, narrow ? " to bf16" : ""));
      Tensor scale = random_tensor({DType::f16, {n, k / 32}}, 3), q(DType::u8, {n, k / 2});
      Rng rng(5, 1);
      for (std::int64_t i = 0; i < q.elements(); ++i) q.set(i, static_cast<double>(rng.below(256)));
      const std::vector<Tensor> tensors = {random_tensor({DType::bf16, {m, k}}, 1), q, scale, random_tensor({DType::f32, {n}}, 2)};
      Graph g, body;
      std::vector<Value> in, outer;
      for (std::size_t i = 0; i < tensors.size(); ++i) {
        in.push_back(body.input(std::to_string(i), tensors[i].type()));
        outer.push_back(g.input(std::to_string(i), tensors[i].type()));
      }
      const Value sum = gelu(add(matmul_w4(in[0], in[1], in[2]), broadcast_to(in[3], Shape{m, n})));
      body.output("0", narrow ? cast(sum, DType::bf16) : sum);
      g.output("0", fused(g, outer, std::make_shared<const Graph>(std::move(body)), "matmul_w4")[0]);
      const auto ran = check_all(Prepared(std::move(g), tensors));
      EXPECT_TRUE(contains(ran, "cpu.fused_matmul_w4.widening"));
      if (cpu_isa() >= Isa::amx) {
        EXPECT_TRUE(contains(ran, "cpu.fused_matmul_w4.tiles"));
      }
    }
}

}  // namespace
}  // namespace rhetor
