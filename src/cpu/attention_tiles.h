// The bf16 block of attention: 32 queries against up to 128 keys of one head, in AMX tiles.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace rhetor {

constexpr std::int64_t kTileRows = 32, kTileKeys = 128;  // queries, keys of a block; keys are padded with zeros to whole 32s

// c[32, n] = or += a[32, 2 pairs] b[2 pairs, n], f32 sums of bf16 products. a: rows of bf16 pairs, lda pairs apart. b: pairs of rows
// interleaved, b[p][c] = {row 2p, row 2p + 1} of column c, ldb pairs apart. REQUIRES: pairs % 16 == 0, n % 32 == 0.
// REQUIRES: amx::Tiles (cpu/amx.h) alive on this thread.
void tile_product(const std::uint32_t* a, std::int64_t lda, const std::uint32_t* b, std::int64_t ldb, float* c, std::int64_t ldc, std::int64_t pairs,
                  std::int64_t n, bool accumulate);

// Keys [keys, d] (rows `stride` elements apart) to pairs [d/2][kTileKeys] and values to pairs [kTileKeys/2][d]. Those past `keys`, up
// to a multiple of 32, are zeros.
void pack_keys(const bf16* k, std::int64_t stride, std::int64_t keys, std::int64_t d, std::uint32_t* to);
void pack_values(const bf16* v, std::int64_t stride, std::int64_t keys, std::int64_t d, std::uint32_t* to);

// Rows of a block: scores s[kTileKeys] to p[kTileKeys] = 2^(factor s - top) in bf16, 0 from visible[i] to `padded`; top and sum are brought up
// to date and the rows o[d] of unfinished results rescaled. padded % 32 == 0.
void softmax_rows(const float* s, const std::int32_t* visible, std::int64_t rows, std::int64_t padded, float factor, float* top, float* sum, bf16* p,
                  float* o, std::int64_t d);
// to = o factor.
void finish_row(const float* o, float factor, bf16* to, std::int64_t d);

}  // namespace rhetor
