// RHETOR_CUDA_BENCH=1: times every CUDA kernel on the ops' benchmark samples, with results compared among the candidates (the
// oracle would take hours on such sizes). A graph of 20 runs, best of 5; the runs rotate over copies of the buffers, so that data
// larger than the second-level cache is not found there.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <limits>

#include "cuda/kernel_testing.h"
#include "ops/op_matrix.h"
#include "ops/registry.h"

namespace rhetor {
namespace {

constexpr int kRuns = 20, kRepeats = 5;

// Copies of one node's buffers, operands filled.
class Copies {
 public:
  Copies(const CudaDevice& device, const std::vector<Tensor>& operands, const std::vector<Type>& results) {
    std::uint64_t bytes = 0;
    const auto place = [&](std::uint64_t size) {
      offsets_.push_back(bytes);
      bytes += (size + 255) / 256 * 256;
    };
    for (const Tensor& t : operands) place(t.defined() ? t.bytes() : 0);
    for (const Type& type : results) place(type.bytes());
    const std::uint64_t wanted = 2 * static_cast<std::uint64_t>(device.l2_bytes) / std::max<std::uint64_t>(bytes, 1) + 1;
    count = static_cast<int>(std::min<std::uint64_t>(wanted, kRuns));
    for (int i = 0; i < count; ++i) {
      memory_.push_back(cuda_allocate(device, CudaMemory::device, bytes));
      for (std::size_t k = 0; k < operands.size(); ++k)
        if (operands[k].defined()) cuda_copy(at(i, k), operands[k].raw(), operands[k].bytes());
    }
  }
  void* at(int copy, std::size_t buffer) const {
    return static_cast<char*>(memory_[static_cast<std::size_t>(copy)].get()) + offsets_[buffer];
  }
  int count = 1;

 private:
  std::vector<std::uint64_t> offsets_;
  std::vector<std::shared_ptr<void>> memory_;
};

struct Timed {
  double seconds = 0;
  std::vector<Tensor> results;
};

Timed time_kernel(const Kernel& kernel, const Copies& copies, const std::vector<Tensor>& operands,
                  const std::vector<Type>& results) {
  DeviceRoom& room = device_room();
  CudaStream& stream = room.stream();
  const auto scratch = cuda_allocate(room.device(), CudaMemory::device, kernel.scratch_bytes);
  const auto launch = [&](int run) {
    std::vector<const void*> in;
    std::vector<void*> out;
    for (std::size_t k = 0; k < operands.size(); ++k)
      in.push_back(operands[k].defined() && !kernel.absorbed[k] ? copies.at(run % copies.count, k) : nullptr);
    for (std::size_t k = 0; k < results.size(); ++k) out.push_back(copies.at(run % copies.count, operands.size() + k));
    kernel.run(kernel.params.get(),
               {.in = in.data(), .out = out.data(), .scratch = scratch.get(), .pool = test_pool(1), .stream = stream.handle()});
  };
  launch(0);
  stream.synchronize();
  Timed timed{.seconds = std::numeric_limits<double>::infinity(), .results = {}};
  for (std::size_t k = 0; k < results.size(); ++k) {
    timed.results.push_back(Tensor::uninitialized(results[k]));
    cuda_copy(timed.results[k].raw(), copies.at(0, operands.size() + k), results[k].bytes());
  }
  stream.begin_recording();
  for (int run = 0; run < kRuns; ++run) launch(run);
  const auto recording = stream.end_recording();
  stream.make_marks(2);
  for (int repeat = 0; repeat <= kRepeats; ++repeat) {  // the first warms up
    stream.mark(0);
    stream.run(recording.get());
    stream.mark(1);
    stream.synchronize();
    if (repeat > 0) timed.seconds = std::min(timed.seconds, stream.seconds(0, 1) / kRuns);
  }
  return timed;
}

// How far candidates may be apart, relative to the result's scale: rounding of the result, and other orders of summation.
double allowed(DType dtype) {
  return dtype == DType::bf16 ? 2e-2 : dtype == DType::f16 ? 4e-3 : is_float(dtype) && byte_size(dtype) >= 4 ? 1e-3 : 1e-1;
}
double difference(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  double worst = 0;
  for (std::size_t k = 0; k < a.size(); ++k) {
    const Comparison c = compare(a[k], b[k]);
    worst = std::max(worst, c.nonfinite_mismatches ? std::numeric_limits<double>::infinity() : c.max_rel_to_scale);
  }
  return worst;
}

class CudaBench : public testing::TestWithParam<const OpDef*> {};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(CudaBench);

TEST_P(CudaBench, Times) {
  if (!cuda_absence().empty()) GTEST_SKIP() << cuda_absence();
  const OpDef& op = *GetParam();
  const CudaDevice& device = device_room().device();
  for (const KernelRow& row : cuda_kernel_table()) {
    if (row.op != op.name) continue;
    for (const OpCase& one : op_cases(op, true)) {
      if (one.ranks() > 1) continue;
      const Graph graph = case_graph(one);
      const Node& node = graph.node(graph.outputs()[0].value);
      const std::vector<Tensor> operands = make_operands(one);
      KernelRequest request{
          .graph = graph, .node = node, .in = one.types(), .out = node.outputs, .constants = {}, .device = &device};
      const Cost cost = op.cost(request.in, request.out, node.attrs);
      const Copies copies(device, operands, node.outputs);
      std::vector<Tensor> expected;  // of the last candidate, the most general
      for (auto candidate = row.candidates.rbegin(); candidate != row.candidates.rend(); ++candidate) {
        const std::string name(candidate->name), doing = fmt::format("{} / {}", one.str(), name);
        const Deadline deadline(doing);
        try {
          request.constants.assign(operands.size(), nullptr);
          if (!candidate->refuse(request).empty()) {  // perhaps it wants to know the weights
            for (std::size_t k = 0; k < operands.size(); ++k)
              request.constants[k] = operands[k].defined() ? &operands[k] : nullptr;
            if (!candidate->refuse(request).empty()) continue;
          }
          const Timed timed = time_kernel(choose_cuda_kernel(request, name).kernel, copies, operands, node.outputs);
          const double apart = expected.empty() ? 0 : difference(timed.results, expected);
          if (expected.empty()) expected = timed.results;
          fmt::print("{:52} {:32} {:9.2f} us {:6.0f} GB/s {:9.1f} GFLOP/s  apart {:.1e}\n", one.str(), name, timed.seconds * 1e6,
                     cost.bytes / timed.seconds * 1e-9, cost.flops / timed.seconds * 1e-9, apart);
          EXPECT_LE(apart, allowed(node.outputs[0].dtype)) << doing << " differs from the last candidate";
        } catch (const Error& error) {
          survive(doing, error);
          ADD_FAILURE() << doing << ": " << error.what();
        }
      }
    }
  }
}

std::vector<const OpDef*> benchmarked() {
  if (!std::getenv("RHETOR_CUDA_BENCH")) return {};
  return {all_ops().all().begin(), all_ops().all().end()};
}
INSTANTIATE_TEST_SUITE_P(All, CudaBench, testing::ValuesIn(benchmarked()),
                         [](const auto& test) { return std::string(test.param->name); });

}  // namespace
}  // namespace rhetor
