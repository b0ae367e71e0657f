// Changes of number format: cast, and symmetric int8 quantisation along the last dim.
#include <cmath>

#include "ops/families.h"
#include "ops/ops.h"
#include "ops/samples.h"

namespace rhetor {
namespace {

// float -> integer rounds toward zero, saturates and maps NaN to 0 (as Tensor::cast does); integer -> narrower integer wraps.
std::int64_t narrowed(DType dtype, std::int64_t v) {
  return dispatch(dtype, [&](auto zero) -> std::int64_t {
    using To = decltype(zero);
    if constexpr (std::is_same_v<To, bool>) return v != 0;
    else if constexpr (std::is_integral_v<To>) return static_cast<To>(v);
    else return v;
  });
}
std::int64_t truncated(DType dtype, double v) {
  return dispatch(dtype, [&](auto zero) -> std::int64_t {
    using To = decltype(zero);
    if constexpr (std::is_same_v<To, bool>) return v != 0;
    else if constexpr (std::is_integral_v<To>) return from_double<To>(v);
    else return 0;
  });
}

std::vector<Sample> cast_samples() {
  std::vector<Sample> out;
  for (const DType to : {DType::f64, DType::f32, DType::bf16, DType::f16})
    out.push_back({.label = "to " + std::string(name(to)), .inputs = {real({4, 5})}, .attrs = {{"dtype", to}}});
  for (const DType to : {DType::f8e4m3, DType::f8e5m2})
    out.push_back({.label = "to " + std::string(name(to)), .inputs = {real({3, 5})}, .attrs = {{"dtype", to}},
                   .differentiable = false});
  for (const DType to : {DType::i64, DType::i32, DType::i8, DType::u8, DType::boolean})
    out.push_back({.label = "to " + std::string(name(to)), .inputs = {real({3, 5}, 0.2, 100.2)}, .attrs = {{"dtype", to}},
                   .differentiable = false, .dtypes = {DType::f32}});
  out.push_back({.label = "i32 to f32", .inputs = {integers({7}, -99, 99)}, .attrs = {{"dtype", DType::f32}},
                 .differentiable = false, .dtypes = {DType::f32}});
  out.push_back({.label = "i32 to i8", .inputs = {integers({7}, -300, 300)}, .attrs = {{"dtype", DType::i8}},
                 .differentiable = false, .dtypes = {DType::f32}});
  out.push_back({.label = "bool to f32", .inputs = {integers({7}, 0, 1, DType::boolean)}, .attrs = {{"dtype", DType::f32}},
                 .differentiable = false, .dtypes = {DType::f32}});
  out.push_back({.label = "1024x768 to bf16", .inputs = {real({1024, 768})}, .attrs = {{"dtype", DType::bf16}},
                 .benchmark = true});
  return out;
}

const OpDef& cast_op() {
  static const OpDef def{
      .name = "cast",
      .doc = "x in another dtype. To floats: nearest, ties to even. Floats to integers: toward zero, saturating, NaN to 0. "
             "To bool: x != 0.",
      .traits = {.kind = OpKind::pointwise},
      .operands = {"x"},
      .attrs = {{"dtype", AttrKind::dtype, "of the result"}},
      .infer = [](std::span<const Type> in, const Attrs& attrs) -> std::vector<Type> {
        return {{attrs.dtype("dtype"), in[0].shape}};
      },
      .grad = [](const GradCall& c) -> std::vector<Value> {
        if (!is_float(c.in[0].dtype()) || !is_float(c.out[0].dtype())) return {{}};
        return {cast(c.grad_out[0], c.in[0].dtype())};
      },
      .cost = bytes_only_cost,
      .shard = "... -> ...",
      .reference = [](auto& call) {
        using T = typename std::decay_t<decltype(call)>::Real;
        const auto& x = *call.in[0];
        auto& out = call.out[0];
        const DType to = out.type.dtype;
        for (std::size_t i = 0; i < static_cast<std::size_t>(x.elements()); ++i) {
          if (is_float(x.type.dtype) && is_float(to)) out.f[i] = x.f[i];  // the interpreter rounds it
          else if (is_float(x.type.dtype)) out.i[i] = truncated(to, static_cast<double>(x.f[i]));
          else if (is_float(to)) out.f[i] = static_cast<T>(x.i[i]);
          else out.i[i] = narrowed(to, x.i[i]);
        }
      },
      .samples = cast_samples,
  };
  return def;
}

// ---- int8 along the last dim -----------------------------------------------------------------------
const OpDef& quantize_rows_op() {
  static const OpDef def{
      .name = "quantize_rows",
      .doc = "x [..., n] -> q [..., n] i8 and scale [...] f32: scale = max|x| / 127 over the last dim (1 where all are 0), "
             "q = round(x / scale), half to even.",
      .traits = {.kind = OpKind::reduction},
      .operands = {"x"},
      .attrs = {},
      .infer = [](std::span<const Type> in, const Attrs&) -> std::vector<Type> {
        expect_float("quantize_rows", "x", in[0]);
        expect_min_rank("quantize_rows", "x", in[0], 1);
        return {{DType::i8, in[0].shape}, {DType::f32, drop_last(in[0].shape)}};
      },
      .grad = kNotDifferentiable,
      .cost = [](std::span<const Type> in, std::span<const Type> out, const Attrs& attrs) {
        Cost cost = bytes_only_cost(in, out, attrs);
        cost.flops = 3.0 * static_cast<double>(in[0].elements());
        return cost;
      },
      .shard = "... _ -> ... _, ...",
      .reference = [](auto& call) {
        using T = typename std::decay_t<decltype(call)>::Real;
        const auto& x = *call.in[0];
        const auto n = static_cast<std::size_t>(x.shape().last());
        for (std::size_t r = 0; r < static_cast<std::size_t>(call.out[1].elements()); ++r) {
          T greatest = 0;
          for (std::size_t i = r * n; i < (r + 1) * n; ++i) greatest = std::max(greatest, std::abs(x.f[i]));
          const T scale = greatest > 0 ? greatest / T(127) : T(1);
          call.out[1].f[r] = scale;
          for (std::size_t i = r * n; i < (r + 1) * n; ++i) {
            const double q = std::nearbyint(static_cast<double>(x.f[i] / scale));
            call.out[0].i[i] = from_double<std::int8_t>(q);
          }
        }
      },
      .samples = [] {
        // Rows whose greatest is 127 make scale 1 and every quotient exact: rounding cannot depend on the precision.
        const Tensor exact = Tensor::of<float>({3, 4}, {127, -3, 2.5f, 3.5f, 0, 0, 0, 0, -127, 0.5f, 1.5f, -2.5f});
        return std::vector<Sample>{
            {.label = "ties and a zero row", .inputs = {exactly(exact)}, .attrs = {}, .differentiable = false,
             .dtypes = {DType::f32}},
            {.label = "4x33", .inputs = {real({4, 33})}, .attrs = {}, .differentiable = false},
            {.label = "2x3x16", .inputs = {real({2, 3, 16}, -30, 30)}, .attrs = {}, .differentiable = false},
            {.label = "1024x768", .inputs = {real({1024, 768})}, .attrs = {}, .benchmark = true}};
      },
  };
  return def;
}

const OpDef& dequantize_rows_op() {
  static const OpDef def{
      .name = "dequantize_rows",
      .doc = "q [..., n] i8 times scale [...] f32 of its row, in dtype.",
      .traits = {.kind = OpKind::opaque},
      .operands = {"q", "scale"},
      .attrs = {{"dtype", AttrKind::dtype, "of the result", false, DType::f32}},
      .infer = [](std::span<const Type> in, const Attrs& attrs) -> std::vector<Type> {
        expect_dtype("dequantize_rows", "q", in[0], DType::i8);
        expect_min_rank("dequantize_rows", "q", in[0], 1);
        expect_type("dequantize_rows", "scale", in[1], {DType::f32, drop_last(in[0].shape)});
        if (!is_float(attrs.dtype("dtype"))) fail("dequantize_rows: dtype must be floating point, found {}", name(attrs.dtype("dtype")));
        return {{attrs.dtype("dtype"), in[0].shape}};
      },
      .grad = [](const GradCall& c) -> std::vector<Value> {
        const Value g = cast(c.grad_out[0], DType::f32);
        return {{}, reduce_sum(mul(g, cast(c.in[0], DType::f32)), {-1})};
      },
      .cost = pointwise_cost,
      .shard = "... n, ... -> ... n",
      .reference = [](auto& call) {
        using T = typename std::decay_t<decltype(call)>::Real;
        const auto n = static_cast<std::size_t>(call.in[0]->shape().last());
        for (std::size_t i = 0; i < call.out[0].f.size(); ++i)
          call.out[0].f[i] = static_cast<T>(call.in[0]->i[i]) * call.in[1]->f[i / n];
      },
      .samples = [] {
        return std::vector<Sample>{
            {.label = "4x9", .inputs = {integers({4, 9}, -127, 127, DType::i8), fixed_real({4}, 0.001, 0.1)}, .attrs = {},
             .dtypes = {DType::f32}},
            {.label = "2x3x8 to bf16", .inputs = {integers({2, 3, 8}, -127, 127, DType::i8), fixed_real({2, 3}, 0.001, 0.1)},
             .attrs = {{"dtype", DType::bf16}}, .dtypes = {DType::f32}},
            {.label = "1024x768", .inputs = {integers({1024, 768}, -127, 127, DType::i8), fixed_real({1024}, 0.001, 0.1)},
             .attrs = {}, .benchmark = true, .dtypes = {DType::f32}}};
      },
  };
  return def;
}

}  // namespace

const std::vector<const OpDef*>& cast_ops() {
  static const std::vector<const OpDef*> ops{&cast_op(), &quantize_rows_op(), &dequantize_rows_op()};
  return ops;
}

Value cast(Value x, DType dtype) {
  if (x.dtype() == dtype) return x;
  return build(cast_op(), {x}, {{"dtype", dtype}});
}
Quantized quantize_rows(Value x) {
  const Value q = build(quantize_rows_op(), {x});
  return {q, result(q, 1)};
}
Value dequantize_rows(Value q, Value scale, DType dtype) {
  return build(dequantize_rows_op(), {q, scale}, {{"dtype", dtype}});
}

}  // namespace rhetor
