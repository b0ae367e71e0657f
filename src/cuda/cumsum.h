// Running sums along an axis (cumsum.cu).
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace rhetor::gpu {

struct CumsumProblem {
  std::int64_t outer = 1, size = 1, inner = 1;   // x is [outer, size, inner] around the axis
  bool reverse = false;
  DType dtype = DType::f32;
};
void cumsum(const CumsumProblem& p, const void* in, void* out, void* stream);

}  // namespace rhetor::gpu
