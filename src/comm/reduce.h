// The arithmetic of reductions: one order, whatever carried the data.
#pragma once

#include <cstddef>
#include <span>

#include "comm/communicator.h"

namespace rhetor {

// Fails when `op` has no meaning for `dtype` (the mean of integers, the sum of booleans).
void check_reducible(Reduce op, DType dtype, std::string_view tensor);

// out[i] = inputs[0][i] op inputs[1][i] op .. in this order. Narrow floats are combined in f32 and rounded once; integers wrap; a NaN
// stays one; mean is sum / inputs.size(). `out` may be one of the inputs, otherwise they do not overlap.
// REQUIRES: inputs is not empty, check_reducible holds.
void reduce_ranks(Reduce op, DType dtype, std::span<const std::byte* const> inputs, std::byte* out, std::int64_t count);

}  // namespace rhetor
