// Products with group-wise int4 weights (ops/int4.cc): packed panels, exact i32 sums a group, one f32 multiply-add a group.
//
// A panel is 32 columns. For each group of 32 k: 32 f16 scales (64 bytes), then for both halves of 16 columns four lines of 64 bytes; a
// line holds 8 k of 16 columns, byte 4 c + b having k = b in its low and k = 4 + b in its high nibble, so one mask or one shift gives
// the operand of a four-way byte product. A thread reads its panels as one stream.
// Every kernel does the same f32 operations in the same order (groups ascending): results do not depend on the instruction set, on
// the number of rows or on the threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "tensor/tensor.h"

namespace rhetor {

constexpr std::int64_t kI4Columns = 32, kI4GroupBytes = 576;

struct I4Shape {
  std::int64_t n = 0, groups = 0;  // k = 32 groups
  std::int64_t k() const { return 32 * groups; }
  std::int64_t panels() const { return (n + kI4Columns - 1) / kI4Columns; }
  std::int64_t panel_bytes() const { return groups * kI4GroupBytes; }
  std::uint64_t bytes() const { return static_cast<std::uint64_t>(panels() * panel_bytes()); }
};

// All panels of wq u8 [n, k/2] and w_scale f16 [n, k/32]; shared with every kernel that packs equal weights.
std::shared_ptr<void> shared_i4_panels(const I4Shape& shape, const Tensor& wq, const Tensor& w_scale);

// `rows` rows of one panel into tile [rows][32]. x i8 rows k apart, x_scale and shift rows `groups` apart.
using I4Rows = void (*)(const std::uint8_t* panel, std::int64_t groups, const std::int8_t* x, const float* x_scale, const std::int32_t* shift,
                        int rows, float* tile);
void i4_rows_vnni(const std::uint8_t*, std::int64_t, const std::int8_t*, const float*, const std::int32_t*, int, float*);
void i4_rows_avx2(const std::uint8_t*, std::int64_t, const std::int8_t*, const float*, const std::int32_t*, int, float*);
// The most rows a call of I4Rows takes.
constexpr int kI4VnniRows = 6, kI4Avx2Rows = 2;

// `groups` groups of a panel as bf16 panels of tiles (cpu/tiles.h): 2 KiB a group, weights times scales. REQUIRES: AVX512_BF16.
void i4_to_tiles(const std::uint8_t* panel, std::int64_t groups, std::byte* to);
// As f32 rows of 32 columns, k after k.
void i4_to_floats(const std::uint8_t* panel, std::int64_t groups, float* to);

// shift[g] = -8 sum of x over group g: what the nibbles' offset adds to a sum.
void i4_shifts(const std::int8_t* x, std::int64_t groups, std::int32_t* shift);

}  // namespace rhetor
