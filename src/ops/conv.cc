// Convolution over images, NCHW; weights OIHW (I = channels of one group).
//
// conv2d      y[n,o,i,j] = sum_{c,u,v} x[n, g C/G + c, i s0 - p0 + u d0, j s1 - p1 + v d1] w[o,c,u,v],  g = group of o
// Places outside x are 0. The gradients are linear in each operand, so that the three ops are closed under differentiation.
// Sizes that a gradient must restore are kept as spatial attributes only: batch and channels come from its operands and may be
// split over ranks. Compute-bound but for depthwise.
#include "ops/families.h"
#include "ops/ops.h"
#include "ops/window.h"

namespace rhetor {
namespace {

struct Conv {
  std::int64_t n, channels, out_channels, groups;
  std::array<std::int64_t, 2> in, out;
  Window window;
};

// Calls f(x index, w index, y index) for every product of the convolution.
template <class F>
void for_each_product(const Conv& c, F&& f) {
  const std::int64_t group_in = c.channels / c.groups, group_out = c.out_channels / c.groups;
  const auto [kh, kw] = c.window.kernel;
  for (std::int64_t n = 0; n < c.n; ++n)
    for (std::int64_t o = 0; o < c.out_channels; ++o)
      for (std::int64_t i = 0; i < c.out[0]; ++i)
        for (std::int64_t j = 0; j < c.out[1]; ++j)
          for (std::int64_t g = 0; g < group_in; ++g)
            for (std::int64_t u = 0; u < kh; ++u)
              for (std::int64_t v = 0; v < kw; ++v) {
                const std::int64_t row = i * c.window.stride[0] - c.window.pad_before[0] + u * c.window.dilation[0];
                const std::int64_t col = j * c.window.stride[1] - c.window.pad_before[1] + v * c.window.dilation[1];
                if (row < 0 || row >= c.in[0] || col < 0 || col >= c.in[1]) continue;
                const std::int64_t channel = o / group_out * group_in + g;
                f(((n * c.channels + channel) * c.in[0] + row) * c.in[1] + col, ((o * group_in + g) * kh + u) * kw + v,
                  ((n * c.out_channels + o) * c.out[0] + i) * c.out[1] + j);
              }
}

Conv make_conv(std::string_view op, const Shape& x, const Shape& w, const Attrs& attrs) {
  const std::int64_t groups = attrs.i("groups");
  if (groups < 1 || x[1] % groups != 0 || w[0] % groups != 0)
    fail("{}: the attribute 'groups' must divide the {} channels of x and the {} of y, found {}", op, x[1], w[0], groups);
  if (w[1] != x[1] / groups)
    fail("{}: operand 'w' must have {} input channels a group (x {} in {} groups), found {}", op, x[1] / groups, x.str(), groups,
         w.str());
  Conv conv{.n = x[0], .channels = x[1], .out_channels = w[0], .groups = groups, .in = spatial(x), .out = {},
            .window = window_of(op, attrs, spatial(w))};
  const auto out = output_size(op, conv.window, x);
  conv.out = {out[0].size, out[1].size};
  return conv;
}

Shape conv_result(std::string_view op, const Shape& x, const Shape& w, const Attrs& attrs) {
  const Conv conv = make_conv(op, x, w, attrs);
  return Shape{x.dim(0), w.dim(0), conv.out[0], conv.out[1]};
}

// x's and w's shapes in the gradients, from what they are given.
Shape x_shape_of(const Shape& dy, const Shape& w, const Attrs& attrs) {
  const auto size = pair_attr("conv2d_input_grad", attrs, "x_size", 1);
  if (const std::int64_t groups = attrs.i("groups"); groups < 1 || groups > w[0])
    fail("conv2d_input_grad: the attribute 'groups' must be in 1 to the {} channels of dy, found {}", w[0], groups);
  return Shape{dy.dim(0), w[1] * attrs.i("groups"), size[0], size[1]};
}
Shape w_shape_of(const Shape& x, const Shape& dy, const Attrs& attrs) {
  const auto size = pair_attr("conv2d_weight_grad", attrs, "kernel", 1);
  const std::int64_t groups = attrs.i("groups");
  if (groups < 1 || x[1] % groups != 0)
    fail("conv2d_weight_grad: the attribute 'groups' must divide the {} channels of x, found {}", x[1], groups);
  return Shape{dy.dim(1), x[1] / groups, size[0], size[1]};
}

std::vector<Type> conv2d_infer(std::span<const Type> in, const Attrs& attrs) {
  expect_image("conv2d", "x", in[0]);
  expect_image("conv2d", "w", in[1]);
  expect_dtype("conv2d", "w", in[1], in[0].dtype);
  return {{in[0].dtype, conv_result("conv2d", in[0].shape, in[1].shape, attrs)}};
}

std::vector<Type> conv2d_input_grad_infer(std::span<const Type> in, const Attrs& attrs) {
  constexpr auto op = "conv2d_input_grad";
  expect_image(op, "dy", in[0]);
  expect_image(op, "w", in[1]);
  expect_dtype(op, "w", in[1], in[0].dtype);
  const Shape x = x_shape_of(in[0].shape, in[1].shape, attrs);
  expect_shape(op, "dy", in[0], conv_result(op, x, in[1].shape, attrs));
  return {{in[0].dtype, x}};
}

std::vector<Type> conv2d_weight_grad_infer(std::span<const Type> in, const Attrs& attrs) {
  constexpr auto op = "conv2d_weight_grad";
  expect_image(op, "x", in[0]);
  expect_image(op, "dy", in[1]);
  expect_dtype(op, "dy", in[1], in[0].dtype);
  const Shape w = w_shape_of(in[0].shape, in[1].shape, attrs);
  expect_shape(op, "dy", in[1], conv_result(op, in[0].shape, w, attrs));
  return {{in[0].dtype, w}};
}

ConvOptions conv_options(const Attrs& attrs) {
  return {.stride = attrs.ints("stride"), .pad_before = attrs.ints("pad_before"), .pad_after = attrs.ints("pad_after"),
          .dilation = attrs.ints("dilation"), .groups = attrs.i("groups")};
}

std::vector<Value> conv2d_grad(const GradCall& call) {
  const Value x = call.in[0], w = call.in[1], dy = call.grad_out[0];
  const ConvOptions options = conv_options(call.attrs);
  return {conv2d_input_grad(dy, w, x.shape(), options), conv2d_weight_grad(x, dy, w.shape(), options)};
}
std::vector<Value> conv2d_input_grad_grad(const GradCall& call) {
  const Value dy = call.in[0], w = call.in[1], ddx = call.grad_out[0];
  const ConvOptions options = conv_options(call.attrs);
  return {conv2d(ddx, w, options), conv2d_weight_grad(ddx, dy, w.shape(), options)};
}
std::vector<Value> conv2d_weight_grad_grad(const GradCall& call) {
  const Value x = call.in[0], dy = call.in[1], ddw = call.grad_out[0];
  const ConvOptions options = conv_options(call.attrs);
  return {conv2d_input_grad(dy, ddw, x.shape(), options), conv2d(x, ddw, options)};
}

// Products with padding are counted: what direct algorithms perform and what papers quote.
double conv_flops(const Shape& w, const Shape& y) {
  return 2.0 * static_cast<double>(y.elements()) * static_cast<double>(w[1] * w[2] * w[3]);
}
Cost conv2d_cost(std::span<const Type> in, std::span<const Type> out, const Attrs& attrs) {
  Cost cost = bytes_only_cost(in, out, attrs);
  cost.flops = conv_flops(in[1].shape, out[0].shape);
  return cost;
}
Cost conv2d_input_grad_cost(std::span<const Type> in, std::span<const Type> out, const Attrs& attrs) {
  Cost cost = bytes_only_cost(in, out, attrs);
  cost.flops = conv_flops(in[1].shape, in[0].shape);
  return cost;
}
Cost conv2d_weight_grad_cost(std::span<const Type> in, std::span<const Type> out, const Attrs& attrs) {
  Cost cost = bytes_only_cost(in, out, attrs);
  cost.flops = conv_flops(out[0].shape, in[1].shape);
  return cost;
}

template <class Call>
void conv2d_reference(Call& call) {
  const auto *x = call.in[0]->f.data(), *w = call.in[1]->f.data();
  auto* y = call.out[0].f.data();
  for_each_product(make_conv("conv2d", call.in[0]->shape(), call.in[1]->shape(), call.attrs),
                   [&](std::int64_t xi, std::int64_t wi, std::int64_t yi) { y[yi] += x[xi] * w[wi]; });
}
template <class Call>
void conv2d_input_grad_reference(Call& call) {
  const auto *dy = call.in[0]->f.data(), *w = call.in[1]->f.data();
  auto* dx = call.out[0].f.data();
  for_each_product(make_conv("conv2d_input_grad", call.out[0].shape(), call.in[1]->shape(), call.attrs),
                   [&](std::int64_t xi, std::int64_t wi, std::int64_t yi) { dx[xi] += dy[yi] * w[wi]; });
}
template <class Call>
void conv2d_weight_grad_reference(Call& call) {
  const auto *x = call.in[0]->f.data(), *dy = call.in[1]->f.data();
  auto* dw = call.out[0].f.data();
  for_each_product(make_conv("conv2d_weight_grad", call.in[0]->shape(), call.out[0].shape(), call.attrs),
                   [&](std::int64_t xi, std::int64_t wi, std::int64_t yi) { dw[wi] += x[xi] * dy[yi]; });
}

Attrs conv_attrs(const ConvOptions& o) {
  return {{"stride", o.stride}, {"pad_before", o.pad_before}, {"pad_after", o.pad_after}, {"dilation", o.dilation},
          {"groups", o.groups}};
}
std::vector<AttrSpec> conv_specs() {
  return {{"stride", AttrKind::integers, "step of the window: rows, columns", false, Ints{1, 1}},
          {"pad_before", AttrKind::integers, "zeros above and left of x", false, Ints{0, 0}},
          {"pad_after", AttrKind::integers, "zeros below and right of x", false, Ints{0, 0}},
          {"dilation", AttrKind::integers, "distance between kernel taps", false, Ints{1, 1}},
          {"groups", AttrKind::integer, "channel groups that do not mix", false, std::int64_t{1}}};
}

// The samples of all three: x, w and how; the gradients derive theirs from it.
struct ConvSample {
  std::string_view label;
  Shape x, w;
  ConvOptions options;
  bool benchmark = false;
};
std::vector<ConvSample> conv_cases() {
  return {{"3x3", {2, 3, 5, 6}, {4, 3, 3, 3}, {}},
          {"1x1 one channel", {1, 1, 1, 1}, {1, 1, 1, 1}, {}},
          {"pad stride", {1, 2, 7, 5}, {3, 2, 3, 3}, {.stride = {2, 2}, .pad_before = {1, 1}, .pad_after = {1, 1}}},
          {"uneven pad stride", {1, 2, 6, 7}, {2, 2, 3, 2}, {.stride = {2, 3}, .pad_before = {0, 1}, .pad_after = {1, 0}}},
          {"dilated", {1, 2, 7, 7}, {2, 2, 3, 3}, {.pad_before = {2, 2}, .pad_after = {2, 2}, .dilation = {2, 2}}},
          {"grouped", {2, 4, 4, 4}, {6, 2, 2, 2}, {.groups = 2}},
          {"depthwise", {1, 3, 5, 5}, {3, 1, 3, 3}, {.pad_before = {1, 1}, .pad_after = {1, 1}, .groups = 3}},
          {"resnet 3x3 56", {1, 64, 56, 56}, {64, 64, 3, 3}, {.pad_before = {1, 1}, .pad_after = {1, 1}}, true},
          {"resnet stem", {1, 3, 224, 224}, {64, 3, 7, 7}, {.stride = {2, 2}, .pad_before = {3, 3}, .pad_after = {3, 3}}, true}};
}
std::vector<Sample> conv2d_samples() {
  std::vector<Sample> samples;
  for (const ConvSample& c : conv_cases())
    samples.push_back({.label = std::string(c.label), .inputs = {real(c.x), real(c.w)}, .attrs = conv_attrs(c.options),
                       .benchmark = c.benchmark});
  return samples;
}
std::vector<Sample> conv2d_input_grad_samples() {
  std::vector<Sample> samples;
  for (const ConvSample& c : conv_cases()) {
    Attrs attrs = conv_attrs(c.options);
    const Shape y = conv_result("conv2d", c.x, c.w, attrs);
    attrs.set("x_size", Ints{c.x[2], c.x[3]});
    samples.push_back({.label = std::string(c.label), .inputs = {real(y), real(c.w)}, .attrs = attrs, .benchmark = c.benchmark});
  }
  return samples;
}
std::vector<Sample> conv2d_weight_grad_samples() {
  std::vector<Sample> samples;
  for (const ConvSample& c : conv_cases()) {
    Attrs attrs = conv_attrs(c.options);
    const Shape y = conv_result("conv2d", c.x, c.w, attrs);
    attrs.set("kernel", Ints{c.w[2], c.w[3]});
    samples.push_back({.label = std::string(c.label), .inputs = {real(c.x), real(y)}, .attrs = attrs, .benchmark = c.benchmark});
  }
  return samples;
}

const OpDef& conv2d_op() {
  static const OpDef def{
      .name = "conv2d",
      .doc = "y[n,o,i,j] = sum_{c,u,v} x[n, g C/G + c, i s0 - p0 + u d0, j s1 - p1 + v d1] w[o,c,u,v] with g the group of o; x "
             "[N,C,H,W] is 0 outside, w [O,C/G,kh,kw] of the same float dtype; y [N,O,H',W'], H' = floor((H + pads - d0 (kh-1) - "
             "1) / s0) + 1. A cross-correlation, as in LeCun et al. (1998) and every framework.",
      .traits = {.kind = OpKind::contraction},
      .operands = {"x", "w"},
      .attrs = conv_specs(),
      .infer = conv2d_infer,
      .grad = conv2d_grad,
      .cost = conv2d_cost,
      .shard = "n _ _ _, _ _ _ _ -> n _ _ _",
      .reference = [](auto& call) { conv2d_reference(call); },
      .samples = conv2d_samples,
  };
  return def;
}

const OpDef& conv2d_input_grad_op() {
  static const OpDef def{
      .name = "conv2d_input_grad",
      .doc = "The gradient of conv2d for x: dx = sum over the products that read x of dy w (a transposed convolution). dy "
             "[N,O,H',W'], w [O,C/G,kh,kw] -> dx [N,C,H,W] with [H,W] = x_size.",
      .traits = {.kind = OpKind::contraction},
      .operands = {"dy", "w"},
      .attrs = with(conv_specs(), {"x_size", AttrKind::integers, "height and width of x"}),
      .infer = conv2d_input_grad_infer,
      .grad = conv2d_input_grad_grad,
      .cost = conv2d_input_grad_cost,
      .shard = "n _ _ _, _ _ _ _ -> n _ _ _",
      .reference = [](auto& call) { conv2d_input_grad_reference(call); },
      .samples = conv2d_input_grad_samples,
  };
  return def;
}

const OpDef& conv2d_weight_grad_op() {
  static const OpDef def{
      .name = "conv2d_weight_grad",
      .doc = "The gradient of conv2d for w: dw = sum over the products that read w of x dy. x [N,C,H,W], dy [N,O,H',W'] -> dw "
             "[O,C/G,kh,kw] with [kh,kw] = kernel.",
      .traits = {.kind = OpKind::contraction},
      .operands = {"x", "dy"},
      .attrs = with(conv_specs(), {"kernel", AttrKind::integers, "height and width of w"}),
      .infer = conv2d_weight_grad_infer,
      .grad = conv2d_weight_grad_grad,
      .cost = conv2d_weight_grad_cost,
      .shard = "n _ _ _, n _ _ _ -> _ _ _ _ | sum n",
      .reference = [](auto& call) { conv2d_weight_grad_reference(call); },
      .samples = conv2d_weight_grad_samples,
  };
  return def;
}

}  // namespace

const std::vector<const OpDef*>& conv_ops() {
  static const std::vector<const OpDef*> ops = [] {
    std::vector<const OpDef*> all{&conv2d_op(), &conv2d_input_grad_op(), &conv2d_weight_grad_op()};
    all.insert(all.end(), pool_ops().begin(), pool_ops().end());
    return all;
  }();
  return ops;
}

Value conv2d(Value x, Value w, const ConvOptions& options) { return build(conv2d_op(), {x, w}, conv_attrs(options)); }

Value conv2d_input_grad(Value dy, Value w, Shape x_shape, const ConvOptions& options) {
  Attrs attrs = conv_attrs(options);
  if (x_shape.rank() != 4) fail("conv2d_input_grad: x_shape must have rank 4 (N, C, H, W), found {}", x_shape.str());
  attrs.set("x_size", Ints{x_shape[2], x_shape[3]});
  return build(conv2d_input_grad_op(), {dy, w}, std::move(attrs));
}

Value conv2d_weight_grad(Value x, Value dy, Shape w_shape, const ConvOptions& options) {
  Attrs attrs = conv_attrs(options);
  if (w_shape.rank() != 4) fail("conv2d_weight_grad: w_shape must have rank 4 (O, I, H, W), found {}", w_shape.str());
  attrs.set("kernel", Ints{w_shape[2], w_shape[3]});
  return build(conv2d_weight_grad_op(), {x, dy}, std::move(attrs));
}

}  // namespace rhetor
