// Group-wise int4 weights: two to a byte, 32 of a row share an f16 scale (4.5 bits a weight).
//
// matmul_i4       out[..., m, n] = sum_g x_scale[..., m, g] w_scale[n, g] sum_{k in g} xq[..., m, k] w[n, k]; each group's sum is exact
// matmul_w4       out[..., m, n] = sum_k x[..., m, k] round(w[n, k] w_scale[n, k / 32]) with floating x, to whose dtype the weights are rounded
// dequantize_i4   out[..., k] = w[..., k] scale[..., k / 32]
// w[..., 2 j] = (q[..., j] & 15) - 8 and w[..., 2 j + 1] = (q[..., j] >> 4) - 8. Activations are int8 with a scale a row and group, so that
// an outlier spoils only its own group.
// Few rows are bound by reading q (k / 2 bytes a column) and w_scale (k / 16); many by the products.
#include "ops/families.h"
#include "ops/ops.h"
#include "ops/samples.h"

namespace rhetor {
namespace {

constexpr int kZero = 8;  // what a nibble stands above the weight

void expect_quantised(std::string_view op, const Type& q, const Type& scale) {
  expect_min_rank(op, "q", q, 1);
  expect_dtype(op, "q", q, DType::u8);
  const std::int64_t k = 2 * q.shape.last();
  if (k % kInt4Group != 0) fail("{}: operand 'q' must have rows of whole groups of {} weights, found {} in {}", op, kInt4Group, k, q.str());
  Shape groups = q.shape;
  groups.set_dim(-1, k / kInt4Group);
  expect_type(op, "scale", scale, {DType::f16, groups});
}

// The weight of element i (counted over all rows, which are of even length).
std::int64_t weight(const std::int64_t* q, std::int64_t i) { return (q[i / 2] >> (i % 2 * 4) & 15) - kZero; }

// ---- matmul_i4 -----------------------------------------------------------------------------------
std::vector<Type> matmul_i4_infer(std::span<const Type> in, const Attrs& attrs) {
  const Type &xq = in[0], &wq = in[2];
  expect_min_rank("matmul_i4", "xq", xq, 2);
  expect_dtype("matmul_i4", "xq", xq, DType::i8);
  expect_rank("matmul_i4", "wq", wq, 2);
  expect_quantised("matmul_i4", wq, in[3]);
  if (2 * wq.shape[1] != xq.shape.last())
    fail("matmul_i4: operand 'wq' must be [n, {}] to fit xq {}, found {}", xq.shape.last() / 2, xq.str(), wq.str());
  Shape groups = xq.shape;
  groups.set_dim(-1, xq.shape.last() / kInt4Group);
  expect_type("matmul_i4", "x_scale", in[1], {DType::f32, groups});
  const DType out = attrs.dtype("out");
  if (!is_float(out)) fail("matmul_i4: the attribute 'out' must be a floating dtype, found {}", name(out));
  Shape shape = xq.shape;
  shape.set_dim(-1, wq.shape.dim(0));
  return {{out, shape}};
}

Cost matmul_i4_cost(std::span<const Type> in, std::span<const Type> out, const Attrs& attrs) {
  Cost cost = bytes_only_cost(in, out, attrs);
  const double sums = 2.0 * static_cast<double>(in[0].elements()) * static_cast<double>(in[2].shape[0]);
  cost.flops = sums * (1 + 1.5 / static_cast<double>(kInt4Group));  // and, a group: two scales, one addition
  return cost;
}

template <class Call>
void matmul_i4_reference(Call& call) {
  using T = typename Call::Real;
  const std::int64_t k_size = call.in[0]->shape().last(), n_size = call.in[2]->shape()[0], groups = k_size / kInt4Group;
  const std::int64_t rows = k_size ? call.in[0]->elements() / k_size : 0;
  const std::int64_t *x = call.in[0]->i.data(), *q = call.in[2]->i.data();
  const T *x_scale = call.in[1]->f.data(), *w_scale = call.in[3]->f.data();
  for (std::int64_t m = 0; m < rows; ++m)
    for (std::int64_t n = 0; n < n_size; ++n) {
      T total = 0;
      for (std::int64_t g = 0; g < groups; ++g) {
        std::int64_t sum = 0;
        for (std::int64_t k = g * kInt4Group; k < (g + 1) * kInt4Group; ++k) sum += x[m * k_size + k] * weight(q, n * k_size + k);
        total += static_cast<T>(sum) * (x_scale[m * groups + g] * w_scale[n * groups + g]);
      }
      call.out[0].f.data()[m * n_size + n] = total;
    }
}

SampleInput scales(Shape shape) { return {.type = {DType::f16, shape}, .low = -0.02, .high = 0.02, .fixed = true}; }

Sample matmul_i4_sample(std::string label, Shape x, std::int64_t n, DType out = DType::f32) {
  const std::int64_t k = x.last();
  Shape groups = x;
  groups.set_dim(-1, k / kInt4Group);
  return {.label = std::move(label),
          .inputs = {integers(x, -127, 127, DType::i8), fixed_real(groups, 0.001, 0.02), integers({n, k / 2}, 0, 255, DType::u8),
                     scales({n, k / kInt4Group})},
          .attrs = {{"out", out}}, .differentiable = false, .dtypes = {DType::f32}};
}

std::vector<Sample> matmul_i4_samples() {
  std::vector<Sample> samples = {
      matmul_i4_sample("m1 k32 n1", {1, 32}, 1),
      matmul_i4_sample("m1 k96 n40", {1, 96}, 40),
      matmul_i4_sample("m2 k64 n32", {2, 64}, 32),
      matmul_i4_sample("m3 k32 n7", {3, 32}, 7),
      matmul_i4_sample("2x3 k64 n33", {2, 3, 64}, 33),
      matmul_i4_sample("m9 k128 n70 out bf16", {9, 128}, 70, DType::bf16),
      matmul_i4_sample("m4 k32 n16 out f16", {4, 32}, 16, DType::f16),
      matmul_i4_sample("1x768x3072", {1, 768}, 3072),
      matmul_i4_sample("128x768x3072", {128, 768}, 3072),
  };
  // The greatest sums: every product at its extreme.
  samples.push_back({.label = "extremes",
                     .inputs = {exactly(Tensor::from_doubles({DType::i8, {1, 64}}, std::vector<double>(64, -128))), fixed_real({1, 2}, 0.1, 1),
                                exactly(Tensor::from_doubles({DType::u8, {2, 32}}, std::vector<double>(64, 255))), scales({2, 2})},
                     .attrs = {{"out", DType::f32}}, .differentiable = false, .dtypes = {DType::f32}});
  samples[7].benchmark = samples[8].benchmark = true;
  return samples;
}

const OpDef& matmul_i4_op() {
  static const OpDef def{
      .name = "matmul_i4",
      .doc = "out[..., m, n] = sum over groups g of 32 of x_scale[..., m, g] w_scale[n, g] sum_{k in g} xq[..., m, k] w[n, k]. xq i8, "
             "x_scale f32; wq u8 [n, k/2] holds w + 8 in its nibbles, the even k in the low one; w_scale f16.",
      .traits = {.kind = OpKind::contraction},
      .operands = {"xq", "x_scale", "wq", "w_scale"},
      .attrs = {{"out", AttrKind::dtype, "dtype of the result", false, DType::f32}},
      .infer = matmul_i4_infer,
      .grad = kNotDifferentiable,
      .cost = matmul_i4_cost,
      .shard = "... m _, ... m _, n _, n _ -> ... m n",
      .reference = [](auto& call) { matmul_i4_reference(call); },
      .samples = matmul_i4_samples,
  };
  return def;
}

// ---- matmul_w4 -----------------------------------------------------------------------------------
std::vector<Type> matmul_w4_infer(std::span<const Type> in, const Attrs& attrs) {
  const Type &x = in[0], &wq = in[1];
  expect_min_rank("matmul_w4", "x", x, 2);
  expect_float("matmul_w4", "x", x);
  expect_rank("matmul_w4", "wq", wq, 2);
  expect_quantised("matmul_w4", wq, in[2]);
  if (2 * wq.shape[1] != x.shape.last())
    fail("matmul_w4: operand 'wq' must be [n, {}] to fit x {}, found {}", x.shape.last() / 2, x.str(), wq.str());
  const DType out = attrs.dtype("out");
  if (!is_float(out)) fail("matmul_w4: the attribute 'out' must be a floating dtype, found {}", name(out));
  Shape shape = x.shape;
  shape.set_dim(-1, wq.shape.dim(0));
  return {{out, shape}};
}

// A weight as an operand of `dtype`; int4 times f16 is exact in f32.
double rounded(double value, DType dtype) {
  if (dtype == DType::bf16) return static_cast<double>(bf16::from_float(static_cast<float>(value)).to_float());
  if (dtype == DType::f16) return static_cast<double>(f16::from_float(static_cast<float>(value)).to_float());
  return value;
}

template <class Call>
void matmul_w4_reference(Call& call) {
  using T = typename Call::Real;
  const std::int64_t k_size = call.in[0]->shape().last(), n_size = call.in[1]->shape()[0], groups = k_size / kInt4Group;
  const std::int64_t rows = k_size ? call.in[0]->elements() / k_size : 0;
  std::vector<T> w(static_cast<std::size_t>(k_size));
  for (std::int64_t n = 0; n < n_size; ++n) {
    for (std::int64_t k = 0; k < k_size; ++k)
      w[static_cast<std::size_t>(k)] = static_cast<T>(rounded(static_cast<double>(weight(call.in[1]->i.data(), n * k_size + k)) *
                                                                  static_cast<double>(call.in[2]->f[static_cast<std::size_t>(n * groups + k / kInt4Group)]),
                                                              call.in[0]->type.dtype));
    for (std::int64_t m = 0; m < rows; ++m) {
      T total = 0;
      for (std::int64_t k = 0; k < k_size; ++k) total += call.in[0]->f[static_cast<std::size_t>(m * k_size + k)] * w[static_cast<std::size_t>(k)];
      call.out[0].f[static_cast<std::size_t>(m * n_size + n)] = total;
    }
  }
}

const OpDef& matmul_w4_op() {
  static const OpDef def{
      .name = "matmul_w4",
      .doc = "out[..., m, n] = sum_k x[..., m, k] w[n, k]: the weights of wq (u8 [n, k/2]) and w_scale (f16 [n, k/32]) as dequantize_i4 gives "
             "them in the dtype of x. For many rows: their activations need not be quantised.",
      .traits = {.kind = OpKind::contraction},
      .operands = {"x", "wq", "w_scale"},
      .attrs = {{"out", AttrKind::dtype, "dtype of the result", false, DType::f32}},
      .infer = matmul_w4_infer,
      .grad = kNotDifferentiable,
      .cost =
          [](std::span<const Type> in, std::span<const Type> out, const Attrs& attrs) {
            Cost cost = bytes_only_cost(in, out, attrs);
            cost.flops = 2.0 * static_cast<double>(in[0].elements()) * static_cast<double>(in[1].shape[0]);
            return cost;
          },
      .shard = "... m _, n _, n _ -> ... m n",
      .reference = [](auto& call) { matmul_w4_reference(call); },
      .samples = [] {
        const auto sample = [](std::string label, Shape x, std::int64_t n, DType out = DType::f32) {
          const std::int64_t k = x.last();
          return Sample{.label = std::move(label),
                        .inputs = {real(x), integers({n, k / 2}, 0, 255, DType::u8), scales({n, k / kInt4Group})},
                        .attrs = {{"out", out}}, .differentiable = false, .dtypes = {DType::f32, DType::bf16, DType::f16}};
        };
        std::vector<Sample> samples = {sample("m1 k32 n1", {1, 32}, 1), sample("m9 k96 n40", {9, 96}, 40), sample("2x17 k64 n33", {2, 17, 64}, 33),
                                       sample("m65 k1056 n31 out bf16", {65, 1056}, 31, DType::bf16), sample("512x768x768", {512, 768}, 768)};
        samples.back().benchmark = true;
        samples.back().dtypes = {DType::bf16};
        return samples;
      },
  };
  return def;
}

// ---- dequantize_i4 -------------------------------------------------------------------------------
const OpDef& dequantize_i4_op() {
  static const OpDef def{
      .name = "dequantize_i4",
      .doc = "q [..., k/2] u8, whose nibbles are weights + 8, times scale [..., k/32] f16 of their group: [..., k], in dtype.",
      .traits = {.kind = OpKind::opaque},
      .operands = {"q", "scale"},
      .attrs = {{"dtype", AttrKind::dtype, "of the result", false, DType::f32}},
      .infer = [](std::span<const Type> in, const Attrs& attrs) -> std::vector<Type> {
        expect_quantised("dequantize_i4", in[0], in[1]);
        if (!is_float(attrs.dtype("dtype"))) fail("dequantize_i4: dtype must be floating point, found {}", name(attrs.dtype("dtype")));
        Shape shape = in[0].shape;
        shape.set_dim(-1, 2 * shape.last());
        return {{attrs.dtype("dtype"), shape}};
      },
      .grad = kNotDifferentiable,
      .cost = pointwise_cost,
      .shard = "... _, ... _ -> ... _",
      .reference = [](auto& call) {
        using T = typename std::decay_t<decltype(call)>::Real;
        for (std::size_t i = 0; i < call.out[0].f.size(); ++i)
          call.out[0].f[i] = static_cast<T>(weight(call.in[0]->i.data(), static_cast<std::int64_t>(i))) * call.in[1]->f[i / kInt4Group];
      },
      .samples = [] {
        const auto sample = [](std::string label, Shape q, DType dtype) {
          Shape groups = q;
          groups.set_dim(-1, 2 * q.last() / kInt4Group);
          return Sample{.label = std::move(label), .inputs = {integers(q, 0, 255, DType::u8), scales(groups)},
                        .attrs = {{"dtype", dtype}}, .differentiable = false, .dtypes = {DType::f32}};
        };
        std::vector<Sample> samples = {sample("4x64", {4, 32}, DType::f32), sample("2x3x32 to bf16", {2, 3, 16}, DType::bf16),
                                       sample("1x96 to f16", {1, 48}, DType::f16), sample("1024x768", {1024, 384}, DType::f32)};
        samples.back().benchmark = true;
        return samples;
      },
  };
  return def;
}

}  // namespace

const std::vector<const OpDef*>& int4_ops() {
  static const std::vector<const OpDef*> ops{&matmul_i4_op(), &matmul_w4_op(), &dequantize_i4_op()};
  return ops;
}

Value matmul_i4(Value xq, Value x_scale, Value wq, Value w_scale, DType out) {
  return build(matmul_i4_op(), {xq, x_scale, wq, w_scale}, {{"out", out}});
}
Value matmul_w4(Value x, Value wq, Value w_scale, DType out) { return build(matmul_w4_op(), {x, wq, w_scale}, {{"out", out}}); }
Value dequantize_i4(Value q, Value scale, DType dtype) { return build(dequantize_i4_op(), {q, scale}, {{"dtype", dtype}}); }

}  // namespace rhetor
