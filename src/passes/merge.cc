// merge: products of the same rows with several weights become one product with the weights side by side (query, key and value
// projections), whose parts are read as slices. Done where the device's kernels read slices in place (Target.strided), so that
// the slices cost nothing; one product of three times the columns fills the machine better than three.
//
//   x w_i [+ bias_i], i = 1..n   ->   y = x [w_1 ... w_n] [+ (bias_1 ... bias_n)], the i-th result being columns of y
#include <map>

#include "graph/op.h"
#include "ops/ops.h"
#include "passes/passes.h"

namespace rhetor {
namespace {

class Merger {
 public:
  explicit Merger(const Graph& graph, const Target& target)
      : graph_(graph), target_(target), fixed_(static_cast<std::size_t>(graph.size()), 0) {
    readers_.resize(fixed_.size());
    for (std::int32_t i = 0; i < graph.size(); ++i) {
      const Node& node = graph.node(i);
      bool all = !graph.is_input(i) || graph.input_kind(i) == InputKind::param;
      for (const ValueId v : node.inputs) {
        if (!v.valid()) continue;
        all = all && fixed_[static_cast<std::size_t>(v.node)];
        readers_[static_cast<std::size_t>(v.node)].push_back(i);
      }
      fixed_[static_cast<std::size_t>(i)] = all;
    }
    for (const GraphOutput& output : graph.outputs()) readers_[static_cast<std::size_t>(output.value.node)].push_back(-1);
    for (const StateUpdate& update : graph.updates()) readers_[static_cast<std::size_t>(update.value.node)].push_back(-1);
  }

  // What depends on parameters alone moves to the front: a merged product stands where its first part stood.
  Graph run(int& merged) {
    find();
    std::map<ValueId, Value> map;
    Graph to;
    const auto copy = [&](std::int32_t i) {
      const Node& node = graph_.node(i);
      to.set_current_scope(node.scope);
      Value first;
      if (graph_.is_input(i)) {
        first = to.input(graph_.input_name(i), node.outputs[0], graph_.input_kind(i), node.attrs.s("init"));
      } else {
        std::vector<Value> in;
        for (const ValueId v : node.inputs) in.push_back(v.valid() ? map.at(v) : Value());
        first = to.add(*node.op, in, node.attrs);
      }
      for (std::size_t k = 0; k < node.outputs.size(); ++k)
        map[{i, static_cast<std::int32_t>(k)}] = Value(&to, {first.id().node, static_cast<std::int32_t>(k)});
    };
    for (std::int32_t i = 0; i < graph_.size(); ++i)
      if (fixed_[static_cast<std::size_t>(i)] || graph_.is_input(i)) copy(i);
    for (std::int32_t i = 0; i < graph_.size(); ++i) {
      if (fixed_[static_cast<std::size_t>(i)] || graph_.is_input(i)) continue;
      if (const auto group = group_at_.find(i); group != group_at_.end()) {
        ++merged;
        to.set_current_scope(graph_.node(i).scope);
        emit(groups_[group->second], map);
      }
      if (!map.contains({i, 0})) copy(i);
    }
    to.set_current_scope("");
    for (const GraphOutput& output : graph_.outputs()) to.output(output.name, map.at(output.value));
    for (const StateUpdate& update : graph_.updates()) to.set_update(map.at({update.state, 0}), map.at(update.value));
    return remove_dead(to);
  }

 private:
  struct Part {
    std::int32_t product = -1, sum = -1;  // the matmul; the addition of its bias, or -1
    ValueId bias;
  };
  using Group = std::vector<Part>;

  bool fixed(ValueId v) const { return v.valid() && fixed_[static_cast<std::size_t>(v.node)]; }
  // The one reader of a node's only result, or -1.
  std::int32_t only_reader(std::int32_t i) const {
    const auto& readers = readers_[static_cast<std::size_t>(i)];
    return readers.size() == 1 && graph_.node(i).outputs.size() == 1 ? readers[0] : -1;
  }

