// The inner parts of attention backward by AMX tiles (attention_grad_amx.cc). A square is 32 x 32 floats, rows 32 apart; operands are
// tiles as cpu/tiles.h lays them: in a step of 32 along what is summed over the parts (bf16: 1, f32: 3), in a part two tiles of 16.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor/dtype.h"

namespace rhetor {

// c = or += a b over `steps`. REQUIRES: amx::Tiles (cpu/amx.h) alive on this thread.
void grad_square(int parts, const std::byte* a, const std::byte* b, std::int64_t steps, float* c, bool accumulate);

// 32 keys by 32 queries.
struct GradSquare {
  const float *s, *dp;            // q . k and d_o . v
  const float *lse, *delta;       // [32], of the queries
  const std::int32_t* end;        // [32], keys that a query sees
  std::int64_t key;               // the first of the 32
  float scale;
  std::byte *p, *ds, *ds_turned;  // one step each: a's tiles summing over queries, twice; b's summing over keys
};
// P = exp(scale s - lse) and dS = P (dp - delta), both 0 where the query does not see the key.
void grad_probabilities(int parts, const GradSquare& square);

// delta[i] = d_o_i . o_i of rows of d elements, `stride` apart.
void grad_delta(DType dtype, const void* d_o, const void* o, std::int64_t stride, std::int64_t rows, std::int64_t d, float* delta);
// to[i, j] = factor square[i, j], or factor square[j, i]; rows `stride` elements apart.
void grad_write(const float* square, float factor, DType dtype, void* to, std::int64_t stride, std::int64_t rows, std::int64_t cols);
void grad_write_turned(const float* square, float factor, DType dtype, void* to, std::int64_t stride, std::int64_t rows, std::int64_t cols);

}  // namespace rhetor
