// Reductions along axes, argmax and cumulative sum.
#include <limits>

#include "ops/families.h"
#include "ops/index.h"
#include "ops/ops.h"
#include "ops/samples.h"

namespace rhetor {
namespace {

using Ints = std::vector<std::int64_t>;
using Grads = std::vector<Value>;
enum class Kind { sum, max, min, mean };
template <Kind kind> constexpr std::string_view op_name =
    kind == Kind::sum ? "reduce_sum" : kind == Kind::max ? "reduce_max" : kind == Kind::min ? "reduce_min" : "reduce_mean";

// Bit d set: dim d is reduced.
unsigned axes_mask(std::string_view op, const Ints& axes, int rank) {
  unsigned mask = 0;
  for (const std::int64_t axis : axes) {
    const unsigned bit = 1u << normalize_axis(axis, rank, op);
    if (mask & bit) fail("{}: axis {} is named twice", op, axis);
    mask |= bit;
  }
  return mask;
}

Shape reduced_shape(const Shape& shape, unsigned mask, bool keep_dims) {
  Shape out;
  for (int d = 0; d < shape.rank(); ++d) {
    if (!(mask >> d & 1)) out.append(shape.dim(d));
    else if (keep_dims) out.append(Dim(1));
  }
  return out;
}

template <Kind kind>
std::vector<Type> infer_reduce(std::span<const Type> in, const Attrs& attrs) {
  const std::string_view op = op_name<kind>;
  const unsigned mask = axes_mask(op, attrs.ints("axes"), in[0].shape.rank());
  if (in[0].dtype == DType::boolean) fail("{}: operand 'x' must be a number, found {}", op, in[0].str());
  if (kind == Kind::mean) expect_float(op, "x", in[0]);
  if (kind != Kind::sum)  // the others of nothing have no value
    for (int d = 0; d < in[0].shape.rank(); ++d)
      if ((mask >> d & 1) && in[0].shape[d] == 0) fail("{}: dim {} of {} is empty", op, d, in[0].str());
  return {{in[0].dtype, reduced_shape(in[0].shape, mask, attrs.b("keep_dims"))}};
}

template <Kind kind, class X>
X combine(X a, X b) {
  if constexpr (kind == Kind::max) return a < b || b != b ? b : a;
  else if constexpr (kind == Kind::min) return b < a || b != b ? b : a;
  else if constexpr (std::is_integral_v<X>) return static_cast<X>(static_cast<std::uint64_t>(a) + static_cast<std::uint64_t>(b));
  else return a + b;
}

template <Kind kind, class T, class X>
void reduce_elements(RefCall<T>& call, const std::vector<X>& x, std::vector<X>& y) {
  const Shape& shape = call.in[0]->shape();
  const unsigned mask = axes_mask(op_name<kind>, call.attrs.ints("axes"), shape.rank());
  const Shape kept = reduced_shape(shape, mask, true);
  std::vector<char> begun(y.size(), kind == Kind::sum || kind == Kind::mean);
  each_index(shape, [&](std::size_t i, Index index) {
    for (int d = 0; d < shape.rank(); ++d)
      if (mask >> d & 1) index[static_cast<std::size_t>(d)] = 0;
    const std::size_t o = flat_index(kept, index);
    y[o] = begun[o] ? combine<kind>(y[o], x[i]) : x[i];
    begun[o] = 1;
  });
  if constexpr (kind == Kind::mean) {
    const X count = static_cast<X>(y.empty() ? 1 : x.size() / y.size());
    for (X& v : y) v /= count;
  }
}

// g, without the reduced dims or with them as 1, repeated to x's shape.
Value spread(Value v, const Shape& x, const Attrs& attrs, std::string_view op) {
  return broadcast_to(reshape(v, reduced_shape(x, axes_mask(op, attrs.ints("axes"), x.rank()), true)), x);
}

template <Kind kind>
Grads grad_reduce(const GradCall& c) {
  const Value x = c.in[0], g = spread(c.grad_out[0], x.shape(), c.attrs, op_name<kind>);
  if constexpr (kind == Kind::sum) return {g};
  if constexpr (kind == Kind::mean)
    return {mul(g, static_cast<double>(std::max<std::int64_t>(c.out[0].type().elements(), 1)) /
                       static_cast<double>(std::max<std::int64_t>(x.type().elements(), 1)))};
  // Elements that tie for the extreme share the gradient equally.
  const Value hit = equal(x, spread(c.out[0], x.shape(), c.attrs, op_name<kind>));
  const Value ones = where(hit, full_like(x, 1), full_like(x, 0));
  const Value count = broadcast_to(reduce_sum(ones, c.attrs.ints("axes"), true), x.shape());
  return {mul(g, div(ones, count))};
}

template <Kind kind>
std::vector<Sample> reduce_samples() {
  const auto sample = [](std::string label, Shape shape, Ints axes, bool keep, bool benchmark = false) {
    return Sample{.label = std::move(label), .inputs = {real(shape, -2, 2)},
                  .attrs = {{"axes", std::move(axes)}, {"keep_dims", keep}}, .benchmark = benchmark};
  };
  std::vector<Sample> out{sample("last", {3, 5}, {1}, false),         sample("first keep", {4, 3}, {0}, true),
                          sample("middle", {2, 5, 3}, {1}, false),    sample("outer", {2, 5, 4}, {0, 2}, false),
                          sample("all", {3, 4}, {0, 1}, false),       sample("none", {3, 4}, {}, false),
                          sample("long 2x300", {2, 300}, {-1}, true), sample("rows 1024x768", {1024, 768}, {1}, false, true),
                          sample("columns 1024x768", {1024, 768}, {0}, false, true)};
  if (kind != Kind::mean)
    out.push_back({.label = "i32", .inputs = {integers({3, 4}, -9, 9)}, .attrs = {{"axes", Ints{1}}}, .differentiable = false});
  return out;
}

template <Kind kind>
const OpDef& reduce_op() {
  static const OpDef def{
      .name = op_name<kind>,
      .doc = kind == Kind::sum    ? "Sum over the dims `axes`. Kernels accumulate in f32 or wider."
             : kind == Kind::mean ? "Mean over the dims `axes`. Kernels accumulate in f32 or wider."
             : kind == Kind::max  ? "Greatest over the dims `axes`; NaN if one is NaN. Gradient: ties share equally."
                                  : "Least over the dims `axes`; NaN if one is NaN. Gradient: ties share equally.",
      .traits = {.kind = OpKind::reduction},
      .operands = {"x"},
      .attrs = {{"axes", AttrKind::integers, "dims that vanish; negative counts from the end"},
                {"keep_dims", AttrKind::boolean, "keep them with size 1", false, false}},
      .infer = infer_reduce<kind>,
      .grad = grad_reduce<kind>,
      .cost = [](std::span<const Type> in, std::span<const Type> out, const Attrs& attrs) {
        Cost cost = bytes_only_cost(in, out, attrs);
        cost.flops = static_cast<double>(in[0].elements());
        return cost;
      },
      .shard = kind == Kind::sum ? "... -> ...-axes | sum @axes" : "...!axes -> ...-axes",
      .reference = [](auto& call) {
        if (is_float(call.in[0]->type.dtype)) reduce_elements<kind>(call, call.in[0]->f, call.out[0].f);
        else reduce_elements<kind>(call, call.in[0]->i, call.out[0].i);
      },
      .samples = reduce_samples<kind>,
  };
  return def;
}

// ---- argmax ----------------------------------------------------------------------------------------
const OpDef& argmax_op() {
  static const OpDef def{
      .name = "argmax",
      .doc = "Position of the first maximum along axis, i32; the dim vanishes. NaN counts as least.",
      .traits = {.kind = OpKind::reduction},
      .operands = {"x"},
      .attrs = {{"axis", AttrKind::integer, "dim that is searched"}},
      .infer = [](std::span<const Type> in, const Attrs& attrs) -> std::vector<Type> {
        const int axis = normalize_axis(attrs.i("axis"), in[0].shape.rank(), "argmax");
        if (in[0].shape[axis] == 0 || in[0].shape[axis] > std::numeric_limits<std::int32_t>::max())
          fail("argmax: dim {} of {} must hold 1 to 2^31-1 elements", axis, in[0].str());
        return {{DType::i32, reduced_shape(in[0].shape, 1u << axis, false)}};
      },
      .grad = kNotDifferentiable,
      .cost = pointwise_cost,
      .shard = "...!axis -> ...-axis",
      .reference = [](auto& call) {
        const auto& x = *call.in[0];
        const int axis = normalize_axis(call.attrs.i("axis"), x.shape().rank(), "argmax");
        const Shape kept = reduced_shape(x.shape(), 1u << axis, true);
        each_index(kept, [&](std::size_t o, Index index) {
          std::size_t best = flat_index(x.shape(), index);
          for (std::int64_t k = 0; k < x.shape()[axis]; ++k) {
            index[static_cast<std::size_t>(axis)] = k;
            const std::size_t i = flat_index(x.shape(), index);
            const bool greater = is_float(x.type.dtype) ? x.f[i] > x.f[best] || (x.f[best] != x.f[best] && x.f[i] == x.f[i])
                                                        : x.i[i] > x.i[best];
            if (greater) {
              best = i;
              call.out[0].i[o] = k;
            }
          }
        });
      },
      .samples = [] {
        return std::vector<Sample>{
            {.label = "last", .inputs = {real({3, 7})}, .attrs = {{"axis", std::int64_t{-1}}}, .differentiable = false},
            {.label = "first", .inputs = {real({5, 4})}, .attrs = {{"axis", std::int64_t{0}}}, .differentiable = false},
            {.label = "ties", .inputs = {integers({4, 9}, 0, 2)}, .attrs = {{"axis", std::int64_t{1}}}, .differentiable = false},
            {.label = "64x50257", .inputs = {real({64, 50257})}, .attrs = {{"axis", std::int64_t{1}}}, .benchmark = true}};
      },
  };
  return def;
}

// ---- cumsum ----------------------------------------------------------------------------------------
const OpDef& cumsum_op() {
  static const OpDef def{
      .name = "cumsum",
      .doc = "Running sum along axis, the element itself included; reverse sums from the end.",
      .traits = {.kind = OpKind::opaque},
      .operands = {"x"},
      .attrs = {{"axis", AttrKind::integer, "dim along which it runs"},
                {"reverse", AttrKind::boolean, "from the end", false, false}},
      .infer = [](std::span<const Type> in, const Attrs& attrs) -> std::vector<Type> {
        normalize_axis(attrs.i("axis"), in[0].shape.rank(), "cumsum");
        if (in[0].dtype == DType::boolean) fail("cumsum: operand 'x' must be a number, found {}", in[0].str());
        return {in[0]};
      },
      .grad = [](const GradCall& c) -> Grads {
        return {build(cumsum_op(), {c.grad_out[0]}, {{"axis", c.attrs.i("axis")}, {"reverse", !c.attrs.b("reverse")}})};
      },
      .cost = pointwise_cost,
      .shard = "...!axis -> ...!axis",
      .reference = [](auto& call) {
        const auto& x = *call.in[0];
        auto& out = call.out[0];
        const int axis = normalize_axis(call.attrs.i("axis"), x.shape().rank(), "cumsum");
        const std::int64_t n = x.shape()[axis];
        const bool reverse = call.attrs.b("reverse");
        each_index(reduced_shape(x.shape(), 1u << axis, true), [&](std::size_t, Index index) {
          typename std::decay_t<decltype(call)>::Real sum = 0;
          std::uint64_t whole = 0;
          for (std::int64_t k = 0; k < n; ++k) {
            index[static_cast<std::size_t>(axis)] = reverse ? n - 1 - k : k;
            const std::size_t i = flat_index(x.shape(), index);
            if (is_float(x.type.dtype)) out.f[i] = sum += x.f[i];
            else out.i[i] = static_cast<std::int64_t>(whole += static_cast<std::uint64_t>(x.i[i]));
          }
        });
      },
      .samples = [] {
        return std::vector<Sample>{
            {.label = "last", .inputs = {real({3, 7})}, .attrs = {{"axis", std::int64_t{1}}}},
            {.label = "first reverse", .inputs = {real({5, 2, 2})}, .attrs = {{"axis", std::int64_t{0}}, {"reverse", true}}},
            {.label = "i32", .inputs = {integers({6}, 0, 5)}, .attrs = {{"axis", std::int64_t{0}}}, .differentiable = false},
            {.label = "1024x768", .inputs = {real({1024, 768})}, .attrs = {{"axis", std::int64_t{1}}}, .benchmark = true}};
      },
  };
  return def;
}

template <Kind kind>
Value reduce(Value x, Ints axes, bool keep_dims) {
  for (std::int64_t& axis : axes) axis = normalize_axis(axis, x.shape().rank(), op_name<kind>);
  std::sort(axes.begin(), axes.end());
  if (axes.empty()) return x;
  return build(reduce_op<kind>(), {x}, {{"axes", std::move(axes)}, {"keep_dims", keep_dims}});
}

}  // namespace

const std::vector<const OpDef*>& reduce_ops() {
  static const std::vector<const OpDef*> ops{&reduce_op<Kind::sum>(), &reduce_op<Kind::max>(), &reduce_op<Kind::min>(),
                                             &reduce_op<Kind::mean>(), &argmax_op(),           &cumsum_op()};
  return ops;
}

Value reduce_sum(Value x, Ints axes, bool keep_dims) { return reduce<Kind::sum>(x, std::move(axes), keep_dims); }
Value reduce_max(Value x, Ints axes, bool keep_dims) { return reduce<Kind::max>(x, std::move(axes), keep_dims); }
Value reduce_min(Value x, Ints axes, bool keep_dims) { return reduce<Kind::min>(x, std::move(axes), keep_dims); }
Value reduce_mean(Value x, Ints axes, bool keep_dims) { return reduce<Kind::mean>(x, std::move(axes), keep_dims); }
Value argmax(Value x, int axis) {
  return build(argmax_op(), {x}, {{"axis", std::int64_t{normalize_axis(axis, x.shape().rank(), "argmax")}}});
}
Value cumsum(Value x, int axis) {
  return build(cumsum_op(), {x}, {{"axis", std::int64_t{normalize_axis(axis, x.shape().rank(), "cumsum")}}});
}

}  // namespace rhetor
