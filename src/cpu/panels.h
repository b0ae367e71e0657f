// Our own products with packed constant weights, for few rows (decoding: bound by reading the weights once) and for exact int8
// everywhere. Weights are cut into panels of a few vectors of columns; inside a panel one step of k is contiguous, so a thread
// reads its panels as one stream.
//   f32, bf16:  c[m, n] = sum_k a[m, k] w[k, n]; bf16 weights stay bf16 in memory and are widened in registers
//   int8:       exact i32 sums, then scaled by x_scale[m] w_scale[n]
#pragma once

#include <cstdint>
#include <memory>

#include "tensor/tensor.h"

namespace rhetor {

enum class PanelKind {
  f32,
  bf16,      // two columns a 32-bit lane
  i8_pairs,  // two steps of k a 16-bit lane pair: widened to i16, vpmaddwd
  i8_quads,  // four steps of k a 32-bit lane: VNNI
};

struct PanelShape {
  PanelKind kind = PanelKind::f32;
  std::int64_t k = 0, n = 0;
  std::int64_t cols = 0;          // columns of a panel: four vectors
  std::int64_t panels = 0, panel_bytes = 0;
  std::uint64_t bytes() const { return static_cast<std::uint64_t>(panels * panel_bytes); }
};
PanelShape panel_shape(PanelKind kind, std::int64_t k, std::int64_t n);

// Panels [begin, end) of w, element (k, n) at w[k * row_stride + n * col_stride]. Columns past n and steps past k are zeros.
// sums (int8 only): per column, 128 times the sum over k.
void pack_panels(const PanelShape& shape, const void* w, std::int64_t row_stride, std::int64_t col_stride, std::int64_t begin,
                 std::int64_t end, void* to, std::int32_t* sums);

// All of a constant weight's panels, followed (64-byte aligned) by `sums_bytes` of sums if that is not zero; shared with every kernel
// of the process that packs an equal weight (cpu/pack_cache.h).
std::shared_ptr<void> shared_panels(const PanelShape& shape, const Tensor& w, std::int64_t row_stride, std::int64_t col_stride,
                                    std::uint64_t sums_bytes = 0);

struct PanelRun {
  const PanelShape* shape;
  const void* weights;             // packed
  const void* a;                   // f32, bf16: f32 [m, k]. int8: as prepared by prepare_i8_rows
  std::int64_t m;
  void* c;                         // [m, n] of `c_dtype`: f32, bf16 or f16
  DType c_dtype;
  const float *x_scale, *w_scale;  // int8
  const std::int32_t* sums;        // int8 quads
};
void run_panels(const PanelRun& run, std::int64_t panel_begin, std::int64_t panel_end);
// panels_vnni.cc; REQUIRES AVX512_VNNI.
void run_panels_vnni(const PanelRun& run, std::int64_t panel_begin, std::int64_t panel_end);

// The form in which int8 kernels read activations: rows padded to a multiple of four; i16 for pairs, unsigned (+128) for quads.
std::int64_t i8_row_bytes(const PanelShape& shape);
void prepare_i8_rows(const PanelShape& shape, const std::int8_t* x, std::int64_t row_begin, std::int64_t row_end, void* to);

// convert.cc: n floats of a dtype (f32, bf16, f16) to f32 and back.
void widen(DType from, const void* x, float* y, std::int64_t n);
void narrow(const float* x, DType to, void* y, std::int64_t n);

}  // namespace rhetor
