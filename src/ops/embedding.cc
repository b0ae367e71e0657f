// Reading and writing rows by index.
//
// embedding       out[..., c] = table[ids[...], c]
// embedding_grad  out[r, c] = sum of dy[..., c] where ids[...] = r
// gather          out[a.., i.., b..] = x[a.., indices[i..], b..]             (numpy take)
// scatter_add     out = x; out[a.., indices[i], b..] += updates[a.., i, b..]
// take_along      out[a.., i, b..] = x[a.., indices[a.., i, b..], b..]       (numpy take_along_axis)
// put_along_add   out = x; out[a.., indices[a.., i, b..], b..] += updates[a.., i, b..]
// Memory-bound: what is read is the rows asked for, not the table. Indices run from 0; one outside fails in the reference.
// top_k is in top_k.cc.
#include <limits>

#include "ops/families.h"
#include "ops/ops.h"
#include "ops/samples.h"
#include "ops/top_k.h"

namespace rhetor {
namespace {

std::int64_t checked_index(std::string_view op, std::string_view what, std::int64_t index, std::int64_t size) {
  if (index < 0 || index >= size)
    fail("{}: {} {} is out of range, expected 0 to {}", op, what, index, size - 1);
  return index;
}

// x seen around `axis`: [outer, size, inner].
struct Around {
  int axis;
  std::int64_t outer, size, inner;
};
Around around(std::string_view op, const Shape& x, const Attrs& attrs) {
  const int axis = normalize_axis(attrs.i("axis"), x.rank(), op);
  return {axis, x.elements(0, axis), x[axis], x.elements(axis + 1, x.rank())};
}

// Runs f on the vectors that hold a call's elements: `f` for floats, `i` for the rest.
template <class Out, class In, class F>
void on_elements(Out& out, const In& in, F&& f) {
  if (is_float(out.type.dtype)) f(out.f.data(), in.f.data());
  else f(out.i.data(), in.i.data());
}

// Rows moved: the result written, as much read, and the indices.
Cost rows_cost(std::span<const Type> in, std::span<const Type> out, const Attrs&) {
  return {.flops = 0, .bytes = 2.0 * static_cast<double>(out[0].bytes()) + static_cast<double>(in[1].bytes())};
}
// x -> result in place: only the updated elements are read and written; one addition each.
Cost update_cost(std::span<const Type> in, std::span<const Type>, const Attrs&) {
  return {.flops = static_cast<double>(in[2].elements()),
          .bytes = 3.0 * static_cast<double>(in[2].bytes()) + static_cast<double>(in[1].bytes())};
}

// ---- embedding ---------------------------------------------------------------------------------

std::vector<Type> embedding_infer(std::span<const Type> in, const Attrs&) {
  expect_rank("embedding", "table", in[0], 2);
  expect_index("embedding", "ids", in[1]);
  Shape shape = in[1].shape;
  shape.append(in[0].shape.dim(1));
  return {{in[0].dtype, shape}};
}

std::vector<Value> embedding_gradient(const GradCall& call) {
  const Value table = call.in[0], grad = embedding_grad(call.grad_out[0], call.in[1], table.dim(0));
  return {grad.dtype() == table.dtype() ? grad : cast(grad, table.dtype()), Value()};
}

template <class Call>
void embedding_reference(Call& call) {
  const std::int64_t rows = call.in[0]->shape()[0], c = call.in[0]->shape()[1];
  const auto& ids = call.in[1]->i;
  on_elements(call.out[0], *call.in[0], [&](auto* out, const auto* table) {
    for (const std::int64_t id : ids) {
      const auto* row = table + checked_index("embedding", "id", id, rows) * c;
      out = std::copy(row, row + c, out);
    }
  });
}

std::vector<Type> embedding_grad_infer(std::span<const Type> in, const Attrs& attrs) {
  constexpr auto op = "embedding_grad";
  expect_float(op, "dy", in[0]);
  expect_index(op, "ids", in[1]);
  expect_min_rank(op, "dy", in[0], 1);
  expect_shape(op, "ids", in[1], drop_last(in[0].shape));
  const std::int64_t rows = attrs.i("rows");
  if (rows < 1 || rows > std::numeric_limits<std::int32_t>::max())
    fail("{}: the attribute 'rows' must be in 1 to {}, found {}", op, std::numeric_limits<std::int32_t>::max(), rows);
  return {{wide(in[0].dtype), Shape{rows, in[0].shape.dim(-1)}}};
}

Cost embedding_grad_cost(std::span<const Type> in, std::span<const Type> out, const Attrs& attrs) {
  Cost cost = bytes_only_cost(in, out, attrs);
  cost.flops = static_cast<double>(in[0].elements());
  return cost;
}

template <class Call>
void embedding_grad_reference(Call& call) {
  const std::int64_t rows = call.out[0].shape()[0], c = call.out[0].shape()[1];
  const auto* dy = call.in[0]->f.data();
  for (const std::int64_t id : call.in[1]->i) {
    auto* row = call.out[0].f.data() + checked_index("embedding_grad", "id", id, rows) * c;
    for (std::int64_t i = 0; i < c; ++i) row[i] += *dy++;
  }
}

std::vector<Sample> embedding_samples() {
  std::vector<Sample> samples = {
      {.label = "v7 c5 ids 2x3", .inputs = {real({7, 5}), integers({2, 3}, 0, 6)}},
      {.label = "v1 c1 one id", .inputs = {real({1, 1}), integers({1}, 0, 0)}},
      {.label = "scalar id", .inputs = {real({4, 3}), integers({}, 0, 3)}},
      {.label = "i64 ids repeat", .inputs = {real({3, 9}), integers({17}, 0, 2, DType::i64)}},
      {.label = "i8 table", .inputs = {integers({6, 4}, -127, 127, DType::i8), integers({5}, 0, 5)}, .differentiable = false},
      {.label = "gpt2 1024 tokens", .inputs = {real({50257, 768}), integers({1, 1024}, 0, 50256)}, .benchmark = true}};
  samples[4].dtypes = {DType::f32};
  return samples;
}
std::vector<Sample> embedding_grad_samples() {
  const auto rows = [](std::int64_t n) { return Attrs{{"rows", n}}; };
  return {{.label = "v7 c5 ids 2x3", .inputs = {real({2, 3, 5}), integers({2, 3}, 0, 6)}, .attrs = rows(7)},
          {.label = "v1 c1 one id", .inputs = {real({1, 1}), integers({1}, 0, 0)}, .attrs = rows(1)},
          {.label = "i64 ids repeat", .inputs = {real({17, 9}), integers({17}, 0, 2, DType::i64)}, .attrs = rows(3)},
          {.label = "gpt2 1024 tokens", .inputs = {real({1, 1024, 768}), integers({1, 1024}, 0, 50256)}, .attrs = rows(50257),
           .benchmark = true}};
}

const OpDef& embedding_op() {
  static const OpDef def{
      .name = "embedding",
      .doc = "out[..., c] = table[ids[...], c]. table [V,C] of any dtype (i8 for a quantised one), ids i32 or i64 [...] in "
             "[0,V); out [..., C] of the table's dtype.",
      .traits = {.kind = OpKind::opaque},
      .operands = {"table", "ids"},
      .attrs = {},
      .infer = embedding_infer,
      .grad = embedding_gradient,
      .cost = rows_cost,
      .shard = "_ c, ... -> ... c",
      .reference = [](auto& call) { embedding_reference(call); },
      .samples = embedding_samples,
  };
  return def;
}

const OpDef& embedding_grad_op() {
  static const OpDef def{
      .name = "embedding_grad",
      .doc = "The gradient of embedding for its table: out[r, c] = sum of dy[..., c] over the places where ids[...] = r. dy "
             "[..., C] float, ids i32 or i64 [...]; out [rows, C] in f32 (f64 for f64).",
      .traits = {.kind = OpKind::opaque},
      .operands = {"dy", "ids"},
      .attrs = {{"rows", AttrKind::integer, "rows of the table"}},
      .infer = embedding_grad_infer,
      .grad =
          [](const GradCall& call) {
            const Value d = embedding(call.grad_out[0], call.in[1]);
            return std::vector<Value>{d.dtype() == call.in[0].dtype() ? d : cast(d, call.in[0].dtype()), Value()};
          },
      .cost = embedding_grad_cost,
      .shard = "... c, ... -> _ c | sum ...",
      .reference = [](auto& call) { embedding_grad_reference(call); },
      .samples = embedding_grad_samples,
  };
  return def;
}

// ---- gather, scatter_add -----------------------------------------------------------------------

std::vector<Type> gather_infer(std::span<const Type> in, const Attrs& attrs) {
  const Shape &x = in[0].shape, &indices = in[1].shape;
  expect_min_rank("gather", "x", in[0], 1);
  expect_index("gather", "indices", in[1]);
  const int axis = around("gather", x, attrs).axis;
  if (x.rank() - 1 + indices.rank() > Shape::kMaxRank)
    fail("gather: x {} with its dim {} replaced by those of indices {} has more than {} dims", in[0].str(), axis, in[1].str(),
         Shape::kMaxRank);
  Shape out;
  for (int d = 0; d < axis; ++d) out.append(x.dim(d));
  for (int d = 0; d < indices.rank(); ++d) out.append(indices.dim(d));
  for (int d = axis + 1; d < x.rank(); ++d) out.append(x.dim(d));
  return {{in[0].dtype, out}};
}

std::vector<Value> gather_gradient(const GradCall& call) {
  const Value x = call.in[0], indices = call.in[1], d = call.grad_out[0];
  const Around a = around("gather", x.shape(), call.attrs);
  const std::int64_t count = indices.shape().elements();
  Shape updates = x.shape();
  updates.set_dim(a.axis, count);
  return {scatter_add(full_like(x, 0), reshape(indices, Shape{count}), reshape(d, updates), a.axis), Value()};
}

template <class Call>
void gather_reference(Call& call) {
  const Around a = around("gather", call.in[0]->shape(), call.attrs);
  const auto& indices = call.in[1]->i;
  on_elements(call.out[0], *call.in[0], [&](auto* out, const auto* x) {
    for (std::int64_t o = 0; o < a.outer; ++o)
      for (const std::int64_t index : indices) {
        const auto* row = x + (o * a.size + checked_index("gather", "index", index, a.size)) * a.inner;
        out = std::copy(row, row + a.inner, out);
      }
  });
}

std::vector<Type> scatter_add_infer(std::span<const Type> in, const Attrs& attrs) {
  expect_min_rank("scatter_add", "x", in[0], 1);
  expect_index("scatter_add", "indices", in[1]);
  expect_rank("scatter_add", "indices", in[1], 1);
  Shape updates = in[0].shape;
  updates.set_dim(around("scatter_add", updates, attrs).axis, in[1].shape.dim(0));
  expect_type("scatter_add", "updates", in[2], {in[0].dtype, updates});
  return {in[0]};
}

template <class Call>
void scatter_add_reference(Call& call) {
  const Around a = around("scatter_add", call.in[0]->shape(), call.attrs);
  const auto& indices = call.in[1]->i;
  call.out[0].f = call.in[0]->f;
  call.out[0].i = call.in[0]->i;
  on_elements(call.out[0], *call.in[2], [&](auto* out, const auto* updates) {
    for (std::int64_t o = 0; o < a.outer; ++o)
      for (const std::int64_t index : indices) {
        auto* row = out + (o * a.size + checked_index("scatter_add", "index", index, a.size)) * a.inner;
        for (std::int64_t i = 0; i < a.inner; ++i) row[i] += *updates++;
      }
  });
}

std::vector<AttrSpec> axis_attr() { return {{"axis", AttrKind::integer, "dim that is indexed; negative counts from the end"}}; }
Attrs at_axis(std::int64_t axis) { return {{"axis", axis}}; }

std::vector<Sample> gather_samples() {
  return {{.label = "axis 0", .inputs = {real({5, 3}), integers({4}, 0, 4)}, .attrs = at_axis(0)},
          {.label = "axis 1 of 3", .inputs = {real({2, 7, 3}), integers({2, 2}, 0, 6)}, .attrs = at_axis(1)},
          {.label = "last axis", .inputs = {real({3, 4}), integers({6}, 0, 3, DType::i64)}, .attrs = at_axis(-1)},
          {.label = "scalar index", .inputs = {real({3, 4}), integers({}, 0, 2)}, .attrs = at_axis(0)},
          {.label = "i32", .inputs = {integers({5, 2}, -9, 9), integers({3}, 0, 4)}, .attrs = at_axis(0),
           .differentiable = false, .dtypes = {DType::f32}},
          {.label = "4096x768 512 rows", .inputs = {real({4096, 768}), integers({512}, 0, 4095)}, .attrs = at_axis(0),
           .benchmark = true}};
}
std::vector<Sample> scatter_add_samples() {
  return {{.label = "axis 0 repeats", .inputs = {real({3, 4}), integers({7}, 0, 2), real({7, 4})}, .attrs = at_axis(0)},
          {.label = "axis 1 of 3", .inputs = {real({2, 5, 3}), integers({4}, 0, 4), real({2, 4, 3})}, .attrs = at_axis(1)},
          {.label = "one", .inputs = {real({1}), integers({1}, 0, 0, DType::i64), real({1})}, .attrs = at_axis(-1)},
          {.label = "4096x768 512 rows", .inputs = {real({4096, 768}), integers({512}, 0, 4095), real({512, 768})},
           .attrs = at_axis(0), .benchmark = true}};
}

const OpDef& gather_op() {
  static const OpDef def{
      .name = "gather",
      .doc = "out[a.., i.., b..] = x[a.., indices[i..], b..], `axis` of x replaced by the dims of indices (numpy take). x of any "
             "dtype; indices i32 or i64 in [0, size of axis).",
      .traits = {.kind = OpKind::opaque},
      .operands = {"x", "indices"},
      .attrs = axis_attr(),
      .infer = gather_infer,
      .grad = gather_gradient,
      .cost = rows_cost,
      .shard = "",
      .reference = [](auto& call) { gather_reference(call); },
      .samples = gather_samples,
  };
  return def;
}

const OpDef& scatter_add_op() {
  static const OpDef def{
      .name = "scatter_add",
      .doc = "out = x with out[a.., indices[i], b..] += updates[a.., i, b..]; repeated indices add up. x any dtype, indices i32 "
             "or i64 [n], updates x's shape with n at `axis`. The gradient of gather.",
      .traits = {.kind = OpKind::opaque, .inplace = 0},
      .operands = {"x", "indices", "updates"},
      .attrs = axis_attr(),
      .infer = scatter_add_infer,
      .grad =
          [](const GradCall& call) {
            const Value d = call.grad_out[0];
            return std::vector<Value>{d, Value(), gather(d, call.in[1], static_cast<int>(call.attrs.i("axis")))};
          },
      .cost = update_cost,
      .shard = "...!axis, _, ...!axis -> ...!axis",
      .reference = [](auto& call) { scatter_add_reference(call); },
      .samples = scatter_add_samples,
  };
  return def;
}

// ---- take_along, put_along_add -----------------------------------------------------------------

// indices must have x's shape but for `axis`.
void expect_along(std::string_view op, const Type& x, const Type& indices, const Attrs& attrs) {
  expect_min_rank(op, "x", x, 1);
  expect_index(op, "indices", indices);
  expect_rank(op, "indices", indices, x.shape.rank());
  Shape expected = x.shape;
  const int axis = around(op, expected, attrs).axis;
  expected.set_dim(axis, indices.shape.dim(axis));
  expect_shape(op, "indices", indices, expected);
}

std::vector<Type> take_along_infer(std::span<const Type> in, const Attrs& attrs) {
  expect_along("take_along", in[0], in[1], attrs);
  Shape out = in[0].shape;
  const int axis = around("take_along", out, attrs).axis;
  out.set_dim(axis, in[1].shape.dim(axis));
  return {{in[0].dtype, out}};
}
std::vector<Type> put_along_add_infer(std::span<const Type> in, const Attrs& attrs) {
  expect_along("put_along_add", in[0], in[1], attrs);
  expect_type("put_along_add", "updates", in[2], {in[0].dtype, in[1].shape});
  return {in[0]};
}

// Calls f(place in indices, place in x it names).
template <class F>
void for_each_along(std::string_view op, const Around& a, std::int64_t count, const std::vector<std::int64_t>& indices, F&& f) {
  std::int64_t at = 0;
  for (std::int64_t o = 0; o < a.outer; ++o)
    for (std::int64_t i = 0; i < count; ++i)
      for (std::int64_t b = 0; b < a.inner; ++b, ++at)
        f(at, (o * a.size + checked_index(op, "index", indices[static_cast<std::size_t>(at)], a.size)) * a.inner + b);
}

template <class Call>
void take_along_reference(Call& call) {
  const Around a = around("take_along", call.in[0]->shape(), call.attrs);
  on_elements(call.out[0], *call.in[0], [&](auto* out, const auto* x) {
    for_each_along("take_along", a, call.in[1]->shape()[a.axis], call.in[1]->i,
                   [&](std::int64_t i, std::int64_t place) { out[i] = x[place]; });
  });
}
template <class Call>
void put_along_add_reference(Call& call) {
  const Around a = around("put_along_add", call.in[0]->shape(), call.attrs);
  call.out[0].f = call.in[0]->f;
  call.out[0].i = call.in[0]->i;
  on_elements(call.out[0], *call.in[2], [&](auto* out, const auto* updates) {
    for_each_along("put_along_add", a, call.in[1]->shape()[a.axis], call.in[1]->i,
                   [&](std::int64_t i, std::int64_t place) { out[place] += updates[i]; });
  });
}

std::vector<Sample> take_along_samples() {
  return {{.label = "last axis", .inputs = {real({3, 7}), integers({3, 2}, 0, 6)}, .attrs = at_axis(-1)},
          {.label = "axis 1 of 3 repeats", .inputs = {real({2, 3, 4}), integers({2, 5, 4}, 0, 2)}, .attrs = at_axis(1)},
          {.label = "one", .inputs = {real({1}), integers({1}, 0, 0, DType::i64)}, .attrs = at_axis(0)},
          {.label = "512x50257 one each", .inputs = {real({512, 50257}), integers({512, 1}, 0, 50256)}, .attrs = at_axis(-1),
           .benchmark = true}};
}
std::vector<Sample> put_along_add_samples() {
  return {{.label = "last axis", .inputs = {real({3, 7}), integers({3, 2}, 0, 6), real({3, 2})}, .attrs = at_axis(-1)},
          {.label = "axis 1 of 3 repeats", .inputs = {real({2, 3, 4}), integers({2, 5, 4}, 0, 2), real({2, 5, 4})},
           .attrs = at_axis(1)},
          {.label = "one", .inputs = {real({1}), integers({1}, 0, 0, DType::i64), real({1})}, .attrs = at_axis(0)},
          {.label = "512x50257 one each", .inputs = {real({512, 50257}), integers({512, 1}, 0, 50256), real({512, 1})},
           .attrs = at_axis(-1), .benchmark = true}};
}

const OpDef& take_along_op() {
  static const OpDef def{
      .name = "take_along",
      .doc = "out[a.., i, b..] = x[a.., indices[a.., i, b..], b..] (numpy take_along_axis). x of any dtype; indices i32 or i64 "
             "of x's shape but for `axis`, in [0, size of axis); out of their shape.",
      .traits = {.kind = OpKind::opaque},
      .operands = {"x", "indices"},
      .attrs = axis_attr(),
      .infer = take_along_infer,
      .grad =
          [](const GradCall& call) {
            return std::vector<Value>{put_along_add(full_like(call.in[0], 0), call.in[1], call.grad_out[0],
                                                    static_cast<int>(call.attrs.i("axis"))),
                                      Value()};
          },
      .cost = rows_cost,
      .shard = "...!axis, ...!axis -> ...!axis",
      .reference = [](auto& call) { take_along_reference(call); },
      .samples = take_along_samples,
  };
  return def;
}

const OpDef& put_along_add_op() {
  static const OpDef def{
      .name = "put_along_add",
      .doc = "out = x with out[a.., indices[a.., i, b..], b..] += updates[a.., i, b..]; repeated places add up. x any dtype, "
             "indices and updates of x's shape but for `axis`. The gradient of take_along.",
      .traits = {.kind = OpKind::opaque, .inplace = 0},
      .operands = {"x", "indices", "updates"},
      .attrs = axis_attr(),
      .infer = put_along_add_infer,
      .grad =
          [](const GradCall& call) {
            const Value d = call.grad_out[0];
            return std::vector<Value>{d, Value(), take_along(d, call.in[1], static_cast<int>(call.attrs.i("axis")))};
          },
      .cost = update_cost,
      .shard = "...!axis, ...!axis, ...!axis -> ...!axis",
      .reference = [](auto& call) { put_along_add_reference(call); },
      .samples = put_along_add_samples,
  };
  return def;
}

}  // namespace

const std::vector<const OpDef*>& embedding_ops() {
  static const std::vector<const OpDef*> ops{&embedding_op(),  &embedding_grad_op(), &gather_op(), &scatter_add_op(),
                                             &take_along_op(), &put_along_add_op(),  &top_k_op()};
  return ops;
}

Value embedding(Value table, Value ids) { return build(embedding_op(), {table, ids}); }
Value embedding_grad(Value dy, Value ids, std::int64_t rows) { return build(embedding_grad_op(), {dy, ids}, {{"rows", rows}}); }
Value gather(Value x, Value indices, int axis) { return build(gather_op(), {x, indices}, at_axis(axis)); }
Value scatter_add(Value x, Value indices, Value updates, int axis) {
  return build(scatter_add_op(), {x, indices, updates}, at_axis(axis));
}
Value take_along(Value x, Value indices, int axis) { return build(take_along_op(), {x, indices}, at_axis(axis)); }
Value put_along_add(Value x, Value indices, Value updates, int axis) {
  return build(put_along_add_op(), {x, indices, updates}, at_axis(axis));
}

}  // namespace rhetor
