// Normalisation along the last dim (C elements), statistics in f32 or wider.
//
// layer_norm       mean = 1/C sum x, rstd = 1 / sqrt(1/C sum (x - mean)^2 + eps), y = (x - mean) rstd gamma + beta
// rms_norm         rstd = 1 / sqrt(1/C sum x^2 + eps), y = x rstd gamma
// layer_norm_grad  with n = (x - mean) rstd and d = dy gamma: dx = rstd (d - avg d - n avg(d n)),
//                  dgamma = sum_rows dy n, dbeta = sum_rows dy
// rms_norm_grad    with n = x rstd: dx = rstd (d - n avg(d n)), dgamma = sum_rows dy n
// Memory-bound: one read, one write forward; two reads, one write backward.
#include <cmath>

#include "ops/families.h"
#include "ops/ops.h"
#include "ops/samples.h"

namespace rhetor {
namespace {

// x float of rank >= 1, gamma (and beta, if given) [C] of one float dtype, x's or another.
void expect_norm(std::string_view op, const Type& x, const Type& gamma, const Type* beta) {
  expect_float(op, "x", x);
  expect_min_rank(op, "x", x, 1);
  expect_float(op, "gamma", gamma);
  expect_shape(op, "gamma", gamma, Shape{x.shape.dim(-1)});
  if (beta) expect_type(op, "beta", *beta, gamma);
}
Type statistic(const Type& x) { return {wide(x.dtype), drop_last(x.shape)}; }

double eps_of(std::string_view op, const Attrs& attrs) {
  const double eps = attrs.f("eps");
  if (!(eps >= 0)) fail("{}: the attribute 'eps' must be 0 or more, found {}", op, eps);
  return eps;
}

template <int per_element>
Cost norm_cost(std::span<const Type> in, std::span<const Type> out, const Attrs& attrs) {
  Cost cost = bytes_only_cost(in, out, attrs);
  cost.flops = per_element * static_cast<double>(out[0].elements());
  return cost;
}

// A statistic [...] as [..., 1], ready to broadcast against x.
Value column(Value statistic) {
  Shape shape = statistic.shape();
  shape.append(1);
  return reshape(statistic, shape);
}
Value plus(Value a, Value b) { return !a ? b : !b ? a : add(a, b); }

// ---- layer norm --------------------------------------------------------------------------------

std::vector<Type> layer_norm_infer(std::span<const Type> in, const Attrs& attrs) {
  expect_norm("layer_norm", in[0], in[1], &in[2]);
  eps_of("layer_norm", attrs);
  return {in[0], statistic(in[0]), statistic(in[0])};
}

std::vector<Value> layer_norm_gradient(const GradCall& call) {
  const Value x = call.in[0], gamma = call.in[1], mean = call.out[1], rstd = call.out[2];
  NormGrads grads;
  if (call.grad_out[0]) grads = layer_norm_grad(call.grad_out[0], x, gamma, mean, rstd);
  const double n = static_cast<double>(x.shape().last());
  const DType stat = mean.dtype();
  Value dx;  // through the statistics themselves: dmean/dx = 1/C, drstd/dx = -rstd^3 (x - mean) / C
  if (call.grad_out[1]) dx = broadcast_to(column(mul(call.grad_out[1], 1 / n)), x.shape());
  if (call.grad_out[2]) {
    const Value factor = mul(mul(call.grad_out[2], mul(square(rstd), rstd)), -1 / n);
    dx = plus(dx, mul(sub(cast(x, stat), column(mean)), column(factor)));
  }
  return {plus(grads.dx, dx ? cast(dx, x.dtype()) : dx), grads.dgamma, grads.dbeta};
}

template <class Call>
void layer_norm_reference(Call& call) {
  using T = typename Call::Real;
  const std::int64_t size = call.in[0]->shape().last(), rows = call.out[1].elements();
  const T *gamma = call.in[1]->f.data(), *beta = call.in[2]->f.data(), eps = static_cast<T>(call.attrs.f("eps"));
  for (std::int64_t r = 0; r < rows; ++r) {
    const T* x = call.in[0]->f.data() + r * size;
    T mean = 0, variance = 0;
    for (std::int64_t i = 0; i < size; ++i) mean += x[i];
    mean /= static_cast<T>(size);
    for (std::int64_t i = 0; i < size; ++i) variance += (x[i] - mean) * (x[i] - mean);
    const T rstd = 1 / std::sqrt(variance / static_cast<T>(size) + eps);
    for (std::int64_t i = 0; i < size; ++i) call.out[0].f.data()[r * size + i] = (x[i] - mean) * rstd * gamma[i] + beta[i];
    call.out[1].f.data()[r] = mean;
    call.out[2].f.data()[r] = rstd;
  }
}

std::vector<Type> layer_norm_grad_infer(std::span<const Type> in, const Attrs&) {
  constexpr auto op = "layer_norm_grad";
  expect_norm(op, in[1], in[2], nullptr);
  expect_type(op, "dy", in[0], in[1]);
  expect_type(op, "mean", in[3], statistic(in[1]));
  expect_type(op, "rstd", in[4], statistic(in[1]));
  return {in[1], in[2], in[2]};
}

// Both backwards: a null `mean` is rms_norm.
template <class T>
void norm_backward(std::int64_t rows, std::int64_t size, const T* dy, const T* x, const T* gamma, const T* mean, const T* rstd,
                   T* dx,
                   T* dgamma, T* dbeta) {
  for (std::int64_t r = 0; r < rows; ++r, dy += size, x += size, dx += size) {
    T average = 0, correlation = 0;
    const T center = mean ? mean[r] : T{0};
    for (std::int64_t i = 0; i < size; ++i) {
      const T normal = (x[i] - center) * rstd[r];
      average += dy[i] * gamma[i];
      correlation += dy[i] * gamma[i] * normal;
      dgamma[i] += dy[i] * normal;
      if (dbeta) dbeta[i] += dy[i];
    }
    average = mean ? average / static_cast<T>(size) : T{0};
    correlation /= static_cast<T>(size);
    for (std::int64_t i = 0; i < size; ++i)
      dx[i] = rstd[r] * (dy[i] * gamma[i] - average - (x[i] - center) * rstd[r] * correlation);
  }
}

template <class Call>
void layer_norm_grad_reference(Call& call) {
  norm_backward(call.in[3]->elements(), call.in[1]->shape().last(), call.in[0]->f.data(), call.in[1]->f.data(),
                call.in[2]->f.data(),
                call.in[3]->f.data(), call.in[4]->f.data(), call.out[0].f.data(), call.out[1].f.data(), call.out[2].f.data());
}

// ---- rms norm ----------------------------------------------------------------------------------

std::vector<Type> rms_norm_infer(std::span<const Type> in, const Attrs& attrs) {
  expect_norm("rms_norm", in[0], in[1], nullptr);
  eps_of("rms_norm", attrs);
  return {in[0], statistic(in[0])};
}

std::vector<Value> rms_norm_gradient(const GradCall& call) {
  const Value x = call.in[0], gamma = call.in[1], rstd = call.out[1];
  NormGrads grads;
  if (call.grad_out[0]) grads = rms_norm_grad(call.grad_out[0], x, gamma, rstd);
  Value dx;  // drstd/dx = -rstd^3 x / C
  if (call.grad_out[1]) {
    const Value factor = mul(mul(call.grad_out[1], mul(square(rstd), rstd)), -1 / static_cast<double>(x.shape().last()));
    dx = cast(mul(cast(x, rstd.dtype()), column(factor)), x.dtype());
  }
  return {plus(grads.dx, dx), grads.dgamma};
}

template <class Call>
void rms_norm_reference(Call& call) {
  using T = typename Call::Real;
  const std::int64_t size = call.in[0]->shape().last(), rows = call.out[1].elements();
  const T *gamma = call.in[1]->f.data(), eps = static_cast<T>(call.attrs.f("eps"));
  for (std::int64_t r = 0; r < rows; ++r) {
    const T* x = call.in[0]->f.data() + r * size;
    T sum = 0;
    for (std::int64_t i = 0; i < size; ++i) sum += x[i] * x[i];
    const T rstd = 1 / std::sqrt(sum / static_cast<T>(size) + eps);
    for (std::int64_t i = 0; i < size; ++i) call.out[0].f.data()[r * size + i] = x[i] * rstd * gamma[i];
    call.out[1].f.data()[r] = rstd;
  }
}

std::vector<Type> rms_norm_grad_infer(std::span<const Type> in, const Attrs&) {
  constexpr auto op = "rms_norm_grad";
  expect_norm(op, in[1], in[2], nullptr);
  expect_type(op, "dy", in[0], in[1]);
  expect_type(op, "rstd", in[3], statistic(in[1]));
  return {in[1], in[2]};
}

template <class Call>
void rms_norm_grad_reference(Call& call) {
  using T = typename Call::Real;
  norm_backward<T>(call.in[3]->elements(), call.in[1]->shape().last(), call.in[0]->f.data(), call.in[1]->f.data(),
                   call.in[2]->f.data(), nullptr, call.in[3]->f.data(), call.out[0].f.data(), call.out[1].f.data(), nullptr);
}

// ---- samples -----------------------------------------------------------------------------------

struct NormSample {
  std::string_view label;
  Shape x;
  double eps = 1e-5;
  bool fixed_gamma = false;  // gamma stays f32 beside narrow x: mixed precision
  bool benchmark = false;
};
std::vector<NormSample> norm_cases() {
  return {{"3x8", {3, 8}},
          {"1x1", {1, 1}, 0.1},
          {"7", {7}},
          {"2x3x33", {2, 3, 33}, 1e-12},
          {"5x300 f32 gamma", {5, 300}, 1e-5, true},
          {"1024x768", {1024, 768}, 1e-5, false, true},
          {"1x768", {1, 768}, 1e-5, false, true},
          {"512x4096", {512, 4096}, 1e-6, false, true}};
}
enum class Pass { forward, backward };
template <bool layer, Pass pass>
std::vector<Sample> norm_samples() {
  std::vector<Sample> samples;
  for (const NormSample& c : norm_cases()) {
    const Shape channels{c.x.dim(-1)}, rows = drop_last(c.x);
    const SampleInput gamma = c.fixed_gamma ? fixed_real(channels, 0.5, 1.5) : real(channels, 0.5, 1.5);
    SampleInput beta = gamma;
    beta.low = -1, beta.high = 1;
    Sample sample{.label = std::string(c.label), .inputs = {}, .benchmark = c.benchmark};
    if (pass == Pass::forward) {
      sample.inputs = {real(c.x, -2, 3), gamma};
      if (layer) sample.inputs.push_back(beta);
      sample.attrs.set("eps", c.eps);
    } else {
      sample.inputs = {real(c.x), real(c.x, -2, 3), gamma};
      if (layer) sample.inputs.push_back(fixed_real(rows, 0, 1));
      sample.inputs.push_back(fixed_real(rows, 0.5, 1));
      sample.differentiable = false;
    }
    samples.push_back(std::move(sample));
  }
  return samples;
}

const OpDef& layer_norm_op() {
  static const OpDef def{
      .name = "layer_norm",
      .doc = "y = (x - mean) rstd gamma + beta along the last dim, rstd = 1 / sqrt(variance + eps), population variance. x [..., "
             "C]; gamma, beta [C] of one float dtype; results y of x's type, mean and rstd [...] in f32 (f64 for f64). Ba, Kiros "
             "& Hinton, \"Layer normalization\" (2016).",
      .traits = {.kind = OpKind::reduction, .inplace = 0},
      .operands = {"x", "gamma", "beta"},
      .attrs = {{"eps", AttrKind::real, "added to the variance", false, 1e-5}},
      .infer = layer_norm_infer,
      .grad = layer_norm_gradient,
      .cost = norm_cost<8>,
      .shard = "... _, _, _ -> ... _, ..., ...",
      .reference = [](auto& call) { layer_norm_reference(call); },
      .samples = norm_samples<true, Pass::forward>,
  };
  return def;
}

const OpDef& layer_norm_grad_op() {
  static const OpDef def{
      .name = "layer_norm_grad",
      .doc = "The gradient of layer_norm. With n = (x - mean) rstd, d = dy gamma, averages along the last dim: dx = rstd (d - "
             "avg d - n avg(d n)), dgamma = sum of dy n and dbeta = sum of dy over all rows. dy, x [..., C], mean, rstd [...]; "
             "results dx of x's type, dgamma and dbeta of gamma's.",
      .traits = {.kind = OpKind::reduction},
      .operands = {"dy", "x", "gamma", "mean", "rstd"},
      .attrs = {},
      .infer = layer_norm_grad_infer,
      .grad = kNotDifferentiable,
      .cost = norm_cost<14>,
      .shard = "... _, ... _, _, ..., ... -> ... _, _, _ | sum ...",
      .reference = [](auto& call) { layer_norm_grad_reference(call); },
      .samples = norm_samples<true, Pass::backward>,
  };
  return def;
}

const OpDef& rms_norm_op() {
  static const OpDef def{
      .name = "rms_norm",
      .doc = "y = x rstd gamma along the last dim, rstd = 1 / sqrt(mean of x^2 + eps). x [..., C], gamma [C] float; results y of "
             "x's type, rstd [...] in f32 (f64 for f64). Zhang & Sennrich, \"Root mean square layer normalization\" (2019).",
      .traits = {.kind = OpKind::reduction, .inplace = 0},
      .operands = {"x", "gamma"},
      .attrs = {{"eps", AttrKind::real, "added to the mean square", false, 1e-5}},
      .infer = rms_norm_infer,
      .grad = rms_norm_gradient,
      .cost = norm_cost<4>,
      .shard = "... _, _ -> ... _, ...",
      .reference = [](auto& call) { rms_norm_reference(call); },
      .samples = norm_samples<false, Pass::forward>,
  };
  return def;
}

const OpDef& rms_norm_grad_op() {
  static const OpDef def{
      .name = "rms_norm_grad",
      .doc = "The gradient of rms_norm. With n = x rstd, d = dy gamma: dx = rstd (d - n avg(d n)), dgamma = sum of dy n over all "
             "rows. dy, x [..., C], rstd [...]; results dx of x's type, dgamma of gamma's.",
      .traits = {.kind = OpKind::reduction},
      .operands = {"dy", "x", "gamma", "rstd"},
      .attrs = {},
      .infer = rms_norm_grad_infer,
      .grad = kNotDifferentiable,
      .cost = norm_cost<10>,
      .shard = "... _, ... _, _, ... -> ... _, _ | sum ...",
      .reference = [](auto& call) { rms_norm_grad_reference(call); },
      .samples = norm_samples<false, Pass::backward>,
  };
  return def;
}

}  // namespace

const std::vector<const OpDef*>& norm_ops() {
  static const std::vector<const OpDef*> ops{&layer_norm_op(), &layer_norm_grad_op(), &rms_norm_op(), &rms_norm_grad_op()};
  return ops;
}

NormResult layer_norm_full(Value x, Value gamma, Value beta, double eps) {
  const Value y = build(layer_norm_op(), {x, gamma, beta}, {{"eps", eps}});
  return {y, result(y, 1), result(y, 2)};
}
Value layer_norm(Value x, Value gamma, Value beta, double eps) { return layer_norm_full(x, gamma, beta, eps).y; }

NormGrads layer_norm_grad(Value dy, Value x, Value gamma, Value mean, Value rstd) {
  const Value dx = build(layer_norm_grad_op(), {dy, x, gamma, mean, rstd});
  return {dx, result(dx, 1), result(dx, 2)};
}

NormResult rms_norm_full(Value x, Value gamma, double eps) {
  const Value y = build(rms_norm_op(), {x, gamma}, {{"eps", eps}});
  return {y, Value(), result(y, 1)};
}
Value rms_norm(Value x, Value gamma, double eps) { return rms_norm_full(x, gamma, eps).y; }

NormGrads rms_norm_grad(Value dy, Value x, Value gamma, Value rstd) {
  const Value dx = build(rms_norm_grad_op(), {dy, x, gamma, rstd});
  return {dx, result(dx, 1), Value()};
}

}  // namespace rhetor
