// A window swept over an image: what convolution (conv.cc) and pooling (pool.cc) share. Internal to them.
#pragma once

#include <fmt/format.h>

#include <array>

#include "ops/samples.h"

namespace rhetor {

using Ints = std::vector<std::int64_t>;

// One window sweep: what convolution and pooling share.
struct Window {
  std::array<std::int64_t, 2> kernel{}, stride{}, pad_before{}, pad_after{}, dilation{1, 1};
  // Number of places along spatial dim d over an input of `size`.
  std::int64_t places(std::size_t d, std::int64_t size) const {
    const std::int64_t span = dilation[d] * (kernel[d] - 1) + 1, room = size + pad_before[d] + pad_after[d] - span;
    return room < 0 ? 0 : room / stride[d] + 1;
  }
};

inline std::array<std::int64_t, 2> pair_attr(std::string_view op, const Attrs& attrs, std::string_view name, std::int64_t least) {
  constexpr std::int64_t most = 1 << 20;  // no image is larger; keeps the arithmetic far from overflow
  const Ints& v = attrs.ints(name);
  if (v.size() != 2 || std::min(v[0], v[1]) < least || std::max(v[0], v[1]) > most)
    fail("{}: the attribute '{}' must be two integers (height, width) of {} to {}, found [{}]", op, name, least, most,
         fmt::join(v, ", "));
  return {v[0], v[1]};
}

inline Window window_of(std::string_view op, const Attrs& attrs, std::array<std::int64_t, 2> kernel) {
  Window w{.kernel = kernel, .stride = pair_attr(op, attrs, "stride", 1), .pad_before = pair_attr(op, attrs, "pad_before", 0),
           .pad_after = pair_attr(op, attrs, "pad_after", 0)};
  if (attrs.has("dilation")) w.dilation = pair_attr(op, attrs, "dilation", 1);
  return w;
}

inline std::array<std::int64_t, 2> spatial(const Shape& shape) { return {shape[2], shape[3]}; }

inline std::array<Dim, 2> output_size(std::string_view op, const Window& w, const Shape& x) {
  std::array<Dim, 2> out;
  for (std::size_t d = 0; d < 2; ++d) {
    out[d] = w.places(d, x[static_cast<int>(d) + 2]);
    if (out[d].size < 1)
      fail("{}: the kernel ([{}], dilation [{}]) does not fit into operand 'x' {} padded by [{}] before and [{}] after", op,
           fmt::join(w.kernel, ", "), fmt::join(w.dilation, ", "), x.str(), fmt::join(w.pad_before, ", "),
           fmt::join(w.pad_after, ", "));
  }
  return out;
}

inline void expect_image(std::string_view op, std::string_view operand, const Type& type) {
  expect_float(op, operand, type);
  expect_rank(op, operand, type, 4);
}

// `specs` and one more.
inline std::vector<AttrSpec> with(std::vector<AttrSpec> specs, AttrSpec spec) {
  specs.push_back(std::move(spec));
  return specs;
}

// pool.cc: the pooling ops, which conv_ops() lists behind its own.
const std::vector<const OpDef*>& pool_ops();

}  // namespace rhetor
