// Element types: the one list, their sizes and names, and exact conversions of the narrow floats.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>
#include <type_traits>

namespace rhetor {

enum class DType : std::uint8_t { f64, f32, f16, bf16, f8e4m3, f8e5m2, i64, i32, i8, u8, boolean };

struct DTypeInfo {
  std::string_view name;
  std::uint8_t bytes;
  bool is_float;
  // Distance from 1 to the next value; 0 for integers.
  double epsilon;
};

inline constexpr std::array<DTypeInfo, 11> kDTypes{{
    {"f64", 8, true, 2.220446049250313e-16},
    {"f32", 4, true, 1.1920928955078125e-07},
    {"f16", 2, true, 9.765625e-04},
    {"bf16", 2, true, 7.8125e-03},
    {"f8e4m3", 1, true, 0.125},
    {"f8e5m2", 1, true, 0.25},
    {"i64", 8, false, 0},
    {"i32", 4, false, 0},
    {"i8", 1, false, 0},
    {"u8", 1, false, 0},
    {"bool", 1, false, 0},
}};

constexpr const DTypeInfo& info(DType type) { return kDTypes[static_cast<std::size_t>(type)]; }
constexpr std::string_view name(DType type) { return info(type).name; }
constexpr std::size_t byte_size(DType type) { return info(type).bytes; }
constexpr bool is_float(DType type) { return info(type).is_float; }
constexpr bool is_integer(DType type) { return !is_float(type) && type != DType::boolean; }
constexpr double epsilon(DType type) { return info(type).epsilon; }

// The dtype called `text`; fails with the list of known names.
DType parse_dtype(std::string_view text);

// ---- narrow floats: storage types with exact widening and round-to-nearest-even narrowing ----------

// bfloat16: the upper half of an f32.
struct bf16 {
  std::uint16_t bits;
  static constexpr bf16 from_float(float value) {
    const auto u = std::bit_cast<std::uint32_t>(value);
    if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<std::uint16_t>(u >> 16 | 0x40)};  // quiet NaN
    return {static_cast<std::uint16_t>((u + 0x7fffu + (u >> 16 & 1)) >> 16)};
  }
  constexpr float to_float() const { return std::bit_cast<float>(std::uint32_t{bits} << 16); }
};

namespace detail {
// Rounds an f32 to a float with `E` exponent and `M` mantissa bits. `finite` formats (e4m3fn) have no
// infinity: overflow gives NaN, and the top exponent holds numbers.
template <int E, int M, bool finite>
constexpr std::uint16_t narrow(float value) {
  constexpr int bias = (1 << (E - 1)) - 1;
  constexpr std::uint32_t exp_mask = (1u << E) - 1;
  const auto u = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((u >> 31) << (E + M));
  const std::uint32_t magnitude = u & 0x7fffffffu;
  const auto nan = static_cast<std::uint16_t>(
      finite ? (exp_mask << M | ((1u << M) - 1)) : (exp_mask << M | 1u << (M - 1)));
  if (magnitude > 0x7f800000u) return sign | nan;
  const std::uint32_t largest = finite ? (exp_mask << M | ((1u << M) - 2)) : ((exp_mask << M) - 1);
  std::uint32_t bits = 0;
  const int exponent = static_cast<int>(magnitude >> 23) - 127 + bias;  // biased, target
  if (exponent > 0) {
    const std::uint32_t wide = (static_cast<std::uint32_t>(exponent) << 23) | (magnitude & 0x7fffffu);
    constexpr int drop = 23 - M;
    bits = (wide + (1u << (drop - 1)) - 1 + (wide >> drop & 1)) >> drop;
  } else if (exponent > -M - 1) {  // subnormal in the target
    const std::uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    const int drop = 23 - M + 1 - exponent;
    const std::uint32_t half = 1u << (drop - 1);
    bits = (mantissa + half - 1 + (mantissa >> drop & 1)) >> drop;
  }
  if (bits > largest) return sign | (finite ? nan : static_cast<std::uint16_t>(exp_mask << M));
  return sign | static_cast<std::uint16_t>(bits);
}

template <int E, int M, bool finite>
constexpr float widen(std::uint32_t bits) {
  constexpr int bias = (1 << (E - 1)) - 1;
  constexpr std::uint32_t exp_mask = (1u << E) - 1;
  const std::uint32_t sign = (bits >> (E + M) & 1) << 31;
  const std::uint32_t exponent = bits >> M & exp_mask;
  const std::uint32_t mantissa = bits & ((1u << M) - 1);
  if (finite && exponent == exp_mask && mantissa == (1u << M) - 1)
    return std::bit_cast<float>(sign | 0x7fc00000u);
  if (!finite && exponent == exp_mask)
    return std::bit_cast<float>(sign | 0x7f800000u | (mantissa ? 0x400000u | mantissa << (23 - M) : 0));
  if (exponent == 0) {
    const float scale = std::bit_cast<float>(static_cast<std::uint32_t>(127 + 1 - bias - M) << 23);
    const float value = static_cast<float>(mantissa) * scale;
    return sign ? -value : value;
  }
  return std::bit_cast<float>(sign | (exponent + 127 - bias) << 23 | mantissa << (23 - M));
}
}  // namespace detail

