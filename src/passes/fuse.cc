#include "passes/fuse.h"

#include <map>
#include <queue>

#include "graph/op.h"
#include "ops/ops.h"
#include "ops/registry.h"
#include "passes/fuse_groups.h"
#include "passes/fuse_strided.h"
#include "passes/index.h"
#include "passes/passes.h"

namespace rhetor {
namespace {

// The body of one group, with the outer values its inputs stand for.
class BodyBuilder {
 public:
  BodyBuilder(const Graph& graph, const FuseGrouper& grouper, const FuseGroup& group)
      : graph_(graph), grouper_(grouper), group_(group), shape_(graph.node(group.members.back()).outputs[0].shape) {
    for (const std::int32_t i : group.members) inside_[i] = true;
  }

  void build() {
    for (const std::int32_t i : group_.members) {
      std::vector<Value> in;
      for (const ValueId v : graph_.node(i).inputs) in.push_back(v.valid() ? value(v, i != group_.anchor) : Value());
      body_.set_current_scope(graph_.node(i).scope);
      copied(i, body_.add(*graph_.node(i).op, in, graph_.node(i).attrs));
    }
    body_.set_current_scope("");
    if (group_.anchor >= 0) add_results(group_.anchor);
    for (const std::int32_t i : group_.members)
      if (i != group_.anchor) add_results(i);
  }

  const std::vector<ValueId>& operands() const { return operands_; }
  const std::vector<ValueId>& results() const { return results_; }
  GraphPtr take() { return std::make_shared<const Graph>(std::move(body_)); }

 private:
  void copied(std::int32_t i, Value first) {
    for (std::size_t k = 0; k < graph_.node(i).outputs.size(); ++k)
      map_[{i, static_cast<std::int32_t>(k)}] = Value(&body_, {first.id().node, static_cast<std::int32_t>(k)});
  }

  // `repeat`: a pointwise reader may get its own copy of a broadcast; an anchor reads memory.
  Value value(ValueId v, bool repeat) {
    if (const auto found = map_.find(v); found != map_.end()) return found->second;
    const Node& node = graph_.node(v);
    if (repeat && !inside_.contains(v.node) && grouper_.repeatable(v.node, shape_)) {
      std::vector<Value> in;
      for (const ValueId source : node.inputs) in.push_back(value(source, true));
      copied(v.node, body_.add(*node.op, in, node.attrs));
      return map_.at(v);
    }
    const Value input = body_.input(fmt::format("{}", operands_.size()), graph_.type(v));
    operands_.push_back(v);
    return map_[v] = input;
  }

  // Results of member i that somebody outside reads.
  void add_results(std::int32_t i) {
    std::vector<char> read(graph_.node(i).outputs.size(), 0);
    for (const std::int32_t reader : grouper_.readers(i)) {
      if (reader < 0 || inside_.contains(reader)) continue;
      for (const ValueId v : graph_.node(reader).inputs)
        if (v.node == i) read[at(v.output)] = 1;
    }
    for (const GraphOutput& output : graph_.outputs())
      if (output.value.node == i) read[at(output.value.output)] = 1;
    for (const StateUpdate& update : graph_.updates())
      if (update.value.node == i) read[at(update.value.output)] = 1;
    for (std::size_t k = 0; k < read.size(); ++k) {
      if (!read[k]) continue;
      const ValueId v{i, static_cast<std::int32_t>(k)};
      body_.output(fmt::format("{}", results_.size()), map_.at(v));
      results_.push_back(v);
    }
  }

  const Graph& graph_;
  const FuseGrouper& grouper_;
  const FuseGroup& group_;
  Shape shape_;
  std::map<std::int32_t, bool> inside_;
  Graph body_;
  std::map<ValueId, Value> map_;
  std::vector<ValueId> operands_, results_;
};

// Rebuilds the graph with one fused node a group. A group runs as soon as all it reads is there, as near as possible to where its
// last node stood.
class Emitter {
 public:
  Emitter(const Graph& graph, const FuseGrouper& grouper, const std::vector<FuseGroup>& groups)
      : graph_(graph), grouper_(grouper), groups_(groups), unit_of_(at(graph.size()), -1) {
    for (std::size_t g = 0; g < groups.size(); ++g)
      for (const std::int32_t i : groups[g].members) unit_of_[at(i)] = static_cast<std::int32_t>(g);
  }

