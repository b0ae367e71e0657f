// compile(): graph -> Executable, a flat list of kernel calls on planned memory. Session: one user of an
// executable, with its own arena, inputs, outputs and states.
//
// On a device, inputs and outputs are copied and states stay there (runtime/states.h); the handles are host tensors all the same.
//
// Thread-safety: an Executable is immutable and may be run by any number of sessions at once; a Session belongs to one thread at a
// time. Session::run allocates nothing.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "cpu/kernel.h"
#include "cuda/cuda.h"
#include "graph/graph.h"
#include "passes/memory.h"
#include "passes/pipeline.h"
#include "runtime/states.h"
#include "tensor/tensor.h"

namespace rhetor {

class Communicator;                      // comm/communicator.h

// Parameters by input name. Shared, immutable.
using Weights = std::map<std::string, Tensor>;

struct CompileOptions {
  PassOptions passes;
  ThreadPool* pool = nullptr;              // null: default_pool()
  const CudaDevice* device = nullptr;      // null: the CPU (find_device(), cuda/cuda.h)
  // Carries out the collectives of the graph, which is one rank's (passes/shard.h); outlives the executable. Null: there are none.
  Communicator* communicator = nullptr;
  bool keep_precision = false;             // for inference_options() (models/model.h): run in passes.compute and nothing else
  bool in_place = true;
  // Keep the weights that kernels have packed into their own layout: save_plan() needs them. Costs their bytes
  // once more unless the caller holds (or has mapped) them anyway.
  bool keep_weights = false;
  // Fail if `weights` holds a name the graph does not know (a folder may hold heads that this graph has no use for).
  bool exact_weights = false;
  // Restrict kernels, by op name -> candidate name (tests).
  std::map<std::string, std::string> only;
};

struct Instruction {
  KernelFn run = nullptr;
  const void* params = nullptr;
  std::int32_t node = -1;                  // in the final graph
  std::uint32_t in = 0, out = 0;           // where its operands and results start in the pointer table
  std::uint64_t scratch = 0;               // bytes from the start of the arena
};

// What `rhetor explain` prints.
struct CompileReport {
  std::vector<PassRecord> passes;
  struct NodeChoice {
    std::int32_t node;
    std::string kernel, detail;
    std::vector<KernelRefusal> refused;
    Cost cost;
  };
  std::vector<NodeChoice> choices;
  // packed_bytes: what this executable's kernels hold. Executables of one model share packed weights, and each counts them as if it
  // were alone; what the process really holds is pack_cache_use() (cpu/pack_cache.h).
  std::uint64_t arena_bytes = 0, lower_bound = 0, weight_bytes = 0, packed_bytes = 0, state_bytes = 0;
  double compile_ms = 0;
};

class Executable {
 public:
  ~Executable();
  const Graph& graph() const;              // after the passes
  const MemoryPlan& memory() const;
  const CompileReport& report() const;
  const std::vector<Instruction>& instructions() const;   // in order of execution
  // Names and types of what a session must be given and gives.
  std::vector<std::pair<std::string, Type>> inputs() const;   // kind input
  std::vector<std::pair<std::string, Type>> states() const;
  std::vector<std::pair<std::string, Type>> outputs() const;

  struct Impl;
  explicit Executable(std::unique_ptr<Impl> impl);
  const Impl& impl() const { return *impl_; }
 private:
  std::unique_ptr<Impl> impl_;
};
using ExecutablePtr = std::shared_ptr<const Executable>;

// Runs the passes, folds what depends only on params and constants, plans memory, chooses kernels. Fails naming a missing or mismatched weight.
ExecutablePtr compile(const Graph& graph, const Weights& weights, const CompileOptions& options = {});

class Session {
 public:
  explicit Session(ExecutablePtr executable, std::shared_ptr<StateStore> states = nullptr);
  ~Session();
  Session(Session&&) noexcept;
  // The buffer of an input, to be filled before run(). Handles stay valid for the session's life.
  Tensor& input(const std::string& name);
  const Tensor& output(const std::string& name) const;
  // As StateStore::get().
  Tensor& state(const std::string& name);
  StateStore& states();
  void run();
  // As run(); returns the seconds that the instructions took: on a device, without the copies of inputs and outputs.
  double run_timed();
  // As run(), calling `watch(instruction index, seconds)` after each instruction (the profiler).
  void run_profiled(const std::function<void(int, double)>& watch);
  const Executable& executable() const;
 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Executables of one graph family, one per size of a named dim ("seq", "batch"), compiled at first use and kept. Thread-safe.
class Buckets {
 public:
  using Build = std::function<ExecutablePtr(std::int64_t size)>;
  // `sizes` ascending. Fails if empty.
  Buckets(std::string dim, std::vector<std::int64_t> sizes, Build build);
  // The executable of the smallest bucket >= size; fails naming dim and the largest bucket if there is none.
  ExecutablePtr get(std::int64_t size);
  std::int64_t bucket(std::int64_t size) const;
  const std::vector<std::int64_t>& sizes() const { return sizes_; }
 private:
  struct Impl;
  std::string dim_;
  std::vector<std::int64_t> sizes_;
  std::shared_ptr<Impl> impl_;
};

}  // namespace rhetor
