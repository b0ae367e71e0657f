// Around attention: writing new keys and values into the cache, and rotating queries and keys by their position.
//
// cache_write  out = cache, but out[b, positions[b] + s, g, d] = rows[b, s, g, d]
// rope         y[.., i] = x[.., i] cos a - x[.., i + D/2] sin a, y[.., i + D/2] = x[.., i + D/2] cos a + x[.., i] sin a,
//              a = positions[b, s] theta^(-2 i / D), i < D/2; inverse: a negated
// Memory-bound; cache_write in place moves only its rows.
#include <cmath>

#include "ops/attention_parts.h"
#include "ops/ops.h"
#include "ops/samples.h"

namespace rhetor {
namespace {

// ---- cache_write -------------------------------------------------------------------------------

std::vector<Type> cache_write_infer(std::span<const Type> in, const Attrs&) {
  const Type &cache = in[0], &rows = in[1];
  expect_rank("cache_write", "cache", cache, 4);
  expect_rank("cache_write", "rows", rows, 4);
  expect_dtype("cache_write", "rows", rows, cache.dtype);
  if (rows.shape[0] != cache.shape[0] || rows.shape[2] != cache.shape[2] || rows.shape[3] != cache.shape[3])
    fail("cache_write: operand 'rows' must be [{},S,{},{}] to fit cache {}, found {}", cache.shape[0], cache.shape[2],
         cache.shape[3],
         cache.str(), rows.str());
  expect_index("cache_write", "positions", in[2]);
  expect_shape("cache_write", "positions", in[2], Shape{cache.shape.dim(0)});
  return {cache};
}

// Of a cache in place, which is how it is used: the rows are read and written once.
Cost cache_write_cost(std::span<const Type> in, std::span<const Type>, const Attrs&) {
  return {.flops = 0, .bytes = 2.0 * static_cast<double>(in[1].bytes()) + static_cast<double>(in[2].bytes())};
}

// The cache keeps the gradient where it was not overwritten; each row has that of the place it went to, 0 if it was dropped.
std::vector<Value> cache_write_gradient(const GradCall& call) {
  const Value cache = call.in[0], rows = call.in[1], positions = call.in[2], d = call.grad_out[0];
  Graph& g = call.graph;
  const std::int64_t b = rows.dim(0), s = rows.dim(1), t = cache.dim(1);
  const DType index = positions.dtype();
  const Value at = add(reshape(positions, Shape{b, 1}), iota(g, {index, Shape{b, s}}, 1));  // [B,S]
  const Value inside = logical_and(less_equal(scalar(g, index, 0), at), less(at, scalar(g, index, static_cast<double>(t))));
  const Value safe = where(inside, at, full_like(at, 0));
  const Value along = broadcast_to(reshape(safe, Shape{b, s, 1, 1}), rows.shape());
  const Value d_rows = take_along(d, along, 1);
  return {cache_write(d, full_like(rows, 0), positions),
          where(broadcast_to(reshape(inside, Shape{b, s, 1, 1}), rows.shape()), d_rows, full_like(d_rows, 0)), Value()};
}

template <class Call>
void cache_write_reference(Call& call) {
  const Shape &cache = call.in[0]->shape(), &rows = call.in[1]->shape();
  const std::int64_t t = cache[1], s_size = rows[1], row = cache[2] * cache[3];
  auto write = [&](auto& out, const auto& old, const auto& fresh) {
    out = old;
    for (std::int64_t b = 0; b < cache[0]; ++b)
      for (std::int64_t s = 0; s < s_size; ++s) {
        const std::int64_t at = call.in[2]->i[static_cast<std::size_t>(b)] + s;
        if (at < 0 || at >= t) continue;
        for (std::int64_t e = 0; e < row; ++e) out.data()[(b * t + at) * row + e] = fresh.data()[(b * s_size + s) * row + e];
      }
  };
  if (is_float(call.in[0]->type.dtype)) write(call.out[0].f, call.in[0]->f, call.in[1]->f);
  else write(call.out[0].i, call.in[0]->i, call.in[1]->i);
}

Sample cache_sample(std::string label, Shape cache, Shape rows, std::vector<std::int32_t> positions, bool benchmark = false) {
  return {.label = std::move(label),
          .inputs = {real(cache), real(rows), exactly(Tensor::of<std::int32_t>(Shape{cache[0]}, positions))},
          .attrs = {}, .benchmark = benchmark};
}
std::vector<Sample> cache_write_samples() {
  std::vector<Sample> samples = {
      cache_sample("b2 t5 s2", {2, 5, 2, 3}, {2, 2, 2, 3}, {0, 3}),
      cache_sample("one of each", {1, 1, 1, 1}, {1, 1, 1, 1}, {0}),
      cache_sample("rows dropped at both ends", {3, 4, 1, 2}, {3, 3, 1, 2}, {-2, 3, 9}),
      cache_sample("decode", {2, 16, 2, 8}, {2, 1, 2, 8}, {7, 15}),
      cache_sample("gpt2 decode", {8, 1024, 12, 64}, {8, 1, 12, 64}, {0, 10, 200, 500, 900, 1023, 3, 77}, true),
  };
  samples.push_back({.label = "i8", .inputs = {integers({2, 3, 1, 4}, -127, 127, DType::i8),
                                               integers({2, 1, 1, 4}, -127, 127, DType::i8),
                                               exactly(Tensor::of<std::int32_t>(Shape{2}, {1, 2}))},
                     .attrs = {}, .differentiable = false, .dtypes = {DType::f32}});
  return samples;
}

// ---- rope --------------------------------------------------------------------------------------

std::vector<Type> rope_infer(std::span<const Type> in, const Attrs& attrs) {
  const Type& x = in[0];
  expect_float("rope", "x", x);
  expect_rank("rope", "x", x, 4);
  if (x.shape[3] % 2 != 0) fail("rope: the last dim of operand 'x' must be even, found {}", x.str());
  expect_index("rope", "positions", in[1]);
  expect_shape("rope", "positions", in[1], Shape{x.shape.dim(0), x.shape.dim(1)});
  if (!(attrs.f("theta") > 0)) fail("rope: the attribute 'theta' must be positive, found {}", attrs.f("theta"));
  return {x};
}

// 6 operations a pair; sines and cosines are shared by the heads and not counted.
Cost rope_cost(std::span<const Type> in, std::span<const Type> out, const Attrs& attrs) {
  Cost cost = bytes_only_cost(in, out, attrs);
  cost.flops = 3.0 * static_cast<double>(out[0].elements());
  return cost;
}

template <class Call>
void rope_reference(Call& call) {
  using T = typename Call::Real;
  const Shape& shape = call.in[0]->shape();
  const std::int64_t heads = shape[2], d = shape[3], half = d / 2;
  const T theta = static_cast<T>(call.attrs.f("theta")), sign = call.attrs.b("inverse") ? T{-1} : T{1};
  for (std::int64_t row = 0; row < shape[0] * shape[1]; ++row) {
    const T position = static_cast<T>(call.in[1]->i[static_cast<std::size_t>(row)]);
    for (std::int64_t i = 0; i < half; ++i) {
      const T angle = position * std::pow(theta, static_cast<T>(-2 * i) / static_cast<T>(d));
      const T c = std::cos(angle), s = sign * std::sin(angle);
      for (std::int64_t h = 0; h < heads; ++h) {
        const std::int64_t lo = (row * heads + h) * d + i, hi = lo + half;
        const T a = call.in[0]->f.data()[lo], b = call.in[0]->f.data()[hi];
        call.out[0].f.data()[lo] = a * c - b * s;
        call.out[0].f.data()[hi] = b * c + a * s;
      }
    }
  }
}

Sample rope_sample(std::string label, Shape x, std::int64_t last, double theta = 10000, bool inverse = false,
                   bool benchmark = false) {
  return {.label = std::move(label), .inputs = {real(x), integers({x.dim(0), x.dim(1)}, 0, last)},
          .attrs = {{"theta", theta}, {"inverse", inverse}}, .benchmark = benchmark};
}
std::vector<Sample> rope_samples() {
  return {rope_sample("b2 s3 h2 d8", {2, 3, 2, 8}, 20),
          rope_sample("d2", {1, 1, 1, 2}, 3),
          rope_sample("inverse", {1, 4, 3, 6}, 50, 10000, true),
          rope_sample("theta 500000", {1, 5, 1, 16}, 100, 500000),
          rope_sample("b1 s512 h12 d64", {1, 512, 12, 64}, 511, 10000, false, true)};
}

}  // namespace

const OpDef& cache_write_op() {
  static const OpDef def{
      .name = "cache_write",
      .doc = "The cache with new rows: out[b, positions[b] + s, g, d] = rows[b, s, g, d], elsewhere cache. cache [B,T,G,D] of "
             "any dtype, rows [B,S,G,D] of the same, positions i32 or i64 [B]; rows that would fall outside [0,T) are dropped. "
             "In place when the cache is a state that dies here.",
      .traits = {.kind = OpKind::opaque, .inplace = 0},
      .operands = {"cache", "rows", "positions"},
      .attrs = {},
      .infer = cache_write_infer,
      .grad = cache_write_gradient,
      .cost = cache_write_cost,
      .shard = "b _ h d, b _ h d, b -> b _ h d",
      .reference = [](auto& call) { cache_write_reference(call); },
      .samples = cache_write_samples,
  };
  return def;
}

const OpDef& rope_op() {
  static const OpDef def{
      .name = "rope",
      .doc = "Rotary position embedding of the pairs (i, i + D/2): y_i = x_i cos a - x_{i+D/2} sin a, y_{i+D/2} = x_{i+D/2} cos "
             "a + x_i sin a, a = positions[b,s] theta^(-2i/D); inverse rotates back and is the gradient. x [B,S,H,D] float, D "
             "even; positions i32 or i64 [B,S]. Su et al., \"RoFormer\" (2021), in the half-split layout of LLaMA checkpoints.",
      .traits = {.kind = OpKind::opaque, .inplace = 0},
      .operands = {"x", "positions"},
      .attrs = {{"theta", AttrKind::real, "base of the wavelengths", false, 10000.0},
                {"inverse", AttrKind::boolean, "rotate by -a", false, false}},
      .infer = rope_infer,
      .grad =
          [](const GradCall& call) {
            return std::vector<Value>{rope(call.grad_out[0], call.in[1], call.attrs.f("theta"), !call.attrs.b("inverse")),
                                      Value()};
          },
      .cost = rope_cost,
      .shard = "b s h _, b s -> b s h _",
      .reference = [](auto& call) { rope_reference(call); },
      .samples = rope_samples,
  };
  return def;
}

Value cache_write(Value cache, Value rows, Value positions) { return build(cache_write_op(), {cache, rows, positions}); }

Value rope(Value x, Value positions, double theta, bool inverse) {
  return build(rope_op(), {x, positions}, {{"theta", theta}, {"inverse", inverse}});
}

}  // namespace rhetor