  // Do the columns reach, through reshapes alone, an op whose kernels read slices in place?
  bool reaches_strided(std::int32_t i) const {
    while ((i = only_reader(i)) >= 0)
      if (!graph_.node(i).op->traits.alias) return target_.strided.contains(graph_.node(i).op->name);
    return false;
  }

  bool part_of(std::int32_t i, Part& part) const {
    const Node& node = graph_.node(i);
    if (node.op->name != "matmul" || node.attrs.b("transpose_a") || !fixed(node.inputs[1]) ||
        graph_.type(node.inputs[1]).shape.rank() != 2)
      return false;
    part = {.product = i};
    const std::int32_t next = only_reader(i);
    if (next < 0) return false;
    if (graph_.node(next).op->name == "add") {
      const Node& sum = graph_.node(next);
      const ValueId other = sum.inputs[sum.inputs[0].node == i ? 1 : 0];
      const Node& repeat = graph_.node(other);
      if (repeat.op->name == "broadcast_to" && fixed(repeat.inputs[0]) && graph_.type(repeat.inputs[0]).shape.rank() == 1 &&
          graph_.type(repeat.inputs[0]).shape[0] == node.outputs[0].shape.last()) {
        part.sum = next;
        part.bias = repeat.inputs[0];
      }
    }
    return reaches_strided(part.sum >= 0 ? part.sum : i);
  }

  void find() {
    std::map<std::pair<ValueId, std::string>, Group> found;
    for (std::int32_t i = 0; i < graph_.size(); ++i) {
      Part part;
      if (!part_of(i, part)) continue;
      const Node& node = graph_.node(i);
      const std::string form = fmt::format("{} {} {} {}", node.attrs.b("transpose_b"), name(node.outputs[0].dtype), part.sum >= 0,
                                           name(graph_.type(node.inputs[1]).dtype));
      found[{node.inputs[0], form}].push_back(part);
    }
    for (auto& [key, group] : found) {
      if (group.size() < 2) continue;
      group_at_[group.front().product] = groups_.size();
      groups_.push_back(std::move(group));
    }
  }

  void emit(const Group& group, std::map<ValueId, Value>& map) {
    const Node& first = graph_.node(group.front().product);
    const bool transposed = first.attrs.b("transpose_b");
    std::vector<Value> weights, biases;
    for (const Part& part : group) {
      weights.push_back(map.at(graph_.node(part.product).inputs[1]));
      if (part.sum >= 0) biases.push_back(map.at(part.bias));
    }
    Value y = matmul(map.at(first.inputs[0]), concat(weights, transposed ? 0 : 1), false, transposed, first.outputs[0].dtype);
    if (!biases.empty()) y = add(y, broadcast_to(concat(biases, 0), y.shape()));
    std::int64_t begin = 0;
    for (const Part& part : group) {
      const std::int64_t end = begin + graph_.node(part.product).outputs[0].shape.last();
      const Value columns = slice(y, -1, begin, end);
      map[{part.product, 0}] = columns;  // read by nobody but the sum
      if (part.sum >= 0) map[{part.sum, 0}] = columns;
      begin = end;
    }
  }

  const Graph& graph_;
  const Target& target_;
  std::vector<char> fixed_;  // depends on parameters and constants alone
  std::vector<std::vector<std::int32_t>> readers_;
  std::vector<Group> groups_;
  std::map<std::int32_t, std::size_t> group_at_;  // by the first product
};

}  // namespace

Graph merge_pass(const Graph& graph, PassContext& context) {
  const PassOptions& options = context.options;
  if (options.target.strided.empty() || options.int8) return graph;
  int merged = 0;
  Graph out = Merger(graph, options.target).run(merged);
  if (merged == 0) return graph;
  context.record.note = fmt::format("{} groups of products with the same rows", merged);
  return out;
}

}  // namespace rhetor
