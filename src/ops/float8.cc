// FP8 with one scale a tensor ("current scaling": the scale comes from the tensor itself, not from a history of former steps), and
// the stochastic rounding of f32 to bf16.
//
// quantize_f8    scale = 2^e with the least e for which max|x| / 2^e is finite in the format, q = x / scale
// dequantize_f8  q scale
// A power of two changes no mantissa: x / scale is rounded once, q scale is exact in bf16 (until 2^-126), so a product of two
// dequantised bf16 operands is the product of the FP8 numbers themselves. The price is at most one of the format's 15 or 30 binades.
// Formats and their roles as in Micikevicius et al., "FP8 formats for deep learning" (2022).
#include <cmath>

#include "base/rng.h"
#include "ops/families.h"
#include "ops/float8.h"
#include "ops/ops.h"
#include "ops/samples.h"

namespace rhetor {
namespace {

bool is_f8(DType dtype) { return dtype == DType::f8e4m3 || dtype == DType::f8e5m2; }

Sample quantize_sample(std::string label, SampleInput x, DType to) {
  return {.label = std::move(label), .inputs = {std::move(x)}, .attrs = {{"dtype", to}}};
}

std::vector<Sample> quantize_samples() {
  std::vector<Sample> out;
  for (const DType to : {DType::f8e4m3, DType::f8e5m2}) {
    const std::string format(name(to));
    out.push_back(quantize_sample("4x33 " + format, real({4, 33}), to));
    out.push_back(quantize_sample("2x3x16 large " + format, real({2, 3, 16}, -3e4, 3e4), to));
    out.push_back(quantize_sample("7 small " + format, real({7}, -1e-3, 1e-3), to));
    out.push_back(quantize_sample("scalar " + format, real({}, 0.3, 0.7), to));
    // From one end of a format to the other and beyond, with ties: numbers that f16 holds too.
    Sample wide = quantize_sample(
        "all binades " + format,
        exactly(Tensor::of<float>({3, 4}, {448, -0.0625f, 17, 19, 0.001953125f, -0.0029296875f, 0.0009765625f, 3e-5f, 0, -448, 1, 27})),
        to);
    wide.differentiable = false;   // the greatest stands where the scale jumps
    out.push_back(wide);
    Sample zeros = quantize_sample("zeros " + format, exactly(Tensor::of<float>({2, 2}, {0, 0, -0.0f, 0})), to);
    zeros.differentiable = false;
    out.push_back(zeros);
    Sample large = quantize_sample("1024x768 " + format, real({1024, 768}), to);
    large.benchmark = true;
    out.push_back(large);
  }
  return out;
}

const OpDef& quantize_f8_op() {
  static const OpDef def{
      .name = "quantize_f8",
      .doc = "x -> q in dtype (f8e4m3 or f8e5m2) and scale f32: scale = 2^e, e the least for which max|x| / 2^e is at most the format's "
             "greatest number (448 or 57344), in [-126, 126]; 1 where all are 0 or one is infinite. q = x / scale, nearest, ties to even. "
             "Its gradient is that of x / scale with a fixed scale (straight through).",
      .traits = {.kind = OpKind::opaque},
      .operands = {"x"},
      .attrs = {{"dtype", AttrKind::dtype, "of q: f8e4m3 or f8e5m2"}},
      .infer = [](std::span<const Type> in, const Attrs& attrs) -> std::vector<Type> {
        expect_float("quantize_f8", "x", in[0]);
        const DType to = attrs.dtype("dtype");
        if (!is_f8(to)) fail("quantize_f8: dtype must be f8e4m3 or f8e5m2, found {}", name(to));
        return {{to, in[0].shape}, {DType::f32, Shape{}}};
      },
      .grad = [](const GradCall& c) -> std::vector<Value> {
        if (!c.grad_out[0]) return {{}};
        return {cast(div(cast(c.grad_out[0], DType::f32), c.out[1]), c.in[0].dtype())};
      },
      .cost = [](std::span<const Type> in, std::span<const Type> out, const Attrs& attrs) {
        Cost cost = bytes_only_cost(in, out, attrs);
        cost.flops = 3.0 * static_cast<double>(in[0].elements());
        return cost;
      },
      .shard = "",   // the greatest of all elements
      .reference = [](auto& call) {
        using T = typename std::decay_t<decltype(call)>::Real;
        T greatest = 0;
        for (const T x : call.in[0]->f) greatest = std::max(greatest, std::abs(x));
        const double scale = f8_scale(call.out[0].type.dtype, static_cast<double>(greatest));
        call.out[1].f[0] = static_cast<T>(scale);
        for (std::size_t i = 0; i < call.out[0].f.size(); ++i)
          call.out[0].f[i] = call.in[0]->f[i] / static_cast<T>(scale);   // the interpreter rounds it
      },
      .samples = quantize_samples,
  };
  return def;
}

std::vector<Sample> dequantize_samples() {
  std::vector<Sample> out;
  for (const DType from : {DType::f8e4m3, DType::f8e5m2}) {
    const SampleInput scale = exactly(Tensor::scalar(0.03125f));
    const auto sample = [&](std::string label, Shape shape, DType to) {
      return Sample{.label = fmt::format("{} {} to {}", label, name(from), name(to)),
                    .inputs = {{.type = {from, shape}, .low = -200, .high = 200}, scale},
                    .attrs = {{"dtype", to}}, .dtypes = {DType::f32}};
    };
    out.push_back(sample("4x33", {4, 33}, DType::f32));
    out.push_back(sample("2x3x8", {2, 3, 8}, DType::bf16));
    out.push_back(sample("9", {9}, DType::f16));
    out.push_back(sample("1024x768", {1024, 768}, DType::bf16));
    out.back().benchmark = true;
  }
  for (Sample& sample : out) sample.inputs[1].fixed = true;
  return out;
}

const OpDef& dequantize_f8_op() {
  static const OpDef def{
      .name = "dequantize_f8",
      .doc = "q (f8e4m3 or f8e5m2) times the f32 scalar scale, in dtype. Exact in bf16 and f32 for the scales of quantize_f8.",
      .traits = {.kind = OpKind::opaque},
      .operands = {"q", "scale"},
      .attrs = {{"dtype", AttrKind::dtype, "of the result", false, DType::bf16}},
      .infer = [](std::span<const Type> in, const Attrs& attrs) -> std::vector<Type> {
        if (!is_f8(in[0].dtype)) fail("dequantize_f8: operand 'q' must be f8e4m3 or f8e5m2, found {}", in[0].str());
        expect_type("dequantize_f8", "scale", in[1], {DType::f32, Shape{}});
        if (!is_float(attrs.dtype("dtype"))) fail("dequantize_f8: dtype must be floating point, found {}", name(attrs.dtype("dtype")));
        return {{attrs.dtype("dtype"), in[0].shape}};
      },
      .grad = [](const GradCall& c) -> std::vector<Value> {
        const Value g = cast(c.grad_out[0], DType::f32);
        std::vector<std::int64_t> axes;
        for (int d = 0; d < g.shape().rank(); ++d) axes.push_back(d);
        const Value product = mul(g, cast(c.in[0], DType::f32));
        return {cast(mul(g, c.in[1]), c.in[0].dtype()), axes.empty() ? product : reduce_sum(product, axes)};
      },
      .cost = pointwise_cost,
      .shard = "... -> ...",
      .reference = [](auto& call) {
        for (std::size_t i = 0; i < call.out[0].f.size(); ++i) call.out[0].f[i] = call.in[0]->f[i] * call.in[1]->f[0];
      },
      .samples = dequantize_samples,
  };
  return def;
}

const OpDef& stochastic_round_op() {
  static const OpDef def{
      .name = "stochastic_round",
      .doc = "x f32 -> bf16: one of the two neighbours in bf16, the upper with probability (x - lower) / (upper - lower), so that the "
             "expectation is x; what bf16 holds exactly stays. Element i draws the upper 16 bits of random_u32(seed, stream, offset + i): "
             "the same bits on any device and thread count. Gupta et al., \"Deep learning with limited numerical precision\" (2015). The "
             "gradient passes straight through.",
      .traits = {.kind = OpKind::opaque},
      .operands = {"x", "seed"},
      .attrs = {{"stream", AttrKind::integer, "number of the stream: differs for every random op of a model"},
                {"offset", AttrKind::integer, "place of element 0 in the stream, where this is a part of a larger tensor", false,
                 std::int64_t{0}}},
      .infer = [](std::span<const Type> in, const Attrs&) -> std::vector<Type> {
        expect_dtype("stochastic_round", "x", in[0], DType::f32);
        expect_type("stochastic_round", "seed", in[1], {DType::i64, Shape{}});
        return {{DType::bf16, in[0].shape}};
      },
      .grad = [](const GradCall& c) -> std::vector<Value> { return {cast(c.grad_out[0], DType::f32), {}}; },
      .cost = [](std::span<const Type> in, std::span<const Type> out, const Attrs& attrs) {
        Cost cost = bytes_only_cost(in, out, attrs);
        cost.flops = 12.0 * static_cast<double>(in[0].elements());  // a quarter of a Philox block an element
        return cost;
      },
      .shard = "...^ -> ...^",
      .reference = [](auto& call) {
        using T = typename std::decay_t<decltype(call)>::Real;
        const auto seed = static_cast<std::uint64_t>(call.in[1]->i[0]);
        const auto stream = static_cast<std::uint64_t>(call.attrs.i("stream")), offset = static_cast<std::uint64_t>(call.attrs.i("offset"));
        for (std::size_t i = 0; i < call.out[0].f.size(); ++i) {
          const bf16 rounded = stochastic_bf16(static_cast<float>(call.in[0]->f[i]), random_u32(seed, stream, offset + i));
          call.out[0].f[i] = static_cast<T>(rounded.to_float());
        }
      },
      .samples = [] {
        const auto sample = [](std::string label, SampleInput x) {
          return Sample{.label = std::move(label), .inputs = {std::move(x), exactly(Tensor::scalar<std::int64_t>(11))},
                        .attrs = {{"stream", std::int64_t{5}}}, .differentiable = false, .dtypes = {DType::f32}};
        };
        const Tensor edges = Tensor::of<float>({2, 4}, {1, -1.00390625f, 1.01f, 0, -0.0f, 1e-40f, HUGE_VALF, -3.3e38f});
        std::vector<Sample> out{sample("4x33", real({4, 33})), sample("edges", exactly(edges)), sample("6", real({6}, -1e-3, 1e-3)),
                                sample("6x18 offset", real({6, 18}))};
        out[3].attrs.set("offset", std::int64_t{13});
        out.push_back(sample("1024x768", real({1024, 768})));
        out.back().benchmark = true;
        return out;
      },
  };
  return def;
}

}  // namespace

double f8_scale(DType dtype, double greatest) {
  if (!(greatest > 0) || !std::isfinite(greatest)) return 1;
  // greatest = m 2^k with m in [0.5, 1); both formats end at 0.875 times a power of two, 448 and 57344.
  int k = 0;
  const double m = std::frexp(greatest, &k);
  const int top = dtype == DType::f8e4m3 ? 9 : 16;
  return std::ldexp(1.0, std::clamp(m <= 0.875 ? k - top : k - top + 1, -126, 126));
}

const std::vector<const OpDef*>& float8_ops() {
  static const std::vector<const OpDef*> ops{&quantize_f8_op(), &dequantize_f8_op(), &stochastic_round_op()};
  return ops;
}

Quantized quantize_f8(Value x, DType dtype) {
  const Value q = build(quantize_f8_op(), {x}, {{"dtype", dtype}});
  return {q, result(q, 1)};
}
Value dequantize_f8(Value q, Value scale, DType dtype) { return build(dequantize_f8_op(), {q, scale}, {{"dtype", dtype}}); }
Value stochastic_round(Value x, Value seed, std::int64_t stream) {
  return build(stochastic_round_op(), {x, seed}, {{"stream", stream}});
}

}  // namespace rhetor
