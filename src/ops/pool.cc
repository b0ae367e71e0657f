// Pooling over images, NCHW.
//
// max_pool2d  y[n,c,i,j] = max_{u,v} x[n, c, i s0 - p0 + u, j s1 - p1 + v] over the places inside x
// avg_pool2d  the same with the mean
// Memory-bound: one read of x, one write of y.
#include "ops/families.h"
#include "ops/ops.h"
#include "ops/window.h"

namespace rhetor {
namespace {

Window pool_window(std::string_view op, const Attrs& attrs) {
  const Window w = window_of(op, attrs, pair_attr(op, attrs, "kernel", 1));
  for (std::size_t d = 0; d < 2; ++d)
    if (w.pad_before[d] >= w.kernel[d] || w.pad_after[d] >= w.kernel[d])
      fail("{}: padding must be smaller than the kernel [{}], found [{}] before and [{}] after", op, fmt::join(w.kernel, ", "),
           fmt::join(w.pad_before, ", "), fmt::join(w.pad_after, ", "));
  return w;
}

Shape pool_result(std::string_view op, const Shape& x, const Attrs& attrs) {
  const auto out = output_size(op, pool_window(op, attrs), x);
  return Shape{x.dim(0), x.dim(1), out[0], out[1]};
}

// Calls f(y index, x indices inside the window) for every window of x.
template <class F>
void for_each_window(const Window& w, const Shape& x, const Shape& y, F&& f) {
  std::vector<std::int64_t> inside;
  for (std::int64_t plane = 0; plane < x[0] * x[1]; ++plane)
    for (std::int64_t i = 0; i < y[2]; ++i)
      for (std::int64_t j = 0; j < y[3]; ++j) {
        inside.clear();
        for (std::int64_t u = 0; u < w.kernel[0]; ++u)
          for (std::int64_t v = 0; v < w.kernel[1]; ++v) {
            const std::int64_t row = i * w.stride[0] - w.pad_before[0] + u, col = j * w.stride[1] - w.pad_before[1] + v;
            if (row >= 0 && row < x[2] && col >= 0 && col < x[3]) inside.push_back((plane * x[2] + row) * x[3] + col);
          }
        f((plane * y[2] + i) * y[3] + j, inside);
      }
}

std::vector<Type> max_pool2d_infer(std::span<const Type> in, const Attrs& attrs) {
  expect_image("max_pool2d", "x", in[0]);
  return {{in[0].dtype, pool_result("max_pool2d", in[0].shape, attrs)}};
}
std::vector<Type> max_pool2d_grad_infer(std::span<const Type> in, const Attrs& attrs) {
  expect_image("max_pool2d_grad", "x", in[0]);
  const Type y{in[0].dtype, pool_result("max_pool2d_grad", in[0].shape, attrs)};
  expect_type("max_pool2d_grad", "y", in[1], y);
  expect_type("max_pool2d_grad", "dy", in[2], y);
  return {in[0]};
}
std::vector<Type> avg_pool2d_infer(std::span<const Type> in, const Attrs& attrs) {
  expect_image("avg_pool2d", "x", in[0]);
  return {{in[0].dtype, pool_result("avg_pool2d", in[0].shape, attrs)}};
}
std::vector<Type> avg_pool2d_grad_infer(std::span<const Type> in, const Attrs& attrs) {
  constexpr auto op = "avg_pool2d_grad";
  expect_image(op, "dy", in[0]);
  const auto size = pair_attr(op, attrs, "x_size", 1);
  const Shape x{in[0].shape.dim(0), in[0].shape.dim(1), size[0], size[1]};
  expect_shape(op, "dy", in[0], pool_result(op, x, attrs));
  return {{in[0].dtype, x}};
}

PoolOptions pool_options(const Attrs& attrs) {
  return {.kernel = attrs.ints("kernel"), .stride = attrs.ints("stride"), .pad_before = attrs.ints("pad_before"),
          .pad_after = attrs.ints("pad_after"), .count_padding = attrs.has("count_padding") && attrs.b("count_padding")};
}
std::vector<Value> max_pool2d_gradient(const GradCall& call) {
  return {max_pool2d_grad(call.in[0], call.out[0], call.grad_out[0], pool_options(call.attrs))};
}
std::vector<Value> avg_pool2d_gradient(const GradCall& call) {
  return {avg_pool2d_grad(call.grad_out[0], call.in[0].shape(), pool_options(call.attrs))};
}
std::vector<Value> avg_pool2d_grad_gradient(const GradCall& call) {  // linear: its adjoint is the pooling itself
  return {avg_pool2d(call.grad_out[0], pool_options(call.attrs))};
}

// One operation a tap of every window.
Cost pool_cost(std::span<const Type> in, std::span<const Type> out, const Attrs& attrs) {
  Cost cost = bytes_only_cost(in, out, attrs);
  const Ints& kernel = attrs.ints("kernel");
  const Type& y = in.size() == 3 ? in[1] : attrs.has("x_size") ? in[0] : out[0];
  cost.flops = static_cast<double>(y.elements()) * static_cast<double>(kernel[0] * kernel[1]);
  return cost;
}

template <class Call>
void max_pool2d_reference(Call& call) {
  const auto* x = call.in[0]->f.data();
  auto* y = call.out[0].f.data();
  for_each_window(pool_window("max_pool2d", call.attrs), call.in[0]->shape(), call.out[0].shape(),
                  [&](std::int64_t yi, const Ints& inside) {
                    y[yi] = x[inside[0]];
                    for (const std::int64_t xi : inside)
                      if (x[xi] > y[yi] || x[xi] != x[xi]) y[yi] = x[xi];  // a NaN is the result
                  });
}
template <class Call>
void max_pool2d_grad_reference(Call& call) {
  const auto *x = call.in[0]->f.data(), *y = call.in[1]->f.data(), *dy = call.in[2]->f.data();
  auto* dx = call.out[0].f.data();
  for_each_window(pool_window("max_pool2d_grad", call.attrs), call.in[0]->shape(), call.in[1]->shape(),
                  [&](std::int64_t yi, const Ints& inside) {
                    for (const std::int64_t xi : inside)
                      if (x[xi] == y[yi]) {
                        dx[xi] += dy[yi];  // the first maximum takes it all
                        return;
                      }
                  });
}
// The divisor of a window with `inside` places in x.
template <class T>
T divisor(const Window& w, const Attrs& attrs, const Ints& inside) {
  return attrs.b("count_padding") ? static_cast<T>(w.kernel[0] * w.kernel[1]) : static_cast<T>(inside.size());
}
template <class Call>
void avg_pool2d_reference(Call& call) {
  using T = typename Call::Real;
  const T* x = call.in[0]->f.data();
  T* y = call.out[0].f.data();
  const Window w = pool_window("avg_pool2d", call.attrs);
  for_each_window(w, call.in[0]->shape(), call.out[0].shape(), [&](std::int64_t yi, const Ints& inside) {
    T sum = 0;
    for (const std::int64_t xi : inside) sum += x[xi];
    y[yi] = sum / divisor<T>(w, call.attrs, inside);
  });
}
template <class Call>
void avg_pool2d_grad_reference(Call& call) {
  using T = typename Call::Real;
  const T* dy = call.in[0]->f.data();
  T* dx = call.out[0].f.data();
  const Window w = pool_window("avg_pool2d_grad", call.attrs);
  for_each_window(w, call.out[0].shape(), call.in[0]->shape(), [&](std::int64_t yi, const Ints& inside) {
    for (const std::int64_t xi : inside) dx[xi] += dy[yi] / divisor<T>(w, call.attrs, inside);
  });
}

Attrs pool_attrs(const PoolOptions& o, bool average) {
  Attrs attrs{{"kernel", o.kernel}, {"stride", o.stride}, {"pad_before", o.pad_before}, {"pad_after", o.pad_after}};
  if (average) attrs.set("count_padding", o.count_padding);
  return attrs;
}
std::vector<AttrSpec> pool_specs(bool average) {
  std::vector<AttrSpec> specs{{"kernel", AttrKind::integers, "height and width of the window"},
                              {"stride", AttrKind::integers, "step of the window: rows, columns", false, Ints{1, 1}},
                              {"pad_before", AttrKind::integers, "places above and left of x", false, Ints{0, 0}},
                              {"pad_after", AttrKind::integers, "places below and right of x", false, Ints{0, 0}}};
  if (average) specs.push_back({"count_padding", AttrKind::boolean, "padded places count in the divisor", false, false});
  return specs;
}

struct PoolSample {
  std::string_view label;
  Shape x;
  PoolOptions options;
  bool benchmark = false;
};
std::vector<PoolSample> pool_cases() {
  return {{"2x2", {2, 3, 4, 6}, {}},
          {"1x1", {1, 1, 1, 1}, {.kernel = {1, 1}, .stride = {1, 1}}},
          {"3x3 overlapping padded", {1, 2, 5, 7}, {.kernel = {3, 3}, .stride = {2, 2}, .pad_before = {1, 1},
                                                    .pad_after = {1, 1}}},
          {"padding counts", {1, 1, 5, 4}, {.kernel = {3, 2}, .stride = {2, 1}, .pad_before = {1, 0}, .pad_after = {1, 1},
                                            .count_padding = true}},
          {"does not divide", {1, 2, 5, 5}, {.kernel = {2, 3}, .stride = {2, 2}}},
          {"resnet stem", {1, 64, 112, 112}, {.kernel = {3, 3}, .stride = {2, 2}, .pad_before = {1, 1}, .pad_after = {1, 1}},
           true}};
}
template <bool average>
std::vector<Sample> pool_samples() {
  std::vector<Sample> samples;
  for (const PoolSample& c : pool_cases())
    samples.push_back({.label = std::string(c.label), .inputs = {real(c.x)}, .attrs = pool_attrs(c.options, average),
                       .benchmark = c.benchmark});
  return samples;
}
// x holds distinct integers that every dtype represents, so that y is exactly a maximum of x.
std::vector<Sample> max_pool2d_grad_samples() {
  std::vector<Sample> samples;
  for (const PoolSample& c : pool_cases()) {
    const Attrs attrs = pool_attrs(c.options, false);
    const Shape y_shape = pool_result("max_pool2d", c.x, attrs);
    Tensor x(DType::f32, c.x), y(DType::f32, y_shape);
    const auto to = x.data<float>();
    for (std::size_t i = 0; i < to.size(); ++i) to[i] = static_cast<float>(i * 89 % 251);
    const auto maxima = y.data<float>();
    for_each_window(pool_window("max_pool2d", attrs), c.x, y_shape, [&](std::int64_t yi, const Ints& inside) {
      float best = -1;
      for (const std::int64_t xi : inside) best = std::max(best, to[static_cast<std::size_t>(xi)]);
      maxima[static_cast<std::size_t>(yi)] = best;
    });
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
      samples.push_back({.label = std::string(c.label), .inputs = {exactly(x.cast(dtype)), exactly(y.cast(dtype)), real(y_shape)},
                         .attrs = attrs, .differentiable = false, .benchmark = c.benchmark, .dtypes = {dtype}});
  }
  return samples;
}
std::vector<Sample> avg_pool2d_grad_samples() {
  std::vector<Sample> samples;
  for (const PoolSample& c : pool_cases()) {
    Attrs attrs = pool_attrs(c.options, true);
    const Shape y = pool_result("avg_pool2d", c.x, attrs);
    attrs.set("x_size", Ints{c.x[2], c.x[3]});
    samples.push_back({.label = std::string(c.label), .inputs = {real(y)}, .attrs = attrs, .benchmark = c.benchmark});
  }
  return samples;
}

const OpDef& max_pool2d_op() {
  static const OpDef def{
      .name = "max_pool2d",
      .doc = "y[n,c,i,j] = max_{u,v} x[n, c, i s0 - p0 + u, j s1 - p1 + v] over the places inside x; x [N,C,H,W] float, y "
             "[N,C,H',W'], H' = floor((H + pads - kh) / s0) + 1. Padding is smaller than the kernel.",
      .traits = {.kind = OpKind::reduction},
      .operands = {"x"},
      .attrs = pool_specs(false),
      .infer = max_pool2d_infer,
      .grad = max_pool2d_gradient,
      .cost = pool_cost,
      .shard = "n c _ _ -> n c _ _",
      .reference = [](auto& call) { max_pool2d_reference(call); },
      .samples = pool_samples<false>,
  };
  return def;
}

const OpDef& max_pool2d_grad_op() {
  static const OpDef def{
      .name = "max_pool2d_grad",
      .doc = "The gradient of max_pool2d: each dy goes to the first place of its window (row-major) where x = y. x [N,C,H,W], y "
             "and dy [N,C,H',W'] -> dx [N,C,H,W].",
      .traits = {.kind = OpKind::opaque},
      .operands = {"x", "y", "dy"},
      .attrs = pool_specs(false),
      .infer = max_pool2d_grad_infer,
      .grad = kNotDifferentiable,
      .cost = pool_cost,
      .shard = "n c _ _, n c _ _, n c _ _ -> n c _ _",
      .reference = [](auto& call) { max_pool2d_grad_reference(call); },
      .samples = max_pool2d_grad_samples,
  };
  return def;
}

const OpDef& avg_pool2d_op() {
  static const OpDef def{
      .name = "avg_pool2d",
      .doc = "y[n,c,i,j] = sum_{u,v} x[n, c, i s0 - p0 + u, j s1 - p1 + v] / count over the places inside x; count is their "
             "number, or kh kw if count_padding. x [N,C,H,W] float -> y [N,C,H',W'] as max_pool2d.",
      .traits = {.kind = OpKind::reduction},
      .operands = {"x"},
      .attrs = pool_specs(true),
      .infer = avg_pool2d_infer,
      .grad = avg_pool2d_gradient,
      .cost = pool_cost,
      .shard = "n c _ _ -> n c _ _",
      .reference = [](auto& call) { avg_pool2d_reference(call); },
      .samples = pool_samples<true>,
  };
  return def;
}

const OpDef& avg_pool2d_grad_op() {
  static const OpDef def{
      .name = "avg_pool2d_grad",
      .doc = "The gradient of avg_pool2d: each dy is shared evenly by its window. dy [N,C,H',W'] -> dx [N,C,H,W], [H,W] = "
             "x_size.",
      .traits = {.kind = OpKind::opaque},
      .operands = {"dy"},
      .attrs = with(pool_specs(true), {"x_size", AttrKind::integers, "height and width of x"}),
      .infer = avg_pool2d_grad_infer,
      .grad = avg_pool2d_grad_gradient,
      .cost = pool_cost,
      .shard = "n c _ _ -> n c _ _",
      .reference = [](auto& call) { avg_pool2d_grad_reference(call); },
      .samples = avg_pool2d_grad_samples,
  };
  return def;
}

}  // namespace

const std::vector<const OpDef*>& pool_ops() {
  static const std::vector<const OpDef*> ops{&max_pool2d_op(), &max_pool2d_grad_op(), &avg_pool2d_op(), &avg_pool2d_grad_op()};
  return ops;
}

Value max_pool2d(Value x, const PoolOptions& options) { return build(max_pool2d_op(), {x}, pool_attrs(options, false)); }

Value max_pool2d_grad(Value x, Value y, Value dy, const PoolOptions& options) {
  return build(max_pool2d_grad_op(), {x, y, dy}, pool_attrs(options, false));
}

Value avg_pool2d(Value x, const PoolOptions& options) { return build(avg_pool2d_op(), {x}, pool_attrs(options, true)); }

Value avg_pool2d_grad(Value dy, Shape x_shape, const PoolOptions& options) {
  Attrs attrs = pool_attrs(options, true);
  if (x_shape.rank() != 4) fail("avg_pool2d_grad: x_shape must have rank 4 (N, C, H, W), found {}", x_shape.str());
  attrs.set("x_size", Ints{x_shape[2], x_shape[3]});
  return build(avg_pool2d_grad_op(), {dy}, std::move(attrs));
}

}  // namespace rhetor
