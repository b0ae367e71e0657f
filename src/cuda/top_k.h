// The k largest of every row (top_k.cu).
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace rhetor::gpu {

struct TopKProblem {
  std::int64_t rows = 1, size = 1, k = 1;
  DType dtype = DType::f32;
};
std::uint64_t top_k_scratch(const TopKProblem& p);
void top_k(const TopKProblem& p, const void* x, void* values, void* indices, void* scratch, void* stream);

}  // namespace rhetor::gpu
