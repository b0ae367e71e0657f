// Runs an f32 kernel on bf16 or f16 buffers: operands are widened into scratch, results narrowed from it.
#pragma once

#include "cpu/kernel.h"

namespace rhetor {

// The request with every bf16 and f16 type (and constant) turned into f32. Keeps the converted constants alive.
struct WidenedRequest {
  explicit WidenedRequest(const KernelRequest& request);
  std::vector<Tensor> constants;
  KernelRequest request;
};
// "" if some operand or result is bf16 or f16 and none is f64.
std::string refuse_widening(const KernelRequest& request);
// `inner` was prepared for WidenedRequest{request}.request.
Kernel widened_kernel(const KernelRequest& request, Kernel inner);

}  // namespace rhetor
