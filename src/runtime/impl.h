// What an Executable holds; private to this room.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "runtime/executable.h"

namespace rhetor {

struct Executable::Impl {
  Graph graph;                        // after the passes and folding
  MemoryPlan memory;
  CompileReport report;
  std::vector<Instruction> instructions;
  std::vector<ValueId> operands;      // the pointer table's entries: operands and results of instruction 0, 1, ...
  std::vector<ChosenKernel> kernels;  // per node; empty where nothing runs. Holds the packed weights
  std::vector<Tensor> params;         // per node: the tensor of a param that some kernel still reads
  Weights kept;                       // all params by name, if CompileOptions.keep_weights
  bool keeps_weights = false;
  bool in_place = true;
  ThreadPool* pool = nullptr;
  const CudaDevice* device = nullptr; // null: the CPU
  std::vector<std::shared_ptr<void>> there;   // on a device: per node, the bytes of a param or constant that some kernel reads

  // Where a param or constant lies that kernels read. REQUIRES: p.place is one of them.
  const void* fixed_address(const ValuePlace& p) const {
    const auto node = static_cast<std::size_t>(p.slot);
    if (device) return there[node].get();
    return p.place == Place::param ? params[node].raw() : graph.node(p.slot).attrs.tensor("value").raw();
  }
};

// The second half of compile(): kernels, memory plan and instructions for a graph that no pass will touch again. `params` holds a
// tensor for every param in use. `kernel_names` (plan files) fixes the candidate per node; null: choose.
std::unique_ptr<Executable::Impl> assemble(Graph graph, Weights params, const CompileOptions& options, CompileReport report,
                                           const std::vector<std::string>* kernel_names = nullptr);

// The request a kernel is chosen with. `constants` is per node and output: tensors known at compile time.
using KnownValues = std::vector<std::vector<const Tensor*>>;
KernelRequest kernel_request(const Graph& graph, std::int32_t node, const KnownValues& known, int threads,
                             const CudaDevice* device = nullptr);
// Kernels may read constants with aligned loads: copies what a file or a view has misaligned.
Tensor aligned(const Tensor& tensor);

// fold.cc: evaluates, with the kernels of this machine, every node that depends on params and constants alone; the results become
// params "folded.<n>" (tiny ones constants). Params without readers are dropped.
struct Folded {
  Graph graph;
  Weights params;                     // every param of `graph`
  int nodes = 0;
};
Folded fold(const Graph& graph, const Weights& params, ThreadPool& pool);

}  // namespace rhetor
