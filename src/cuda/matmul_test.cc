// Products of the shapes that the fast kernels are made for, with epilogues: every candidate that accepts, against the float64
// oracle. The op matrix has the odd shapes.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <set>

#include "cuda/kernel_testing.h"
#include "ops/ops.h"

namespace rhetor {
namespace {

struct Linear {
  std::int64_t m, n, k;
  DType dtype = DType::bf16;  // of all operands; i8: of x and w, the rest is bf16
  bool by_rows = true;        // w is [n, k]
  std::string activation = "";
  bool bias = true, residual = false;
  std::string str() const {
    return fmt::format("m{} n{} k{} {} {}{}{}{}", m, n, k, name(dtype), by_rows ? "[n,k] " : "[k,n] ", activation,
                       bias ? " bias" : "", residual ? " residual" : "");
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
  graph.output("0",
               fused(graph, inputs(graph), std::make_shared<const Graph>(std::move(body)), integer ? "matmul_i8" : "matmul")[0]);
  return graph;
}

// gelu_tanh(x w + bias) in FP8, its operands lying as told: x [k, m] if turned, w [n, k] or [k, n].
Graph f8_graph(std::int64_t m, std::int64_t n, std::int64_t k, bool turned, bool by_rows, DType gradient) {
  const std::vector<Type> types{{DType::f8e4m3, turned ? Shape{k, m} : Shape{m, k}},
                                {DType::f32, Shape{}},
                                {gradient, by_rows ? Shape{n, k} : Shape{k, n}},
                                {DType::f32, Shape{}},
                                {DType::bf16, {n}}};
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

// As an encoder has it at inference: rows regrouped on the way, bias, activation or residual, perhaps stored in FP8 for the next.
struct F8Linear {
  std::int64_t m = 0, n = 0, k = 0;
  bool gelu = false, residual = false, quantised = false;
  DType out = DType::bf16;
};
Graph f8_linear(const F8Linear& l) {
  const std::vector<Type> types{{DType::f8e4m3, {l.m, l.k / 16, 16}}, {DType::f32, Shape{}}, {DType::f8e4m3, {l.n, l.k}},
                                {DType::f32, Shape{}},                {l.out, {l.n}},        {l.out, {l.m, l.n}},
                                {l.out, Shape{}}};
  const auto inputs = [&](Graph& g) {
    std::vector<Value> values;
    for (std::size_t i = 0; i < types.size(); ++i) values.push_back(g.input(std::to_string(i), types[i]));
    return values;
  };
  Graph body;
  const std::vector<Value> in = inputs(body);
  const Value a = reshape(dequantize_f8(in[0], in[1], l.out), {l.m, l.k}), b = dequantize_f8(in[2], in[3], l.out);
  Value y = add(matmul(a, b, false, true), in[4]);
  if (l.gelu) y = gelu(y);
  if (l.residual) y = add(y, in[5]);
  if (l.quantised) y = cast(mul(y, in[6]), DType::f8e4m3);
  body.output("0", y);
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
        for (std::size_t k = 0; k < first.size(); ++k) EXPECT_EQ(wrong_result(p, k, first[k]), "");
        buffers.upload();
        buffers.launch();
        EXPECT_EQ(buffers.download(again), "");
        for (std::size_t k = 0; k < first.size(); ++k)
          EXPECT_EQ(std::memcmp(first[k].raw(), again[k].raw(), first[k].bytes()), 0) << "two runs differ";
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
        const auto ran = check({.m = m,
                                .n = 136,
                                .k = 304,
                                .dtype = dtype,
                                .by_rows = by_rows,
                                .activation = m == 3 ? "silu" : "gelu",
                                .residual = m == 8});
        EXPECT_TRUE(ran.contains(dtype == DType::i8 ? "cuda.fused_matmul_i8.small" : "cuda.fused_matmul.small"));
      }
  check({.m = 2, .n = 6000, .k = 1536});  // several stages, wide blocks
  check({.m = 12, .n = 6000, .k = 1536, .residual = true});
  check({.m = 2, .n = 768, .k = 3072, .by_rows = false});  // clusters
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
      std::vector<std::array<std::int64_t, 3>> shapes{{64, 64, 64}, {64, 64, 128}, {150, 200, 144}, {1100, 1000, 80}};
      if (dtype != DType::f16)  // long enough to go round the ring of stages
        for (const auto& shape : {std::array<std::int64_t, 3>{700, 840, 528}, {1500, 1496, 272}}) shapes.push_back(shape);
      for (const auto& [m, n, k] : shapes) {
        const auto ran =
            check({.m = m, .n = n, .k = k, .dtype = dtype, .by_rows = by_rows, .activation = "gelu", .residual = m == 150});
        EXPECT_TRUE(!hopper || ran.contains(dtype == DType::i8 ? "cuda.fused_matmul_i8.wgmma" : "cuda.fused_matmul.wgmma"));
      }
    }
}

TEST(CudaMatmul, Float8) {
  if (!cuda_absence().empty()) GTEST_SKIP() << cuda_absence();
  for (const DType gradient : {DType::f8e4m3, DType::f8e5m2})
    for (const bool turned : {false, true})
      for (const bool by_rows : {false, true}) {
        const auto ran =
            check(f8_graph(96, 208, 144, turned, by_rows, gradient), fmt::format("f8 {} {} {}", turned, by_rows, name(gradient)));
        EXPECT_TRUE(device_room().device().compute < 89 || ran.contains("cuda.fused_matmul_f8.lt_finish"));
      }
}

// Stored in 16 bits and in FP8; ragged rows and columns of tiles, more tiles than processors.
TEST(CudaMatmul, Float8Inference) {
  if (!cuda_absence().empty()) GTEST_SKIP() << cuda_absence();
  const bool hopper = device_room().device().compute == 90;
  for (const std::array<std::int64_t, 3>& shape : {std::array<std::int64_t, 3>{64, 64, 128}, {40, 208, 144}, {1100, 1008, 80}})
    for (const bool gelu : {false, true})
      for (const bool residual : {false, true})
        for (const bool quantised : {false, true}) {
          const F8Linear l{shape[0], shape[1], shape[2], gelu, residual, quantised};
          const auto ran = check(f8_linear(l), fmt::format("f8 {}x{}x{} gelu {} residual {} quantised {}", l.m, l.n, l.k, gelu, residual, quantised));
          EXPECT_TRUE(!hopper || ran.contains("cuda.fused_matmul_f8.wgmma"));
          EXPECT_TRUE(!hopper || gelu || quantised || ran.contains("cuda.fused_matmul_f8.lt"));
        }
}

// A norm of a sum whose result is also stored in FP8, and one that nobody reads in 16 bits.
TEST(CudaMatmul, NormsStoreFloat8) {
  if (!cuda_absence().empty()) GTEST_SKIP() << cuda_absence();
  for (const std::int64_t cols : {64, 776, 1536})
    for (const bool sum : {false, true})
      for (const bool both : {false, true}) {
        const std::vector<Type> types{{DType::bf16, {5, cols}}, {DType::bf16, {5, cols}}, {DType::bf16, {cols}}, {DType::bf16, {cols}}, {DType::bf16, Shape{}}};
        const auto inputs = [&](Graph& g) {
          std::vector<Value> values;
          for (std::size_t i = 0; i < types.size(); ++i) values.push_back(g.input(std::to_string(i), types[i]));
          return values;
        };
        Graph body;
        const std::vector<Value> in = inputs(body);
        const Value y = layer_norm(sum ? add(in[0], in[1]) : in[0], in[2], in[3]);
        const Value q = cast(mul(y, in[4]), DType::f8e4m3);
        if (both) body.output("0", y);
        body.output(both ? "1" : "0", q);
        Graph graph;
        const auto results = fused(graph, inputs(graph), std::make_shared<const Graph>(std::move(body)), "layer_norm");
        for (std::size_t k = 0; k < results.size(); ++k) graph.output(std::to_string(k), results[k]);
        EXPECT_TRUE(check(std::move(graph), fmt::format("norm {} sum {} both {}", cols, sum, both)).contains("cuda.fused_norm"));
      }
}

// Microseconds a run, from a recording of runs over as many copies of the operands as the second-level cache cannot hold.
double microseconds(const Kernel& kernel, const std::vector<Tensor>& operands, std::uint64_t result_bytes) {
  constexpr int kRuns = 24;
  DeviceRoom& room = device_room();
  std::uint64_t bytes = result_bytes;
  for (const Tensor& t : operands) bytes += t.bytes();
  const int copies =
      static_cast<int>(std::min<std::uint64_t>(kRuns, 2 * static_cast<std::uint64_t>(room.device().l2_bytes) / bytes + 1));
  std::vector<std::vector<std::shared_ptr<void>>> in(static_cast<std::size_t>(copies));
  for (auto& copy : in)
    for (const Tensor& t : operands) {
      copy.push_back(cuda_allocate(room.device(), CudaMemory::device, t.bytes()));
      cuda_copy(copy.back().get(), t.raw(), t.bytes());
    }
  const auto out = cuda_allocate(room.device(), CudaMemory::device, result_bytes);
  const auto scratch = cuda_allocate(room.device(), CudaMemory::device, kernel.scratch_bytes);
  CudaStream& stream = room.stream();
  const auto launch = [&](int run) {
    std::vector<const void*> pointers;
    for (const auto& buffer : in[static_cast<std::size_t>(run % copies)]) pointers.push_back(buffer.get());
    void* results[1] = {out.get()};
    kernel.run(
        kernel.params.get(),
        {.in = pointers.data(), .out = results, .scratch = scratch.get(), .pool = test_pool(1), .stream = stream.handle()});
  };
  launch(0);
  stream.synchronize();
  stream.begin_recording();
  for (int run = 0; run < kRuns; ++run) launch(run);
  const auto recording = stream.end_recording();
  stream.make_marks(2);
  double best = 1;
  for (int repeat = 0; repeat < 4; ++repeat) {
    stream.mark(0);
    stream.run(recording.get());
    stream.mark(1);
    stream.synchronize();
    if (repeat > 0) best = std::min(best, stream.seconds(0, 1) / kRuns);
  }
  return best * 1e6;
}

// RHETOR_CUDA_BENCH=1: the layers of BERT-base and of decoding, every candidate but the plain tiles.
TEST(CudaMatmul, Times) {
  if (!cuda_absence().empty() || !std::getenv("RHETOR_CUDA_BENCH"))
    GTEST_SKIP() << "set RHETOR_CUDA_BENCH on a machine with a GPU";
  const std::vector<Linear> layers{{.m = 4096, .n = 3072, .k = 768, .dtype = DType::f16, .activation = "gelu"},
                                   {.m = 4096, .n = 3072, .k = 768, .dtype = DType::f16, .by_rows = false, .activation = "gelu"},
                                   {.m = 4096, .n = 3072, .k = 768, .dtype = DType::i8, .activation = "gelu"},
                                   {.m = 4096, .n = 768, .k = 3072, .dtype = DType::f16, .residual = true},
                                   {.m = 4096, .n = 768, .k = 3072, .dtype = DType::i8, .residual = true},
                                   {.m = 128, .n = 3072, .k = 768, .dtype = DType::f16, .activation = "gelu"},
                                   {.m = 1, .n = 4096, .k = 4096, .bias = false, .residual = true},
                                   {.m = 1, .n = 11008, .k = 4096, .activation = "silu", .bias = false},
                                   {.m = 1, .n = 4096, .k = 11008, .bias = false, .residual = true},
                                   {.m = 8, .n = 11008, .k = 4096, .bias = false, .residual = true},
                                   {.m = 16, .n = 4096, .k = 4096, .bias = false, .residual = true},
                                   {.m = 1, .n = 4096, .k = 4096, .dtype = DType::i8},
                                   {.m = 1, .n = 2304, .k = 768, .by_rows = false},
                                   {.m = 1, .n = 768, .k = 3072, .by_rows = false, .residual = true}};
  for (const Linear& l : layers) {
    const Graph graph = graph_of(l);
    const Node& node = graph.node(graph.outputs()[0].value);
    std::vector<Tensor> operands;
    KernelRequest request{
        .graph = graph, .node = node, .in = {}, .out = node.outputs, .constants = {}, .device = &device_room().device()};
    for (const ValueId v : node.inputs) {
      operands.push_back(random_tensor(graph.type(v), 3 + operands.size()));
      request.in.push_back(graph.type(v));
      request.constants.push_back(nullptr);
    }
    for (const KernelRow& row : cuda_kernel_table())
      for (const Candidate& candidate : row.candidates) {
        if (row.op != "fused" || candidate.name.find("simple") != std::string_view::npos || !candidate.refuse(request).empty())
          continue;
        const Deadline deadline(l.str() + " / " + std::string(candidate.name), 30);
        const ChosenKernel chosen = choose_cuda_kernel(request, candidate.name);
        const double us = microseconds(chosen.kernel, operands, node.outputs[0].bytes());
        const double flops = 2.0 * static_cast<double>(l.m * l.n * l.k),
                     bytes = static_cast<double>(l.n * l.k) * byte_size(l.dtype);
        fmt::print("{:48} {:34} {:8.2f} us {:7.1f} TFLOP/s, weights {:6.0f} GB/s  {}\n", l.str(), candidate.name, us,
                   flops / us * 1e-6, bytes / us * 1e-3, chosen.kernel.detail);
      }
  }
}

}  // namespace
}  // namespace rhetor
