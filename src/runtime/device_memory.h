// Tensors in a device's memory: weights shared by all executables of the process; and host tensors that copy there without waiting.
#pragma once

#include <memory>

#include "cuda/cuda.h"
#include "tensor/tensor.h"

namespace rhetor {

// The tensor's bytes on the device: one block for equal contents while somebody holds it (prefill and decode of one model ask for the
// same weights). Thread-safe.
std::shared_ptr<void> on_device(const CudaDevice& device, const Tensor& tensor);
// A zero-filled tensor in pinned host memory.
Tensor pinned_tensor(const CudaDevice& device, const Type& type);

}  // namespace rhetor
