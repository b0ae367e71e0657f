// Cross-entropy of rows of logits against target classes.
//
// cross_entropy       lse_n = log sum_v exp x_nv, loss_n = lse_n - x_n,target(n); 0 where target = ignore_index
// cross_entropy_grad  dx_nv = dloss_n (exp(x_nv - lse_n) - [v = target(n)]); 0 where target = ignore_index
// Memory-bound: logits are read once forward; read and written once backward, in place.
#include <cmath>

#include "ops/families.h"
#include "ops/ops.h"
#include "ops/samples.h"

namespace rhetor {
namespace {

void expect_logits(std::string_view op, const Type& logits, const Type& targets) {
  expect_float(op, "logits", logits);
  expect_rank(op, "logits", logits, 2);
  if (logits.shape[1] < 1) fail("{}: operand 'logits' must have at least one class, found {}", op, logits.str());
  expect_index(op, "targets", targets);
  expect_shape(op, "targets", targets, Shape{logits.shape.dim(0)});
}
Type row_type(const Type& logits) { return {wide(logits.dtype), Shape{logits.shape.dim(0)}}; }

std::vector<Type> cross_entropy_infer(std::span<const Type> in, const Attrs&) {
  expect_logits("cross_entropy", in[0], in[1]);
  return {row_type(in[0]), row_type(in[0])};
}
std::vector<Type> cross_entropy_grad_infer(std::span<const Type> in, const Attrs&) {
  constexpr auto op = "cross_entropy_grad";
  expect_logits(op, in[1], in[2]);
  expect_type(op, "dloss", in[0], row_type(in[1]));
  expect_type(op, "lse", in[3], row_type(in[1]));
  return {in[1]};
}

template <int logits, int per_element>
Cost loss_cost(std::span<const Type> in, std::span<const Type> out, const Attrs& attrs) {
  Cost cost = bytes_only_cost(in, out, attrs);
  cost.flops = per_element * static_cast<double>(in[logits].elements());
  return cost;
}

std::vector<Value> cross_entropy_gradient(const GradCall& call) {
  const Value logits = call.in[0], targets = call.in[1];
  Value d;
  if (call.grad_out[0]) d = cross_entropy_grad(call.grad_out[0], logits, targets, call.out[1], call.attrs.i("ignore_index"));
  if (call.grad_out[1]) {  // dlse/dx is the softmax
    const Value row = reshape(call.grad_out[1], Shape{logits.dim(0), 1});
    const Value through = mul(softmax(logits), row.dtype() == logits.dtype() ? row : cast(row, logits.dtype()));
    d = d ? add(d, through) : through;
  }
  return {d, Value()};
}

void expect_target(std::string_view op, std::int64_t row, std::int64_t target, std::int64_t classes, std::int64_t ignore) {
  if (target < 0 || target >= classes)
    fail("{}: the target of row {} is {}, expected 0 to {} or {} (ignored)", op, row, target, classes - 1, ignore);
}

template <class Call>
void cross_entropy_reference(Call& call) {
  using T = typename Call::Real;
  const std::int64_t rows = call.in[0]->shape()[0], classes = call.in[0]->shape()[1], ignore = call.attrs.i("ignore_index");
  for (std::int64_t n = 0; n < rows; ++n) {
    const T* x = call.in[0]->f.data() + n * classes;
    const std::int64_t target = call.in[1]->i.data()[n];
    T top = x[0], sum = 0;
    for (std::int64_t v = 1; v < classes; ++v) top = std::max(top, x[v]);
    for (std::int64_t v = 0; v < classes; ++v) sum += std::exp(x[v] - top);
    const T lse = call.out[1].f.data()[n] = top + std::log(sum);
    if (target == ignore) continue;
    expect_target("cross_entropy", n, target, classes, ignore);
    call.out[0].f.data()[n] = lse - x[target];
  }
}

template <class Call>
void cross_entropy_grad_reference(Call& call) {
  using T = typename Call::Real;
  const std::int64_t rows = call.in[1]->shape()[0], classes = call.in[1]->shape()[1], ignore = call.attrs.i("ignore_index");
  for (std::int64_t n = 0; n < rows; ++n) {
    const std::int64_t target = call.in[2]->i.data()[n];
    if (target == ignore) continue;
    expect_target("cross_entropy_grad", n, target, classes, ignore);
    const T *x = call.in[1]->f.data() + n * classes, d = call.in[0]->f.data()[n], lse = call.in[3]->f.data()[n];
    for (std::int64_t v = 0; v < classes; ++v)
      call.out[0].f.data()[n * classes + v] = d * (std::exp(x[v] - lse) - (v == target ? T{1} : T{0}));
  }
}

struct LossSample {
  std::string_view label;
  std::int64_t rows, classes;
  std::vector<std::int32_t> targets = {};  // empty: random
  std::int64_t ignore = -100;
  bool benchmark = false;
};
std::vector<LossSample> loss_cases() {
  return {{"3x7", 3, 7},
          {"1x1", 1, 1},
          {"5x33 some ignored", 5, 33, {0, -100, 32, -100, 7}},
          {"4x9 ignore 0", 4, 9, {0, 8, 0, 3}, 0},
          {"2x300", 2, 300},
          {"512x50257", 512, 50257, {}, -100, true},
          {"1024x4096", 1024, 4096, {}, -100, true}};
}
SampleInput targets_of(const LossSample& c) {
  if (c.targets.empty()) return integers({c.rows}, 0, c.classes - 1);
  return exactly(Tensor::of<std::int32_t>(Shape{c.rows}, c.targets));
}
std::vector<Sample> cross_entropy_samples() {
  std::vector<Sample> samples;
  for (const LossSample& c : loss_cases())
    samples.push_back({.label = std::string(c.label), .inputs = {real({c.rows, c.classes}, -4, 4), targets_of(c)},
                       .attrs = {{"ignore_index", c.ignore}}, .benchmark = c.benchmark});
  return samples;
}
// lse around what such logits have, so that exp(x - lse) stays near a probability.
std::vector<Sample> cross_entropy_grad_samples() {
  std::vector<Sample> samples;
  for (const LossSample& c : loss_cases()) {
    const double lse = std::log(static_cast<double>(c.classes)) + 1.2;
    samples.push_back({.label = std::string(c.label),
                       .inputs = {fixed_real({c.rows}), real({c.rows, c.classes}, -4, 4), targets_of(c),
                                  fixed_real({c.rows}, lse, lse + 1)},
                       .attrs = {{"ignore_index", c.ignore}}, .differentiable = false, .benchmark = c.benchmark});
  }
  return samples;
}

std::vector<AttrSpec> loss_attrs() {
  return {{"ignore_index", AttrKind::integer, "target of rows that do not count", false, std::int64_t{-100}}};
}

const OpDef& cross_entropy_op() {
  static const OpDef def{
      .name = "cross_entropy",
      .doc = "lse_n = log sum_v exp(logits_nv), loss_n = lse_n - logits_n,target: the negative log-likelihood of the target "
             "class in nats. logits [N,V] float, targets i32 or i64 [N] in [0,V); results loss and lse [N] in f32 (f64 for f64). "
             "A target equal to ignore_index gives loss 0 and gradient 0.",
      .traits = {.kind = OpKind::reduction},
      .operands = {"logits", "targets"},
      .attrs = loss_attrs(),
      .infer = cross_entropy_infer,
      .grad = cross_entropy_gradient,
      .cost = loss_cost<0, 4>,
      .shard = "n _, n -> n, n",
      .reference = [](auto& call) { cross_entropy_reference(call); },
      .samples = cross_entropy_samples,
  };
  return def;
}

const OpDef& cross_entropy_grad_op() {
  static const OpDef def{
      .name = "cross_entropy_grad",
      .doc = "The gradient of cross_entropy from its lse: dlogits_nv = dloss_n (exp(logits_nv - lse_n) - [v = target_n]), 0 for "
             "ignored rows. dloss, lse [N] f32 (f64 for f64), logits [N,V] float, targets i32 or i64 [N]; result of the logits' "
             "type, which it may overwrite.",
      .traits = {.kind = OpKind::opaque, .inplace = 1},
      .operands = {"dloss", "logits", "targets", "lse"},
      .attrs = loss_attrs(),
      .infer = cross_entropy_grad_infer,
      .grad = kNotDifferentiable,
      .cost = loss_cost<1, 4>,
      .shard = "n, n _, n, n -> n _",
      .reference = [](auto& call) { cross_entropy_grad_reference(call); },
      .samples = cross_entropy_grad_samples,
  };
  return def;
}

}  // namespace

const std::vector<const OpDef*>& loss_ops() {
  static const std::vector<const OpDef*> ops{&cross_entropy_op(), &cross_entropy_grad_op()};
  return ops;
}

CrossEntropyResult cross_entropy_full(Value logits, Value targets, std::int64_t ignore_index) {
  const Value loss = build(cross_entropy_op(), {logits, targets}, {{"ignore_index", ignore_index}});
  return {loss, result(loss, 1)};
}

Value cross_entropy(Value logits, Value targets, std::int64_t ignore_index) {
  return cross_entropy_full(logits, targets, ignore_index).loss;
}

Value cross_entropy_grad(Value dloss, Value logits, Value targets, Value lse, std::int64_t ignore_index) {
  return build(cross_entropy_grad_op(), {dloss, logits, targets, lse}, {{"ignore_index", ignore_index}});
}

Value mean_cross_entropy(Value logits, Value targets, std::int64_t ignore_index) {
  const Value loss = cross_entropy(logits, targets, ignore_index);
  const Value ignored = equal(targets, scalar(targets.graph(), targets.dtype(), static_cast<double>(ignore_index)));
  const Value count = reduce_sum(cast(logical_not(ignored), loss.dtype()), {0});
  return div(reduce_sum(loss, {0}), maximum(count, scalar(loss.graph(), loss.dtype(), 1)));
}

}  // namespace rhetor
