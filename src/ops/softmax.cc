// Softmax and its logarithm along the last dim, with the maximum subtracted first.
//
// softmax           y_i = exp(x_i - max x) / sum_j exp(x_j - max x)
// softmax_grad      dx = y (dy - sum_j dy_j y_j)
// log_softmax       y_i = x_i - max x - log sum_j exp(x_j - max x)
// log_softmax_grad  dx = dy - exp(y) sum_j dy_j
// Memory-bound: one read and one write forward, two reads and one write backward. A row of -inf gives NaN.
#include <cmath>

#include "ops/families.h"
#include "ops/ops.h"
#include "ops/samples.h"

namespace rhetor {
namespace {

std::vector<Type> infer_unary(std::string_view op, const Type& x) {
  expect_float(op, "x", x);
  expect_min_rank(op, "x", x, 1);
  return {x};
}
std::vector<Type> infer_grad(std::string_view op, const Type& y, const Type& dy) {
  expect_float(op, "y", y);
  expect_min_rank(op, "y", y, 1);
  expect_type(op, "dy", dy, y);
  return {y};
}

// `per_element` operations each, an exponential counted as one.
template <int per_element>
Cost row_cost(std::span<const Type> in, std::span<const Type> out, const Attrs& attrs) {
  Cost cost = bytes_only_cost(in, out, attrs);
  cost.flops = per_element * static_cast<double>(out[0].elements());
  return cost;
}

// Calls f(offset of the row, its length) for every row along the last dim.
template <class F>
void for_each_row(const Shape& shape, F&& f) {
  const std::int64_t size = shape.last();
  for (std::int64_t at = 0; at < shape.elements(); at += size) f(at, size);
}

template <class Call>
void softmax_reference(Call& call) {
  using T = typename Call::Real;
  for_each_row(call.out[0].shape(), [&](std::int64_t at, std::int64_t size) {
    const T* x = call.in[0]->f.data() + at;
    T* y = call.out[0].f.data() + at;
    T top = x[0], sum = 0;
    for (std::int64_t i = 1; i < size; ++i) top = std::max(top, x[i]);
    for (std::int64_t i = 0; i < size; ++i) sum += y[i] = std::exp(x[i] - top);
    for (std::int64_t i = 0; i < size; ++i) y[i] /= sum;
  });
}

template <class Call>
void softmax_grad_reference(Call& call) {
  using T = typename Call::Real;
  for_each_row(call.out[0].shape(), [&](std::int64_t at, std::int64_t size) {
    const T *y = call.in[0]->f.data() + at, *dy = call.in[1]->f.data() + at;
    T sum = 0;
    for (std::int64_t i = 0; i < size; ++i) sum += dy[i] * y[i];
    for (std::int64_t i = 0; i < size; ++i) call.out[0].f.data()[at + i] = y[i] * (dy[i] - sum);
  });
}

template <class Call>
void log_softmax_reference(Call& call) {
  using T = typename Call::Real;
  for_each_row(call.out[0].shape(), [&](std::int64_t at, std::int64_t size) {
    const T* x = call.in[0]->f.data() + at;
    T top = x[0], sum = 0;
    for (std::int64_t i = 1; i < size; ++i) top = std::max(top, x[i]);
    for (std::int64_t i = 0; i < size; ++i) sum += std::exp(x[i] - top);
    for (std::int64_t i = 0; i < size; ++i) call.out[0].f.data()[at + i] = x[i] - top - std::log(sum);
  });
}

template <class Call>
void log_softmax_grad_reference(Call& call) {
  using T = typename Call::Real;
  for_each_row(call.out[0].shape(), [&](std::int64_t at, std::int64_t size) {
    const T *y = call.in[0]->f.data() + at, *dy = call.in[1]->f.data() + at;
    T sum = 0;
    for (std::int64_t i = 0; i < size; ++i) sum += dy[i];
    for (std::int64_t i = 0; i < size; ++i) call.out[0].f.data()[at + i] = dy[i] - std::exp(y[i]) * sum;
  });
}

std::vector<Value> softmax_gradient(const GradCall& call) { return {softmax_grad(call.out[0], call.grad_out[0])}; }
std::vector<Value> log_softmax_gradient(const GradCall& call) { return {log_softmax_grad(call.out[0], call.grad_out[0])}; }

Value row_sum(Value x) { return reduce_sum(x, {-1}, true); }

// With s = sum dy y: d dx_i = g_i gives d dy = y (g - sum g y), d y = g (dy - s) - dy sum g y.
std::vector<Value> softmax_grad_gradient(const GradCall& call) {
  const Value y = call.in[0], dy = call.in[1], g = call.grad_out[0], gy = row_sum(mul(g, y));
  return {sub(mul(g, sub(dy, row_sum(mul(dy, y)))), mul(dy, gy)), mul(y, sub(g, gy))};
}
// d dy = g - sum g exp(y), d y = -g exp(y) sum dy.
std::vector<Value> log_softmax_grad_gradient(const GradCall& call) {
  const Value y = call.in[0], dy = call.in[1], g = call.grad_out[0], gp = mul(g, exp(y));
  return {neg(mul(gp, row_sum(dy))), sub(g, row_sum(gp))};
}

std::vector<Sample> unary_samples() {
  return {{.label = "3x7", .inputs = {real({3, 7})}},
          {.label = "1", .inputs = {real({1})}},
          {.label = "4x1", .inputs = {real({4, 1})}},
          {.label = "2x3x33 spread", .inputs = {real({2, 3, 33}, -20, 20)}},
          {.label = "2x300", .inputs = {real({2, 300}, -4, 4)}},
          {.label = "6144x128", .inputs = {real({6144, 128}, -4, 4)}, .benchmark = true},
          {.label = "64x50257", .inputs = {real({64, 50257}, -4, 4)}, .benchmark = true}};
}
// y: probabilities, or their logarithms; not summing to one is fine for the formula.
template <bool logarithm>
std::vector<Sample> grad_samples() {
  const double low = logarithm ? -3 : 0, high = logarithm ? 0 : 0.5;
  std::vector<Sample> samples;
  for (const Sample& s : unary_samples()) {
    const Shape& shape = s.inputs[0].type.shape;
    samples.push_back({.label = s.label, .inputs = {real(shape, low, high), real(shape)}, .benchmark = s.benchmark});
  }
  return samples;
}

const OpDef& softmax_op() {
  static const OpDef def{
      .name = "softmax",
      .doc = "y_i = exp(x_i) / sum_j exp(x_j) along the last dim, the maximum subtracted first; in f32 or wider. x [..., n] "
             "float -> y of its type.",
      .traits = {.kind = OpKind::reduction, .inplace = 0},
      .operands = {"x"},
      .attrs = {},
      .infer = [](std::span<const Type> in, const Attrs&) { return infer_unary("softmax", in[0]); },
      .grad = softmax_gradient,
      .cost = row_cost<5>,
      .shard = "... _ -> ... _",
      .reference = [](auto& call) { softmax_reference(call); },
      .samples = unary_samples,
  };
  return def;
}

const OpDef& softmax_grad_op() {
  static const OpDef def{
      .name = "softmax_grad",
      .doc = "The gradient of softmax from its result: dx = y (dy - sum_j dy_j y_j) along the last dim. y, dy and dx of one "
             "type.",
      .traits = {.kind = OpKind::reduction, .inplace = 1},
      .operands = {"y", "dy"},
      .attrs = {},
      .infer = [](std::span<const Type> in, const Attrs&) { return infer_grad("softmax_grad", in[0], in[1]); },
      .grad = softmax_grad_gradient,
      .cost = row_cost<4>,
      .shard = "... _, ... _ -> ... _",
      .reference = [](auto& call) { softmax_grad_reference(call); },
      .samples = grad_samples<false>,
  };
  return def;
}

const OpDef& log_softmax_op() {
  static const OpDef def{
      .name = "log_softmax",
      .doc = "y_i = x_i - log sum_j exp(x_j) along the last dim, the maximum subtracted first; in f32 or wider. x [..., n] float "
             "-> y of its type.",
      .traits = {.kind = OpKind::reduction, .inplace = 0},
      .operands = {"x"},
      .attrs = {},
      .infer = [](std::span<const Type> in, const Attrs&) { return infer_unary("log_softmax", in[0]); },
      .grad = log_softmax_gradient,
      .cost = row_cost<5>,
      .shard = "... _ -> ... _",
      .reference = [](auto& call) { log_softmax_reference(call); },
      .samples = unary_samples,
  };
  return def;
}

const OpDef& log_softmax_grad_op() {
  static const OpDef def{
      .name = "log_softmax_grad",
      .doc = "The gradient of log_softmax from its result: dx = dy - exp(y) sum_j dy_j along the last dim. y, dy and dx of one "
             "type.",
      .traits = {.kind = OpKind::reduction, .inplace = 1},
      .operands = {"y", "dy"},
      .attrs = {},
      .infer = [](std::span<const Type> in, const Attrs&) { return infer_grad("log_softmax_grad", in[0], in[1]); },
      .grad = log_softmax_grad_gradient,
      .cost = row_cost<4>,
      .shard = "... _, ... _ -> ... _",
      .reference = [](auto& call) { log_softmax_grad_reference(call); },
      .samples = grad_samples<true>,
  };
  return def;
}

}  // namespace

const std::vector<const OpDef*>& softmax_ops() {
  static const std::vector<const OpDef*> ops{&softmax_op(), &softmax_grad_op(), &log_softmax_op(), &log_softmax_grad_op()};
  return ops;
}

Value softmax(Value x) { return build(softmax_op(), {x}); }
Value softmax_grad(Value y, Value dy) { return build(softmax_grad_op(), {y, dy}); }
Value log_softmax(Value x) { return build(log_softmax_op(), {x}); }
Value log_softmax_grad(Value y, Value dy) { return build(log_softmax_grad_op(), {y, dy}); }

}  // namespace rhetor
