// Launchers of changes between floats and quantised rows, groups and tensors; as ops/cast.cc, ops/int4.cc and ops/float8.cc
// define them.
#pragma once

#include "cuda/launch.h"

namespace rhetor::gpu {

// x [rows, cols] of `from` -> q i8, scale f32 [rows].
void quantize_rows(std::int64_t rows, std::int64_t cols, DType from, const void* x, void* q, void* scale, void* stream);
// q i8 [rows, cols] times scale f32 [rows].
void dequantize_rows(std::int64_t rows, std::int64_t cols, DType to, const void* q, const void* scale, void* out, void* stream);
// q u8 [elements / 2] times scale f16 [elements / 32].
void dequantize_i4(std::int64_t elements, DType to, const void* q, const void* scale, void* out, void* stream);

// Whole tensors in f8e4m3 or f8e5m2. scratch: kF8Parts floats.
constexpr int kF8Parts = 1024;
void quantize_f8(std::int64_t elements, DType from, DType to, const void* x, void* q, void* scale, void* scratch, void* stream);
void dequantize_f8(std::int64_t elements, DType from, DType to, const void* q, const void* scale, void* out, void* stream);

// x f32 -> bf16 by the words of (*seed, stream_number), element i drawing word offset + i.
void stochastic_round(std::int64_t elements, std::uint64_t stream_number, std::uint64_t offset, const void* x, const void* seed,
                      void* out, void* stream);

}  // namespace rhetor::gpu
