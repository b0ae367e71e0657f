// For the tests of kernels: one node, its operands and oracle, run through one prepared kernel with every check that holds for
// all of them: results against float64, operands and memory around the buffers untouched, nothing read before it is written.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "base/rng.h"
#include "cpu/kernel.h"
#include "graph/interpreter.h"
#include "tensor/compare.h"

namespace rhetor {

constexpr std::size_t kGuard = 256;  // bytes behind every buffer that no kernel may touch
constexpr int kPoison = 0xff;        // NaN in every float format

// A poisoned, guarded, 64-byte-aligned buffer.
class Buffer {
 public:
  explicit Buffer(std::size_t bytes)
      : bytes_(bytes), size_((bytes + kGuard + 63) / 64 * 64), data_(std::aligned_alloc(64, size_)) {
    std::memset(data_, kPoison, size_);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  Buffer(Buffer&& other) noexcept : bytes_(other.bytes_), size_(other.size_), data_(std::exchange(other.data_, nullptr)) {}
  ~Buffer() { std::free(data_); }
  void* data() const { return data_; }
  bool intact() const {
    const auto* p = static_cast<const unsigned char*>(data_);
    for (std::size_t i = bytes_; i < size_; ++i)
      if (p[i] != kPoison) return false;
    return true;
  }

 private:
  std::size_t bytes_, size_;
  void* data_;
};

// Pools that the tests of one program share.
inline ThreadPool& test_pool(int threads) {
  static ThreadPool one(1), two(2), three(3);
  return threads == 1 ? one : threads == 2 ? two : three;
}

// One node with its operands: graph, operands, oracle and tolerances.
struct Prepared {
  // `made` has inputs "0", "1", ... (absent operands left out) and one node whose results are the outputs "0", "1", ...
  Prepared(Graph made, std::vector<Tensor> given)
      : graph(std::move(made)), node(graph.node(graph.outputs()[0].value)), operands(std::move(given)) {
    std::map<std::string, Tensor> inputs;
    for (std::size_t k = 0; k < operands.size(); ++k) {
      if (operands[k].defined()) inputs[std::to_string(k)] = operands[k];
      types.push_back(operands[k].defined() ? operands[k].type() : Type{DType::boolean, Shape{}});
    }
    oracle = evaluate(graph, inputs, RefPrecision::f64).outputs;
    naive = evaluate(graph, inputs, RefPrecision::declared).outputs;
  }
  KernelRequest request(bool constants, int threads, const CudaDevice* device = nullptr) const {
    KernelRequest r{.graph = graph, .node = node, .in = types, .out = node.outputs, .constants = {}, .threads = threads, .device = device};
    for (const Tensor& t : operands) r.constants.push_back(constants && t.defined() ? &t : nullptr);
    return r;
  }
  Graph graph;
  const Node& node;
  std::vector<Tensor> operands;
  std::vector<Type> types;
  std::map<std::string, Tensor> oracle, naive;
  // Per result: the tolerance that other draws of the same operands derive. On tiny shapes the naive evaluation of one draw can be
  // right by luck where the op is ill-conditioned (a norm over one element).
  std::vector<double> allowed;
  void also_allow(const Prepared& other) {
    allowed.resize(node.outputs.size(), 0);
    for (std::size_t k = 0; k < allowed.size(); ++k) {
      const DType dtype = node.outputs[k].dtype;
      const std::string name = std::to_string(k);
      if (is_float(dtype)) allowed[k] = std::max(allowed[k], derived_tolerance(other.naive.at(name), other.oracle.at(name), dtype));
    }
  }
};

// "" if `got` is result k of the node within its tolerance, else the difference.
inline std::string wrong_result(const Prepared& p, std::size_t k, const Tensor& got) {
  const Type& type = p.node.outputs[k];
  const Tensor &exact = p.oracle.at(std::to_string(k)), &naive = p.naive.at(std::to_string(k));
  // An int8 code may round to its neighbour, as in the naive evaluation; other integers are exact.
  const double derived = is_float(type.dtype) ? derived_tolerance(naive, exact, type.dtype) : type.dtype == DType::i8 ? 1 : 0;
  const double allowed = k < p.allowed.size() ? std::max(derived, p.allowed[k]) : derived;
  const Comparison difference = compare(got, exact);
  if (difference.within(allowed)) return "";
  return fmt::format("result {} ({}), allowed {:.3g}: {}", k, type.str(), allowed, difference.str());
}

inline void run_and_compare(const Prepared& p, const Kernel& kernel, int threads, bool in_place) {
  std::vector<Buffer> in, out;
  std::vector<const void*> in_pointers;
  std::vector<void*> out_pointers;
  for (std::size_t k = 0; k < p.operands.size(); ++k) {
    const Tensor& t = p.operands[k];
    in.emplace_back(t.defined() ? t.bytes() : 0);
    if (t.defined()) std::memcpy(in[k].data(), t.raw(), t.bytes());
    const bool absorbed = k < kernel.absorbed.size() && kernel.absorbed[k];
    in_pointers.push_back(t.defined() && !absorbed ? in[k].data() : nullptr);
  }
  for (const Type& type : p.node.outputs) {
    out.emplace_back(type.bytes());
    out_pointers.push_back(out.back().data());
  }
  const int reused = p.node.op->traits.inplace;
  if (in_place) out_pointers[0] = in[static_cast<std::size_t>(reused)].data();
  const Buffer scratch(kernel.scratch_bytes);
  kernel.run(kernel.params.get(),
             {.in = in_pointers.data(), .out = out_pointers.data(), .scratch = scratch.data(), .pool = test_pool(threads)});

  EXPECT_TRUE(scratch.intact()) << "wrote past its scratch of " << kernel.scratch_bytes << " bytes";
  for (std::size_t k = 0; k < in.size(); ++k) {
    EXPECT_TRUE(in[k].intact()) << "wrote past operand " << k;
    const bool overwritten = in_place && static_cast<int>(k) == reused;
    if (!p.operands[k].defined() || overwritten) continue;
    EXPECT_EQ(std::memcmp(in[k].data(), p.operands[k].raw(), p.operands[k].bytes()), 0) << "changed operand " << k;
  }
  for (std::size_t k = 0; k < p.node.outputs.size(); ++k) {
    const Type& type = p.node.outputs[k];
    EXPECT_TRUE(out[k].intact()) << "wrote past result " << k;
    Tensor got = Tensor::uninitialized(type);
    std::memcpy(got.raw(), out_pointers[k], type.bytes());
    EXPECT_EQ(wrong_result(p, k, got), "");
  }
}

// Floats in [-1, 1], integers in [-128, 127].
inline Tensor random_tensor(Type type, std::uint64_t stream) {
  Rng rng(7, stream);
  Tensor t = Tensor::uninitialized(type);
  const bool integer = !is_float(type.dtype);
  for (std::int64_t i = 0; i < t.elements(); ++i)
    t.set(i, integer ? static_cast<double>(rng.below(256)) - 128 : 2.0 * rng.uniform() - 1);
  return t;
}

// Every candidate that accepts, with and without constant operands, on 1 to 3 threads. Returns the names of those that ran.
inline std::vector<std::string> check_all(const Prepared& p) {
  std::vector<std::string> ran;
  for (const KernelRow& row : kernel_table()) {
    if (row.op != p.node.op->name) continue;
    for (const Candidate& candidate : row.candidates)
      for (const bool constants : {false, true})
        for (const int threads : {1, 2, 3}) {
          const KernelRequest request = p.request(constants, threads);
          if (!candidate.refuse(request).empty()) continue;
          const ChosenKernel chosen = choose_kernel(request, candidate.name);
          SCOPED_TRACE(fmt::format("{}{}, {} threads: {}", candidate.name, constants ? " with constants" : "", threads,
                                   chosen.kernel.detail));
          run_and_compare(p, chosen.kernel, threads, false);
          ran.emplace_back(candidate.name);
        }
  }
  return ran;
}

}  // namespace rhetor