// IEEE binary16.
struct f16 {
  std::uint16_t bits;
  static constexpr f16 from_float(float v) { return {detail::narrow<5, 10, false>(v)}; }
  constexpr float to_float() const { return detail::widen<5, 10, false>(bits); }
};
// OCP FP8 E4M3 ("fn": finite, largest 448, one NaN pattern a sign).
struct f8e4m3 {
  std::uint8_t bits;
  static constexpr f8e4m3 from_float(float v) { return {static_cast<std::uint8_t>(detail::narrow<4, 3, true>(v))}; }
  constexpr float to_float() const { return detail::widen<4, 3, true>(bits); }
};
// OCP FP8 E5M2 (IEEE-like, largest 57344).
struct f8e5m2 {
  std::uint8_t bits;
  static constexpr f8e5m2 from_float(float v) { return {static_cast<std::uint8_t>(detail::narrow<5, 2, false>(v))}; }
  constexpr float to_float() const { return detail::widen<5, 2, false>(bits); }
};

template <class T> struct dtype_of;
template <> struct dtype_of<double> { static constexpr DType value = DType::f64; };
template <> struct dtype_of<float> { static constexpr DType value = DType::f32; };
template <> struct dtype_of<f16> { static constexpr DType value = DType::f16; };
template <> struct dtype_of<bf16> { static constexpr DType value = DType::bf16; };
template <> struct dtype_of<f8e4m3> { static constexpr DType value = DType::f8e4m3; };
template <> struct dtype_of<f8e5m2> { static constexpr DType value = DType::f8e5m2; };
template <> struct dtype_of<std::int64_t> { static constexpr DType value = DType::i64; };
template <> struct dtype_of<std::int32_t> { static constexpr DType value = DType::i32; };
template <> struct dtype_of<std::int8_t> { static constexpr DType value = DType::i8; };
template <> struct dtype_of<std::uint8_t> { static constexpr DType value = DType::u8; };
template <> struct dtype_of<bool> { static constexpr DType value = DType::boolean; };
template <class T> inline constexpr DType dtype_v = dtype_of<T>::value;

// Calls f(T{}) with the storage type of `type`.
template <class F>
decltype(auto) dispatch(DType type, F&& f) {
  switch (type) {
    case DType::f64: return f(double{});
    case DType::f32: return f(float{});
    case DType::f16: return f(f16{});
    case DType::bf16: return f(bf16{});
    case DType::f8e4m3: return f(f8e4m3{});
    case DType::f8e5m2: return f(f8e5m2{});
    case DType::i64: return f(std::int64_t{});
    case DType::i32: return f(std::int32_t{});
    case DType::i8: return f(std::int8_t{});
    case DType::u8: return f(std::uint8_t{});
    case DType::boolean: return f(bool{});
  }
  __builtin_unreachable();
}

// Element <-> double. Widening is exact (i64 beyond 2^53 aside); narrowing rounds to nearest even,
// saturates integers and maps NaN to 0 there.
template <class T>
constexpr double to_double(T value) {
  if constexpr (requires { value.to_float(); }) return value.to_float();
  else return static_cast<double>(value);
}
// double -> f32 for a further narrowing: round to odd, so that the second rounding sees the right side of a tie.
constexpr float to_float_odd(double value) {
  const auto f = static_cast<float>(value);
  if (static_cast<double>(f) == value || value != value) return f;
  auto u = std::bit_cast<std::uint32_t>(f);
  if ((u & 0x7fffffffu) == 0x7f800000u) return f;
  if (u & 1) return f;  // already odd: sticky bit set
  const bool too_big = (f > value) == (value > 0);  // |f| > |value|
  u = too_big ? u - 1 : u + 1;
  return std::bit_cast<float>(u);
}
template <class T>
constexpr T from_double(double value) {
  if constexpr (requires { T::from_float(0.0f); }) {
    return T::from_float(to_float_odd(value));
  } else if constexpr (std::numeric_limits<T>::is_integer && !std::is_same_v<T, bool>) {
    if (value != value) return T{0};
    if (value <= static_cast<double>(std::numeric_limits<T>::min())) return std::numeric_limits<T>::min();
    if (value >= static_cast<double>(std::numeric_limits<T>::max())) return std::numeric_limits<T>::max();
    return static_cast<T>(value);
  } else {
    return static_cast<T>(value);
  }
}

}  // namespace rhetor
