// Pointwise ops: out[i] = f(in0[i], in1[i], ...), all operands of one shape.
//
// ONE table (below): a row is the op's name, formula, scalar function, gradient rule and the ranges its
// samples draw from; the OpDef is generated. The scalar function is generic: it is evaluated in double
// for the oracle, in float for the naive yardstick, in int64 for integer tensors.
#include <cmath>

#include "ops/families.h"
#include "ops/ops.h"
#include "ops/samples.h"

namespace rhetor {
namespace {

enum class Domain { real, number, any, boolean };  // what operands may be; `any` = numbers and bool
struct Range { double low, high; };

// The op's name as a template argument: `infer` is a plain function and still names its op.
template <std::size_t N>
struct Name {
  char text[N];
  constexpr Name(const char (&from)[N]) { std::copy_n(from, N, text); }
};

template <Name op> constexpr std::string_view op_name = op.text;

bool accepts(Domain domain, DType dtype) {
  switch (domain) {
    case Domain::real: return is_float(dtype);
    case Domain::number: return dtype != DType::boolean;
    case Domain::any: return true;
    case Domain::boolean: return dtype == DType::boolean;
  }
  return false;
}
std::string_view domain_text(Domain domain) {
  constexpr std::string_view texts[] = {"floating point", "a number", "any", "bool"};
  return texts[static_cast<std::size_t>(domain)];
}

// The shape of operand 0, with dim names that only other operands carry.
Shape merged(std::span<const Type> in, std::size_t first) {
  Shape out = in[first].shape;
  for (const Type& type : in)
    for (int d = 0; d < out.rank() && d < type.shape.rank(); ++d)
      if (out.dim(d).name.empty()) out.set_dim(d, Dim(out[d], type.shape.dim(d).name));
  return out;
}

// `predicate`: the result is bool whatever the operands are.
template <Name op, Domain domain, bool predicate>
std::vector<Type> infer_pointwise(std::span<const Type> in, const Attrs&) {
  for (std::size_t k = 0; k < in.size(); ++k) {
    if (!accepts(domain, in[k].dtype))
      fail("{}: operand {} must be {}, found {}", op.text, k, domain_text(domain), in[k].str());
    if (in[k] != in[0])
      fail("{}: operands must have one type, found {} and {}; broadcast or cast first", op.text, in[0].str(), in[k].str());
  }
  return {{predicate ? DType::boolean : in[0].dtype, merged(in, 0)}};
}

std::vector<Type> infer_where(std::span<const Type> in, const Attrs&) {
  if (in[0].dtype != DType::boolean) fail("where: the condition must be bool, found {}", in[0].str());
  if (in[1] != in[2] || in[0].shape != in[1].shape)
    fail("where: operands must have one shape, and both choices one dtype; found {}, {} and {}", in[0].str(), in[1].str(),
         in[2].str());
  return {{in[1].dtype, merged(in, 1)}};
}

// Stores a result in the element list of its kind.
template <class T, class R>
void store(RefTensor<T>& out, std::size_t i, R value) {
  if (is_float(out.type.dtype)) out.f[i] = static_cast<T>(value);
  else out.i[i] = static_cast<std::int64_t>(value);
}

template <class F, Domain domain, class T>
void reference_unary(RefCall<T>& call) {
  const RefTensor<T>& x = *call.in[0];
  const auto n = static_cast<std::size_t>(x.elements());
  if (is_float(x.type.dtype)) {
    for (std::size_t i = 0; i < n; ++i) store(call.out[0], i, F{}(x.f[i]));
  } else if constexpr (domain != Domain::real) {
    for (std::size_t i = 0; i < n; ++i) store(call.out[0], i, F{}(x.i[i]));
  }
}

template <class F, Domain domain, class T>
void reference_binary(RefCall<T>& call) {
  const RefTensor<T>&a = *call.in[0], &b = *call.in[1];
  const auto n = static_cast<std::size_t>(a.elements());
  if (is_float(a.type.dtype)) {
    for (std::size_t i = 0; i < n; ++i) store(call.out[0], i, F{}(a.f[i], b.f[i]));
  } else if constexpr (domain != Domain::real) {
    for (std::size_t i = 0; i < n; ++i) store(call.out[0], i, F{}(a.i[i], b.i[i]));
  }
}

SampleInput operand(Domain domain, Range range, Shape shape, DType dtype = DType::f32) {
  if (domain == Domain::boolean) return integers(shape, 0, 1, DType::boolean);
  if (!is_float(dtype)) return integers(shape, -5, 5, dtype);
  return real(shape, range.low, range.high);
}

template <Domain domain, Range a, bool smooth>
std::vector<Sample> unary_samples() {
  const bool real_valued = domain != Domain::boolean;
  std::vector<Sample> out{
      {.label = "3x5", .inputs = {operand(domain, a, {3, 5})}, .attrs = {}, .differentiable = smooth && real_valued},
      {.label = "scalar", .inputs = {operand(domain, a, {})}, .attrs = {}, .differentiable = false},
      {.label = "empty", .inputs = {operand(domain, a, {0, 4})}, .attrs = {}, .differentiable = false},
      {.label = "2x3x67", .inputs = {operand(domain, a, {2, 3, 67})}, .attrs = {}, .differentiable = smooth && real_valued},
      {.label = "1024x768", .inputs = {operand(domain, a, {1024, 768})}, .attrs = {}, .benchmark = true}};
  if (domain == Domain::number || domain == Domain::any)
    out.push_back({.label = "i32 7", .inputs = {operand(domain, a, {7}, DType::i32)}, .attrs = {}, .differentiable = false});
  return out;
}

template <Domain domain, Range a, Range b, bool smooth>
std::vector<Sample> binary_samples() {
  const auto pair = [](Shape shape, DType dtype = DType::f32) {
    return std::vector<SampleInput>{operand(domain, a, shape, dtype), operand(domain, b, shape, dtype)};
  };
  std::vector<Sample> out{{.label = "3x5", .inputs = pair({3, 5}), .attrs = {}, .differentiable = smooth},
                          {.label = "scalar", .inputs = pair({}), .attrs = {}, .differentiable = false},
                          {.label = "2x3x67", .inputs = pair({2, 3, 67}), .attrs = {}, .differentiable = smooth},
                          {.label = "1024x768", .inputs = pair({1024, 768}), .attrs = {}, .benchmark = true}};
  if (domain == Domain::number || domain == Domain::any) {
    out.push_back({.label = "i32 2x7", .inputs = pair({2, 7}, DType::i32), .attrs = {}, .differentiable = false});
    out.push_back({.label = "i64 9", .inputs = pair({9}, DType::i64), .attrs = {}, .differentiable = false});
  }
  return out;
}

// ---- rows ------------------------------------------------------------------------------------------

// A function of one operand. `predicate`: gives bool.
template <Name op, Domain domain, Range range, bool predicate = false, class F>
OpDef unary(std::string_view doc, F, GradFn grad) {
  return {.name = op_name<op>, .doc = doc,
          .traits = {.kind = OpKind::pointwise, .inplace = predicate && domain != Domain::boolean ? -1 : 0},
          .operands = {"x"}, .attrs = {},
          .infer = infer_pointwise<op, domain, predicate>, .grad = grad, .cost = pointwise_cost,
          .shard = "... -> ...",
          .reference = [](auto& call) { reference_unary<F, domain>(call); },
          .samples = unary_samples<domain, range, !predicate>};
}

template <Name op, Domain domain, Range a, Range b, bool predicate = false, class F>
OpDef binary(std::string_view doc, bool commutative, F, GradFn grad) {
  return {.name = op_name<op>, .doc = doc,
          .traits = {.kind = OpKind::pointwise, .inplace = predicate && domain != Domain::boolean ? -1 : 0,
                     .commutative = commutative},
          .operands = {"a", "b"}, .attrs = {},
          .infer = infer_pointwise<op, domain, predicate>, .grad = grad, .cost = pointwise_cost,
          .shard = "..., ... -> ...",
          .reference = [](auto& call) { reference_binary<F, domain>(call); },
          .samples = binary_samples<domain, a, b, !predicate>};
}

template <class T>
void reference_where(RefCall<T>& call) {
  const auto &c = *call.in[0], &a = *call.in[1], &b = *call.in[2];
  for (std::size_t i = 0; i < static_cast<std::size_t>(c.elements()); ++i) {
    if (is_float(a.type.dtype)) call.out[0].f[i] = c.i[i] ? a.f[i] : b.f[i];
    else call.out[0].i[i] = c.i[i] ? a.i[i] : b.i[i];
  }
}

std::vector<Sample> where_samples() {
  const auto mask = [](Shape shape) { return integers(shape, 0, 1, DType::boolean); };
  return {{.label = "3x5", .inputs = {mask({3, 5}), real({3, 5}), real({3, 5})}, .attrs = {}},
          {.label = "i32 4", .inputs = {mask({4}), integers({4}, -9, 9), integers({4}, -9, 9)}, .attrs = {},
           .differentiable = false},
          {.label = "1024x768", .inputs = {mask({1024, 768}), real({1024, 768}), real({1024, 768})}, .attrs = {},
           .benchmark = true}};
}

OpDef where_def() {
  return {.name = "where", .doc = "condition ? a : b, element by element. condition bool; a, b of one type.",
          .traits = {.kind = OpKind::pointwise, .inplace = 1},
          .operands = {"condition", "a", "b"}, .attrs = {},
          .infer = infer_where,
          .grad = [](const GradCall& c) -> std::vector<Value> {
            const Value g = c.grad_out[0], zero = full_like(g, 0);
            return {{}, where(c.in[0], g, zero), where(c.in[0], zero, g)};
          },
          .cost = pointwise_cost, .shard = "..., ..., ... -> ...",
          .reference = [](auto& call) { reference_where(call); },
          .samples = where_samples};
}

// ---- pieces of gradients ---------------------------------------------------------------------------
using Grads = std::vector<Value>;
constexpr double kTwoOverSqrtPi = 1.1283791670955126, kInvSqrt2 = 0.7071067811865476, kInvSqrt2Pi = 0.3989422804014327;
constexpr double kSqrt2OverPi = 0.7978845608028654, kGeluCubic = 0.044715;

Value one_minus(Value x) { return add(neg(x), 1); }

Grads gelu_grad(const GradCall& c) {  // Phi(x) + x phi(x)
  const Value x = c.in[0];
  const Value cdf = mul(add(erf(mul(x, kInvSqrt2)), 1), 0.5);
  const Value pdf = mul(exp(mul(square(x), -0.5)), kInvSqrt2Pi);
  return {mul(c.grad_out[0], add(cdf, mul(x, pdf)))};
}

Value binary_build(std::string_view name, Value a, Value b);

// t = tanh(u), u = k (x + c x^3): with s = 1 - t^2 the slope of gelu_tanh is (1 + t)/2 + x s u'/2, and that of the slope
// s u' + x s (u''/2 - t u'^2). One op, since the gradient reads every activation of a network's widest layer.
template <class X>
X gelu_tanh_slope(X x) {
  const X t = std::tanh(X(kSqrt2OverPi) * (x + X(kGeluCubic) * x * x * x));
  return X(0.5) * (X(1) + t) + X(0.5) * x * (X(1) - t * t) * X(kSqrt2OverPi) * (X(1) + X(3 * kGeluCubic) * x * x);
}
Grads gelu_tanh_grad(const GradCall& c) { return {binary_build("gelu_tanh_grad", c.grad_out[0], c.in[0])}; }
Grads gelu_tanh_second(const GradCall& c) {
  const Value a = c.in[0], x = c.in[1], xx = square(x);
  const Value t = tanh(mul(mul(x, add(mul(xx, kGeluCubic), 1)), kSqrt2OverPi)), s = one_minus(square(t));
  const Value u1 = mul(add(mul(xx, 3 * kGeluCubic), 1), kSqrt2OverPi), u2 = mul(x, 6 * kGeluCubic * kSqrt2OverPi);
  const Value second = mul(s, add(u1, mul(x, sub(mul(u2, 0.5), mul(t, square(u1))))));
  return {binary_build("gelu_tanh_grad", c.grad_out[0], x), mul(mul(c.grad_out[0], a), second)};
}

Grads silu_grad(const GradCall& c) {
  const Value x = c.in[0], s = sigmoid(x);
  return {mul(c.grad_out[0], mul(s, add(mul(x, one_minus(s)), 1)))};
}

Grads pow_grad(const GradCall& c) {
  const Value a = c.in[0], b = c.in[1], g = c.grad_out[0];
  // d/db a^b = a^b ln a, taken as 0 where a <= 0: there is no real derivative, and 0^b is flat for b > 0.
  const Value positive = less(full_like(a, 0), a);
  const Value ln = where(positive, log(where(positive, a, full_like(a, 1))), full_like(a, 0));
  return {mul(g, mul(b, pow(a, add(b, -1)))), mul(g, mul(c.out[0], ln))};
}

// The greater of two goes to `b` only where a < b, so a tie sends the whole gradient to `a`.
Grads maximum_grad(const GradCall& c) {
  const Value g = c.grad_out[0], zero = full_like(g, 0), to_b = less(c.in[0], c.in[1]);
  return {where(to_b, zero, g), where(to_b, g, zero)};
}
Grads minimum_grad(const GradCall& c) {
  const Value g = c.grad_out[0], zero = full_like(g, 0), to_b = less(c.in[1], c.in[0]);
  return {where(to_b, zero, g), where(to_b, g, zero)};
}

// Integers wrap, as the kernels' do: signed overflow must not be undefined on a file's numbers.
template <class X> X sum_of(X a, X b) {
  if constexpr (std::is_integral_v<X>) return static_cast<X>(static_cast<std::uint64_t>(a) + static_cast<std::uint64_t>(b));
  else return a + b;
}
template <class X> X product_of(X a, X b) {
  if constexpr (std::is_integral_v<X>) return static_cast<X>(static_cast<std::uint64_t>(a) * static_cast<std::uint64_t>(b));
  else return a * b;
}
template <class X> X negative_of(X a) {
  if constexpr (std::is_integral_v<X>) return product_of<X>(a, -1);
  else return -a;
}
template <class X> X half_even(X x) { return std::nearbyint(x); }
template <class X> X sigmoid_of(X x) { return X(1) / (X(1) + std::exp(-x)); }

// ---- THE table -------------------------------------------------------------------------------------
std::vector<OpDef> make_table() {
  constexpr Range wide{-3, 3}, unit{-1, 1}, positive{0.3, 4}, away{0.5, 3};  // `away`: from zero, for divisors
  using enum Domain;
  return {
      unary<"neg", number, wide>("minus x", [](auto x) { return negative_of(x); },
                          [](const GradCall& c) { return Grads{neg(c.grad_out[0])}; }),
      unary<"abs", number, away>("|x|; gradient sign(x)", [](auto x) { return x < 0 ? negative_of(x) : x == 0 ? decltype(x)(0) : x; },
                          [](const GradCall& c) { return Grads{mul(c.grad_out[0], sign(c.in[0]))}; }),
      unary<"sign", number, wide>("-1, 0 or 1; NaN stays", [](auto x) { return x != x ? x : decltype(x)((x > 0) - (x < 0)); },
                          kNotDifferentiable),
      unary<"exp", real, unit>("e^x", [](auto x) { return std::exp(x); },
                        [](const GradCall& c) { return Grads{mul(c.grad_out[0], c.out[0])}; }),
      unary<"log", real, positive>("natural logarithm", [](auto x) { return std::log(x); },
                            [](const GradCall& c) { return Grads{div(c.grad_out[0], c.in[0])}; }),
      unary<"sqrt", real, positive>("square root", [](auto x) { return std::sqrt(x); },
                            [](const GradCall& c) { return Grads{mul(div(c.grad_out[0], c.out[0]), 0.5)}; }),
      unary<"rsqrt", real, positive>("1/sqrt(x)", [](auto x) { return decltype(x)(1) / std::sqrt(x); },
                            [](const GradCall& c) {
                              return Grads{mul(mul(c.grad_out[0], mul(square(c.out[0]), c.out[0])), -0.5)};
                            }),
      unary<"reciprocal", real, away>("1/x", [](auto x) { return decltype(x)(1) / x; },
                        [](const GradCall& c) { return Grads{neg(mul(c.grad_out[0], square(c.out[0])))}; }),
      unary<"square", number, wide>("x x", [](auto x) { return product_of(x, x); },
                          [](const GradCall& c) { return Grads{mul(c.grad_out[0], mul(c.in[0], 2))}; }),
      unary<"sin", real, wide>("sine, x in radians", [](auto x) { return std::sin(x); },
                        [](const GradCall& c) { return Grads{mul(c.grad_out[0], cos(c.in[0]))}; }),
      unary<"cos", real, wide>("cosine, x in radians", [](auto x) { return std::cos(x); },
                        [](const GradCall& c) { return Grads{neg(mul(c.grad_out[0], sin(c.in[0])))}; }),
      unary<"tanh", real, wide>("hyperbolic tangent", [](auto x) { return std::tanh(x); },
                        [](const GradCall& c) { return Grads{mul(c.grad_out[0], one_minus(square(c.out[0])))}; }),
      unary<"erf", real, wide>("error function 2/sqrt(pi) int_0^x e^(-t t) dt", [](auto x) { return std::erf(x); },
                        [](const GradCall& c) {
                          return Grads{mul(c.grad_out[0], mul(exp(neg(square(c.in[0]))), kTwoOverSqrtPi))};
                        }),
      unary<"sigmoid", real, wide>("1/(1 + e^-x)", [](auto x) { return sigmoid_of(x); },
                        [](const GradCall& c) {
                          return Grads{mul(c.grad_out[0], mul(c.out[0], one_minus(c.out[0])))};
                        }),
      unary<"relu", number, away>("max(x, 0); gradient 0 at 0", [](auto x) { return x < 0 ? decltype(x)(0) : x; },
                          [](const GradCall& c) {
                            const Value zero = full_like(c.in[0], 0);
                            return Grads{where(less(zero, c.in[0]), c.grad_out[0], zero)};
                          }),
      unary<"gelu", real, wide>("x/2 (1 + erf(x/sqrt 2)); Hendrycks & Gimpel 2016",
                        [](auto x) {
                          using X = decltype(x);
                          return x * X(0.5) * (X(1) + std::erf(x * X(kInvSqrt2)));
                        }, gelu_grad),
      unary<"gelu_tanh", real, wide>("x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))); the GPT-2 form",
                        [](auto x) {
                          using X = decltype(x);
                          return x * X(0.5) * (X(1) + std::tanh(X(kSqrt2OverPi) * (x + X(kGeluCubic) * x * x * x)));
                        }, gelu_tanh_grad),
      unary<"silu", real, wide>("x sigmoid(x)", [](auto x) { return x * sigmoid_of(x); }, silu_grad),
      unary<"floor", real, wide>("largest integer <= x", [](auto x) { return std::floor(x); }, kNotDifferentiable),
      unary<"round", real, wide>("nearest integer, half to even", [](auto x) { return half_even(x); }, kNotDifferentiable),
      unary<"is_finite", real, wide, true>("true where x is neither NaN nor an infinity",
                              [](auto x) { return std::isfinite(x); }, kNotDifferentiable),
      unary<"logical_not", boolean, unit, true>("not x", [](auto x) { return !x; }, kNotDifferentiable),

      binary<"add", number, wide, wide>("a + b", true, [](auto a, auto b) { return sum_of(a, b); },
                                 [](const GradCall& c) { return Grads{c.grad_out[0], c.grad_out[0]}; }),
      binary<"sub", number, wide, wide>("a - b", false, [](auto a, auto b) { return sum_of(a, negative_of(b)); },
                                 [](const GradCall& c) { return Grads{c.grad_out[0], neg(c.grad_out[0])}; }),
      binary<"mul", number, wide, wide>("a b", true, [](auto a, auto b) { return product_of(a, b); },
                                 [](const GradCall& c) {
                                   return Grads{mul(c.grad_out[0], c.in[1]), mul(c.grad_out[0], c.in[0])};
                                 }),
      binary<"div", number, wide, away>("a / b; integers: toward zero, x/0 = 0", false,
                                 [](auto a, auto b) {
                                   if constexpr (std::is_integral_v<decltype(a)>) return b == 0 ? 0 : b == -1 ? negative_of(a) : a / b;
                                   else return a / b;
                                 },
                                 [](const GradCall& c) {
                                   const Value da = div(c.grad_out[0], c.in[1]);
                                   return Grads{da, neg(mul(da, c.out[0]))};
                                 }),
      binary<"pow", real, positive, wide>("a^b; gradient in b taken as 0 where a <= 0", false,
                                   [](auto a, auto b) { return std::pow(a, b); }, pow_grad),
      binary<"gelu_tanh_grad", real, wide, wide>("a times the derivative of gelu_tanh at b", false,
                                 [](auto a, auto b) { return a * gelu_tanh_slope(b); }, gelu_tanh_second),
      binary<"maximum", number, wide, wide>("the greater; NaN if either is NaN", true,
                                 [](auto a, auto b) { return a < b || b != b ? b : a; }, maximum_grad),
      binary<"minimum", number, wide, wide>("the lesser; NaN if either is NaN", true,
                                 [](auto a, auto b) { return b < a || b != b ? b : a; }, minimum_grad),
      binary<"equal", any, wide, wide, true>("a = b, as bool", true, [](auto a, auto b) { return a == b; },
                                    kNotDifferentiable),
      binary<"less", number, wide, wide, true>("a < b, as bool", false, [](auto a, auto b) { return a < b; },
                                       kNotDifferentiable),
      binary<"less_equal", number, wide, wide, true>("a <= b, as bool", false, [](auto a, auto b) { return a <= b; },
                                       kNotDifferentiable),
      binary<"logical_and", boolean, unit, unit, true>("a and b", true, [](auto a, auto b) { return a && b; },
                                        kNotDifferentiable),
      binary<"logical_or", boolean, unit, unit, true>("a or b", true, [](auto a, auto b) { return a || b; },
                                        kNotDifferentiable),
      where_def(),
  };
}

const std::vector<OpDef>& table() {
  static const std::vector<OpDef> rows = make_table();
  return rows;
}

const OpDef& row(std::string_view name) {
  static const OpTable by_name(pointwise_ops());
  return by_name.at(name);
}

Value binary_build(std::string_view name, Value a, Value b) {
  if (a.dtype() != b.dtype())
    fail("{}: operands must have one dtype, found {} and {}; cast one of them", name, a.type().str(), b.type().str());
  if (a.shape() != b.shape()) {
    Shape shape;
    try {
      shape = broadcast_shapes(a.shape(), b.shape());
    } catch (const Error& error) {
      fail("{}: {}", name, error.what());
    }
    a = broadcast_to(a, shape);
    b = broadcast_to(b, shape);
  }
  return build(row(name), {a, b});
}

}  // namespace

const std::vector<const OpDef*>& pointwise_ops() {
  static const std::vector<const OpDef*> ops = [] {
    std::vector<const OpDef*> out;
    for (const OpDef& def : table()) out.push_back(&def);
    return out;
  }();
  return ops;
}

Value neg(Value x) { return build(row("neg"), {x}); }
Value abs(Value x) { return build(row("abs"), {x}); }
Value sign(Value x) { return build(row("sign"), {x}); }
Value exp(Value x) { return build(row("exp"), {x}); }
Value log(Value x) { return build(row("log"), {x}); }
Value sqrt(Value x) { return build(row("sqrt"), {x}); }
Value rsqrt(Value x) { return build(row("rsqrt"), {x}); }
Value reciprocal(Value x) { return build(row("reciprocal"), {x}); }
Value square(Value x) { return build(row("square"), {x}); }
Value sin(Value x) { return build(row("sin"), {x}); }
Value cos(Value x) { return build(row("cos"), {x}); }
Value tanh(Value x) { return build(row("tanh"), {x}); }
Value erf(Value x) { return build(row("erf"), {x}); }
Value sigmoid(Value x) { return build(row("sigmoid"), {x}); }
Value relu(Value x) { return build(row("relu"), {x}); }
Value gelu(Value x) { return build(row("gelu"), {x}); }
Value gelu_tanh(Value x) { return build(row("gelu_tanh"), {x}); }
Value silu(Value x) { return build(row("silu"), {x}); }
Value floor(Value x) { return build(row("floor"), {x}); }
Value round(Value x) { return build(row("round"), {x}); }
Value is_finite(Value x) { return build(row("is_finite"), {x}); }
Value logical_not(Value x) { return build(row("logical_not"), {x}); }
Value add(Value a, Value b) { return binary_build("add", a, b); }
Value sub(Value a, Value b) { return binary_build("sub", a, b); }
Value mul(Value a, Value b) { return binary_build("mul", a, b); }
Value div(Value a, Value b) { return binary_build("div", a, b); }
Value pow(Value a, Value b) { return binary_build("pow", a, b); }
Value maximum(Value a, Value b) { return binary_build("maximum", a, b); }
Value minimum(Value a, Value b) { return binary_build("minimum", a, b); }
Value equal(Value a, Value b) { return binary_build("equal", a, b); }
Value less(Value a, Value b) { return binary_build("less", a, b); }
Value less_equal(Value a, Value b) { return binary_build("less_equal", a, b); }
Value logical_and(Value a, Value b) { return binary_build("logical_and", a, b); }
Value logical_or(Value a, Value b) { return binary_build("logical_or", a, b); }

Value where(Value condition, Value a, Value b) {
  const Shape shape = broadcast_shapes(condition.shape(), broadcast_shapes(a.shape(), b.shape()));
  return build(row("where"), {broadcast_to(condition, shape), broadcast_to(a, shape), broadcast_to(b, shape)});
}

Value scalar(Graph& g, DType dtype, double value) {
  return g.constant(Tensor::from_doubles({dtype, Shape{}}, std::span<const double>(&value, 1)));
}
Value full_like(Value x, double value) { return broadcast_to(scalar(x.graph(), x.dtype(), value), x.shape()); }
Value add(Value a, double b) { return binary_build("add", a, scalar(a.graph(), a.dtype(), b)); }
Value mul(Value a, double b) { return binary_build("mul", a, scalar(a.graph(), a.dtype(), b)); }

}  // namespace rhetor
