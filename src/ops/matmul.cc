// out[..., m, n] = sum_k a[..., m, k] b[..., k, n]
//
// matmul     float operands of one dtype, either one stored transposed, summed in f32 or wider
// matmul_i8  out[..., m, n] = x_scale[..., m] w_scale[n] sum_k xq[..., m, k] wq[n, k]; the sum is exact in i32
// Compute-bound from a few hundred rows on (2 m n k flops over (mk + kn + mn) elements); one row of activations is bound by
// reading b.
#include "ops/families.h"
#include "ops/ops.h"
#include "ops/samples.h"

namespace rhetor {
namespace {

// The operands seen as `batch` products [m, k] x [k, n]. b_shared: one b for the whole batch.
struct MatmulShape {
  std::int64_t batch = 1, m = 1, n = 1, k = 1;
  bool transpose_a = false, transpose_b = false, b_shared = false;
};

MatmulShape matmul_shape(const Shape& a, const Shape& b, const Attrs& attrs) {
  const bool ta = attrs.b("transpose_a"), tb = attrs.b("transpose_b");
  return {.batch = a.elements(0, a.rank() - 2), .m = a.dim(ta ? -1 : -2).size, .n = b.dim(tb ? -2 : -1).size,
          .k = a.dim(ta ? -2 : -1).size, .transpose_a = ta, .transpose_b = tb, .b_shared = b.rank() == 2};
}

std::vector<Type> matmul_infer(std::span<const Type> in, const Attrs& attrs) {
  const Type &a = in[0], &b = in[1];
  expect_min_rank("matmul", "a", a, 2);
  expect_min_rank("matmul", "b", b, 2);
  expect_float("matmul", "a", a);
  expect_dtype("matmul", "b", b, a.dtype);
  const DType out = attrs.dtype("out");
  if (!is_float(out)) fail("matmul: the attribute 'out' must be a floating dtype, found {}", name(out));
  const bool ta = attrs.b("transpose_a"), tb = attrs.b("transpose_b");
  const int rank = a.shape.rank();
  const std::int64_t k = a.shape.dim(ta ? -2 : -1).size, b_k = b.shape.dim(tb ? -1 : -2).size;
  if (k != b_k)
    fail("matmul: operand 'b' must have {} as its dim {} (the summed dim of a {}{}), found {}", k,
         b.shape.rank() - (tb ? 1 : 2), a.str(), ta ? " transposed" : "", b.str());
  bool leading = b.shape.rank() == 2 || b.shape.rank() == rank;
  for (int d = 0; leading && b.shape.rank() > 2 && d < rank - 2; ++d) leading = a.shape[d] == b.shape[d];
  if (!leading)
    fail("matmul: operand 'b' must have rank 2 or the leading dims of 'a' {}, found {}", a.str(), b.str());
  Shape shape = a.shape;
  shape.set_dim(-2, a.shape.dim(ta ? -1 : -2));
  shape.set_dim(-1, b.shape.dim(tb ? -2 : -1));
  return {{out, shape}};
}

Value swap_last_two(Value x) {
  std::vector<std::int64_t> perm;
  for (int d = 0; d < x.shape().rank(); ++d) perm.push_back(d);
  std::swap(perm[perm.size() - 1], perm[perm.size() - 2]);
  return transpose(x, perm);
}

// d a' = d out b'^T and d b' = a'^T d out, where a' [m, k] and b' [k, n] are the operands as multiplied.
std::vector<Value> matmul_grad(const GradCall& call) {
  const Value a = call.in[0], b = call.in[1], d = cast(call.grad_out[0], a.dtype());
  const MatmulShape s = matmul_shape(a.shape(), b.shape(), call.attrs);
  const bool ta = s.transpose_a, tb = s.transpose_b;
  const bool shared = s.b_shared && a.shape().rank() > 2;
  Value da, db;
  if (!ta) da = matmul(d, b, false, !tb);
  else if (shared) da = swap_last_two(matmul(d, b, false, !tb));
  else da = matmul(b, d, tb, true);
  if (shared) {  // summed over the batch as one product of [batch * m] rows
    const Value rows = reshape(ta ? swap_last_two(a) : a, Shape{s.batch * s.m, s.k});
    const Value drows = reshape(d, Shape{s.batch * s.m, s.n});
    db = tb ? matmul(drows, rows, true, false) : matmul(rows, drows, true, false);
  } else {
    db = tb ? matmul(d, a, true, ta) : matmul(a, d, !ta, false);
  }
  return {da, db};
}

Cost matmul_cost(std::span<const Type> in, std::span<const Type> out, const Attrs& attrs) {
  Cost cost = bytes_only_cost(in, out, attrs);
  const MatmulShape s = matmul_shape(in[0].shape, in[1].shape, attrs);
  cost.flops = 2.0 * static_cast<double>(s.batch * s.m) * static_cast<double>(s.n) * static_cast<double>(s.k);
  return cost;
}

template <class Call>
void matmul_reference(Call& call) {
  using T = typename Call::Real;
  const MatmulShape s = matmul_shape(call.in[0]->shape(), call.in[1]->shape(), call.attrs);
  const std::int64_t a_m = s.transpose_a ? 1 : s.k, a_k = s.transpose_a ? s.m : 1;  // strides
  const std::int64_t b_k = s.transpose_b ? 1 : s.n, b_n = s.transpose_b ? s.k : 1;
  for (std::int64_t batch = 0; batch < s.batch; ++batch) {
    const T* a = call.in[0]->f.data() + batch * s.m * s.k;
    const T* b = call.in[1]->f.data() + (s.b_shared ? 0 : batch * s.k * s.n);
    T* out = call.out[0].f.data() + batch * s.m * s.n;
    for (std::int64_t m = 0; m < s.m; ++m)
      for (std::int64_t n = 0; n < s.n; ++n) {
        T sum = 0;
        for (std::int64_t k = 0; k < s.k; ++k) sum += a[m * a_m + k * a_k] * b[k * b_k + n * b_n];
        out[m * s.n + n] = sum;
      }
  }
}

Sample matmul_sample(std::string label, Shape a, Shape b, bool ta = false, bool tb = false) {
  return {.label = std::move(label), .inputs = {real(a), real(b)},
          .attrs = {{"transpose_a", ta}, {"transpose_b", tb}, {"out", DType::f32}}};
}

std::vector<Sample> matmul_samples() {
  std::vector<Sample> samples = {
      matmul_sample("m3 k5 n7", {3, 5}, {5, 7}),
      matmul_sample("m1 k1 n1", {1, 1}, {1, 1}),
      matmul_sample("m1 k9 n4", {1, 9}, {9, 4}),
      matmul_sample("m17 k33 n1", {17, 33}, {33, 1}),
      matmul_sample("ta m3 k5 n7", {5, 3}, {5, 7}, true, false),
      matmul_sample("tb m3 k5 n7", {3, 5}, {7, 5}, false, true),
      matmul_sample("ta tb m3 k5 n7", {5, 3}, {7, 5}, true, true),
      matmul_sample("b2x3 m4 k5 n6", {2, 3, 4, 5}, {2, 3, 5, 6}),
      matmul_sample("b3 ta tb m4 k5 n2", {3, 5, 4}, {3, 2, 5}, true, true),
      matmul_sample("b2 ta m4 k1 n3", {2, 1, 4}, {2, 1, 3}, true, false),
      matmul_sample("b2 shared", {2, 4, 5}, {5, 3}),
      matmul_sample("b2x2 shared tb", {2, 2, 3, 5}, {4, 5}, false, true),
      matmul_sample("b2 shared ta", {2, 5, 4}, {5, 3}, true, false),
      matmul_sample("b2 shared ta tb", {2, 5, 4}, {3, 5}, true, true),
      matmul_sample("m65 k64 n33", {65, 64}, {64, 33}),
  };
  for (const DType narrow : {DType::bf16, DType::f16}) {  // results in the narrow dtype too
    Sample sample = matmul_sample(fmt::format("m5 k16 n9 out {}", name(narrow)), {5, 16}, {16, 9});
    sample.attrs.set("out", narrow);
    sample.dtypes = {narrow};
    samples.push_back(std::move(sample));
  }
  const auto bench = [&](std::string label, Shape a, Shape b, bool tb = false) {
    samples.push_back(matmul_sample(std::move(label), a, b, false, tb));
    samples.back().benchmark = true;
  };
  bench("128x768x3072", {128, 768}, {768, 3072});
  bench("1x768x3072", {1, 768}, {768, 3072});
  bench("128x768x3072 tb", {128, 768}, {3072, 768}, true);
  bench("1024x768x768", {1024, 768}, {768, 768});
  bench("b96 128x64x128 tb", {96, 128, 64}, {96, 128, 64}, true);
  return samples;
}

const OpDef& matmul_op() {
  static const OpDef def{
      .name = "matmul",
      .doc = "out[..., m, n] = sum_k a[..., m, k] b[..., k, n]. a is stored [..., k, m] if transpose_a, b [..., n, k] if "
             "transpose_b. a and b share a float dtype; b has the leading dims of a, or rank 2 and then serves them all. Summed "
             "in f32 or wider, rounded once to the dtype `out`.",
      .traits = {.kind = OpKind::contraction},
      .operands = {"a", "b"},
      .attrs = {{"transpose_a", AttrKind::boolean, "a is stored [..., k, m]", false, false},
                {"transpose_b", AttrKind::boolean, "b is stored [..., n, k]", false, false},
                {"out", AttrKind::dtype, "dtype of the result"}},
      .infer = matmul_infer,
      .grad = matmul_grad,
      .cost = matmul_cost,
      .shard = "transpose_a transpose_b: ... k m, ... n k -> ... m n | sum k; "
               "transpose_a: ... k m, ... k n -> ... m n | sum k; "
               "transpose_b: ... m k, ... n k -> ... m n | sum k; "
               "... m k, ... k n -> ... m n | sum k",
      .reference = [](auto& call) { matmul_reference(call); },
      .samples = matmul_samples,
  };
  return def;
}

// ---- matmul_i8 ---------------------------------------------------------------------------------

std::vector<Type> matmul_i8_infer(std::span<const Type> in, const Attrs& attrs) {
  const Type &xq = in[0], &wq = in[2];
  expect_min_rank("matmul_i8", "xq", xq, 2);
  expect_dtype("matmul_i8", "xq", xq, DType::i8);
  expect_type("matmul_i8", "x_scale", in[1], {DType::f32, drop_last(xq.shape)});
  expect_rank("matmul_i8", "wq", wq, 2);
  expect_dtype("matmul_i8", "wq", wq, DType::i8);
  if (wq.shape[1] != xq.shape.last())
    fail("matmul_i8: operand 'wq' must be [n, {}] to fit xq {}, found {}", xq.shape.last(), xq.str(), wq.str());
  expect_type("matmul_i8", "w_scale", in[3], {DType::f32, Shape{wq.shape.dim(0)}});
  const DType out = attrs.dtype("out");
  if (!is_float(out)) fail("matmul_i8: the attribute 'out' must be a floating dtype, found {}", name(out));
  Shape shape = xq.shape;
  shape.set_dim(-1, wq.shape.dim(0));
  return {{out, shape}};
}

Cost matmul_i8_cost(std::span<const Type> in, std::span<const Type> out, const Attrs& attrs) {
  Cost cost = bytes_only_cost(in, out, attrs);
  const double sums = 2.0 * static_cast<double>(in[0].elements()) * static_cast<double>(in[2].shape[0]);
  cost.flops = sums + 2.0 * static_cast<double>(out[0].elements());  // and two scales
  return cost;
}

template <class Call>
void matmul_i8_reference(Call& call) {
  using T = typename Call::Real;
  const std::int64_t k_size = call.in[0]->shape().last(), n_size = call.in[2]->shape()[0];
  const std::int64_t rows = call.in[0]->elements() / std::max<std::int64_t>(k_size, 1);
  const std::int64_t *x = call.in[0]->i.data(), *w = call.in[2]->i.data();
  const T *x_scale = call.in[1]->f.data(), *w_scale = call.in[3]->f.data();
  for (std::int64_t m = 0; m < rows; ++m)
    for (std::int64_t n = 0; n < n_size; ++n) {
      std::int64_t sum = 0;
      for (std::int64_t k = 0; k < k_size; ++k) sum += x[m * k_size + k] * w[n * k_size + k];
      call.out[0].f.data()[m * n_size + n] = static_cast<T>(sum) * x_scale[m] * w_scale[n];
    }
}

Sample matmul_i8_sample(std::string label, Shape xq, Shape wq, DType out = DType::f32) {
  return {.label = std::move(label),
          .inputs = {integers(xq, -127, 127, DType::i8), fixed_real(drop_last(xq), 0.001, 0.02),
                     integers(wq, -127, 127, DType::i8), fixed_real(Shape{wq.dim(0)}, 0.001, 0.02)},
          .attrs = {{"out", out}}, .differentiable = false, .dtypes = {DType::f32}};
}

std::vector<Sample> matmul_i8_samples() {
  std::vector<Sample> samples = {
      matmul_i8_sample("m3 k5 n7", {3, 5}, {7, 5}),
      matmul_i8_sample("m1 k1 n1", {1, 1}, {1, 1}),
      matmul_i8_sample("m1 k67 n16", {1, 67}, {16, 67}),
      matmul_i8_sample("2x3 k64 n33", {2, 3, 64}, {33, 64}),
      matmul_i8_sample("m4 k32 n9 out bf16", {4, 32}, {9, 32}, DType::bf16),
      matmul_i8_sample("128x768x3072", {128, 768}, {3072, 768}),
      matmul_i8_sample("1x768x3072", {1, 768}, {3072, 768}),
  };
  samples[5].benchmark = samples[6].benchmark = true;
  return samples;
}

const OpDef& matmul_i8_op() {
  static const OpDef def{
      .name = "matmul_i8",
      .doc = "out[..., m, n] = x_scale[..., m] w_scale[n] sum_k xq[..., m, k] wq[n, k]; xq, wq i8, scales f32, the sum exact (k "
             "< 2^17 keeps it inside i32). Symmetric quantisation as in Jacob et al., \"Quantization and training of neural "
             "networks for efficient integer-arithmetic-only inference\" (2018), one scale a token and an output channel.",
      .traits = {.kind = OpKind::contraction},
      .operands = {"xq", "x_scale", "wq", "w_scale"},
      .attrs = {{"out", AttrKind::dtype, "dtype of the result", false, DType::f32}},
      .infer = matmul_i8_infer,
      .grad = kNotDifferentiable,
      .cost = matmul_i8_cost,
      .shard = "... m k, ... m, n k, n -> ... m n | sum k",
      .reference = [](auto& call) { matmul_i8_reference(call); },
      .samples = matmul_i8_samples,
  };
  return def;
}

}  // namespace

const std::vector<const OpDef*>& matmul_ops() {
  static const std::vector<const OpDef*> ops{&matmul_op(), &matmul_i8_op()};
  return ops;
}

Value matmul(Value a, Value b, bool transpose_a, bool transpose_b, std::optional<DType> out) {
  return build(matmul_op(), {a, b},
               {{"transpose_a", transpose_a}, {"transpose_b", transpose_b}, {"out", out.value_or(a.dtype())}});
}

Value matmul_i8(Value xq, Value x_scale, Value wq, Value w_scale, DType out) {
  return build(matmul_i8_op(), {xq, x_scale, wq, w_scale}, {{"out", out}});
}

}  // namespace rhetor
