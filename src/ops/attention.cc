// Scaled dot-product attention, full, causal, grouped-query, of variable length, over a cache.
//
// s_ij = scale q_i . k_j for the keys j that query i sees, P = softmax over j, o_i = sum_j P_ij v_j, lse_i = log sum_j exp s_ij
// attention_grad, with delta_i = d_o_i . o_i and dS_ij = P_ij (d_o_i . v_j - delta_i):
//                dq_i = scale sum_j dS_ij k_j, dk_j = scale sum_i dS_ij q_i, dv_j = sum_i P_ij d_o_i
// q [B,S,H,D], k and v [B,T,G,D]; query head h reads key head h / (H/G). Query i sees key j when j < lengths[b] and, if causal,
// j <= i + offset; offset is offsets[b] or T - S. A query that sees no key gives o = 0 and lse = -inf.
// Compute-bound for long sequences (4 D flops a visible pair); decoding one token is bound by reading k and v.
// cache_write and rope, the other two steps of an attention layer, are in attention_cache.cc.
#include <cmath>
#include <limits>

#include "ops/attention_parts.h"
#include "ops/families.h"
#include "ops/ops.h"
#include "ops/samples.h"

namespace rhetor {
namespace {

// b, s, t, h, g, d as in the header comment.
struct Geometry {
  std::int64_t b, s, t, h, g, d;
  bool causal;
  double scale;
};
Geometry geometry(const Shape& q, const Shape& k, const Attrs& attrs) {
  const double scale = attrs.f("scale");
  return {.b = q[0], .s = q[1], .t = k[1], .h = q[2], .g = k[2], .d = q[3], .causal = attrs.b("causal"),
          .scale = scale == 0 ? 1 / std::sqrt(static_cast<double>(q[3])) : scale};
}

void expect_qkv(std::string_view op, const Type& q, const Type& k, const Type& v) {
  expect_float(op, "q", q);
  expect_rank(op, "q", q, 4);
  expect_rank(op, "k", k, 4);
  expect_dtype(op, "k", k, q.dtype);
  if (k.shape[0] != q.shape[0] || k.shape[3] != q.shape[3])
    fail("{}: operand 'k' must be [{},T,G,{}] to fit q {}, found {}", op, q.shape[0], q.shape[3], q.str(), k.str());
  if (k.shape[2] < 1 || q.shape[2] % k.shape[2] != 0)
    fail("{}: the {} heads of 'k' must divide the {} heads of 'q', found k {} for q {}", op, k.shape[2], q.shape[2], k.str(),
         q.str());
  expect_type(op, "v", v, k);
}
void expect_optional(std::string_view op, std::string_view operand, std::span<const Type> in, std::size_t i, std::int64_t batch) {
  if (i >= in.size() || (in[i].dtype == DType::boolean && in[i].shape.rank() == 0)) return;  // absent
  expect_type(op, operand, in[i], {DType::i32, Shape{batch}});
}
Type lse_type(const Type& q) { return {wide(q.dtype), Shape{q.shape.dim(0), q.shape.dim(2), q.shape.dim(1)}}; }

std::vector<Type> attention_infer(std::span<const Type> in, const Attrs&) {
  expect_qkv("attention", in[0], in[1], in[2]);
  expect_optional("attention", "lengths", in, 3, in[0].shape[0]);
  expect_optional("attention", "offsets", in, 4, in[0].shape[0]);
  return {in[0], lse_type(in[0])};
}
std::vector<Type> attention_grad_infer(std::span<const Type> in, const Attrs&) {
  constexpr auto op = "attention_grad";
  expect_qkv(op, in[1], in[2], in[3]);
  expect_type(op, "d_o", in[0], in[1]);
  expect_type(op, "o", in[4], in[1]);
  expect_type(op, "lse", in[5], lse_type(in[1]));
  expect_optional(op, "lengths", in, 6, in[1].shape[0]);
  expect_optional(op, "offsets", in, 7, in[1].shape[0]);
  return {in[1], in[2], in[3]};
}

AttentionOptions options_of(const Attrs& attrs, Value lengths, Value offsets) {
  return {.causal = attrs.b("causal"), .scale = attrs.f("scale"), .lengths = lengths, .offsets = offsets};
}
Value operand(const GradCall& call, std::size_t i) { return i < call.in.size() ? call.in[i] : Value(); }

// d lse_i / d q_i = scale sum_j P_ij k_j is attention with v = k, and d lse / d k_j = scale sum_i P_ij d lse_i q_i the dv of
// attention_grad for d_o_i = d lse_i q_i: no new kernel for a path that training does not take.
std::vector<Value> attention_gradient(const GradCall& call) {
  const Value q = call.in[0], k = call.in[1], v = call.in[2], d_o = call.grad_out[0], d_lse = call.grad_out[1];
  const AttentionOptions options = options_of(call.attrs, operand(call, 3), operand(call, 4));
  AttentionGrads grads;
  if (d_o) grads = attention_grad(d_o, q, k, v, call.out[0], call.out[1], options);
  if (d_lse) {
    const double scale = geometry(q.shape(), k.shape(), call.attrs).scale;
    Value weight = transpose(d_lse, {0, 2, 1});  // [B,S,H]
    if (weight.dtype() != q.dtype()) weight = cast(weight, q.dtype());
    Shape column = weight.shape();
    column.append(1);
    weight = mul(reshape(weight, column), scale);
    const Value mean_key = attention(q, k, k, options);
    const Value dq = mul(mean_key, weight);
    const Value dk = attention_grad(mul(q, weight), q, k, k, mean_key, call.out[1], options).dv;
    grads.dq = grads.dq ? add(grads.dq, dq) : dq;
    grads.dk = grads.dk ? add(grads.dk, dk) : dk;
  }
  std::vector<Value> out{grads.dq, grads.dk, grads.dv};
  out.resize(call.in.size());  // lengths and offsets have none
  return out;
}

// Pairs of query and key that see each other, without knowing lengths and offsets.
double visible_pairs(const Geometry& a) {
  double pairs = 0;
  for (std::int64_t i = 0; i < a.s; ++i)
    pairs += static_cast<double>(a.causal ? std::clamp<std::int64_t>(i + a.t - a.s + 1, 0, a.t) : a.t);
  return pairs * static_cast<double>(a.b * a.h);
}
// `products` multiply-adds of length D and 4 more operations a pair.
Cost attention_cost(std::span<const Type> in, std::span<const Type> out, const Attrs& attrs) {
  Cost cost = bytes_only_cost(in, out, attrs);
  const Geometry a = geometry(in[0].shape, in[1].shape, attrs);
  cost.flops = visible_pairs(a) * (4.0 * static_cast<double>(a.d) + 4);
  return cost;
}
Cost attention_grad_cost(std::span<const Type> in, std::span<const Type> out, const Attrs& attrs) {
  Cost cost = bytes_only_cost(in, out, attrs);
  const Geometry a = geometry(in[1].shape, in[2].shape, attrs);
  cost.flops = visible_pairs(a) * (10.0 * static_cast<double>(a.d) + 6);
  return cost;
}

// What query row i of batch b sees: keys [0, end).
template <class Call>
std::int64_t visible_end(const Call& call, const Geometry& a, std::size_t lengths, std::size_t offsets, std::int64_t b,
                         std::int64_t i) {
  std::int64_t end = a.t;
  if (call.has(lengths)) end = std::min(end, call.in[lengths]->i[static_cast<std::size_t>(b)]);
  const std::int64_t offset = call.has(offsets) ? call.in[offsets]->i[static_cast<std::size_t>(b)] : a.t - a.s;
  if (a.causal) end = std::min(end, i + offset + 1);
  return std::max<std::int64_t>(end, 0);
}

// Calls f(b, h, i, end, offset of the query's row, function from j to the offset of the key's row).
template <class Call, class F>
void for_each_query(const Call& call, const Geometry& a, std::size_t lengths, std::size_t offsets, F&& f) {
  for (std::int64_t b = 0; b < a.b; ++b)
    for (std::int64_t h = 0; h < a.h; ++h)
      for (std::int64_t i = 0; i < a.s; ++i) {
        const std::int64_t g = h / (a.h / a.g);
        f((b * a.h + h) * a.s + i, ((b * a.s + i) * a.h + h) * a.d, visible_end(call, a, lengths, offsets, b, i),
          [=](std::int64_t j) { return ((b * a.t + j) * a.g + g) * a.d; });
      }
}

template <class T>
T dot(const T* a, const T* b, std::int64_t n) {
  T sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

template <class Call>
void attention_reference(Call& call) {
  using T = typename Call::Real;
  const Geometry a = geometry(call.in[0]->shape(), call.in[1]->shape(), call.attrs);
  const T *q = call.in[0]->f.data(), *k = call.in[1]->f.data(), *v = call.in[2]->f.data(), scale = static_cast<T>(a.scale);
  T *o = call.out[0].f.data(), *lse = call.out[1].f.data();
  std::vector<T> p(static_cast<std::size_t>(a.t));
  for_each_query(call, a, 3, 4, [&](std::int64_t row, std::int64_t query, std::int64_t end, auto key) {
    T top = -std::numeric_limits<T>::infinity(), sum = 0;
    for (std::int64_t j = 0; j < end; ++j) {
      p.data()[j] = scale * dot(q + query, k + key(j), a.d);
      top = std::max(top, p.data()[j]);
    }
    for (std::int64_t j = 0; j < end; ++j) sum += p.data()[j] = std::exp(p.data()[j] - top);
    for (std::int64_t j = 0; j < end; ++j)
      for (std::int64_t d = 0; d < a.d; ++d) o[query + d] += p.data()[j] / sum * v[key(j) + d];
    lse[row] = end > 0 ? top + std::log(sum) : top;
  });
}

template <class Call>
void attention_grad_reference(Call& call) {
  using T = typename Call::Real;
  const Geometry a = geometry(call.in[1]->shape(), call.in[2]->shape(), call.attrs);
  const T *d_o = call.in[0]->f.data(), *q = call.in[1]->f.data(), *k = call.in[2]->f.data(), *v = call.in[3]->f.data();
  const T *o = call.in[4]->f.data(), *lse = call.in[5]->f.data(), scale = static_cast<T>(a.scale);
  T *dq = call.out[0].f.data(), *dk = call.out[1].f.data(), *dv = call.out[2].f.data();
  for_each_query(call, a, 6, 7, [&](std::int64_t row, std::int64_t query, std::int64_t end, auto key) {
    const T delta = dot(d_o + query, o + query, a.d);
    for (std::int64_t j = 0; j < end; ++j) {
      const T p = std::exp(scale * dot(q + query, k + key(j), a.d) - lse[row]);
      const T ds = scale * p * (dot(d_o + query, v + key(j), a.d) - delta);
      for (std::int64_t d = 0; d < a.d; ++d) {
        dq[query + d] += ds * k[key(j) + d];
        dk[key(j) + d] += ds * q[query + d];
        dv[key(j) + d] += p * d_o[query + d];
      }
    }
  });
}

// ---- samples -----------------------------------------------------------------------------------

Tensor i32s(std::vector<std::int32_t> values) {
  const auto n = static_cast<std::int64_t>(values.size());
  return Tensor::of<std::int32_t>(Shape{n}, values);
}

struct AttentionSample {
  std::string_view label;
  Shape q, k;
  bool causal = false;
  double scale = 0;
  std::vector<std::int32_t> lengths = {}, offsets = {};
  bool benchmark = false;
  bool blind_rows = false;  // a query sees no key: lse is infinite, which finite differences do not like
};
std::vector<AttentionSample> attention_cases() {
  return {{.label = "b2 s3 h2 d4", .q = {2, 3, 2, 4}, .k = {2, 3, 2, 4}},
          {.label = "one of each", .q = {1, 1, 1, 1}, .k = {1, 1, 1, 1}},
          {.label = "cross s3 t7", .q = {1, 3, 2, 5}, .k = {1, 7, 2, 5}, .scale = 0.3},
          {.label = "causal s7", .q = {2, 7, 1, 8}, .k = {2, 7, 1, 8}, .causal = true},
          {.label = "causal s2 t5", .q = {1, 2, 2, 4}, .k = {1, 5, 2, 4}, .causal = true},
          {.label = "grouped h4 g2 causal", .q = {1, 5, 4, 4}, .k = {1, 5, 2, 4}, .causal = true},
          {.label = "grouped h6 g1", .q = {2, 3, 6, 3}, .k = {2, 4, 1, 3}},
          {.label = "lengths", .q = {3, 4, 2, 4}, .k = {3, 6, 2, 4}, .lengths = {6, 1, 3}},
          {.label = "offsets causal", .q = {2, 3, 2, 4}, .k = {2, 8, 2, 4}, .causal = true, .offsets = {0, 4}},
          {.label = "offsets lengths causal grouped", .q = {2, 2, 4, 4}, .k = {2, 9, 2, 4}, .causal = true, .lengths = {5, 9},
           .offsets = {3, 7}},
          {.label = "decode", .q = {2, 1, 4, 16}, .k = {2, 33, 4, 16}, .causal = true, .lengths = {12, 33}, .offsets = {11, 32}},
          {.label = "blind rows", .q = {2, 4, 2, 4}, .k = {2, 3, 2, 4}, .causal = true, .lengths = {0, 3}, .blind_rows = true},
          {.label = "s65 d32 causal", .q = {1, 65, 1, 32}, .k = {1, 65, 1, 32}, .causal = true},
          {.label = "s37 t150 d32 grouped causal lengths", .q = {2, 37, 4, 32}, .k = {2, 150, 2, 32}, .causal = true, .lengths = {150, 70}},
          {.label = "s9 t40 d64 offsets", .q = {2, 9, 1, 64}, .k = {2, 40, 1, 64}, .causal = true, .offsets = {0, 31}},
          {.label = "bert-base s128 b8", .q = {8, 128, 12, 64}, .k = {8, 128, 12, 64}, .benchmark = true},
          {.label = "bert-base s128 b8 lengths", .q = {8, 128, 12, 64}, .k = {8, 128, 12, 64},
           .lengths = {128, 96, 64, 33, 17, 128, 80, 5}, .benchmark = true},
          {.label = "gpt2 s1024 causal", .q = {1, 1024, 12, 64}, .k = {1, 1024, 12, 64}, .causal = true, .benchmark = true},
          {.label = "gpt2 decode t1024", .q = {1, 1, 12, 64}, .k = {1, 1024, 12, 64}, .causal = true, .lengths = {1000},
           .offsets = {999}, .benchmark = true},
          {.label = "llama decode t2048 g4", .q = {4, 1, 32, 128}, .k = {4, 2048, 8, 128}, .causal = true, .benchmark = true}};
}
template <bool backward>
std::vector<Sample> attention_samples() {
  std::vector<Sample> samples;
  for (const AttentionSample& c : attention_cases()) {
    Sample sample{.label = std::string(c.label), .inputs = {}, .attrs = {{"causal", c.causal}, {"scale", c.scale}},
                  .differentiable = !c.blind_rows && !backward, .benchmark = c.benchmark};
    if (backward) sample.inputs.push_back(real(c.q));
    sample.inputs.insert(sample.inputs.end(), {real(c.q), real(c.k), real(c.k)});
    if (backward) {
      sample.inputs.push_back(real(c.q));
      sample.inputs.push_back(fixed_real({c.q.dim(0), c.q.dim(2), c.q.dim(1)}, 1, 3));
    }
    sample.inputs.push_back(c.lengths.empty() ? no_operand() : exactly(i32s(c.lengths)));
    sample.inputs.push_back(c.offsets.empty() ? no_operand() : exactly(i32s(c.offsets)));
    samples.push_back(std::move(sample));
  }
  return samples;
}

std::vector<AttrSpec> attention_attrs() {
  return {{"causal", AttrKind::boolean, "query i sees keys up to i + offset only", false, false},
          {"scale", AttrKind::real, "factor on q . k; 0 = 1/sqrt(D)", false, 0.0}};
}

const OpDef& attention_op() {
  static const OpDef def{
      .name = "attention",
      .doc = "o_i = sum_j P_ij v_j, P = softmax_j(scale q_i . k_j) over the keys that query i sees: j < lengths[b], and if "
             "causal j <= i + offsets[b] (default T - S). q [B,S,H,D]; k, v [B,T,G,D] of its float dtype, G divides H and query "
             "head h reads key head h G / H; lengths, offsets i32 [B], optional. Results o of q's type and lse [B,H,S] in f32 "
             "(f64 for f64), log sum_j exp(scale q_i . k_j). A query that sees no key gives o = 0 and lse = -inf. Vaswani et "
             "al., \"Attention is all you need\" (2017); Ainslie et al., \"GQA\" (2023).",
      .traits = {.kind = OpKind::contraction},
      .operands = {"q", "k", "v", "lengths?", "offsets?"},
      .attrs = attention_attrs(),
      .infer = attention_infer,
      .grad = attention_gradient,
      .cost = attention_cost,
      .shard = "b _ _ _, b _ _ _, b _ _ _, b, b -> b _ _ _, b _ _",
      .reference = [](auto& call) { attention_reference(call); },
      .samples = attention_samples<false>,
  };
  return def;
}

const OpDef& attention_grad_op() {
  static const OpDef def{
      .name = "attention_grad",
      .doc = "The gradient of attention from its results. With P_ij = exp(scale q_i . k_j - lse_i), delta_i = d_o_i . o_i and "
             "dS_ij = P_ij (d_o_i . v_j - delta_i): dq_i = scale sum_j dS_ij k_j, dk_j = scale sum_i dS_ij q_i, dv_j = sum_i "
             "P_ij d_o_i, summed over the query heads of a key head. Types as in attention. Dao et al., \"FlashAttention\" "
             "(2022).",
      .traits = {.kind = OpKind::contraction},
      .operands = {"d_o", "q", "k", "v", "o", "lse", "lengths?", "offsets?"},
      .attrs = attention_attrs(),
      .infer = attention_grad_infer,
      .grad = kNotDifferentiable,
      .cost = attention_grad_cost,
      .shard = "b _ _ _, b _ _ _, b _ _ _, b _ _ _, b _ _ _, b _ _, b, b -> b _ _ _, b _ _ _, b _ _ _",
      .reference = [](auto& call) { attention_grad_reference(call); },
      .samples = attention_samples<true>,
  };
  return def;
}

Attrs attrs_of(const AttentionOptions& options) { return {{"causal", options.causal}, {"scale", options.scale}}; }

}  // namespace

const std::vector<const OpDef*>& attention_ops() {
  static const std::vector<const OpDef*> ops{&attention_op(), &attention_grad_op(), &cache_write_op(), &rope_op()};
  return ops;
}

AttentionResult attention_full(Value q, Value k, Value v, const AttentionOptions& options) {
  const Value o = build(attention_op(), {q, k, v, options.lengths, options.offsets}, attrs_of(options));
  return {o, result(o, 1)};
}

Value attention(Value q, Value k, Value v, const AttentionOptions& options) { return attention_full(q, k, v, options).o; }

AttentionGrads attention_grad(Value d_o, Value q, Value k, Value v, Value o, Value lse, const AttentionOptions& options) {
  const Value dq = build(attention_grad_op(), {d_o, q, k, v, o, lse, options.lengths, options.offsets}, attrs_of(options));
  return {dq, result(dq, 1), result(dq, 2)};
}

}  // namespace rhetor
