// What references and kernels of FP8 and of stochastic rounding share.
#pragma once

#include <bit>
#include <cstdint>

#include "tensor/dtype.h"

namespace rhetor {

// The scale of quantize_f8 for a tensor whose greatest magnitude is `greatest`: a power of two.
double f8_scale(DType dtype, double greatest);

// x rounded to one of its neighbours in bf16, by the upper 16 bits of `word`. NaN stays NaN, infinities stay.
constexpr bf16 stochastic_bf16(float x, std::uint32_t word) {
  const auto u = std::bit_cast<std::uint32_t>(x);
  if ((u & 0x7f800000u) == 0x7f800000u) return bf16::from_float(x);
  return {static_cast<std::uint16_t>((u + (word >> 16)) >> 16)};
}

}  // namespace rhetor
