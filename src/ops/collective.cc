// Collectives over one axis of the mesh. A collective's reference sees all ranks of its group at once: in[r] is the
// operand of rank r and out[r] its result, ranks in order along the axis (graph/interpreter.h, evaluate_ranks). With
// group = 1 that is the ordinary call, and every collective is the identity.
//
// Gradients belong to the loss summed over ranks: all_reduce's is all_reduce, all_gather's is reduce_scatter and the
// other way round, all_to_all's is its inverse.
#include "ops/families.h"
#include "ops/index.h"
#include "ops/ops.h"
#include "ops/samples.h"

namespace rhetor {
namespace {

using Grads = std::vector<Value>;

std::vector<AttrSpec> specs(std::vector<AttrSpec> more = {}) {
  more.push_back({"axis", AttrKind::text, "mesh axis"});
  more.push_back({"group", AttrKind::integer, "ranks along it"});
  return more;
}

std::int64_t group_of(std::string_view op, const Attrs& attrs) {
  const std::int64_t group = attrs.i("group");
  if (group < 1) fail("{}: a group of {} ranks is not possible", op, group);
  return group;
}

// x with dim `dim` multiplied by `times` and divided by `parts`.
Type resized(std::string_view op, Type x, std::int64_t dim, std::int64_t times, std::int64_t parts) {
  const int d = normalize_axis(dim, x.shape.rank(), op);
  std::int64_t size = x.shape[d];
  if (size % parts) fail("{}: dim {} of {} does not divide into {} parts", op, d, x.str(), parts);
  if (__builtin_mul_overflow(size / parts, times, &size)) fail("{}: dim {} becomes too long", op, d);
  x.shape.set_dim(d, Dim(size, x.shape.dim(d).name));
  return x;
}

template <class T>
std::size_t group_in_call(const RefCall<T>& call) {
  const auto group = static_cast<std::size_t>(call.attrs.i("group"));
  if (call.in.size() != group || call.out.size() != group)
    fail(ErrorKind::unsupported, "a collective over {} ranks needs all of them: use evaluate_ranks", group);
  return group;
}

SampleInput whole(Shape shape) { return real(shape, -2, 2); }
Attrs group_attrs(std::int64_t group, std::vector<std::pair<std::string, std::int64_t>> dims = {}) {
  Attrs attrs{{"axis", std::string("data")}, {"group", group}};
  for (auto& [name, dim] : dims) attrs.set(name, dim);
  return attrs;
}

const OpDef& all_reduce_op() {
  static const OpDef def{
      .name = "all_reduce",
      .doc = "Every rank gets the sum of x over the ranks of the axis.",
      .traits = {.kind = OpKind::collective, .inplace = 0},
      .operands = {"x"}, .attrs = specs(),
      .infer = [](std::span<const Type> in, const Attrs& attrs) -> std::vector<Type> {
        group_of("all_reduce", attrs);
        return {in[0]};
      },
      .grad = [](const GradCall& c) -> Grads { return {all_reduce(c.grad_out[0], c.attrs.s("axis"), c.attrs.i("group"))}; },
      .cost = bytes_only_cost, .shard = "",
      .reference = [](auto& call) {
        const std::size_t group = group_in_call(call);
        for (std::size_t r = 0; r < group; ++r)
          for (std::size_t from = 0; from < group; ++from) {  // rank order: the same bits on every rank
            for (std::size_t i = 0; i < call.out[r].f.size(); ++i) call.out[r].f[i] += call.in[from]->f[i];
            for (std::size_t i = 0; i < call.out[r].i.size(); ++i) call.out[r].i[i] += call.in[from]->i[i];
          }
      },
      .samples = [] {
        return std::vector<Sample>{{.label = "group 1", .inputs = {whole({3, 4})}, .attrs = group_attrs(1)},
                                   {.label = "group 2", .inputs = {whole({3, 4})}, .attrs = group_attrs(2)},
                                   {.label = "group 3", .inputs = {whole({5})}, .attrs = group_attrs(3)}};
      },
  };
  return def;
}

const OpDef& all_gather_op() {
  static const OpDef def{
      .name = "all_gather",
      .doc = "Every rank gets the x of all ranks, joined along dim in rank order.",
      .traits = {.kind = OpKind::collective},
      .operands = {"x"}, .attrs = specs({{"dim", AttrKind::integer, "dim that is joined"}}),
      .infer = [](std::span<const Type> in, const Attrs& attrs) -> std::vector<Type> {
        return {resized("all_gather", in[0], attrs.i("dim"), group_of("all_gather", attrs), 1)};
      },
      .grad = [](const GradCall& c) -> Grads {
        return {reduce_scatter(c.grad_out[0], static_cast<int>(c.attrs.i("dim")), c.attrs.s("axis"), c.attrs.i("group"))};
      },
      .cost = bytes_only_cost, .shard = "",
      .reference = [](auto& call) {
        const std::size_t group = group_in_call(call);
        const auto dim = static_cast<std::size_t>(normalize_axis(call.attrs.i("dim"), call.in[0]->shape().rank(), "all_gather"));
        const std::int64_t rows = call.in[0]->shape()[static_cast<int>(dim)];
        for (auto& out : call.out)
          for (std::size_t from = 0; from < group; ++from)
            each_index(call.in[from]->shape(), [&](std::size_t i, Index index) {
              index[dim] += rows * static_cast<std::int64_t>(from);
              copy_element(out, flat_index(out.shape(), index), *call.in[from], i);
            });
      },
      .samples = [] {
        return std::vector<Sample>{{.label = "group 1", .inputs = {whole({3, 4})}, .attrs = group_attrs(1, {{"dim", 0}})},
                                   {.label = "group 2", .inputs = {whole({3, 4})}, .attrs = group_attrs(2, {{"dim", 0}})},
                                   {.label = "group 3 last", .inputs = {whole({2, 5})}, .attrs = group_attrs(3, {{"dim", -1}})}};
      },
  };
  return def;
}

const OpDef& reduce_scatter_op() {
  static const OpDef def{
      .name = "reduce_scatter",
      .doc = "The sum of x over the ranks, cut along dim: rank r gets part r.",
      .traits = {.kind = OpKind::collective},
      .operands = {"x"}, .attrs = specs({{"dim", AttrKind::integer, "dim that is cut"}}),
      .infer = [](std::span<const Type> in, const Attrs& attrs) -> std::vector<Type> {
        return {resized("reduce_scatter", in[0], attrs.i("dim"), 1, group_of("reduce_scatter", attrs))};
      },
      .grad = [](const GradCall& c) -> Grads {
        return {all_gather(c.grad_out[0], static_cast<int>(c.attrs.i("dim")), c.attrs.s("axis"), c.attrs.i("group"))};
      },
      .cost = bytes_only_cost, .shard = "",
      .reference = [](auto& call) {
        const std::size_t group = group_in_call(call);
        const int rank = call.in[0]->shape().rank();
        const auto dim = static_cast<std::size_t>(normalize_axis(call.attrs.i("dim"), rank, "reduce_scatter"));
        for (std::size_t r = 0; r < group; ++r)
          each_index(call.out[r].shape(), [&](std::size_t o, Index index) {
            index[dim] += call.out[r].shape()[static_cast<int>(dim)] * static_cast<std::int64_t>(r);
            const std::size_t i = flat_index(call.in[0]->shape(), index);
            for (std::size_t from = 0; from < group; ++from) {
              if (is_float(call.out[r].type.dtype)) call.out[r].f[o] += call.in[from]->f[i];
              else call.out[r].i[o] += call.in[from]->i[i];
            }
          });
      },
      .samples = [] {
        return std::vector<Sample>{{.label = "group 1", .inputs = {whole({4, 3})}, .attrs = group_attrs(1, {{"dim", 0}})},
                                   {.label = "group 2", .inputs = {whole({4, 3})}, .attrs = group_attrs(2, {{"dim", 0}})},
                                   {.label = "group 3 last", .inputs = {whole({2, 6})}, .attrs = group_attrs(3, {{"dim", -1}})}};
      },
  };
  return def;
}

const OpDef& all_to_all_op() {
  static const OpDef def{
      .name = "all_to_all",
      .doc = "x is cut along split_dim into group parts; rank r gets part r of every rank, joined along concat_dim.",
      .traits = {.kind = OpKind::collective},
      .operands = {"x"},
      .attrs = specs({{"split_dim", AttrKind::integer, "dim that is cut"}, {"concat_dim", AttrKind::integer, "dim that is joined"}}),
      .infer = [](std::span<const Type> in, const Attrs& attrs) -> std::vector<Type> {
        const std::int64_t group = group_of("all_to_all", attrs);
        return {resized("all_to_all", resized("all_to_all", in[0], attrs.i("split_dim"), 1, group), attrs.i("concat_dim"), group, 1)};
      },
      .grad = [](const GradCall& c) -> Grads {
        return {all_to_all(c.grad_out[0], static_cast<int>(c.attrs.i("concat_dim")), static_cast<int>(c.attrs.i("split_dim")),
                           c.attrs.s("axis"), c.attrs.i("group"))};
      },
      .cost = bytes_only_cost, .shard = "",
      .reference = [](auto& call) {
        const std::size_t group = group_in_call(call);
        const Shape& x = call.in[0]->shape();
        const int split = normalize_axis(call.attrs.i("split_dim"), x.rank(), "all_to_all");
        const int join = normalize_axis(call.attrs.i("concat_dim"), x.rank(), "all_to_all");
        const std::int64_t part = x[split] / static_cast<std::int64_t>(group);
        Shape piece = x;
        piece.set_dim(split, Dim(part));
        for (std::size_t r = 0; r < group; ++r)
          for (std::size_t from = 0; from < group; ++from)
            each_index(piece, [&](std::size_t, const Index& index) {
              Index source = index, target = index;
              source[static_cast<std::size_t>(split)] += part * static_cast<std::int64_t>(r);
              target[static_cast<std::size_t>(join)] += piece[join] * static_cast<std::int64_t>(from);
              copy_element(call.out[r], flat_index(call.out[r].shape(), target), *call.in[from], flat_index(x, source));
            });
      },
      .samples = [] {
        const auto dims = [](std::int64_t split, std::int64_t join) {
          return std::vector<std::pair<std::string, std::int64_t>>{{"split_dim", split}, {"concat_dim", join}};
        };
        return std::vector<Sample>{{.label = "group 1", .inputs = {whole({4, 3})}, .attrs = group_attrs(1, dims(0, 1))},
                                   {.label = "group 2", .inputs = {whole({4, 3})}, .attrs = group_attrs(2, dims(0, 1))},
                                   {.label = "group 2 one dim", .inputs = {whole({4, 3})}, .attrs = group_attrs(2, dims(0, 0))},
                                   {.label = "group 3", .inputs = {whole({2, 2, 6})}, .attrs = group_attrs(3, dims(2, 0))}};
      },
  };
  return def;
}

}  // namespace

const std::vector<const OpDef*>& collective_ops() {
  static const std::vector<const OpDef*> ops{&all_reduce_op(), &all_gather_op(), &reduce_scatter_op(), &all_to_all_op()};
  return ops;
}

Value all_reduce(Value x, std::string axis, std::int64_t group) {
  return build(all_reduce_op(), {x}, {{"axis", std::move(axis)}, {"group", group}});
}
Value all_gather(Value x, int dim, std::string axis, std::int64_t group) {
  return build(all_gather_op(), {x}, {{"dim", std::int64_t{dim}}, {"axis", std::move(axis)}, {"group", group}});
}
Value reduce_scatter(Value x, int dim, std::string axis, std::int64_t group) {
  return build(reduce_scatter_op(), {x}, {{"dim", std::int64_t{dim}}, {"axis", std::move(axis)}, {"group", group}});
}
Value all_to_all(Value x, int split_dim, int concat_dim, std::string axis, std::int64_t group) {
  return build(all_to_all_op(), {x}, {{"split_dim", std::int64_t{split_dim}}, {"concat_dim", std::int64_t{concat_dim}},
                                      {"axis", std::move(axis)}, {"group", group}});
}

}  // namespace rhetor