  Graph run() {
    // Units: groups, then the nodes left over; `key` is the place of the last member.
    const auto unit = [&](std::int32_t i) { return unit_of_[at(i)] >= 0 ? unit_of_[at(i)] : static_cast<std::int32_t>(groups_.size()) + i; };
    const std::size_t units = groups_.size() + at(graph_.size());
    std::vector<int> waiting(units, 0);
    std::vector<std::vector<std::int32_t>> next(units);
    for (std::int32_t i = 0; i < graph_.size(); ++i)
      for (const std::int32_t reader : grouper_.readers(i)) {
        if (reader < 0 || unit(reader) == unit(i)) continue;
        next[at(unit(i))].push_back(unit(reader));
        ++waiting[at(unit(reader))];
      }
    using Entry = std::pair<std::int32_t, std::int32_t>;  // key, unit
    std::priority_queue<Entry, std::vector<Entry>, std::greater<>> ready;
    const auto push = [&](std::int32_t u) {
      ready.emplace(u < static_cast<std::int32_t>(groups_.size()) ? groups_[at(u)].members.back() : u - static_cast<std::int32_t>(groups_.size()), u);
    };
    std::vector<char> counted(units, 0);
    std::size_t expected = 0;
    for (std::int32_t i = 0; i < graph_.size(); ++i) {
      const std::int32_t u = unit(i);
      if (counted[at(u)]) continue;
      counted[at(u)] = 1;
      ++expected;
      if (waiting[at(u)] == 0) push(u);
    }
    std::size_t done = 0;
    while (!ready.empty()) {
      const std::int32_t u = ready.top().second;
      ready.pop();
      ++done;
      if (u < static_cast<std::int32_t>(groups_.size())) emit_group(groups_[at(u)]);
      else emit_node(u - static_cast<std::int32_t>(groups_.size()));
      for (const std::int32_t reader : next[at(u)])
        if (--waiting[at(reader)] == 0) push(reader);
    }
    check(done == expected, "fusion made a cycle");
    to_.set_current_scope("");
    for (const GraphOutput& output : graph_.outputs()) to_.output(output.name, map_.at(output.value));
    for (const StateUpdate& update : graph_.updates()) to_.set_update(map_.at({update.state, 0}), map_.at(update.value));
    return remove_dead(to_);
  }

 private:
  void emit_node(std::int32_t i) {
    const Node& node = graph_.node(i);
    to_.set_current_scope(node.scope);
    Value first;
    if (graph_.is_input(i)) {
      first = to_.input(graph_.input_name(i), node.outputs[0], graph_.input_kind(i), node.attrs.s("init"));
    } else {
      std::vector<Value> in;
      for (const ValueId v : node.inputs) in.push_back(v.valid() ? map_.at(v) : Value());
      first = to_.add(*node.op, in, node.attrs);
    }
    for (std::size_t k = 0; k < node.outputs.size(); ++k)
      map_[{i, static_cast<std::int32_t>(k)}] = Value(&to_, {first.id().node, static_cast<std::int32_t>(k)});
  }

  void emit_group(const FuseGroup& group) {
    BodyBuilder builder(graph_, grouper_, group);
    builder.build();
    const std::int32_t face = group.anchor >= 0 ? group.anchor : group.members.back();
    to_.set_current_scope(graph_.node(face).scope);
    std::vector<Value> operands;
    for (const ValueId v : builder.operands()) operands.push_back(map_.at(v));
    const std::vector<ValueId> results = builder.results();
    const std::vector<Value> made =
        fused(to_, operands, builder.take(),
              !group.name.empty() ? group.name : group.anchor >= 0 ? std::string(graph_.node(group.anchor).op->name) : "");
    for (std::size_t k = 0; k < results.size(); ++k) map_[results[k]] = made[k];
  }

  const Graph& graph_;
  const FuseGrouper& grouper_;
  const std::vector<FuseGroup>& groups_;
  std::vector<std::int32_t> unit_of_;
  Graph to_;
  std::map<ValueId, Value> map_;
};

}  // namespace

Graph fuse_pass(const Graph& given, PassContext& context) {
  const Graph graph = separate_columns(remove_dead(given), context.options.target);
  FuseGrouper grouper(graph, context.options.target);
  const std::vector<FuseGroup> groups = grouper.run();
  context.record.refusals = grouper.refusals();
  int counts[6] = {};   // by pattern
  for (const FuseGroup& group : groups) ++counts[static_cast<int>(group.pattern)];
  context.record.note = fmt::format("{} pointwise groups, {} epilogues, {} norms with a prologue, {} with strided operands, {} for decoding; {} edges refused",
                                    counts[static_cast<int>(FusePattern::pointwise)], counts[static_cast<int>(FusePattern::epilogue)],
                                    counts[static_cast<int>(FusePattern::norm)], counts[static_cast<int>(FusePattern::strided)],
                                    counts[static_cast<int>(FusePattern::decode)], context.record.refusals.size());
  return groups.empty() ? graph : Emitter(graph, grouper, groups).run();
}

Graph inline_fused(const Graph& graph, const std::function<bool(std::int32_t node)>& which) {
  const OpDef& fused_op = all_ops().at("fused");
  Graph out = Rewriter(graph).run([&](Rewriter& r, std::int32_t i) -> std::vector<Value> {
    const Node& node = graph.node(i);
    if (node.op != &fused_op || !which(i)) return {};
    const Graph& body = *node.attrs.graph("body");
    std::map<ValueId, Value> map;
    for (std::int32_t j = 0; j < body.size(); ++j) {
      const Node& inner = body.node(j);
      if (body.is_input(j)) {
        map[{j, 0}] = r.map(node.inputs[static_cast<std::size_t>(std::stoi(body.input_name(j)))]);
        continue;
      }
      std::vector<Value> in;
      for (const ValueId v : inner.inputs) in.push_back(v.valid() ? map.at(v) : Value());
      if (!inner.scope.empty()) r.to().set_current_scope(inner.scope);
      const Value first = r.to().add(*inner.op, in, inner.attrs);
      for (std::size_t k = 0; k < inner.outputs.size(); ++k)
        map[{j, static_cast<std::int32_t>(k)}] = Value(&r.to(), {first.id().node, static_cast<std::int32_t>(k)});
    }
    std::vector<Value> results;
    for (std::size_t k = 0; k < node.outputs.size(); ++k) results.push_back(map.at(body.find_output(fmt::format("{}", k))));
    return results;
  });
  return remove_dead(out);
}

}  // namespace rhetor
