// Shapes and per-task scratch of the attention kernels.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "cpu/kernel_util.h"

namespace rhetor {

// q [b,s,h,d], k and v [b,t,g,d]; see ops/attention.cc for the formula and the visibility rule.
struct AttentionShape {
  std::int64_t b = 0, s = 0, t = 0, h = 0, g = 0, d = 0;
  bool causal = false;
  float scale = 1;
  DType dtype = DType::f32;
  bool lengths = false, offsets = false;
  std::int64_t padded_d() const { return (d + 15) / 16 * 16; }
};

struct AttentionPointers {
  const void *q, *k, *v;
  const std::int32_t *lengths, *offsets;  // null: absent
};

// Queries of one block: the vector dimension of all products. Keys of one block: a multiple of the 6 rows of a micro-tile.
constexpr std::int64_t kQueries = 64, kKeys = 96;

// Keys that query i of batch b sees: [0, end).
inline std::int64_t visible_end(const AttentionShape& a, const AttentionPointers& p, std::int64_t b, std::int64_t i) {
  std::int64_t end = a.t;
  if (p.lengths) end = std::min<std::int64_t>(end, p.lengths[b]);
  if (a.causal) end = std::min(end, i + (p.offsets ? p.offsets[b] : a.t - a.s) + 1);
  return std::max<std::int64_t>(end, 0);
}

inline AttentionShape attention_shape(const KernelRequest& request, std::size_t q, std::size_t lengths) {
  const Shape &qs = request.in[q].shape, &ks = request.in[q + 1].shape;
  const double scale = request.node.attrs.f("scale");
  return {.b = qs[0], .s = qs[1], .t = ks[1], .h = qs[2], .g = ks[2], .d = qs[3], .causal = request.node.attrs.b("causal"),
          .scale = static_cast<float>(scale == 0 ? 1 / std::sqrt(static_cast<double>(qs[3])) : scale), .dtype = request.in[q].dtype,
          .lengths = present(request, lengths), .offsets = present(request, lengths + 1)};
}

}  // namespace rhetor
