// Launchers of the two steps around attention: rotary positions and writing rows into a cache.
#pragma once

#include "cuda/launch.h"

namespace rhetor::gpu {

// x, y [rows, heads, d], may be the same buffer; positions [rows] in i32 or i64; frequency: d / 2 f64, theta^(-2 i / d).
struct RopeProblem {
  std::int64_t rows = 0;
  int heads = 0, d = 0;
  DType dtype = DType::f32, index = DType::i32;
  bool inverse = false;
};
void rope(const RopeProblem& r, const void* x, const void* positions, const double* frequency, void* y, void* stream);

// cache, out [b, t] rows of `row_bytes`, fresh [b, s] rows; out may be the cache: then only the fresh rows move.
struct CacheWriteProblem {
  std::int64_t b = 0, t = 0, s = 0, row_bytes = 0;
  DType index = DType::i32;
};
void cache_write(const CacheWriteProblem& c, const void* cache, const void* fresh, const void* positions, void* out, void* stream);

}  // namespace rhetor::gpu
