// Index arithmetic for reference implementations: clear, not fast.
#pragma once

#include <array>
#include <cstdint>

#include "graph/op.h"

namespace rhetor {

using Index = std::array<std::int64_t, Shape::kMaxRank>;

// Calls f(flat, index) for every element of `shape` in row-major order.
template <class F>
void each_index(const Shape& shape, F&& f) {
  const std::int64_t count = shape.elements();
  Index index{};
  for (std::int64_t flat = 0; flat < count; ++flat) {
    f(static_cast<std::size_t>(flat), static_cast<const Index&>(index));
    for (int d = shape.rank() - 1; d >= 0; --d) {
      if (++index[static_cast<std::size_t>(d)] < shape[d]) break;
      index[static_cast<std::size_t>(d)] = 0;
    }
  }
}

// Row-major position of `index` in `shape`.
inline std::size_t flat_index(const Shape& shape, const Index& index) {
  std::int64_t flat = 0;
  for (int d = 0; d < shape.rank(); ++d) flat = flat * shape[d] + index[static_cast<std::size_t>(d)];
  return static_cast<std::size_t>(flat);
}

// to[o] = from[i], whatever the element kind. REQUIRES: both are of one kind (float or not).
template <class T>
void copy_element(RefTensor<T>& to, std::size_t o, const RefTensor<T>& from, std::size_t i) {
  if (is_float(to.type.dtype)) to.f[o] = from.f[i];
  else to.i[o] = from.i[i];
}

}  // namespace rhetor
