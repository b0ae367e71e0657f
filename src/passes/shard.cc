#include "passes/shard.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "graph/op.h"
#include "ops/ops.h"
#include "ops/shard.h"
#include "passes/index.h"

namespace rhetor {
namespace {

using Dims = std::vector<int>;

// An operand's partial sums may stay partial through an op that is linear in it: one collective then serves for several values (a
// tied embedding's two gradients, micro-batches). `all`: every operand must be partial; otherwise operand 0 alone.
struct Linear {
  std::string_view op;
  bool all;
};
constexpr Linear kLinear[] = {{"add", true},   {"sub", true},        {"neg", true},  {"reshape", true}, {"transpose", true},
                              {"slice", true}, {"reduce_sum", true}, {"mul", false}, {"div", false}};

const Linear* linear(const Node& node) {
  const auto found = std::find_if(std::begin(kLinear), std::end(kLinear), [&](const Linear& l) { return l.op == node.op->name; });
  return found == std::end(kLinear) ? nullptr : found;
}

// What an optimiser does to a cut state it does to each part.
bool by_element(OpKind kind) { return kind == OpKind::pointwise || kind == OpKind::opaque || kind == OpKind::reduction; }

int dim_on(const Dims& dims, int axis) {
  const auto found = std::find(dims.begin(), dims.end(), axis);
  return found == dims.end() ? -1 : static_cast<int>(found - dims.begin());
}

class Sharder {
 public:
  Sharder(const Graph& graph, const ShardSpec& spec, ShardReport* report) : graph_(graph), spec_(spec), report_(report) {
    check(spec.mesh.size() == spec.position.size() && spec.mesh.size() <= 16,
          "a rank has a position along every axis of its mesh");
    versions_.resize(at(graph.size()));
    wishes_.resize(at(graph.size()));
    for (std::int32_t i = 0; i < graph.size(); ++i) {
      versions_[at(i)].resize(graph.node(i).outputs.size());
      wishes_[at(i)].resize(graph.node(i).outputs.size());
    }
  }

  Graph run() {
    place_inputs();
    wish();
    for (std::int32_t i = 0; i < graph_.size(); ++i) {
      if (graph_.is_input(i)) continue;
      local_.set_current_scope(graph_.node(i).scope);
      visit(i);
    }
    local_.set_current_scope("");
    for (const GraphOutput& output : graph_.outputs())
      local_.output(output.name, obtain(output.value, Dims(rank_of(output.value), -1), 0));
    for (const StateUpdate& update : graph_.updates()) {
      const Version& state = versions_[at(update.state)][0].front();
      const unsigned kept = state.partial & primary(update.value).partial;
      check(kept == state.partial, "the next value of a partial state is a partial sum");
      local_.set_update(state.value, obtain(update.value, state.dims, state.partial));
    }
    Graph out = remove_dead(local_);
    if (report_) count(out);
    return out;
  }

 private:
  // One form in which a value of the whole graph exists on this rank.
  struct Version {
    Dims dims;
    unsigned partial = 0;
    bool storage = false;
    Value value;
  };

  std::size_t rank_of(ValueId v) const { return static_cast<std::size_t>(graph_.type(v).shape.rank()); }
  std::int64_t ranks(int axis) const { return spec_.mesh[static_cast<std::size_t>(axis)].size; }
  const std::string& axis_name(int axis) const { return spec_.mesh[static_cast<std::size_t>(axis)].name; }
  std::int64_t position(int axis) const { return spec_.position[static_cast<std::size_t>(axis)]; }
  const Version& primary(ValueId v) const { return versions_[at(v.node)][static_cast<std::size_t>(v.output)].front(); }
  const Dims& wish_of(ValueId v) const { return wishes_[at(v.node)][static_cast<std::size_t>(v.output)]; }

  Type local_type(Type type, const Dims& dims) const {
    for (std::size_t d = 0; d < dims.size(); ++d)
      if (dims[d] >= 0) {
        const Dim& dim = type.shape.dim(static_cast<int>(d));
        type.shape.set_dim(static_cast<int>(d), Dim(dim.size / ranks(dims[d]), dim.name));
      }
    return type;
  }

