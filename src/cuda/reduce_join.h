// How two values are joined by each kind of reduction, and in what type. Device code.
#pragma once

#include <limits>

#include "cuda/reduce.h"
#include "cuda/row_kernels.h"

namespace rhetor::gpu {

// Calls f with a zero of the device type of a number (bool: u8).
template <class F>
void with_number(DType dtype, F&& f) {
  if (dtype == DType::i64) f(std::int64_t{});
  else if (dtype == DType::i32) f(std::int32_t{});
  else if (dtype == DType::i8) f(std::int8_t{});
  else if (dtype == DType::u8 || dtype == DType::boolean) f(std::uint8_t{});
  else with_any_float(dtype, static_cast<F&&>(f));
}
template <ReduceKind kind> using KindConstant = std::integral_constant<ReduceKind, kind>;
// Calls f with the kind as a constant; not for squares.
template <class F>
void with_kind(ReduceKind kind, F&& f) {
  if (kind == ReduceKind::max) f(KindConstant<ReduceKind::max>{});
  else if (kind == ReduceKind::min) f(KindConstant<ReduceKind::min>{});
  else f(KindConstant<ReduceKind::sum>{});
}

#ifdef __CUDACC__
// What elements of T are joined in: f32 for narrow floats; integers as they are, sums wrapping.
template <class T>
using Joined = std::conditional_t<std::is_integral_v<T>, T, Sum<T>>;
template <ReduceKind kind, class T>
using Reduced = std::conditional_t<kind == ReduceKind::squares, Joined<T>, T>;

template <ReduceKind kind>
struct Join {
  // B: a shuffle widens narrow integers.
  template <class A, class B>
  __device__ A operator()(A a, B other) const {
    const A b = static_cast<A>(other);
    if constexpr (kind == ReduceKind::max) return a < b || b != b ? b : a;   // NaN wins
    else if constexpr (kind == ReduceKind::min) return b < a || b != b ? b : a;
    else if constexpr (std::is_integral_v<A>) return static_cast<A>(static_cast<std::uint64_t>(a) + static_cast<std::uint64_t>(b));
    else return a + b;
  }
};
template <ReduceKind kind, class A>
constexpr A neutral() {
  using Limits = std::numeric_limits<A>;
  if constexpr (kind == ReduceKind::max) return Limits::has_infinity ? -Limits::infinity() : Limits::lowest();
  else if constexpr (kind == ReduceKind::min) return Limits::has_infinity ? Limits::infinity() : Limits::max();
  else return A(0);
}
template <ReduceKind kind, class T>
__device__ inline Joined<T> element(T x) {
  if constexpr (std::is_integral_v<T>) return x;
  else if constexpr (kind == ReduceKind::squares) return widen(x) * widen(x);
  else return widen(x);
}
template <class Out, class A>
__device__ inline Out finished(A value, A divisor) {
  if constexpr (std::is_integral_v<A>) return value;
  else return narrowed<Out>(value / divisor);
}
#endif

}  // namespace rhetor::gpu
