// Parameter updates, element by element and in place, and the sum of squares that gradient clipping needs.
//
// adamw  g' = g g_scale, m' = b1 m + (1 - b1) g', v' = b2 v + (1 - b2) g'^2,
//        p' = p - lr (m' / (1 - b1^step) / (sqrt(v' / (1 - b2^step)) + eps) + weight_decay p)
//        or, where `apply` is given and false, p' = p, m' = m, v' = v
// sgd    p' = p - lr g_scale g
// sum_squares  out = sum x^2
// Memory-bound: adamw reads 4 and writes 3 elements a parameter.
#include <cmath>
#include <limits>

#include "ops/families.h"
#include "ops/ops.h"
#include "ops/samples.h"

namespace rhetor {
namespace {

// p in f32 (or f64), g any float of its shape.
void expect_update(std::string_view op, const Type& p, const Type& g) {
  if (p.dtype != DType::f32 && p.dtype != DType::f64)
    fail("{}: operand 'p' must be f32 or f64 (narrow weights are cast from a master copy), found {}", op, p.str());
  expect_float(op, "g", g);
  expect_shape(op, "g", g, p.shape);
}

double attr_in(std::string_view op, const Attrs& attrs, std::string_view name, double below) {
  const double value = attrs.f(name);
  if (!(value >= 0 && value < below)) fail("{}: the attribute '{}' must be in [0, {}), found {}", op, name, below, value);
  return value;
}

std::vector<Type> adamw_infer(std::span<const Type> in, const Attrs& attrs) {
  constexpr std::string_view op = "adamw";
  expect_update(op, in[0], in[1]);
  expect_type(op, "m", in[2], in[0]);
  expect_type(op, "v", in[3], in[0]);
  const Type scalar{in[0].dtype, Shape{}};
  expect_type(op, "lr", in[4], scalar);
  expect_type(op, "step", in[5], scalar);
  expect_type(op, "g_scale", in[6], scalar);
  if (in.size() > 7) expect_type(op, "apply", in[7], Type{DType::boolean, Shape{}});
  attr_in(op, attrs, "beta1", 1);
  attr_in(op, attrs, "beta2", 1);
  constexpr double infinity = std::numeric_limits<double>::infinity();
  attr_in(op, attrs, "eps", infinity);
  attr_in(op, attrs, "weight_decay", infinity);
  return {in[0], in[0], in[0]};
}

std::vector<Type> sgd_infer(std::span<const Type> in, const Attrs&) {
  expect_update("sgd", in[0], in[1]);
  const Type scalar{in[0].dtype, Shape{}};
  expect_type("sgd", "lr", in[2], scalar);
  expect_type("sgd", "g_scale", in[3], scalar);
  return {in[0]};
}

std::vector<Type> sum_squares_infer(std::span<const Type> in, const Attrs&) {
  expect_float("sum_squares", "x", in[0]);
  return {{wide(in[0].dtype), Shape{}}};
}

template <int per_element>
Cost update_cost(std::span<const Type> in, std::span<const Type> out, const Attrs& attrs) {
  Cost cost = bytes_only_cost(in, out, attrs);
  cost.flops = per_element * static_cast<double>(in[0].elements());
  return cost;
}

template <class Call>
void adamw_reference(Call& call) {
  using T = typename Call::Real;
  const T *p = call.in[0]->f.data(), *g = call.in[1]->f.data(), *m = call.in[2]->f.data(), *v = call.in[3]->f.data();
  const T lr = call.in[4]->f[0], step = call.in[5]->f[0], g_scale = call.in[6]->f[0];
  const T b1 = static_cast<T>(call.attrs.f("beta1")), b2 = static_cast<T>(call.attrs.f("beta2"));
  const T eps = static_cast<T>(call.attrs.f("eps")), decay = static_cast<T>(call.attrs.f("weight_decay"));
  const T correct1 = 1 - std::pow(b1, step), correct2 = 1 - std::pow(b2, step);
  T *new_p = call.out[0].f.data(), *new_m = call.out[1].f.data(), *new_v = call.out[2].f.data();
  const bool apply = !call.has(7) || call.in[7]->i[0] != 0;
  for (std::int64_t i = 0; i < call.in[0]->elements(); ++i) {
    if (!apply) {
      new_p[i] = p[i];
      new_m[i] = m[i];
      new_v[i] = v[i];
      continue;
    }
    const T d = g[i] * g_scale;
    new_m[i] = b1 * m[i] + (1 - b1) * d;
    new_v[i] = b2 * v[i] + (1 - b2) * d * d;
    new_p[i] = p[i] - lr * (new_m[i] / correct1 / (std::sqrt(new_v[i] / correct2) + eps) + decay * p[i]);
  }
}

template <class Call>
void sgd_reference(Call& call) {
  using T = typename Call::Real;
  const T *p = call.in[0]->f.data(), *g = call.in[1]->f.data(), rate = call.in[2]->f[0] * call.in[3]->f[0];
  for (std::int64_t i = 0; i < call.in[0]->elements(); ++i) call.out[0].f.data()[i] = p[i] - rate * g[i];
}

template <class Call>
void sum_squares_reference(Call& call) {
  typename Call::Real sum = 0;
  for (const auto x : call.in[0]->f) sum += x * x;
  call.out[0].f[0] = sum;
}

Attrs adamw_attrs(const AdamwOptions& o) {
  return {{"beta1", o.beta1}, {"beta2", o.beta2}, {"eps", o.eps}, {"weight_decay", o.weight_decay}};
}

Sample adamw_sample(std::string label, Shape shape, double step, const AdamwOptions& options = {}, bool benchmark = false) {
  return {.label = std::move(label),
          .inputs = {fixed_real(shape), real(shape), fixed_real(shape, -0.1, 0.1), fixed_real(shape, 0, 0.1),
                     fixed_real({}, 1e-4, 1e-2),
                     exactly(Tensor::scalar(static_cast<float>(step))), fixed_real({}, 0.2, 1)},
          .attrs = adamw_attrs(options), .differentiable = false, .benchmark = benchmark};
}
std::vector<Sample> adamw_samples() {
  std::vector<Sample> samples = {
      adamw_sample("7 first step", {7}, 1),
      adamw_sample("1 decay", {1}, 10, {.weight_decay = 0.1}),
      adamw_sample("6x33 gpt", {6, 33}, 100, {.beta2 = 0.95, .weight_decay = 0.1}),
      adamw_sample("768x3072", {768, 3072}, 1000, {.weight_decay = 0.1}, true),
      adamw_sample("5x7 applied", {5, 7}, 3),
      adamw_sample("5x7 not applied", {5, 7}, 3),
  };
  for (Sample& sample : samples) sample.inputs.push_back(no_operand());
  for (const bool apply : {true, false}) samples[apply ? 4 : 5].inputs[7] = integers({}, apply, apply, DType::boolean);
  // `step` is given exactly: in the narrow variants it stays f32, as lr and g_scale do.
  for (Sample& sample : samples) sample.inputs[5].fixed = true;
  return samples;
}
std::vector<Sample> sgd_samples() {
  const auto sample = [](std::string label, Shape shape, bool benchmark) {
    return Sample{.label = std::move(label), .inputs = {fixed_real(shape), real(shape), fixed_real({}, 1e-3, 1e-1),
                                                        fixed_real({}, 0.2, 1)},
                  .differentiable = false, .benchmark = benchmark};
  };
  return {sample("7", {7}, false), sample("1x1", {1, 1}, false), sample("6x33", {6, 33}, false),
          sample("768x3072", {768, 3072}, true)};
}
std::vector<Sample> sum_squares_samples() {
  return {{.label = "7", .inputs = {real({7})}},
          {.label = "scalar", .inputs = {real({})}},
          {.label = "3x4x11", .inputs = {real({3, 4, 11})}},
          {.label = "768x3072", .inputs = {real({768, 3072})}, .benchmark = true}};
}

const OpDef& adamw_op() {
  static const OpDef def{
      .name = "adamw",
      .doc = "One step of AdamW: g' = g g_scale, m' = b1 m + (1-b1) g', v' = b2 v + (1-b2) g'^2, p' = p - lr (m'/(1-b1^step) / "
             "(sqrt(v'/(1-b2^step)) + eps) + weight_decay p); if `apply` (bool scalar, optional) is false, p, m, v as they were. "
             "p, m, v f32 (or f64) of one shape, g any float of that shape; lr, step (1 at the first) and g_scale scalars of p's "
             "dtype. Results p', m', v' overwrite p, m, v. Loshchilov & Hutter, \"Decoupled weight decay regularization\" (2019).",
      .traits = {.kind = OpKind::opaque, .inplace = 0, .inplace_pairs = {{1, 2}, {2, 3}}},
      .operands = {"p", "g", "m", "v", "lr", "step", "g_scale", "apply?"},
      .attrs = {{"beta1", AttrKind::real, "decay of m", false, 0.9},
                {"beta2", AttrKind::real, "decay of v", false, 0.999},
                {"eps", AttrKind::real, "added to the root", false, 1e-8},
                {"weight_decay", AttrKind::real, "pull to zero, times lr", false, 0.0}},
      .infer = adamw_infer,
      .grad = kNotDifferentiable,
      .cost = update_cost<16>,
      .shard = "... -> ..., ..., ...",
      .reference = [](auto& call) { adamw_reference(call); },
      .samples = adamw_samples,
  };
  return def;
}

const OpDef& sgd_op() {
  static const OpDef def{
      .name = "sgd",
      .doc = "One step of gradient descent: p' = p - lr g_scale g. p f32 (or f64), g any float of its shape; lr and g_scale "
             "scalars of p's dtype. Robbins & Monro (1951).",
      .traits = {.kind = OpKind::opaque, .inplace = 0},
      .operands = {"p", "g", "lr", "g_scale"},
      .attrs = {},
      .infer = sgd_infer,
      .grad = kNotDifferentiable,
      .cost = update_cost<2>,
      .shard = "... -> ...",
      .reference = [](auto& call) { sgd_reference(call); },
      .samples = sgd_samples,
  };
  return def;
}

const OpDef& sum_squares_op() {
  static const OpDef def{
      .name = "sum_squares",
      .doc = "out = sum of x^2 over all elements; x float of any shape, out a scalar in f32 (f64 for f64). For gradient norms.",
      .traits = {.kind = OpKind::reduction},
      .operands = {"x"},
      .attrs = {},
      .infer = sum_squares_infer,
      .grad =
          [](const GradCall& call) {
            const Value x = call.in[0], d = call.grad_out[0];
            return std::vector<Value>{mul(mul(x, 2.0), d.dtype() == x.dtype() ? d : cast(d, x.dtype()))};
          },
      .cost = update_cost<2>,
      .shard = "... -> | sum ...",
      .reference = [](auto& call) { sum_squares_reference(call); },
      .samples = sum_squares_samples,
  };
  return def;
}

}  // namespace

const std::vector<const OpDef*>& optimizer_ops() {
  static const std::vector<const OpDef*> ops{&adamw_op(), &sgd_op(), &sum_squares_op()};
  return ops;
}

AdamwResult adamw(Value p, Value g, Value m, Value v, Value lr, Value step, Value g_scale, const AdamwOptions& options, Value apply) {
  const Value new_p = build(adamw_op(), {p, g, m, v, lr, step, g_scale, apply}, adamw_attrs(options));
  return {new_p, result(new_p, 1), result(new_p, 2)};
}
Value sgd(Value p, Value g, Value lr, Value g_scale) { return build(sgd_op(), {p, g, lr, g_scale}); }
Value sum_squares(Value x) { return build(sum_squares_op(), {x}); }

}  // namespace rhetor