  void place_inputs() {
    for (const std::int32_t i : graph_.input_nodes()) {
      const Node& node = graph_.node(i);
      Placement placed = spec_.place(graph_, i);
      placed.dims.resize(rank_of({i, 0}), -1);
      for (std::size_t d = 0; d < placed.dims.size(); ++d) {
        if (placed.dims[d] < 0) continue;
        const std::int64_t size = node.outputs[0].shape[static_cast<int>(d)], parts = ranks(placed.dims[d]);
        if (size % parts)
          fail("the input '{}' ({}) does not divide into {} equal parts along dim {}: {} is no multiple of {}",
               graph_.input_name(i), node.outputs[0].str(), parts, d, size, parts);
      }
      const Value value = local_.input(graph_.input_name(i), local_type(node.outputs[0], placed.dims), graph_.input_kind(i),
                                       node.attrs.has("init") ? node.attrs.s("init") : "");
      versions_[at(i)][0].push_back({placed.dims, placed.partial, placed.storage, value});
    }
  }

  // A partial sum that meets a cut state is wanted in the same parts: reduce_scatter instead of all_reduce. What is made from a
  // cut state element by element is cut as it is; wishes run back from the readers of these through what keeps the shape.
  void wish() {
    std::vector<std::vector<Dims>> stored(versions_.size());
    for (std::int32_t i = 0; i < graph_.size(); ++i) {
      const Node& node = graph_.node(i);
      stored[at(i)].resize(node.outputs.size());
      if (graph_.is_input(i)) {
        if (primary({i, 0}).storage) stored[at(i)][0] = primary({i, 0}).dims;
      } else if (by_element(node.op->traits.kind)) {
        for (std::size_t k = 0; k < node.outputs.size(); ++k) stored[at(i)][k] = cut_like(node, node.outputs[k].shape, stored);
      }
    }
    for (std::int32_t i = graph_.size() - 1; i >= 0; --i) {
      const Node& node = graph_.node(i);
      if (graph_.is_input(i) || !by_element(node.op->traits.kind)) continue;
      for (const ValueId v : node.inputs) {
        if (!v.valid()) continue;
        Dims& wished = wishes_[at(v.node)][static_cast<std::size_t>(v.output)];
        if (!wished.empty()) continue;
        const Shape& shape = graph_.type(v).shape;
        wished = cut_like(node, shape, stored);
        for (std::size_t k = 0; k < node.outputs.size() && wished.empty(); ++k)
          if (node.outputs[k].shape == shape) wished = wishes_[at(i)][k];
      }
    }
  }

  // How the first operand of this shape that is made from a cut state is cut; empty: there is none.
  Dims cut_like(const Node& node, const Shape& shape, const std::vector<std::vector<Dims>>& stored) const {
    for (const ValueId v : node.inputs)
      if (v.valid() && graph_.type(v).shape == shape && !stored[at(v.node)][static_cast<std::size_t>(v.output)].empty())
        return stored[at(v.node)][static_cast<std::size_t>(v.output)];
    return {};
  }

  // ---- one node ---------------------------------------------------------------------------------

  void visit(std::int32_t i) {
    const Node& node = graph_.node(i);
    std::vector<Type> in;
    for (const ValueId v : node.inputs) in.push_back(v.valid() ? graph_.type(v) : Type{DType::boolean, Shape{}});
    ShardRule rule = shard_rule(*node.op, in, node.outputs, node.attrs);
    rule.operands.resize(in.size());
    rule.results.resize(node.outputs.size());
    for (std::size_t k = 0; k < in.size(); ++k) rule.operands[k].resize(static_cast<std::size_t>(in[k].shape.rank()), -1);
    for (std::size_t k = 0; k < node.outputs.size(); ++k)
      rule.results[k].resize(static_cast<std::size_t>(node.outputs[k].shape.rank()), -1);

    const unsigned kept = kept_partial(node);
    bool storage = false;
    const std::vector<int> axis_of = assign(node, in, rule, kept, storage);
    const auto cut = [&](const std::vector<int>& factors) {
      Dims dims(factors.size(), -1);
      for (std::size_t d = 0; d < factors.size(); ++d)
        if (factors[d] >= 0) dims[d] = axis_of[static_cast<std::size_t>(factors[d])];
      return dims;
    };
    std::vector<Value> operands;
    for (std::size_t k = 0; k < in.size(); ++k) {
      const ValueId v = node.inputs[k];
      operands.push_back(v.valid() ? obtain(v, cut(rule.operands[k]), primary(v).partial & kept) : Value());
    }
    std::vector<Type> types;
    for (std::size_t k = 0; k < node.outputs.size(); ++k) types.push_back(local_type(node.outputs[k], cut(rule.results[k])));
    const Dims first = types.empty() ? Dims() : cut(rule.results[0]);
    const std::int64_t part = !first.empty() && first[0] >= 0 ? position(first[0]) : 0;
    const Value made = local_.add(*node.op, operands, local_attrs(*node.op, node.attrs, types, part));
    for (std::size_t k = 0; k < types.size(); ++k) {
      const Value result(&local_, {made.id().node, static_cast<std::int32_t>(k)});
      check(result.type() == types[k], "a shard rule and its op agree about the types of the parts");
      unsigned partial = kept;
      for (const int f : rule.summed) {
        const bool in_result = std::find(rule.results[k].begin(), rule.results[k].end(), f) != rule.results[k].end();
        if (const int axis = axis_of[static_cast<std::size_t>(f)]; axis >= 0 && !in_result) partial |= 1u << axis;
      }
      versions_[at(i)][k].push_back({cut(rule.results[k]), partial, storage, result});
    }
  }

