// Shapes with optionally named dims, and the type (dtype + shape) of a value.
//
// A dim's name ("batch", "seq", "heads", "vocab", ...) is a label for people, buckets and sharding; two
// shapes are equal when their sizes are equal.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/dtype.h"

namespace rhetor {

// An interned name: cheap to copy and compare. 0 is "no name". Interning is thread-safe.
class DimName {
 public:
  constexpr DimName() = default;
  DimName(std::string_view text);  // NOLINT(google-explicit-constructor): Dim{8, "batch"} reads well
  DimName(const char* text) : DimName(std::string_view(text)) {}
  std::string_view text() const;
  constexpr bool empty() const { return id_ == 0; }
  constexpr bool operator==(const DimName&) const = default;

 private:
  std::uint16_t id_ = 0;
};

struct Dim {
  std::int64_t size = 1;
  DimName name;
  constexpr Dim() = default;
  template <class I> requires std::is_integral_v<I>
  constexpr Dim(I n) : size(static_cast<std::int64_t>(n)) {}  // NOLINT
  Dim(std::int64_t n, DimName label) : size(n), name(label) {}
};

class Shape {
 public:
  static constexpr int kMaxRank = 8;
  Shape() = default;  // a scalar
  Shape(std::initializer_list<Dim> dims) : Shape(std::span<const Dim>(dims.begin(), dims.size())) {}
  explicit Shape(std::span<const Dim> dims);             // fails if rank > 8 or a size is negative
  explicit Shape(const std::vector<std::int64_t>& sizes);

  int rank() const { return rank_; }
  std::int64_t operator[](int i) const { return dims_[static_cast<std::size_t>(i)].size; }
  // Negative i counts from the end, as in dim(-1).
  const Dim& dim(int i) const { return dims_[static_cast<std::size_t>(i < 0 ? i + rank_ : i)]; }
  void set_dim(int i, Dim dim) { dims_[static_cast<std::size_t>(i < 0 ? i + rank_ : i)] = dim; }
  std::int64_t last() const { return rank_ ? dims_[static_cast<std::size_t>(rank_ - 1)].size : 1; }
  std::int64_t elements() const;
  // Product of the sizes of dims [begin, end).
  std::int64_t elements(int begin, int end) const;
  std::span<const Dim> dims() const { return {dims_.data(), static_cast<std::size_t>(rank_)}; }
  std::vector<std::int64_t> sizes() const;
  // Row-major strides, in elements.
  std::vector<std::int64_t> strides() const;
  void append(Dim dim);
  bool operator==(const Shape& other) const;
  std::string str() const;  // "[batch:8,128,64]"

 private:
  std::array<Dim, kMaxRank> dims_{};
  int rank_ = 0;
};

struct Type {
  DType dtype = DType::f32;
  Shape shape;
  std::int64_t elements() const { return shape.elements(); }
  std::size_t bytes() const { return static_cast<std::size_t>(elements()) * byte_size(dtype); }
  bool operator==(const Type&) const = default;
  std::string str() const;  // "f32[batch:8,128,64]"
};

// Numpy broadcasting of two shapes; fails with both shapes in the message.
Shape broadcast_shapes(const Shape& a, const Shape& b);
// `axis` in [-rank, rank) -> [0, rank); fails naming `what`.
int normalize_axis(std::int64_t axis, int rank, std::string_view what);

}  // namespace rhetor
