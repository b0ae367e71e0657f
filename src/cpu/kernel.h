// The kernel contract, of the CPU and of devices. A kernel is chosen once, when a graph is compiled: for each node the table's candidates are
// asked in order and the first that does not refuse prepares itself. Running is one plain function call.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/thread_pool.h"
#include "graph/graph.h"
#include "graph/op.h"

namespace rhetor {

struct CudaDevice;                           // cuda/cuda.h

// Pointers in operand/result order; an absent operand is null. Buffers are 64-byte aligned, contiguous. An output may be the
// same buffer as the operand named by Traits.inplace, never partly overlapping anything else.
struct KernelArgs {
  const void* const* in;
  void* const* out;
  void* scratch;
  ThreadPool& pool;
  void* stream = nullptr;                    // device kernels: the cudaStream_t to enqueue on; pointers are the device's then
};
using KernelFn = void (*)(const void* params, const KernelArgs& args);

struct KernelRequest {
  const Graph& graph;
  const Node& node;
  std::vector<Type> in, out;                 // absent operands: bool scalar
  std::vector<const Tensor*> constants;      // per operand: its data if known at compile time (params, constants), else null
  int threads = 1;
  const CudaDevice* device = nullptr;        // null: the CPU
};

struct Kernel {
  KernelFn run = nullptr;
  std::shared_ptr<const void> params;        // whatever `run` needs, packed weights included; immutable after preparation
  std::uint64_t scratch_bytes = 0;
  std::uint64_t packed_bytes = 0;            // packed weights it holds; may be shared with other kernels (cpu/pack_cache.h)
  std::vector<bool> absorbed;                // per operand: packed into params, its buffer is not read at run time
  std::string detail;                        // "oneDNN brgemm:avx512_core_amx, split n in 2"
  bool allocates = false;                    // the reference kernel and library calls that allocate inside
};

struct Candidate {
  std::string_view name;                     // "cpu.layer_norm.f32"
  // "" = can do it; otherwise the reason it cannot, as a clause: "needs avx512_bf16", "k is not a multiple of 4".
  std::string (*refuse)(const KernelRequest&);
  Kernel (*prepare)(const KernelRequest&);
};

struct KernelRow {
  std::string_view op;
  std::vector<Candidate> candidates;         // best first; the reference is always the implied last
};
// cpu/kernels.cc: the table of the CPU's kernels; the devices' is in cuda/cuda.h.
const std::vector<KernelRow>& kernel_table();
// One table of several families' rows: rows of one op are joined, the earlier family's candidates first.
std::vector<KernelRow> join_families(const std::vector<std::vector<KernelRow> (*)()>& families);

struct KernelRefusal {
  std::string candidate, reason;
};
struct ChosenKernel {
  std::string name;
  Kernel kernel;
  std::vector<KernelRefusal> refused;
};
// Never fails for a verified graph: the reference kernel takes what nobody else does. `only` (tests, tuning) restricts the choice
// to the candidate of that name and fails with its reason if it refuses.
ChosenKernel choose_kernel(const KernelRequest& request, std::string_view only = "");

// The choice in any table: asks the op's candidates in order, or the one called `only`, and prepares the first that accepts. False if none
// did, with their reasons in chosen.refused; fails where `only` is unknown or refuses.
bool choose_from(const std::vector<KernelRow>& table, const KernelRequest& request, std::string_view only, ChosenKernel& chosen);

// What the processor has, detected once; RHETOR_ISA=avx2|avx512|avx512_bf16|amx lowers it (tests run each level).
enum class Isa { avx2, avx512, avx512_bf16, amx };
Isa cpu_isa();
std::string cpu_description();               // "Intel Xeon ..., 2 cores, avx512_bf16 amx"

}  // namespace rhetor