  // The axes over which the operands' partial sums need not be taken before this node.
  unsigned kept_partial(const Node& node) const {
    const Linear* rule = linear(node);
    if (!rule) return 0;
    unsigned kept = primary(node.inputs[0]).partial;
    for (std::size_t k = 1; k < node.inputs.size(); ++k) {
      const Version& other = primary(node.inputs[k]);
      if (rule->all) {
        kept &= other.partial;
        continue;
      }
      for (int a = 0; a < static_cast<int>(spec_.mesh.size()); ++a)
        if ((other.partial >> a & 1) || dim_on(other.dims, a) >= 0) kept &= ~(1u << a);
    }
    return kept;
  }

  // Which axis each factor is cut along: first what the operands are cut along for work, the largest operand first, then what
  // states are cut along for storage.
  std::vector<int> assign(const Node& node, const std::vector<Type>& in, const ShardRule& rule, unsigned kept, bool& storage) {
    std::vector<int> axis_of(rule.factors.size(), -1);
    unsigned used = kept;
    bool work = false;
    std::vector<std::size_t> order(in.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return in[a].bytes() > in[b].bytes(); });
    for (const bool stored : {false, true}) {
      if (stored && !by_element(node.op->traits.kind)) break;
      for (const std::size_t k : order) {
        const ValueId v = node.inputs[k];
        if (!v.valid()) continue;
        const Version& version = primary(v);
        const bool resolved = (version.partial & ~kept) != 0 && !wish_of(v).empty();
        const Dims& dims = resolved && stored ? wish_of(v) : version.dims;
        if ((version.storage || (resolved && stored)) != stored) continue;
        for (std::size_t d = 0; d < dims.size(); ++d) {
          const int axis = dims[d], factor = axis < 0 ? -1 : rule.operands[k][d];
          if (factor < 0 || (used >> axis & 1) || axis_of[static_cast<std::size_t>(factor)] >= 0) continue;
          if (!divides(node, in, rule, factor, ranks(axis))) continue;
          axis_of[static_cast<std::size_t>(factor)] = axis;
          used |= 1u << axis;
          work |= !stored;
        }
      }
    }
    storage = !work;
    return axis_of;
  }

  static bool divides(const Node& node, const std::vector<Type>& in, const ShardRule& rule, int factor, std::int64_t parts) {
    const auto even = [&](const std::vector<int>& factors, const Shape& shape) {
      for (std::size_t d = 0; d < factors.size(); ++d)
        if (factors[d] == factor && shape[static_cast<int>(d)] % parts) return false;
      return true;
    };
    for (std::size_t k = 0; k < in.size(); ++k)
      if (!even(rule.operands[k], in[k].shape)) return false;
    for (std::size_t k = 0; k < node.outputs.size(); ++k)
      if (!even(rule.results[k], node.outputs[k].shape)) return false;
    return true;
  }

  // ---- from one placement to another ------------------------------------------------------------

