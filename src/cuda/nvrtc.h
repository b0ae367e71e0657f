// Kernels compiled at run time from CUDA C++ (NVRTC), kept in the cache folder by a hash of source, device and compiler.
// Thread-safe.
#pragma once

#include <memory>
#include <string>

#include "cuda/cuda.h"

namespace rhetor::gpu {

// "" if NVRTC is there, else the reason as a clause.
const std::string& nvrtc_missing();

// Machine code for "sm_90" and the like; or, for a device newer than this NVRTC, PTX that the driver compiles. Fails (internal)
// with the compiler's messages where the source is wrong. Not cached.
std::string compile_cuda(const std::string& source, int compute);
// The same from the cache folder if it has it, else compiled and kept there. A damaged file is made again.
std::string cached_cuda(const std::string& source, int compute);

// One __global__ function, loaded.
class DeviceFunction {
 public:
  explicit DeviceFunction(const std::string& image, const std::string& name);
  // args[k] points at parameter k. Enqueues only.
  void launch(unsigned blocks, unsigned threads, void** args, void* stream) const;

 private:
  std::shared_ptr<void> library_;
  void* kernel_ = nullptr;
  std::string name_;
};

// The function `name` of the source, compiled unless this process or the cache folder has it. Fails (unsupported) without NVRTC.
std::shared_ptr<const DeviceFunction> device_function(const CudaDevice& device, const std::string& source,
                                                      const std::string& name);

}  // namespace rhetor::gpu
