#include "tensor/tensor.h"

#include <cstdlib>
#include <new>

namespace rhetor {

Tensor Tensor::uninitialized(Type type) {
  Tensor out;
  // At least one byte: an empty tensor is still "defined".
  const std::size_t bytes = (std::max<std::size_t>(type.bytes(), 1) + 63) / 64 * 64;
  void* memory = std::aligned_alloc(64, bytes);
  if (!memory) fail(ErrorKind::resource, "out of memory: {} bytes for a tensor {}", bytes, type.str());
  out.owner_ = std::shared_ptr<const void>(memory, [](const void* p) { std::free(const_cast<void*>(p)); });
  out.data_ = memory;
  out.type_ = type;
  return out;
}

Tensor::Tensor(Type type) : Tensor(uninitialized(type)) { std::memset(data_, 0, type_.bytes()); }

Tensor Tensor::view(Type type, void* data, std::shared_ptr<const void> owner) {
  Tensor out;
  out.type_ = type;
  out.data_ = data;
  out.owner_ = std::move(owner);
  return out;
}

Tensor Tensor::from_doubles(Type type, std::span<const double> values) {
  Tensor out = uninitialized(type);
  if (static_cast<std::int64_t>(values.size()) != out.elements())
    fail("{} values given for a tensor of type {}", values.size(), type.str());
  dispatch(type.dtype, [&](auto zero) {
    using T = decltype(zero);
    auto to = out.data<T>();
    for (std::size_t i = 0; i < values.size(); ++i) to[i] = from_double<T>(values[i]);
  });
  return out;
}

double Tensor::at(std::int64_t i) const {
  check(i >= 0 && i < elements(), "Tensor::at outside the tensor");
  return dispatch(dtype(), [&](auto zero) { return to_double(data<decltype(zero)>()[static_cast<std::size_t>(i)]); });
}

void Tensor::set(std::int64_t i, double value) {
  check(i >= 0 && i < elements(), "Tensor::set outside the tensor");
  dispatch(dtype(), [&](auto zero) {
    using T = decltype(zero);
    data<T>()[static_cast<std::size_t>(i)] = from_double<T>(value);
  });
}

std::vector<double> Tensor::to_doubles() const {
  std::vector<double> out;
  out.reserve(static_cast<std::size_t>(elements()));
  dispatch(dtype(), [&](auto zero) {
    for (auto value : data<decltype(zero)>()) out.push_back(to_double(value));
  });
  return out;
}

Tensor Tensor::clone() const {
  Tensor out = uninitialized(type_);
  if (bytes()) std::memcpy(out.data_, data_, bytes());
  return out;
}

Tensor Tensor::cast(DType target) const {
  if (target == dtype()) return clone();
  Tensor out = uninitialized({target, shape()});
  dispatch(dtype(), [&](auto from_zero) {
    dispatch(target, [&](auto to_zero) {
      using From = decltype(from_zero);
      using To = decltype(to_zero);
      auto from = data<From>();
      auto to = out.data<To>();
      for (std::size_t i = 0; i < from.size(); ++i) {
        if constexpr (std::is_integral_v<From> && std::is_integral_v<To>) to[i] = static_cast<To>(from[i]);
        else if constexpr (std::is_same_v<To, bool>) to[i] = to_double(from[i]) != 0.0;
        else to[i] = from_double<To>(to_double(from[i]));
      }
    });
  });
  return out;
}

Tensor Tensor::reshaped(Shape shape) const {
  if (shape.elements() != elements())
    fail("cannot view {} as {}: {} against {} elements", type_.str(), shape.str(), elements(), shape.elements());
  return view({dtype(), shape}, data_, owner_);
}

Tensor Tensor::rows(std::int64_t begin, std::int64_t end) const {
  if (shape().rank() == 0 || begin < 0 || end < begin || end > shape()[0])
    fail("rows [{}, {}) are outside {}", begin, end, type_.str());
  Type part = type_;
  const std::size_t row = static_cast<std::size_t>(shape().elements(1, shape().rank())) * byte_size(dtype());
  part.shape.set_dim(0, Dim(end - begin, shape().dim(0).name));
  return view(part, static_cast<char*>(data_) + row * static_cast<std::size_t>(begin), owner_);
}

std::string Tensor::str(int max_elements) const {
  if (!defined()) return "undefined";
  std::string out = type_.str() + " {";
  const std::int64_t shown = std::min<std::int64_t>(elements(), max_elements);
  for (std::int64_t i = 0; i < shown; ++i) out += (i ? ", " : "") + fmt::format("{:.6g}", at(i));
  if (shown < elements()) out += ", ...";
  return out + "}";
}

}  // namespace rhetor
