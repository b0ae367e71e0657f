#include "passes/liveness.h"

#include <algorithm>

#include "graph/op.h"
#include "passes/fuse_decode.h"
#include "passes/index.h"

namespace rhetor {
namespace {

// One walk over the steps in order, giving each value a buffer.
class BufferFinder {
 public:
  BufferFinder(const Flow& flow, bool in_place) : flow_(flow), in_place_(in_place), last_(last_uses(flow)) {
    end_ = static_cast<std::int32_t>(flow.steps.size());
    updated_.assign(flow.steps.size(), 0);
    for (const StateUpdate& update : flow.updates) updated_[at(update.state)] = 1;
  }

  Buffers run() {
    out_.of.resize(flow_.steps.size());
    for (std::int32_t i = 0; i < end_; ++i) visit(i);
    claim_outputs();
    claim_states();
    return std::move(out_);
  }

 private:
  const Flow::Step& step(std::int32_t i) const { return flow_.steps[at(i)]; }
  int buffer_of(ValueId v) const { return out_.of[at(v.node)][at(v.output)]; }
  Buffer& buffer(ValueId v) { return out_.list[at(buffer_of(v))]; }

  void add_member(int b, std::int32_t i, int k) {
    out_.of[at(i)][at(k)] = b;
    Buffer& buffer = out_.list[at(b)];
    buffer.dies = std::max({buffer.dies, i, last_[at(i)][at(k)]});
  }

  void visit(std::int32_t i) {
    const Node& node = *step(i).node;
    const std::size_t results = node.outputs.size();
    out_.of[at(i)].assign(results, -1);
    if (node.op->traits.alias && !step(i).in.empty()) add_member(buffer_of(step(i).in[0]), i, 0);
    if (in_place_) {
      for (const auto& [result, operand] : in_place_pairs(node))
        if (out_.of[at(i)][at(result)] < 0 && may_overwrite(i, result, operand)) {
          add_member(buffer_of(step(i).in[at(operand)]), i, result);
          ++out_.in_place;
        }
    }
    for (std::size_t k = 0; k < results; ++k) {
      if (out_.of[at(i)][k] >= 0) continue;
      Buffer fresh{.root = {i, static_cast<std::int32_t>(k)}, .bytes = node.outputs[k].bytes(), .born = i, .dies = i};
      if (node.op == &input_op()) {
        const InputKind kind = flow_.graph->input_kind(step(i).origin);
        fresh.home = kind == InputKind::param   ? Buffer::Home::param
                     : kind == InputKind::state ? Buffer::Home::state
                                                : Buffer::Home::input;
        if (kind == InputKind::state) fresh.state = i;
      } else if (node.op == &constant_op()) {
        fresh.home = Buffer::Home::constant;
      } else if (flow_.free_broadcasts && node.op->traits.kind == OpKind::broadcast) {
        fresh.bytes = 0;
      }
      out_.list.push_back(fresh);
      add_member(static_cast<int>(out_.list.size()) - 1, i, static_cast<int>(k));
    }
  }

  // May result `result` of step i overwrite its operand? The buffer must end its life here, be ours to overwrite (or a state that
  // is going to be overwritten anyway), have the same bytes, and be read by no other operand in another order.
  bool may_overwrite(std::int32_t i, int result, int operand) {
    const Flow::Step& s = step(i);
    if (operand >= static_cast<int>(s.in.size()) || !s.in[at(operand)].valid()) return false;
    const ValueId v = s.in[at(operand)];
    const Buffer& b = buffer(v);
    if (b.home != Buffer::Home::arena && !(b.home == Buffer::Home::state && updated_[at(b.state)])) return false;
    if (b.dies > i || b.bytes != s.node->outputs[at(result)].bytes()) return false;
    for (const int taken : out_.of[at(i)])
      if (taken == buffer_of(v)) return false;
    for (std::size_t k = 0; k < s.in.size(); ++k) {
      if (static_cast<int>(k) == operand || !s.in[k].valid() || buffer_of(s.in[k]) != buffer_of(v)) continue;
      // The same elements at the same places are safe for element-wise work only.
      const bool same_view = flow_.steps[at(s.in[k].node)].node->outputs[at(s.in[k].output)] == s.node->outputs[at(result)];
      if (s.node->op->traits.kind != OpKind::pointwise || !same_view) return false;
    }
    return true;
  }

  void claim_outputs() {
    for (std::size_t k = 0; k < flow_.outputs.size(); ++k) {
      Buffer& b = buffer(flow_.outputs[k]);
      if (b.home == Buffer::Home::arena && b.output < 0) b.output = static_cast<std::int32_t>(k);
    }
  }

  // An update computed apart moves into the state's own memory if the old value is dead before the first write.
  void claim_states() {
    for (const StateUpdate& update : flow_.updates) {
      const Buffer& old = buffer({update.state, 0});
      Buffer& next = buffer(update.value);
      if (!in_place_ || next.home != Buffer::Home::arena || next.output >= 0) continue;
      if (old.dies >= next.born || old.bytes != next.bytes) continue;
      next.home = Buffer::Home::state;
      next.state = update.state;
    }
  }

