// Row-wise int8: the building blocks of quantize_rows, dequantize_rows and of scaled integer products.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace rhetor {

// out[i] = sums[i] x_scale w_scale[i], in f32, bf16 or f16.
void scale_sums(const std::int32_t* sums, float x_scale, const float* w_scale, DType dtype, void* out, std::int64_t n);
// q = round(x / scale), half to even, scale = max|x| / 127 (1 if all are 0); returns the scale. x: f32, bf16 or f16.
float quantize_row(DType dtype, const void* x, std::int8_t* q, std::int64_t n);
// out[i] = q[i] scale.
void dequantize_row(const std::int8_t* q, float scale, DType dtype, void* out, std::int64_t n);

}  // namespace rhetor
