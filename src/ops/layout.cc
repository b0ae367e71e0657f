// Layout ops: they move elements and compute nothing.
#include <numeric>

#include "ops/families.h"
#include "ops/index.h"
#include "ops/ops.h"
#include "ops/samples.h"

namespace rhetor {
namespace {

using Ints = std::vector<std::int64_t>;
using Grads = std::vector<Value>;

// A shape as attributes: sizes, and names joined by commas ("batch,,hidden"; "" if no dim has one).
Attrs shape_attrs(const Shape& shape) {
  std::string names;
  bool any = false;
  for (int d = 0; d < shape.rank(); ++d) {
    if (d) names += ',';
    names += shape.dim(d).name.text();
    any |= !shape.dim(d).name.empty();
  }
  return {{"shape", shape.sizes()}, {"names", any ? names : std::string()}};
}

Shape attrs_shape(const Attrs& attrs) {
  Shape shape(attrs.ints("shape"));
  const std::string& names = attrs.s("names");
  if (names.empty()) return shape;
  std::size_t at = 0;
  for (int d = 0; d < shape.rank(); ++d) {
    const std::size_t end = std::min(names.find(',', at), names.size());
    shape.set_dim(d, Dim(shape[d], DimName(std::string_view(names).substr(at, end - at))));
    at = std::min(end + 1, names.size());
  }
  return shape;
}

const std::vector<AttrSpec>& shape_specs() {
  static const std::vector<AttrSpec> specs{{"shape", AttrKind::integers, "sizes of the result"},
                                           {"names", AttrKind::text, "dim names, comma-separated", false, std::string()}};
  return specs;
}

// ---- broadcast_to ----------------------------------------------------------------------------------
const OpDef& broadcast_to_op() {
  static const OpDef def{
      .name = "broadcast_to",
      .doc = "x repeated to `shape` by numpy rules: dims align at the right; a missing dim or one of size 1 repeats.",
      .traits = {.kind = OpKind::broadcast},
      .operands = {"x"},
      .attrs = shape_specs(),
      .infer = [](std::span<const Type> in, const Attrs& attrs) -> std::vector<Type> {
        const Shape to = attrs_shape(attrs);
        const Shape& from = in[0].shape;
        bool fits = from.rank() <= to.rank();
        for (int d = 0; fits && d < from.rank(); ++d) fits = from[d] == 1 || from[d] == to[to.rank() - from.rank() + d];
        if (!fits) fail("broadcast_to: {} does not broadcast to {}", in[0].str(), to.str());
        return {{in[0].dtype, to}};
      },
      .grad = [](const GradCall& c) -> Grads {
        const Shape &from = c.in[0].shape(), &to = c.out[0].shape();
        const int lead = to.rank() - from.rank();
        Ints axes;
        for (int d = 0; d < to.rank(); ++d)
          if (d < lead || (from[d - lead] == 1 && to[d] != 1)) axes.push_back(d);
        Value g = c.grad_out[0];
        if (!axes.empty()) g = reduce_sum(g, axes);
        return {reshape(g, from)};
      },
      .cost = bytes_only_cost,
      .shard = "... -> ...",
      .reference = [](auto& call) {
        const auto& x = *call.in[0];
        auto& out = call.out[0];
        const int lead = out.shape().rank() - x.shape().rank();
        each_index(out.shape(), [&](std::size_t o, const Index& index) {
          Index from{};
          for (int d = 0; d < x.shape().rank(); ++d)
            from[static_cast<std::size_t>(d)] = x.shape()[d] == 1 ? 0 : index[static_cast<std::size_t>(d + lead)];
          copy_element(out, o, x, flat_index(x.shape(), from));
        });
      },
      .samples = [] {
        const auto sample = [](std::string label, Shape from, Ints to, bool benchmark = false) {
          return Sample{.label = std::move(label), .inputs = {real(from)}, .attrs = {{"shape", std::move(to)}},
                        .benchmark = benchmark};
        };
        return std::vector<Sample>{
            sample("bias", {5}, {2, 3, 5}), sample("scalar", {}, {3, 4}), sample("rows", {4, 1}, {4, 6}),
            sample("inner", {2, 1, 3}, {2, 5, 3}), sample("same", {2, 3}, {2, 3}), sample("lead", {1, 4}, {3, 2, 4}),
            {.label = "i32", .inputs = {integers({1, 3}, -5, 5)}, .attrs = {{"shape", Ints{4, 3}}}, .differentiable = false},
            sample("768 to 1024x768", {768}, {1024, 768}, true)};
      },
  };
  return def;
}

// ---- reshape ---------------------------------------------------------------------------------------
const OpDef& reshape_op() {
  static const OpDef def{
      .name = "reshape",
      .doc = "The same elements in row-major order under another shape. Costs nothing: the result is the operand's buffer.",
      .traits = {.kind = OpKind::layout, .inplace = 0, .alias = true},
      .operands = {"x"},
      .attrs = shape_specs(),
      .infer = [](std::span<const Type> in, const Attrs& attrs) -> std::vector<Type> {
        const Shape to = attrs_shape(attrs);
        if (to.elements() != in[0].elements())
          fail("reshape: {} has {} elements, {} has {}", in[0].str(), in[0].elements(), to.str(), to.elements());
        return {{in[0].dtype, to}};
      },
      .grad = [](const GradCall& c) -> Grads { return {reshape(c.grad_out[0], c.in[0].shape())}; },
      .cost = [](std::span<const Type>, std::span<const Type>, const Attrs&) { return Cost{}; },
      .shard = "... -> ...~",
      .reference = [](auto& call) {
        call.out[0].f = call.in[0]->f;
        call.out[0].i = call.in[0]->i;
      },
      .samples = [] {
        const auto sample = [](std::string label, Shape from, Ints to) {
          return Sample{.label = std::move(label), .inputs = {real(from)}, .attrs = {{"shape", std::move(to)}}};
        };
        std::vector<Sample> out{sample("join rows", {4, 6, 5}, {24, 5}), sample("split heads", {2, 4, 12}, {2, 4, 2, 6}),
                                sample("to scalar", {1, 1}, {}), sample("same", {3, 4}, {3, 4}),
                                sample("mixed", {4, 6}, {6, 4})};
        out.push_back({.label = "i64", .inputs = {integers({2, 3}, -9, 9, DType::i64)}, .attrs = {{"shape", Ints{6}}},
                       .differentiable = false});
        return out;
      },
  };
  return def;
}

// ---- transpose -------------------------------------------------------------------------------------
Ints inverse(const Ints& perm) {
  Ints out(perm.size());
  for (std::size_t d = 0; d < perm.size(); ++d) out[static_cast<std::size_t>(perm[d])] = static_cast<std::int64_t>(d);
  return out;
}

const OpDef& transpose_op() {
  static const OpDef def{
      .name = "transpose",
      .doc = "Dims permuted: dim d of the result is dim perm[d] of x.",
      .traits = {.kind = OpKind::layout},
      .operands = {"x"},
      .attrs = {{"perm", AttrKind::integers, "a permutation of 0 .. rank-1"}},
      .infer = [](std::span<const Type> in, const Attrs& attrs) -> std::vector<Type> {
        const Ints& perm = attrs.ints("perm");
        const int rank = in[0].shape.rank();
        unsigned seen = 0;
        for (const std::int64_t d : perm)
          if (d >= 0 && d < rank) seen |= 1u << d;
        if (static_cast<int>(perm.size()) != rank || seen != (1u << rank) - 1)
          fail("transpose: perm must be a permutation of the {} dims of {}", rank, in[0].str());
        Shape out;
        for (const std::int64_t d : perm) out.append(in[0].shape.dim(static_cast<int>(d)));
        return {{in[0].dtype, out}};
      },
      .grad = [](const GradCall& c) -> Grads { return {transpose(c.grad_out[0], inverse(c.attrs.ints("perm")))}; },
      .cost = bytes_only_cost,
      .shard = "... -> ...@perm",
      .reference = [](auto& call) {
        const auto& x = *call.in[0];
        const Ints& perm = call.attrs.ints("perm");
        each_index(call.out[0].shape(), [&](std::size_t o, const Index& index) {
          Index from{};
          for (std::size_t d = 0; d < perm.size(); ++d) from[static_cast<std::size_t>(perm[d])] = index[d];
          copy_element(call.out[0], o, x, flat_index(x.shape(), from));
        });
      },
      .samples = [] {
        const auto sample = [](std::string label, Shape from, Ints perm, bool benchmark = false) {
          return Sample{.label = std::move(label), .inputs = {real(from)}, .attrs = {{"perm", std::move(perm)}},
                        .benchmark = benchmark};
        };
        return std::vector<Sample>{sample("matrix", {3, 5}, {1, 0}), sample("heads", {2, 5, 3, 4}, {0, 2, 1, 3}),
                                   sample("rotate", {2, 3, 4}, {2, 0, 1}), sample("identity", {2, 3}, {0, 1}),
                                   {.label = "i32", .inputs = {integers({4, 2}, 0, 99)}, .attrs = {{"perm", Ints{1, 0}}},
                                    .differentiable = false},
                                   sample("1024x768", {1024, 768}, {1, 0}, true),
                                   sample("heads 8x128x12x64", {8, 128, 12, 64}, {0, 2, 1, 3}, true)};
      },
  };
  return def;
}

// ---- slice -----------------------------------------------------------------------------------------
// Gradient of a strided slice: g spread by zeros between its rows, then placed at `begin`.
Value unslice(Value g, const Shape& whole, int axis, std::int64_t begin, std::int64_t step) {
  const Shape shape = g.shape();
  const auto a = static_cast<std::size_t>(axis);
  Ints before(static_cast<std::size_t>(shape.rank()), 0), after = before;
  if (step > 1) {
    Ints spread = shape.sizes();
    spread.insert(spread.begin() + axis + 1, 1);
    g = reshape(g, Shape(spread));
    Ints none(spread.size(), 0), gap(spread.size(), 0);
    gap[a + 1] = step - 1;
    g = pad(g, none, gap);
    Ints joined = shape.sizes();
    joined[a] *= step;
    g = reshape(g, Shape(joined));
    if (begin + joined[a] > whole[axis]) g = slice(g, axis, 0, whole[axis] - begin);
  }
  before[a] = begin;
  after[a] = whole[axis] - begin - g.shape()[axis];
  return pad(g, before, after);
}

const OpDef& slice_op() {
  static const OpDef def{
      .name = "slice",
      .doc = "Rows begin, begin+step, ... (before end) of x along axis.",
      .traits = {.kind = OpKind::layout},
      .operands = {"x"},
      .attrs = {{"axis", AttrKind::integer, "dim that is cut"}, {"begin", AttrKind::integer, "first row"},
                {"end", AttrKind::integer, "one past the last row"},
                {"step", AttrKind::integer, "distance of rows", false, std::int64_t{1}}},
      .infer = [](std::span<const Type> in, const Attrs& attrs) -> std::vector<Type> {
        const int axis = normalize_axis(attrs.i("axis"), in[0].shape.rank(), "slice");
        const std::int64_t begin = attrs.i("begin"), end = attrs.i("end"), step = attrs.i("step");
        if (begin < 0 || end < begin || end > in[0].shape[axis] || step < 1)
          fail("slice: rows [{}, {}) step {} are outside dim {} of {}", begin, end, step, axis, in[0].str());
        Shape out = in[0].shape;
        const std::int64_t rows = begin == end ? 0 : (end - begin - 1) / step + 1;
        out.set_dim(axis, Dim(rows, rows == out[axis] ? out.dim(axis).name : DimName()));
        return {{in[0].dtype, out}};
      },
      .grad = [](const GradCall& c) -> Grads {
        const Shape& x = c.in[0].shape();
        return {unslice(c.grad_out[0], x, normalize_axis(c.attrs.i("axis"), x.rank(), "slice"), c.attrs.i("begin"),
                        c.attrs.i("step"))};
      },
      .cost = [](std::span<const Type>, std::span<const Type> out, const Attrs&) {
        return Cost{0, 2.0 * static_cast<double>(out[0].bytes())};
      },
      .shard = "...!axis -> ...!axis",
      .reference = [](auto& call) {
        const auto& x = *call.in[0];
        const auto axis = static_cast<std::size_t>(normalize_axis(call.attrs.i("axis"), x.shape().rank(), "slice"));
        each_index(call.out[0].shape(), [&](std::size_t o, Index index) {
          index[axis] = call.attrs.i("begin") + index[axis] * call.attrs.i("step");
          copy_element(call.out[0], o, x, flat_index(x.shape(), index));
        });
      },
      .samples = [] {
        const auto sample = [](std::string label, Shape from, std::int64_t axis, std::int64_t begin, std::int64_t end,
                               std::int64_t step, bool benchmark = false) {
          return Sample{.label = std::move(label), .inputs = {real(from)},
                        .attrs = {{"axis", axis}, {"begin", begin}, {"end", end}, {"step", step}}, .benchmark = benchmark};
        };
        return std::vector<Sample>{sample("columns", {3, 8}, 1, 2, 5, 1), sample("rows", {6, 2, 3}, 0, 1, 4, 1),
                                   sample("step", {2, 7, 2}, 1, 1, 7, 3), sample("step to the end", {2, 8}, -1, 1, 8, 2),
                                   sample("whole", {4, 3}, 0, 0, 4, 1), sample("none", {4, 3}, 0, 2, 2, 1),
                                   sample("q of qkv 1024x2304", {1024, 2304}, 1, 0, 768, 1, true)};
      },
  };
  return def;
}

// ---- concat ----------------------------------------------------------------------------------------
const OpDef& concat_op() {
  static const OpDef def{
      .name = "concat",
      .doc = "Operands joined along axis; their other dims agree.",
      .traits = {.kind = OpKind::layout},
      .operands = {"first", "parts*"},
      .attrs = {{"axis", AttrKind::integer, "dim that is joined"}},
      .infer = [](std::span<const Type> in, const Attrs& attrs) -> std::vector<Type> {
        const int axis = normalize_axis(attrs.i("axis"), in[0].shape.rank(), "concat");
        Type out = in[0];
        std::int64_t total = 0;
        for (const Type& type : in) {
          Shape rest = type.shape;
          if (rest.rank() > axis) rest.set_dim(axis, out.shape.dim(axis));
          if (type.dtype != out.dtype || rest != out.shape)
            fail("concat: operands must agree in dtype and in all dims but {}, found {} and {}", axis, in[0].str(), type.str());
          if (__builtin_add_overflow(total, type.shape[axis], &total)) fail("concat: dim {} is too long", axis);
        }
        out.shape.set_dim(axis, Dim(total, in.size() == 1 ? out.shape.dim(axis).name : DimName()));
        return {out};
      },
      .grad = [](const GradCall& c) -> Grads {
        const int axis = normalize_axis(c.attrs.i("axis"), c.out[0].shape().rank(), "concat");
        Ints sizes;
        for (const Value& part : c.in) sizes.push_back(part.shape()[axis]);
        return split(c.grad_out[0], sizes, axis);
      },
      .cost = bytes_only_cost,
      .shard = "...!axis, ...!axis -> ...!axis",
      .reference = [](auto& call) {
        auto& out = call.out[0];
        const auto axis = static_cast<std::size_t>(normalize_axis(call.attrs.i("axis"), out.shape().rank(), "concat"));
        std::int64_t begin = 0;
        for (const auto* part : call.in) {
          each_index(part->shape(), [&](std::size_t i, Index index) {
            index[axis] += begin;
            copy_element(out, flat_index(out.shape(), index), *part, i);
          });
          begin += part->shape()[static_cast<int>(axis)];
        }
      },
      .samples = [] {
        return std::vector<Sample>{
            {.label = "two rows", .inputs = {real({2, 3}), real({4, 3})}, .attrs = {{"axis", std::int64_t{0}}}},
            {.label = "three last", .inputs = {real({2, 3}), real({2, 1}), real({2, 4})}, .attrs = {{"axis", std::int64_t{-1}}}},
            {.label = "one", .inputs = {real({2, 2})}, .attrs = {{"axis", std::int64_t{1}}}},
            {.label = "i32", .inputs = {integers({2}, 0, 9), integers({3}, 0, 9)}, .attrs = {{"axis", std::int64_t{0}}},
             .differentiable = false},
            {.label = "1024x768 x3", .inputs = {real({1024, 768}), real({1024, 768}), real({1024, 768})},
             .attrs = {{"axis", std::int64_t{1}}}, .benchmark = true}};
      },
  };
  return def;
}

// ---- pad -------------------------------------------------------------------------------------------
const OpDef& pad_op() {
  static const OpDef def{
      .name = "pad",
      .doc = "x with before[d] and after[d] rows of `value` around every dim d.",
      .traits = {.kind = OpKind::layout},
      .operands = {"x"},
      .attrs = {{"before", AttrKind::integers, "rows in front, per dim"}, {"after", AttrKind::integers, "rows behind, per dim"},
                {"value", AttrKind::real, "what fills them", false, 0.0}},
      .infer = [](std::span<const Type> in, const Attrs& attrs) -> std::vector<Type> {
        const Ints &before = attrs.ints("before"), &after = attrs.ints("after");
        Shape out = in[0].shape;
        const auto rank = static_cast<std::size_t>(out.rank());
        if (before.size() != rank || after.size() != rank)
          fail("pad: before and after need {} numbers for {}, found {} and {}", rank, in[0].str(), before.size(), after.size());
        for (std::size_t d = 0; d < rank; ++d) {
          const int i = static_cast<int>(d);
          std::int64_t size = out[i];
          if (before[d] < 0 || after[d] < 0 || __builtin_add_overflow(size, before[d], &size) ||
              __builtin_add_overflow(size, after[d], &size))
            fail("pad: dim {} of {} cannot take {} rows in front and {} behind", d, in[0].str(), before[d], after[d]);
          out.set_dim(i, Dim(size, size == out[i] ? out.dim(i).name : DimName()));
        }
        return {{in[0].dtype, out}};
      },
      .grad = [](const GradCall& c) -> Grads {
        Value g = c.grad_out[0];
        const Shape& x = c.in[0].shape();
        for (int d = 0; d < x.rank(); ++d) {
          const std::int64_t begin = c.attrs.ints("before")[static_cast<std::size_t>(d)];
          g = slice(g, d, begin, begin + x[d]);
        }
        return {g};
      },
      .cost = bytes_only_cost,
      .shard = "...%before%after -> ...%before%after",
      .reference = [](auto& call) {
        auto& out = call.out[0];
        for (auto& v : out.f) v = static_cast<typename std::decay_t<decltype(call)>::Real>(call.attrs.f("value"));
        for (auto& v : out.i) v = static_cast<std::int64_t>(call.attrs.f("value"));
        const Ints& before = call.attrs.ints("before");
        each_index(call.in[0]->shape(), [&](std::size_t i, Index index) {
          for (std::size_t d = 0; d < before.size(); ++d) index[d] += before[d];
          copy_element(out, flat_index(out.shape(), index), *call.in[0], i);
        });
      },
      .samples = [] {
        const auto sample = [](std::string label, Shape from, Ints before, Ints after, double value, bool benchmark = false) {
          return Sample{.label = std::move(label), .inputs = {real(from)},
                        .attrs = {{"before", std::move(before)}, {"after", std::move(after)}, {"value", value}},
                        .benchmark = benchmark};
        };
        return std::vector<Sample>{sample("rows", {2, 3}, {1, 0}, {2, 0}, 0), sample("frame", {2, 3, 4}, {0, 1, 2}, {0, 2, 1}, -1.5),
                                   sample("none", {3}, {0}, {0}, 0), sample("1024x768", {1024, 768}, {0, 0}, {0, 256}, 0, true)};
      },
  };
  return def;
}

// ---- iota ------------------------------------------------------------------------------------------
const OpDef& iota_op() {
  static std::vector<AttrSpec> specs = [] {
    std::vector<AttrSpec> out = shape_specs();
    out.push_back({"axis", AttrKind::integer, "dim along which it counts"});
    out.push_back({"dtype", AttrKind::dtype, "of the result"});
    return out;
  }();
  static const OpDef def{
      .name = "iota",
      .doc = "0, 1, 2, ... along axis, repeated over the other dims.",
      .traits = {.kind = OpKind::source},
      .operands = {},
      .attrs = specs,
      .infer = [](std::span<const Type>, const Attrs& attrs) -> std::vector<Type> {
        const Shape shape = attrs_shape(attrs);
        normalize_axis(attrs.i("axis"), shape.rank(), "iota");
        return {{attrs.dtype("dtype"), shape}};
      },
      .grad = kNotDifferentiable,
      .cost = bytes_only_cost,
      .shard = "-> ...!axis",
      .reference = [](auto& call) {
        auto& out = call.out[0];
        const auto axis = static_cast<std::size_t>(normalize_axis(call.attrs.i("axis"), out.shape().rank(), "iota"));
        each_index(out.shape(), [&](std::size_t o, const Index& index) {
          if (is_float(out.type.dtype)) out.f[o] = static_cast<typename std::decay_t<decltype(call)>::Real>(index[axis]);
          else out.i[o] = index[axis];
        });
      },
      .samples = [] {
        return std::vector<Sample>{
            {.label = "i32 2x5", .inputs = {}, .attrs = {{"shape", Ints{2, 5}}, {"axis", std::int64_t{1}}, {"dtype", DType::i32}}},
            {.label = "f32 4x3", .inputs = {}, .attrs = {{"shape", Ints{4, 3}}, {"axis", std::int64_t{0}}, {"dtype", DType::f32}}}};
      },
  };
  return def;
}

}  // namespace

const std::vector<const OpDef*>& layout_ops() {
  static const std::vector<const OpDef*> ops{&broadcast_to_op(), &reshape_op(), &transpose_op(), &slice_op(),
                                             &concat_op(),       &pad_op(),     &iota_op()};
  return ops;
}

Value broadcast_to(Value x, Shape shape) {
  if (x.shape() == shape) return x;
  return build(broadcast_to_op(), {x}, shape_attrs(shape));
}
Value reshape(Value x, Shape shape) {
  if (x.shape() == shape) return x;
  return build(reshape_op(), {x}, shape_attrs(shape));
}
Value transpose(Value x, std::vector<std::int64_t> perm) {
  bool identity = static_cast<int>(perm.size()) == x.shape().rank();
  for (std::size_t d = 0; d < perm.size(); ++d) identity &= perm[d] == static_cast<std::int64_t>(d);
  if (identity) return x;
  return build(transpose_op(), {x}, {{"perm", std::move(perm)}});
}
Value slice(Value x, int axis, std::int64_t begin, std::int64_t end, std::int64_t step) {
  axis = normalize_axis(axis, x.shape().rank(), "slice");
  if (begin == 0 && end == x.shape()[axis] && step == 1) return x;
  return build(slice_op(), {x}, {{"axis", std::int64_t{axis}}, {"begin", begin}, {"end", end}, {"step", step}});
}
Value concat(const std::vector<Value>& parts, int axis) {
  if (parts.empty()) fail("concat: no operand given");
  if (parts.size() == 1) return parts[0];
  axis = normalize_axis(axis, parts[0].shape().rank(), "concat");
  return build(concat_op(), parts, {{"axis", std::int64_t{axis}}});
}
Value pad(Value x, std::vector<std::int64_t> before, std::vector<std::int64_t> after, double value) {
  const auto zero = [](std::int64_t n) { return n == 0; };
  if (static_cast<int>(before.size()) == x.shape().rank() && before.size() == after.size() &&
      std::all_of(before.begin(), before.end(), zero) && std::all_of(after.begin(), after.end(), zero))
    return x;
  return build(pad_op(), {x}, {{"before", std::move(before)}, {"after", std::move(after)}, {"value", value}});
}
Value iota(Graph& g, Type type, int axis) {
  Attrs attrs = shape_attrs(type.shape);
  attrs.set("axis", std::int64_t{normalize_axis(axis, type.shape.rank(), "iota")});
  attrs.set("dtype", type.dtype);
  return g.add(iota_op(), {}, std::move(attrs));
}
std::vector<Value> split(Value x, const std::vector<std::int64_t>& sizes, int axis) {
  axis = normalize_axis(axis, x.shape().rank(), "split");
  if (std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0}) != x.shape()[axis])
    fail("split: sizes must add up to {}, dim {} of {}", x.shape()[axis], axis, x.type().str());
  std::vector<Value> out;
  std::int64_t begin = 0;
  for (const std::int64_t size : sizes) {
    out.push_back(slice(x, axis, begin, begin + size));
    begin += size;
  }
  return out;
}

}  // namespace rhetor
