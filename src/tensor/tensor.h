// Tensor: a typed, row-major, 64-byte-aligned block of host memory, or a view into one.
//
// Copying a Tensor copies the handle, not the data; clone() copies the data. Thread-safety: handles may
// be copied freely; concurrent writes to the same elements are the caller's business.
// Invariants: 1. data is contiguous and row-major; 2. storage outlives every handle and view on it.
#pragma once

#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "tensor/dtype.h"
#include "tensor/shape.h"

namespace rhetor {

class Tensor {
 public:
  Tensor() = default;  // no data; defined() is false
  // Zero-filled.
  explicit Tensor(Type type);
  Tensor(DType dtype, Shape shape) : Tensor(Type{dtype, shape}) {}
  // Not initialised: for buffers that are written in full next.
  static Tensor uninitialized(Type type);
  // A view of memory that `owner` keeps alive. REQUIRES: type.bytes() readable (and writable if used so).
  static Tensor view(Type type, void* data, std::shared_ptr<const void> owner);
  // From values in row-major order; fails if the count does not match.
  template <class T>
  static Tensor of(Shape shape, const std::vector<T>& values);
  template <class T>
  static Tensor scalar(T value) { return of<T>(Shape{}, {value}); }
  // From doubles, rounded to `type.dtype`.
  static Tensor from_doubles(Type type, std::span<const double> values);

  bool defined() const { return data_ != nullptr; }
  const Type& type() const { return type_; }
  DType dtype() const { return type_.dtype; }
  const Shape& shape() const { return type_.shape; }
  std::int64_t elements() const { return type_.elements(); }
  std::size_t bytes() const { return type_.bytes(); }
  void* raw() { return data_; }
  const void* raw() const { return data_; }

  // Typed access. REQUIRES: T is the storage type of dtype() (checked).
  template <class T> std::span<T> data() {
    check(dtype_v<T> == dtype(), "Tensor::data<T> with the wrong element type");
    return {static_cast<T*>(data_), static_cast<std::size_t>(elements())};
  }
  template <class T> std::span<const T> data() const {
    check(dtype_v<T> == dtype(), "Tensor::data<T> with the wrong element type");
    return {static_cast<const T*>(data_), static_cast<std::size_t>(elements())};
  }
  double at(std::int64_t flat_index) const;      // any dtype, as double
  void set(std::int64_t flat_index, double value);
  std::vector<double> to_doubles() const;

  Tensor clone() const;
  Tensor cast(DType dtype) const;                   // always a copy
  Tensor reshaped(Shape shape) const;               // a view; same element count or fails
  Tensor rows(std::int64_t begin, std::int64_t end) const;  // a view of [begin, end) of dim 0
  std::string str(int max_elements = 16) const;      // "f32[2,2] {1, 2, 3, 4}"

 private:
  Type type_;
  void* data_ = nullptr;
  std::shared_ptr<const void> owner_;
};

template <class T>
Tensor Tensor::of(Shape shape, const std::vector<T>& values) {
  Tensor out = uninitialized({dtype_v<T>, shape});
  if (static_cast<std::int64_t>(values.size()) != out.elements())
    fail("{} values given for a tensor of shape {}", values.size(), shape.str());
  auto to = out.data<T>();
  for (std::size_t i = 0; i < values.size(); ++i) to[i] = values[i];
  return out;
}

// Named tensors in a stable order: parameters, states, results.
using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

}  // namespace rhetor