  const Flow& flow_;
  bool in_place_;
  std::vector<std::vector<std::int32_t>> last_;
  std::int32_t end_ = 0;
  std::vector<char> updated_;
  Buffers out_;
};

}  // namespace

Flow flow_of(const Graph& graph) {
  Flow flow{.graph = &graph, .steps = {}, .outputs = {}, .updates = graph.updates()};
  flow.steps.reserve(at(graph.size()));
  for (std::int32_t i = 0; i < graph.size(); ++i) flow.steps.push_back({&graph.node(i), i, graph.node(i).inputs});
  for (const GraphOutput& output : graph.outputs()) flow.outputs.push_back(output.value);
  return flow;
}

Flow reordered(const Flow& flow, const std::vector<std::int32_t>& order) {
  std::vector<std::int32_t> place(flow.steps.size(), -1);
  for (std::size_t i = 0; i < order.size(); ++i) place[at(order[i])] = static_cast<std::int32_t>(i);
  const auto moved = [&](ValueId v) { return v.valid() ? ValueId{place[at(v.node)], v.output} : v; };
  Flow out{.graph = flow.graph, .steps = {}, .outputs = {}, .updates = {}, .free_broadcasts = flow.free_broadcasts};
  out.steps.reserve(order.size());
  for (const std::int32_t i : order) {
    out.steps.push_back(flow.steps[at(i)]);
    for (ValueId& v : out.steps.back().in) v = moved(v);
  }
  for (const ValueId v : flow.outputs) out.outputs.push_back(moved(v));
  for (const StateUpdate& update : flow.updates) out.updates.push_back({place[at(update.state)], moved(update.value)});
  return out;
}

Graph to_graph(const Flow& flow) {
  const Graph& from = *flow.graph;
  Graph to;
  std::vector<std::int32_t> place(flow.steps.size(), -1);
  const auto moved = [&](ValueId v) { return v.valid() ? ValueId{place[at(v.node)], v.output} : v; };
  for (std::size_t i = 0; i < flow.steps.size(); ++i) {
    const Flow::Step& s = flow.steps[i];
    to.set_current_scope(s.node->scope);
    std::vector<ValueId> in;
    for (const ValueId v : s.in) in.push_back(moved(v));
    const Value made = from.is_input(s.origin)
                           ? to.input(from.input_name(s.origin), s.node->outputs[0], from.input_kind(s.origin), s.node->attrs.s("init"))
                           : to.add_ids(*s.node->op, std::move(in), s.node->attrs);
    place[i] = made.id().node;
  }
  to.set_current_scope("");
  for (std::size_t k = 0; k < flow.outputs.size(); ++k) to.output(from.outputs()[k].name, to.value(moved(flow.outputs[k])));
  for (const StateUpdate& update : flow.updates) to.set_update(to.value(moved({update.state, 0})), to.value(moved(update.value)));
  return to;
}

std::vector<std::vector<std::int32_t>> last_uses(const Flow& flow) {
  std::vector<std::vector<std::int32_t>> last(flow.steps.size());
  const auto read = [&](ValueId v, std::size_t when) {
    if (v.valid()) last[at(v.node)][at(v.output)] = static_cast<std::int32_t>(when);
  };
  for (std::size_t i = 0; i < flow.steps.size(); ++i) {
    last[i].assign(flow.steps[i].node->outputs.size(), -1);
    for (const ValueId v : flow.steps[i].in) read(v, i);
  }
  for (const ValueId v : flow.outputs) read(v, flow.steps.size());
  for (const StateUpdate& update : flow.updates) read(update.value, flow.steps.size());
  return last;
}

std::vector<std::pair<int, int>> in_place_pairs(const Node& node) {
  const Traits& traits = node.op->traits;
  std::vector<std::pair<int, int>> pairs = traits.inplace_pairs;
  if (traits.inplace >= 0) pairs.insert(pairs.begin(), {0, traits.inplace});
  if (node.attrs.has("body") && node.attrs.has("anchor") && node.attrs.s("anchor").empty()) {
    const Graph& body = *node.attrs.graph("body");
    for (std::size_t k = 0; k < node.outputs.size(); ++k)
      for (const std::int32_t input : body.input_nodes()) {
        const Type& type = body.node(input).outputs[0];
        if (type.shape != node.outputs[k].shape || byte_size(type.dtype) != byte_size(node.outputs[k].dtype)) continue;
        pairs.emplace_back(static_cast<int>(k), std::stoi(body.input_name(input)));
      }
  }
  if (node.attrs.has("body") && node.attrs.has("anchor") && node.attrs.s("anchor") == kStepAnchor) {   // the caches
    const Graph& body = *node.attrs.graph("body");
    for (std::size_t k = 0; k < node.outputs.size(); ++k) {
      const ValueId made = body.find_output(std::to_string(k));
      const int inplace = body.node(made).op->traits.inplace;
      if (inplace < 0 || !body.is_input(body.node(made).inputs[at(inplace)].node)) continue;
      pairs.emplace_back(static_cast<int>(k), std::stoi(body.input_name(body.node(made).inputs[at(inplace)].node)));
    }
  }
  return pairs;
}

Buffers find_buffers(const Flow& flow, bool in_place, const std::vector<std::uint64_t>& scratch) {
  Buffers out = BufferFinder(flow, in_place).run();
  const std::size_t steps = flow.steps.size();
  std::vector<std::int64_t> change(steps + 2, 0);
  for (const Buffer& b : out.list) {
    if (b.home != Buffer::Home::arena || b.output >= 0) continue;
    change[at(b.born)] += static_cast<std::int64_t>(aligned(b.bytes));
    change[std::min(at(b.dies), steps) + 1] -= static_cast<std::int64_t>(aligned(b.bytes));
  }
  out.live.assign(steps, 0);
  std::int64_t now = 0;
  for (std::size_t i = 0; i < steps; ++i) {
    now += change[i];
    out.live[i] = static_cast<std::uint64_t>(now) + (scratch.empty() ? 0 : aligned(scratch[at(flow.steps[i].origin)]));
    if (out.live[i] > out.peak) {
      out.peak = out.live[i];
      out.peak_step = static_cast<std::int32_t>(i);
    }
  }
  return out;
}

}  // namespace rhetor
