// top_k: the k largest elements of every row (last dim), largest first, ties by lower index; NaN counts as largest.
//
// values[..., r] = x[..., indices[..., r]], x[indices[0]] >= x[indices[1]] >= ...
// Memory-bound for small k: one read of x.
#include "ops/top_k.h"

#include <numeric>

#include "ops/ops.h"
#include "ops/samples.h"

namespace rhetor {
namespace {

std::vector<Type> top_k_infer(std::span<const Type> in, const Attrs& attrs) {
  expect_min_rank("top_k", "x", in[0], 1);
  const std::int64_t k = attrs.i("k"), size = in[0].shape.last();
  if (k < 1 || k > size) fail("top_k: the attribute 'k' must be in 1 to {} for operand 'x' {}, found {}", size, in[0].str(), k);
  Shape shape = in[0].shape;
  shape.set_dim(-1, k);
  return {{in[0].dtype, shape}, {DType::i32, shape}};
}

// One comparison an element.
Cost top_k_cost(std::span<const Type> in, std::span<const Type> out, const Attrs& attrs) {
  Cost cost = bytes_only_cost(in, out, attrs);
  cost.flops = static_cast<double>(in[0].elements());
  return cost;
}

// The gradient goes where the values came from.
std::vector<Value> top_k_gradient(const GradCall& call) {
  return {call.grad_out[0] ? put_along_add(full_like(call.in[0], 0), call.out[1], call.grad_out[0], -1) : Value()};
}

template <class Call>
void top_k_reference(Call& call) {
  const std::int64_t size = call.in[0]->shape().last(), k = call.out[0].shape().last(), rows = call.out[0].elements() / k;
  auto select = [&](const auto* x, auto* values) {
    std::vector<std::int64_t> order(static_cast<std::size_t>(size));
    for (std::int64_t r = 0; r < rows; ++r, x += size, values += k) {
      std::iota(order.begin(), order.end(), std::int64_t{0});
      const auto larger = [&](std::int64_t a, std::int64_t b) { return x[a] > x[b] || (x[a] != x[a] && x[b] == x[b]); };
      std::stable_sort(order.begin(), order.end(), larger);
      for (std::int64_t i = 0; i < k; ++i) {
        values[i] = x[order.data()[i]];
        call.out[1].i.data()[r * k + i] = order.data()[i];
      }
    }
  };
  if (is_float(call.in[0]->type.dtype)) select(call.in[0]->f.data(), call.out[0].f.data());
  else select(call.in[0]->i.data(), call.out[0].i.data());
}

Attrs with_k(std::int64_t k) { return {{"k", k}}; }

std::vector<Sample> top_k_samples() {
  return {{.label = "3 of 7", .inputs = {real({2, 7})}, .attrs = with_k(3)},
          {.label = "all of 5", .inputs = {real({5})}, .attrs = with_k(5)},
          {.label = "1 of 1", .inputs = {real({3, 1})}, .attrs = with_k(1)},
          {.label = "ties", .inputs = {integers({4, 9}, 0, 2)}, .attrs = with_k(6), .differentiable = false,
           .dtypes = {DType::f32}},
          {.label = "40 of 50257", .inputs = {real({8, 50257})}, .attrs = with_k(40), .benchmark = true}};
}

}  // namespace

const OpDef& top_k_op() {
  static const OpDef def{
      .name = "top_k",
      .doc = "The k largest of every row, largest first, ties by lower index, NaN before all: x [..., n] of any dtype -> values "
             "[..., k] of its dtype and indices [..., k] i32.",
      .traits = {.kind = OpKind::opaque},
      .operands = {"x"},
      .attrs = {{"k", AttrKind::integer, "how many, 1 to n"}},
      .infer = top_k_infer,
      .grad = top_k_gradient,
      .cost = top_k_cost,
      .shard = "... _ -> ... _, ... _",
      .reference = [](auto& call) { top_k_reference(call); },
      .samples = top_k_samples,
  };
  return def;
}

TopK top_k(Value x, std::int64_t k) {
  const Value values = build(top_k_op(), {x}, with_k(k));
  return {values, result(values, 1)};
}

}  // namespace rhetor