  Value obtain(ValueId v, const Dims& dims, unsigned partial) {
    auto& versions = versions_[at(v.node)][static_cast<std::size_t>(v.output)];
    for (const Version& version : versions)
      if (version.dims == dims && version.partial == partial) return version.value;
    const bool stored = versions.front().storage;
    Version now = source(versions, dims, partial);
    check((now.partial & partial) == partial, "a whole value does not become a partial sum");
    for (int a = 0; a < static_cast<int>(spec_.mesh.size()); ++a) {
      if (!((now.partial & ~partial) >> a & 1)) continue;
      int d = dim_on(dims, a);
      if (d < 0) d = dim_on(wish_of(v), a);  // its parts will be wanted
      if (d >= 0 && now.dims[static_cast<std::size_t>(d)] < 0) {
        now.value = reduce_scatter(now.value, d, axis_name(a), ranks(a));
        now.dims[static_cast<std::size_t>(d)] = a;
      } else {
        now.value = all_reduce(now.value, axis_name(a), ranks(a));
      }
      now.partial &= ~(1u << a);
      versions.push_back(now);
    }
    for (std::size_t d = 0; d < dims.size(); ++d) {
      const int a = now.dims[d];
      if (a < 0 || a == dims[d]) continue;
      const int target = dim_on(dims, a);
      now.dims[d] = -1;
      if (target >= 0 && now.dims[static_cast<std::size_t>(target)] < 0) {
        now.value = all_to_all(now.value, target, static_cast<int>(d), axis_name(a), ranks(a));
        now.dims[static_cast<std::size_t>(target)] = a;
      } else {
        now.value = all_gather(now.value, static_cast<int>(d), axis_name(a), ranks(a));
      }
      // What is cut for storage is gathered anew by every reader: keeping it would cost the memory that was saved.
      if (!stored) versions.push_back(now);
    }
    if (const Value part = broadcast_part(v, now, dims)) {
      now.value = part;
      now.dims = dims;
      versions.push_back(now);
    }
    for (std::size_t d = 0; d < dims.size(); ++d) {
      const int a = dims[d];
      if (a < 0 || now.dims[d] == a) continue;
      const std::int64_t size = now.value.shape()[static_cast<int>(d)] / ranks(a);
      now.value = slice(now.value, static_cast<int>(d), size * position(a), size * (position(a) + 1));
      now.dims[d] = a;
      versions.push_back(now);
    }
    return now.value;
  }

  // A part of a repeated element need not be cut from the whole: no value if `v` is not repeated along every dim that is still to
  // be cut.
  Value broadcast_part(ValueId v, const Version& now, const Dims& dims) {
    const Node& node = graph_.node(v);
    if (node.op->traits.kind != OpKind::broadcast || now.dims == dims) return {};
    const Shape& from = graph_.type(node.inputs[0]).shape;
    const auto added = dims.size() - static_cast<std::size_t>(from.rank());
    for (std::size_t d = 0; d < dims.size(); ++d)
      if (now.dims[d] != dims[d] && d >= added && from[static_cast<int>(d - added)] != 1) return {};
    return broadcast_to(obtain(node.inputs[0], Dims(now.dims.begin() + static_cast<std::ptrdiff_t>(added), now.dims.end()), 0),
                        local_type(graph_.type(v), dims).shape);
  }

  // The form from which the wanted one costs least: whole ones are cut for nothing, sums that are taken need not be taken again.
  static Version source(const std::vector<Version>& versions, const Dims& dims, unsigned partial) {
    const Version* best = nullptr;
    int least = 0;
    for (const Version& version : versions) {
      if ((version.partial & partial) != partial) continue;
      int cost = 0;
      for (int a = 0; a < 16; ++a) cost += (version.partial & ~partial) >> a & 1 ? 4 : 0;
      for (std::size_t d = 0; d < dims.size(); ++d) cost += version.dims[d] >= 0 && version.dims[d] != dims[d] ? 2 : 0;
      if (!best || cost < least) best = &version, least = cost;
    }
    check(best != nullptr, "a value exists in some form");
    return *best;
  }

  void count(const Graph& local) {
    for (std::int32_t i = 0; i < local.size(); ++i) {
      const Node& node = local.node(i);
      if (node.op->traits.kind != OpKind::collective) continue;
      auto& rows = report_->rows;
      auto row = std::find_if(rows.begin(), rows.end(), [&](const ShardReport::Row& r) { return r.op == node.op->name; });
      if (row == rows.end()) row = rows.insert(rows.end(), {std::string(node.op->name), 0, 0});
      ++row->calls;
      row->bytes += static_cast<double>(std::max(local.type(node.inputs[0]).bytes(), node.outputs[0].bytes()));
    }
  }

  const Graph& graph_;
  const ShardSpec& spec_;
  ShardReport* report_;
  Graph local_;
  std::vector<std::vector<std::vector<Version>>> versions_;  // per node and result: its forms so far, the first is as it was made
  std::vector<std::vector<Dims>> wishes_;
};

}  // namespace

Graph shard(const Graph& graph, const ShardSpec& spec, ShardReport* report) {
  std::int64_t ranks = 1;
  for (const MeshAxis& axis : spec.mesh) ranks *= axis.size;
  if (ranks == 1) return graph;
  return Sharder(graph, spec, report).run();
}

}  // namespace rhetor
