// Kernels generated for a group of pointwise, broadcast, cast and dropout nodes: CUDA C++ source made from the graph, compiled for the
// device at hand by NVRTC, kept in the cache folder by a hash of source, device and compiler. Every operand is read once, every result
// written once; arithmetic as in cpu/program.h (f32 for f32, bf16 and f16; intermediates are not rounded, an explicit cast is).
// Thread-safe; launching allocates nothing.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cuda/cuda.h"
#include "graph/graph.h"

namespace rhetor::gpu {

class GeneratedKernel {
 public:
  virtual ~GeneratedKernel() = default;
  // in[k] is operand k of generate_pointwise()'s `inputs`, out[k] its result k; device pointers. A result may be the same buffer as an operand of the
  // same shape and element size.
  virtual void launch(const void* const* in, void* const* out, void* stream) const = 0;
  virtual const std::string& text() const = 0;   // what it does, for rhetor explain: "add, gelu, store bf16"
};
using GeneratedPtr = std::shared_ptr<const GeneratedKernel>;

// Can it be expressed? "" or the reason as a clause. Cheap: compiles nothing. Arguments as of compile_program() (cpu/program.h).
std::string refuse_pointwise(const Graph& body, const std::vector<ValueId>& inputs, const std::vector<ValueId>& outputs,
                             const std::vector<DType>& storage = {});
// REQUIRES: not refused. Fails (unsupported) where NVRTC is missing.
GeneratedPtr generate_pointwise(const CudaDevice& device, const Graph& body, const std::vector<ValueId>& inputs,
                                const std::vector<ValueId>& outputs, const std::vector<DType>& storage = {});

}  // namespace rhetor::gpu
