#include "passes/simplify_rules.h"

#include <bit>
#include <cmath>
#include <unordered_map>

#include "graph/op.h"
#include "ops/ops.h"
#include "ops/registry.h"

namespace rhetor {
namespace {

using Ints = std::vector<std::int64_t>;
using Rule = Value (*)(const Draft&);

const Node& maker(Value v) { return v.graph().node(v.id()); }
bool made_by(Value v, std::string_view op) { return maker(v).op->name == op; }
Value operand(Value v, std::size_t k) {
  const ValueId id = maker(v).inputs[k];
  return id.valid() ? Value(&v.graph(), id) : Value();
}
bool same(Value a, Value b) { return a.id() == b.id(); }

bool is_splat(Value v, double number) {
  const auto splat = splat_of(v);
  return splat && std::bit_cast<std::uint64_t>(*splat) == std::bit_cast<std::uint64_t>(number);
}
bool is_zero(Value v) {
  const auto splat = splat_of(v);
  return splat && *splat == 0;
}

// ---- arithmetic: every identity holds for all values, signed zeros, infinities and NaN included -----------------------------
Value rule_add(const Draft& d) {
  const bool real = is_float(d.type.dtype);
  for (std::size_t k : {0, 1}) {
    // x + 0 turns -0 into +0, so for floats only -0 is neutral.
    if (real ? is_splat(d.in[k], -0.0) : is_zero(d.in[k])) return d.in[1 - k];
    if (real && made_by(d.in[k], "neg")) return sub(d.in[1 - k], operand(d.in[k], 0));
  }
  return {};
}
Value rule_sub(const Draft& d) {
  if (is_float(d.type.dtype) ? is_splat(d.in[1], 0.0) : is_zero(d.in[1])) return d.in[0];
  if (is_float(d.type.dtype) && made_by(d.in[1], "neg")) return add(d.in[0], operand(d.in[1], 0));
  return {};
}
Value rule_mul(const Draft& d) {
  for (std::size_t k : {0, 1})
    if (is_splat(d.in[k], 1.0)) return d.in[1 - k];
  return {};
}
Value rule_div(const Draft& d) {
  const auto by = splat_of(d.in[1]);
  if (!by) return {};
  if (*by == 1.0) return d.in[0];
  // Dividing by a power of two is multiplying by its inverse, both being correctly rounded; f16's range is the narrowest.
  int exponent = 0;
  if (is_float(d.type.dtype) && std::abs(std::frexp(*by, &exponent)) == 0.5 && exponent > -13 && exponent < 14)
    return mul(d.in[0], 1.0 / *by);
  return {};
}
Value rule_pow(const Draft& d) { return is_splat(d.in[1], 1.0) ? d.in[0] : Value(); }
Value rule_same_operands(const Draft& d) { return same(d.in[0], d.in[1]) ? d.in[0] : Value(); }
Value rule_where(const Draft& d) {
  if (same(d.in[1], d.in[2])) return d.in[1];
  const auto condition = splat_of(d.in[0]);
  return condition ? (*condition != 0 ? d.in[1] : d.in[2]) : Value();
}
Value rule_involution(const Draft& d) { return made_by(d.in[0], d.op.name) ? operand(d.in[0], 0) : Value(); }
Value rule_idempotent(const Draft& d) { return made_by(d.in[0], d.op.name) ? d.in[0] : Value(); }
Value rule_abs(const Draft& d) {
  if (made_by(d.in[0], "neg")) return abs(operand(d.in[0], 0));
  return rule_idempotent(d);
}
Value rule_square(const Draft& d) {
  return made_by(d.in[0], "neg") || (made_by(d.in[0], "abs") && is_float(d.type.dtype)) ? square(operand(d.in[0], 0)) : Value();
}
Value rule_dropout(const Draft& d) { return d.attrs.f("p") == 0 ? d.in[0] : Value(); }

// ---- casts -------------------------------------------------------------------------------------------------------------
// Every value of `from` is a value of `to`.
bool widens(DType from, DType to) {
  if (from == to || from == DType::boolean) return true;
  switch (from) {
    case DType::f32: case DType::i32: return to == DType::f64 || (from == DType::i32 && to == DType::i64);
    case DType::bf16: case DType::f16: return to == DType::f32 || to == DType::f64;
    case DType::f8e4m3:
    case DType::f8e5m2: return to == DType::f16 || to == DType::bf16 || to == DType::f32 || to == DType::f64;
    case DType::i8:
    case DType::u8: return to == DType::i32 || to == DType::i64 || to == DType::f32 || to == DType::f64 || to == DType::f16 || to == DType::bf16;
    default: return false;
  }
}
Value rule_cast(const Draft& d) {
  const Value x = d.in[0];
  if (x.dtype() == d.type.dtype) return x;
  if (!made_by(x, "cast")) return {};
  const Value source = operand(x, 0);
  return widens(source.dtype(), x.dtype()) ? cast(source, d.type.dtype) : Value();
}

// ---- layout ------------------------------------------------------------------------------------------------------------
Value rule_reshape(const Draft& d) {
  if (d.in[0].shape() == d.type.shape) return d.in[0];
  return made_by(d.in[0], "reshape") ? reshape(operand(d.in[0], 0), d.type.shape) : Value();
}
Value rule_broadcast(const Draft& d) {
  if (d.in[0].shape() == d.type.shape) return d.in[0];
  return made_by(d.in[0], "broadcast_to") ? broadcast_to(operand(d.in[0], 0), d.type.shape) : Value();
}
Value rule_transpose(const Draft& d) {
  const Ints& perm = d.attrs.ints("perm");
  if (made_by(d.in[0], "transpose")) {
    const Ints& inner = maker(d.in[0]).attrs.ints("perm");
    Ints both;
    for (const std::int64_t axis : perm) both.push_back(inner[static_cast<std::size_t>(axis)]);
    return transpose(operand(d.in[0], 0), both);
  }
  // Only dims of size 1 move: the elements stay where they are.
  std::int64_t previous = -1;
  for (const std::int64_t axis : perm) {
    if (d.in[0].dim(static_cast<int>(axis)) == 1) continue;
    if (axis < previous) return {};
    previous = axis;
  }
  return d.in[0].shape() == d.type.shape ? d.in[0] : reshape(d.in[0], d.type.shape);
}
Value rule_slice(const Draft& d) {
  if (d.in[0].shape() == d.type.shape && d.attrs.i("step") == 1) return d.in[0];
  if (!made_by(d.in[0], "slice") || d.attrs.i("step") != 1) return {};
  const Attrs& inner = maker(d.in[0]).attrs;
  const Value source = operand(d.in[0], 0);
  const int axis = normalize_axis(d.attrs.i("axis"), source.shape().rank(), "slice");
  if (inner.i("step") != 1 || normalize_axis(inner.i("axis"), source.shape().rank(), "slice") != axis) return {};
  if (d.attrs.i("begin") < 0 || d.attrs.i("end") < 0 || inner.i("begin") < 0) return {};
  return slice(source, axis, inner.i("begin") + d.attrs.i("begin"), inner.i("begin") + d.attrs.i("begin") + d.type.shape[axis]);
}
Value rule_concat(const Draft& d) {
  if (d.in.size() == 1) return d.in[0];
  // The pieces of one value put together again.
  const int axis = normalize_axis(d.attrs.i("axis"), d.type.shape.rank(), "concat");
  Value whole;
  std::int64_t next = 0;
  for (const Value& part : d.in) {
    if (!made_by(part, "slice")) return {};
    const Attrs& attrs = maker(part).attrs;
    const Value source = operand(part, 0);
    if (whole && !same(whole, source)) return {};
    whole = source;
    if (attrs.i("step") != 1 || normalize_axis(attrs.i("axis"), source.shape().rank(), "slice") != axis || attrs.i("begin") != next) return {};
    next += part.shape()[axis];
  }
  return whole && whole.shape() == d.type.shape ? whole : Value();
}
Value rule_pad(const Draft& d) { return d.in[0].shape() == d.type.shape ? d.in[0] : Value(); }
// The largest (smallest) of one element is the element.
Value rule_extremum(const Draft& d) {
  return d.in[0].type().elements() == d.type.elements() ? reshape(d.in[0], d.type.shape) : Value();
}
// A product with a transposed operand reads it transposed: matmul has a flag for that.
Value rule_matmul(const Draft& d) {
  std::vector<Value> in{d.in[0], d.in[1]};
  bool flags[2] = {d.attrs.b("transpose_a"), d.attrs.b("transpose_b")}, changed = false;
  for (std::size_t k : {0, 1}) {
    if (!made_by(in[k], "transpose")) continue;
    const Ints& perm = maker(in[k]).attrs.ints("perm");
    bool swaps_last = perm.size() >= 2;
    for (std::size_t i = 0; i < perm.size(); ++i) {
      const std::size_t expected = i + 2 < perm.size() ? i : i + 2 == perm.size() ? perm.size() - 1 : perm.size() - 2;
      swaps_last = swaps_last && perm[i] == static_cast<std::int64_t>(expected);
    }
    if (!swaps_last) continue;
    in[k] = operand(in[k], 0);
    flags[k] = !flags[k];
    changed = true;
  }
  return changed ? matmul(in[0], in[1], flags[0], flags[1], d.type.dtype) : Value();
}

const std::unordered_map<const OpDef*, Rule>& rules() {
  static const std::unordered_map<const OpDef*, Rule> table = [] {
    const std::pair<std::string_view, Rule> rows[] = {
        {"add", rule_add}, {"sub", rule_sub}, {"mul", rule_mul}, {"div", rule_div}, {"pow", rule_pow},
        {"maximum", rule_same_operands}, {"minimum", rule_same_operands}, {"logical_and", rule_same_operands},
        {"logical_or", rule_same_operands}, {"where", rule_where}, {"neg", rule_involution}, {"logical_not", rule_involution},
        {"relu", rule_idempotent}, {"floor", rule_idempotent}, {"round", rule_idempotent}, {"abs", rule_abs}, {"square", rule_square},
        {"dropout", rule_dropout}, {"cast", rule_cast}, {"reshape", rule_reshape}, {"broadcast_to", rule_broadcast},
        {"transpose", rule_transpose}, {"slice", rule_slice}, {"concat", rule_concat}, {"pad", rule_pad},
        {"reduce_max", rule_extremum}, {"reduce_min", rule_extremum}, {"matmul", rule_matmul}};
    std::unordered_map<const OpDef*, Rule> out;
    for (const auto& [op, rule] : rows) out.emplace(&all_ops().at(op), rule);
    return out;
  }();
  return table;
}

}  // namespace

std::optional<double> splat_of(Value v) {
  for (int depth = 0; depth < 8; ++depth) {
    const Node& node = maker(v);
    if (node.op == &constant_op()) {
      const Tensor& value = node.attrs.tensor("value");
      if (value.elements() == 0 || value.elements() > 4096) return std::nullopt;
      const double first = value.at(0);
      for (std::int64_t i = 1; i < value.elements(); ++i)
        if (std::bit_cast<std::uint64_t>(value.at(i)) != std::bit_cast<std::uint64_t>(first)) return std::nullopt;
      return first;
    }
    const bool moves = node.op->traits.kind == OpKind::broadcast || node.op->traits.alias;
    if (!moves || node.inputs.empty()) return std::nullopt;
    v = operand(v, 0);
  }
  return std::nullopt;
}

Value simpler(const Draft& draft) {
  const auto rule = rules().find(&draft.op);
  if (rule == rules().end()) return {};
  const Value found = rule->second(draft);
  return found && found.type() == draft.type ? found : Value();
}

}  // namespace rhetor
