// Counter-based random numbers as ops: element i is a pure function of (seed, stream, i), see base/rng.h. The same
// bits come out on any device, with any number of threads, and again in the backward pass.
#include <cmath>

#include "base/rng.h"
#include "ops/families.h"
#include "ops/ops.h"
#include "ops/samples.h"

namespace rhetor {
namespace {

using Ints = std::vector<std::int64_t>;

void expect_seed(std::string_view op, const Type& type) { expect_type(op, "seed", type, {DType::i64, Shape{}}); }

// A rank that holds rows 8 to 15 of a tensor draws what one rank would draw for them.
AttrSpec offset_spec() {
  return {"offset", AttrKind::integer, "place of element 0 in the stream, if this is a part of a larger tensor", false,
          std::int64_t{0}};
}

std::vector<AttrSpec> random_specs(std::string_view first, double first_value, std::string_view second, double second_value) {
  return {{"shape", AttrKind::integers, "sizes of the result"},
          {"dtype", AttrKind::dtype, "of the result", false, DType::f32},
          {"stream", AttrKind::integer, "number of the stream: differs for every random op of a model"},
          offset_spec(),
          {first, AttrKind::real, "parameter of the distribution", false, first_value},
          {second, AttrKind::real, "parameter of the distribution", false, second_value}};
}

std::vector<Type> infer_random(std::string_view op, std::span<const Type> in, const Attrs& attrs) {
  expect_seed(op, in[0]);
  if (!is_float(attrs.dtype("dtype"))) fail("{}: dtype must be floating point, found {}", op, name(attrs.dtype("dtype")));
  return {{attrs.dtype("dtype"), Shape(attrs.ints("shape"))}};
}

std::vector<Sample> random_samples() {
  const Tensor seed = Tensor::scalar<std::int64_t>(20250117);
  return {{.label = "6x7", .inputs = {exactly(seed)}, .attrs = {{"shape", Ints{6, 7}}, {"stream", std::int64_t{3}}},
           .differentiable = false},
          {.label = "4x9 from 13", .inputs = {exactly(seed)},
           .attrs = {{"shape", Ints{4, 9}}, {"stream", std::int64_t{3}}, {"offset", std::int64_t{13}}}, .differentiable = false},
          {.label = "bf16 33", .inputs = {exactly(seed)},
           .attrs = {{"shape", Ints{33}}, {"stream", std::int64_t{4}}, {"dtype", DType::bf16}}, .differentiable = false},
          {.label = "1024x768", .inputs = {exactly(seed)}, .attrs = {{"shape", Ints{1024, 768}}, {"stream", std::int64_t{1}}},
           .benchmark = true, .dtypes = {DType::f32}}};
}

const OpDef& random_uniform_op() {
  static const OpDef def{
      .name = "random_uniform",
      .doc = "low + (high - low) u_i with u_i = to_uniform(random_u32(seed, stream, offset + i)), 24 bits in [0, 1).",
      .traits = {.kind = OpKind::source},
      .operands = {"seed"},
      .attrs = random_specs("low", 0.0, "high", 1.0),
      .infer = [](std::span<const Type> in, const Attrs& attrs) { return infer_random("random_uniform", in, attrs); },
      .grad = kNotDifferentiable,
      .cost = pointwise_cost,
      .shard = "-> ...^",
      .reference = [](auto& call) {
        using T = typename std::decay_t<decltype(call)>::Real;
        const auto seed = static_cast<std::uint64_t>(call.in[0]->i[0]);
        const auto stream = static_cast<std::uint64_t>(call.attrs.i("stream"));
        const auto offset = static_cast<std::uint64_t>(call.attrs.i("offset"));
        const T low = static_cast<T>(call.attrs.f("low")), range = static_cast<T>(call.attrs.f("high") - call.attrs.f("low"));
        for (std::size_t i = 0; i < call.out[0].f.size(); ++i)
          call.out[0].f[i] = low + range * static_cast<T>(to_uniform(random_u32(seed, stream, offset + i)));
      },
      .samples = random_samples,
  };
  return def;
}

const OpDef& random_normal_op() {
  static const OpDef def{
      .name = "random_normal",
      .doc = "mean + stddev sqrt(-2 ln u) cos(2 pi v), u = (w_2i + 1)/2^32, v = w_2i+1 / 2^32, w_k = "
             "random_u32(seed, stream, 2 offset + k). Evaluated in double on every device, then rounded (Box & Muller 1958).",
      .traits = {.kind = OpKind::source},
      .operands = {"seed"},
      .attrs = random_specs("mean", 0.0, "stddev", 1.0),
      .infer = [](std::span<const Type> in, const Attrs& attrs) { return infer_random("random_normal", in, attrs); },
      .grad = kNotDifferentiable,
      .cost = [](std::span<const Type> in, std::span<const Type> out, const Attrs& attrs) {
        Cost cost = bytes_only_cost(in, out, attrs);
        cost.flops = 30.0 * static_cast<double>(out[0].elements());
        return cost;
      },
      .shard = "-> ...^",
      .reference = [](auto& call) {
        using T = typename std::decay_t<decltype(call)>::Real;
        const auto seed = static_cast<std::uint64_t>(call.in[0]->i[0]);
        const auto stream = static_cast<std::uint64_t>(call.attrs.i("stream"));
        const auto offset = static_cast<std::uint64_t>(call.attrs.i("offset"));
        for (std::size_t i = 0; i < call.out[0].f.size(); ++i) {
          const double u = (static_cast<double>(random_u32(seed, stream, 2 * (offset + i))) + 1.0) / 4294967296.0;
          const double v = static_cast<double>(random_u32(seed, stream, 2 * (offset + i) + 1)) / 4294967296.0;
          const double z = std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586 * v);
          call.out[0].f[i] = static_cast<T>(call.attrs.f("mean") + call.attrs.f("stddev") * z);
        }
      },
      .samples = random_samples,
  };
  return def;
}

const OpDef& dropout_op() {
  static const OpDef def{
      .name = "dropout",
      .doc = "x_i / (1-p) where to_uniform(random_u32(seed, stream, offset + i)) >= p (as f32), else 0; i is the flat index. "
             "Srivastava et al. 2014. Its gradient is the same op on dy: the mask is computed again, never stored.",
      .traits = {.kind = OpKind::pointwise, .inplace = 0},
      .operands = {"x", "seed"},
      .attrs = {{"p", AttrKind::real, "probability of 0, in [0, 1)"}, {"stream", AttrKind::integer, "number of the stream"},
                offset_spec()},
      .infer = [](std::span<const Type> in, const Attrs& attrs) -> std::vector<Type> {
        expect_float("dropout", "x", in[0]);
        expect_seed("dropout", in[1]);
        if (!(attrs.f("p") >= 0 && attrs.f("p") < 1)) fail("dropout: p must be in [0, 1), found {}", attrs.f("p"));
        return {in[0]};
      },
      .grad = [](const GradCall& c) -> std::vector<Value> {
        return {build(dropout_op(), {c.grad_out[0], c.in[1]}, c.attrs), {}};
      },
      .cost = [](std::span<const Type> in, std::span<const Type> out, const Attrs& attrs) {
        Cost cost = bytes_only_cost(in, out, attrs);
        cost.flops = 12.0 * static_cast<double>(out[0].elements());  // a quarter of a Philox block an element
        return cost;
      },
      .shard = "...^ -> ...^",
      .reference = [](auto& call) {
        using T = typename std::decay_t<decltype(call)>::Real;
        const auto& x = *call.in[0];
        const auto seed = static_cast<std::uint64_t>(call.in[1]->i[0]);
        const auto stream = static_cast<std::uint64_t>(call.attrs.i("stream"));
        const auto p = static_cast<float>(call.attrs.f("p"));
        const auto offset = static_cast<std::uint64_t>(call.attrs.i("offset"));
        const T scale = static_cast<T>(1.0 / (1.0 - call.attrs.f("p")));
        for (std::size_t i = 0; i < x.f.size(); ++i)
          call.out[0].f[i] = to_uniform(random_u32(seed, stream, offset + i)) >= p ? x.f[i] * scale : T(0);
      },
      .samples = [] {
        const auto sample = [](std::string label, Shape shape, double p, bool benchmark = false, std::int64_t offset = 0) {
          return Sample{.label = std::move(label), .inputs = {real(shape), exactly(Tensor::scalar<std::int64_t>(7))},
                        .attrs = {{"p", p}, {"stream", std::int64_t{2}}, {"offset", offset}}, .benchmark = benchmark};
        };
        return std::vector<Sample>{sample("5x7 p 0.1", {5, 7}, 0.1), sample("64 p 0.5", {64}, 0.5), sample("p 0", {2, 3}, 0),
                                   sample("4x7 from 13", {4, 7}, 0.3, false, 13),
                                   sample("1024x768", {1024, 768}, 0.1, true)};
      },
  };
  return def;
}

Value build_random(const OpDef& op, Value seed, const Type& type, std::int64_t stream, std::string_view a, double av,
                   std::string_view b, double bv) {
  Attrs attrs{{"shape", type.shape.sizes()}, {"dtype", type.dtype}, {"stream", stream}};
  attrs.set(a, av);
  attrs.set(b, bv);
  return build(op, {seed}, std::move(attrs));
}

}  // namespace

const std::vector<const OpDef*>& random_ops() {
  static const std::vector<const OpDef*> ops{&random_uniform_op(), &random_normal_op(), &dropout_op()};
  return ops;
}

Value random_uniform(Value seed, Type type, std::int64_t stream, double low, double high) {
  return build_random(random_uniform_op(), seed, type, stream, "low", low, "high", high);
}
Value random_normal(Value seed, Type type, std::int64_t stream, double mean, double stddev) {
  return build_random(random_normal_op(), seed, type, stream, "mean", mean, "stddev", stddev);
}
Value dropout(Value x, Value seed, double p, std::int64_t stream) {
  if (p == 0) return x;
  return build(dropout_op(), {x, seed}, {{"p", p}, {"stream", stream}});
}

}  // namespace rhetor
