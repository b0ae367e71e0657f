// Small helpers for those who write OpDefs: checks for `infer`, shorthand for `samples`, and builders.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "graph/op.h"

namespace rhetor {

// ---- infer: each fails naming the op, the operand, what was expected and what was found ------------
inline void expect_rank(std::string_view op, std::string_view operand, const Type& type, int rank) {
  if (type.shape.rank() != rank)
    fail("{}: operand '{}' must have rank {}, found {}", op, operand, rank, type.str());
}
inline void expect_min_rank(std::string_view op, std::string_view operand, const Type& type, int rank) {
  if (type.shape.rank() < rank)
    fail("{}: operand '{}' must have rank {} or more, found {}", op, operand, rank, type.str());
}
inline void expect_float(std::string_view op, std::string_view operand, const Type& type) {
  if (!is_float(type.dtype)) fail("{}: operand '{}' must be floating point, found {}", op, operand, type.str());
}
// i32 or i64.
inline void expect_index(std::string_view op, std::string_view operand, const Type& type) {
  if (type.dtype != DType::i32 && type.dtype != DType::i64)
    fail("{}: operand '{}' must hold i32 or i64 indices, found {}", op, operand, type.str());
}
inline void expect_dtype(std::string_view op, std::string_view operand, const Type& type, DType dtype) {
  if (type.dtype != dtype) fail("{}: operand '{}' must be {}, found {}", op, operand, name(dtype), type.str());
}
inline void expect_shape(std::string_view op, std::string_view operand, const Type& type, const Shape& shape) {
  if (type.shape != shape)
    fail("{}: operand '{}' must have shape {}, found {}", op, operand, shape.str(), type.str());
}
inline void expect_type(std::string_view op, std::string_view operand, const Type& type, const Type& expected) {
  if (type != expected) fail("{}: operand '{}' must be {}, found {}", op, operand, expected.str(), type.str());
}
// The dtype statistics and sums are kept in: f64 stays f64, every other float gives f32.
inline DType wide(DType dtype) { return dtype == DType::f64 ? DType::f64 : DType::f32; }
// The shape without its last dim.
inline Shape drop_last(const Shape& shape) { return Shape(shape.dims().first(static_cast<std::size_t>(shape.rank() - 1))); }

// ---- samples ---------------------------------------------------------------------------------------
// An f32 operand (the matrix replaces f32 by each of Sample::dtypes in turn), uniform in [low, high].
inline SampleInput real(Shape shape, double low = -1.0, double high = 1.0) {
  return {.type = {DType::f32, shape}, .low = low, .high = high};
}
// An f32 operand that stays f32 in every variant: statistics, scales, learning rates.
inline SampleInput fixed_real(Shape shape, double low = -1.0, double high = 1.0) {
  return {.type = {DType::f32, shape}, .low = low, .high = high, .fixed = true};
}
inline SampleInput integers(Shape shape, std::int64_t low, std::int64_t high, DType dtype = DType::i32) {
  return {.type = {dtype, shape}, .low = static_cast<double>(low), .high = static_cast<double>(high)};
}
inline SampleInput exactly(Tensor value) {
  const Type type = value.type();
  return {.type = type, .value = std::move(value)};
}
inline SampleInput no_operand() { return {.type = {DType::boolean, Shape{}}, .absent = true}; }

// ---- builders --------------------------------------------------------------------------------------
// Adds a node to the graph of its first present operand; returns its first result.
inline Value build(const OpDef& op, std::vector<Value> operands, Attrs attrs = {}) {
  for (const Value& v : operands)
    if (v) return v.graph().add(op, std::move(operands), std::move(attrs));
  fail("{}: no operand given", op.name);
}
// Result k of the node that made `first`.
inline Value result(Value first, int k) { return Value(&first.graph(), {first.id().node, k}); }

}  // namespace rhetor
