#include "comm/reduce.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace rhetor {
namespace {

// What a sum of T is kept in: f32 for the narrow floats, unsigned of the same width for integers (which wrap).
template <class T> struct Wide { using type = T; };
template <> struct Wide<f16> { using type = float; };
template <> struct Wide<bf16> { using type = float; };
template <> struct Wide<f8e4m3> { using type = float; };
template <> struct Wide<f8e5m2> { using type = float; };

template <class T>
auto widen(T value) {
  if constexpr (requires { value.to_float(); }) return value.to_float();
  else return value;
}
template <class T, class W>
T narrow(W value) {
  if constexpr (requires { T::from_float(0.0f); }) return T::from_float(value);
  else return static_cast<T>(value);
}

template <class W>
W combine(Reduce op, W a, W b) {
  switch (op) {
    case Reduce::max: return (a < b || b != b) ? b : a;   // a NaN, once met, stays
    case Reduce::min: return (b < a || b != b) ? b : a;
    default: break;
  }
  if constexpr (std::is_integral_v<W> && !std::is_same_v<W, bool>) {
    using U = std::make_unsigned_t<W>;
    return static_cast<W>(static_cast<U>(static_cast<U>(a) + static_cast<U>(b)));
  } else {
    return static_cast<W>(a + b);
  }
}

// Elements combined at a time: the partial sums stay in the first-level cache while the ranks are read one after another.
constexpr std::int64_t kBlock = 2048;

template <class T, Reduce op>
void reduce_as(std::span<const std::byte* const> inputs, std::byte* out, std::int64_t count) {
  using W = typename Wide<T>::type;
  std::array<W, kBlock> sum;
  std::array<T, kBlock> narrow_block;
  for (std::int64_t begin = 0; begin < count; begin += kBlock) {
    const auto length = static_cast<std::size_t>(std::min(kBlock, count - begin));
    const std::size_t offset = static_cast<std::size_t>(begin) * sizeof(T);
    for (std::size_t r = 0; r < inputs.size(); ++r) {
      // Through a local copy: messages need not be aligned for T.
      std::memcpy(narrow_block.data(), inputs[r] + offset, length * sizeof(T));
      if (r == 0)
        for (std::size_t i = 0; i < length; ++i) sum[i] = widen(narrow_block[i]);
      else
        for (std::size_t i = 0; i < length; ++i) sum[i] = combine<W>(op, sum[i], widen(narrow_block[i]));
    }
    if constexpr (op == Reduce::mean) {
      const auto ranks = static_cast<W>(inputs.size());
      for (std::size_t i = 0; i < length; ++i) sum[i] = static_cast<W>(sum[i] / ranks);
    }
    for (std::size_t i = 0; i < length; ++i) narrow_block[i] = narrow<T>(sum[i]);
    std::memcpy(out + offset, narrow_block.data(), length * sizeof(T));
  }
}

}  // namespace

void check_reducible(Reduce op, DType dtype, std::string_view tensor) {
  if (op == Reduce::mean && !is_float(dtype))
    fail("'{}': the mean of {} over ranks is not defined; reduce the sum, or give floats", tensor, name(dtype));
  if (op == Reduce::sum && dtype == DType::boolean)
    fail("'{}': the sum of booleans over ranks is not defined; use max (any) or min (all)", tensor);
}

void reduce_ranks(Reduce op, DType dtype, std::span<const std::byte* const> inputs, std::byte* out, std::int64_t count) {
  dispatch(dtype, [&]<class T>(T) {
    switch (op) {
      case Reduce::sum: return reduce_as<T, Reduce::sum>(inputs, out, count);
      case Reduce::mean:
        if constexpr (is_float(dtype_v<T>)) reduce_as<T, Reduce::mean>(inputs, out, count);
        return;
      case Reduce::max: return reduce_as<T, Reduce::max>(inputs, out, count);
      case Reduce::min: return reduce_as<T, Reduce::min>(inputs, out, count);
    }
  });
}

}  // namespace rhetor
