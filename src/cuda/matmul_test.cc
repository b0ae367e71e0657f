// Products of the shapes that the fast kernels are made for, with epilogues: every candidate that accepts, against the float64 oracle. The op
// matrix has the odd shapes.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <set>

#include "cuda/kernel_testing.h"
#include "ops/ops.h"

namespace rhetor {
namespace {

struct Linear {
  std::int64_t m, n, k;
  DType dtype = DType::bf16;   // of all operands; i8: of x and w, the rest is bf16
  bool by_rows = true;         // w is [n, k]
  std::string activation = "";
  bool bias = true, residual = false;
  std::string str() const {
    return fmt::format("m{} n{} k{} {} {}{}{}{}", m, n, k, name(dtype), by_rows ? "[n,k] " : "[k,n] ", activation, bias ? " bias" : "",
                       residual ? " residual" : "");
  }
};

Value activated(Value x, const std::string& name) {
  return name == "gelu" ? gelu(x) : name == "gelu_tanh" ? gelu_tanh(x) : name == "silu" ? silu(x) : name == "relu" ? relu(x) : x;
}

// A graph of one `fused` node.
Graph graph_of(const Linear& l) {
  const bool integer = l.dtype == DType::i8;
  const DType wide = integer ? DType::bf16 : l.dtype;
  std::vector<Type> types{{l.dtype, {l.m, l.k}}, {l.dtype, l.by_rows ? Shape{l.n, l.k} : Shape{l.k, l.n}}};
  if (integer) types = {types[0], {DType::f32, {l.m}}, types[1], {DType::f32, {l.n}}};
  if (l.bias) types.push_back({wide, {l.n}});
  if (l.residual) types.push_back({wide, {l.m, l.n}});
  const auto inputs = [&](Graph& g) {
    std::vector<Value> values;
    for (std::size_t i = 0; i < types.size(); ++i) values.push_back(g.input(std::to_string(i), types[i]));
    return values;
  };
  Graph body;
  const std::vector<Value> in = inputs(body);
  Value y = integer ? matmul_i8(in[0], in[1], in[2], in[3], wide) : matmul(in[0], in[1], false, l.by_rows);
  std::size_t next = integer ? 4 : 2;
  if (l.bias) y = add(y, in[next++]);
  y = activated(y, l.activation);
  if (l.residual) y = add(y, in[next++]);
  body.output("0", y);
  Graph graph;
  graph.output("0", fused(graph, inputs(graph), std::make_shared<const Graph>(std::move(body)), integer ? "matmul_i8" : "matmul")[0]);
  return graph;
}

// gelu_tanh(x w + bias) in FP8, its operands lying as told: x [k, m] if turned, w [n, k] or [k, n].
Graph f8_graph(std::int64_t m, std::int64_t n, std::int64_t k, bool turned, bool by_rows, DType gradient) {
  const std::vector<Type> types{{DType::f8e4m3, turned ? Shape{k, m} : Shape{m, k}}, {DType::f32, Shape{}},
                                {gradient, by_rows ? Shape{n, k} : Shape{k, n}}, {DType::f32, Shape{}}, {DType::bf16, {n}}};
  const auto inputs = [&](Graph& g) {
    std::vector<Value> values;
    for (std::size_t i = 0; i < types.size(); ++i) values.push_back(g.input(std::to_string(i), types[i]));
    return values;
  };
  Graph body;
  const std::vector<Value> in = inputs(body);
  const Value a = dequantize_f8(in[0], in[1]), b = dequantize_f8(in[2], in[3]);
  body.output("0", gelu_tanh(add(matmul(a, by_rows ? transpose(b, {1, 0}) : b, turned, false), in[4])));
  Graph graph;
  graph.output("0", fused(graph, inputs(graph), std::make_shared<const Graph>(std::move(body)), "matmul")[0]);
  return graph;
}

// The names of the candidates that ran.
std::set<std::string> check(Graph graph, const std::string& label) {
  std::vector<Tensor> operands;
  for (const ValueId v : graph.node(graph.outputs()[0].value).inputs)
    operands.push_back(random_tensor(graph.type(v), 3 + operands.size()));
  const Prepared p(std::move(graph), std::move(operands));
  const KernelRequest request = p.request(true, 1, &device_room().device());
  std::set<std::string> ran;
  for (const KernelRow& row : cuda_kernel_table()) {
    if (row.op != "fused") continue;
    for (const Candidate& candidate : row.candidates) {
      if (!candidate.refuse(request).empty()) continue;
      const std::string name(candidate.name), doing = label + " / " + name;
      SCOPED_TRACE(doing);
      const Deadline deadline(doing, 30);
      try {
        const ChosenKernel chosen = choose_cuda_kernel(request, name);
        DeviceBuffers buffers(device_room(), p, chosen.kernel, false);
        std::vector<Tensor> first, again;
        buffers.upload();
        buffers.launch();
        EXPECT_EQ(buffers.download(first), "");
        EXPECT_EQ(wrong_result(p, 0, first[0]), "");
        buffers.upload();
        buffers.launch();
        EXPECT_EQ(buffers.download(again), "");
        EXPECT_EQ(std::memcmp(first[0].raw(), again[0].raw(), first[0].bytes()), 0) << "two runs differ";
        ran.insert(name);
      } catch (const Error& error) {
        survive(doing, error);
        ADD_FAILURE() << error.what();
      }
    }
  }
  return ran;
}

std::set<std::string> check(const Linear& l) { return check(graph_of(l), l.str()); }

TEST(CudaMatmul, FewRows) {
  if (!cuda_absence().empty()) GTEST_SKIP() << cuda_absence();
  for (const DType dtype : {DType::bf16, DType::f16, DType::i8})
    for (const std::int64_t m : {1, 3, 8, 11, 16})
      for (const bool by_rows : {true, false}) {
        if (dtype == DType::i8 && !by_rows) continue;
        const auto ran = check({.m = m, .n = 136, .k = 304, .dtype = dtype, .by_rows = by_rows, .activation = m == 3 ? "silu" : "gelu",
                                .residual = m == 8});
        EXPECT_TRUE(ran.contains(dtype == DType::i8 ? "cuda.fused_matmul_i8.small" : "cuda.fused_matmul.small"));
      }
  check({.m = 2, .n = 6000, .k = 1536});                        // several stages, wide blocks
  check({.m = 12, .n = 6000, .k = 1536, .residual = true});
  check({.m = 2, .n = 768, .k = 3072, .by_rows = false});       // clusters
  check({.m = 16, .n = 328, .k = 3076, .by_rows = false});
}

TEST(CudaMatmul, EveryEpilogue) {
  if (!cuda_absence().empty()) GTEST_SKIP() << cuda_absence();
  for (const DType dtype : {DType::bf16, DType::f16, DType::i8})
    for (const char* activation : {"", "relu", "gelu", "gelu_tanh", "silu"})
      for (const bool residual : {false, true})
        check({.m = 40, .n = 72, .k = 80, .dtype = dtype, .activation = activation, .bias = !residual, .residual = residual});
}

// Ragged edges of tiles, more tiles than processors, both layouts of the weights.
TEST(CudaMatmul, Tiles) {
  if (!cuda_absence().empty()) GTEST_SKIP() << cuda_absence();
  const bool hopper = device_room().device().compute == 90;
  for (const DType dtype : {DType::bf16, DType::f16, DType::i8})
    for (const bool by_rows : {true, false}) {
      if (dtype == DType::i8 && !by_rows) continue;
      for (const auto& [m, n, k] : std::vector<std::array<std::int64_t, 3>>{{64, 64, 64}, {64, 64, 128}, {150, 200, 144}, {700, 840, 272},
                                                                            {1100, 1000, 80}, {1500, 1496, 80}}) {
        const auto ran = check({.m = m, .n = n, .k = k, .dtype = dtype, .by_rows = by_rows, .activation = "gelu", .residual = m == 150});
        EXPECT_TRUE(!hopper || ran.contains(dtype == DType::i8 ? "cuda.fused_matmul_i8.wgmma" : "cuda.fused_matmul.wgmma"));
      }
    }
}

TEST(CudaMatmul, Float8) {
  if (!cuda_absence().empty()) GTEST_SKIP() << cuda_absence();
  for (const DType gradient : {DType::f8e4m3, DType::f8e5m2})
    for (const bool turned : {false, true})
      for (const bool by_rows : {false, true}) {
        const auto ran = check(f8_graph(96, 208, 144, turned, by_rows, gradient), fmt::format("f8 {} {} {}", turned, by_rows, name(gradient)));
        EXPECT_TRUE(device_room().device().compute < 89 || ran.contains("cuda.fused_matmul_f8.lt_finish"));
      }
}

}  // namespace
}  // namespace rhetor
