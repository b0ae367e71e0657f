#include "passes/fuse_groups.h"

#include <algorithm>
#include <set>

#include "graph/op.h"
#include "passes/fuse_decode.h"
#include "passes/index.h"

namespace rhetor {
namespace {

// A body beyond this keeps too many tiles alive for the first-level cache.
constexpr std::size_t kMaxMembers = 48, kMaxOperands = 16, kMaxResults = 8;

std::vector<std::int32_t> united(const std::vector<std::int32_t>& a, const std::vector<std::int32_t>& b) {
  std::vector<std::int32_t> out;
  std::set_union(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(out));
  return out;
}
bool contains(const std::vector<std::int32_t>& sorted, std::int32_t i) { return std::binary_search(sorted.begin(), sorted.end(), i); }

}  // namespace

bool cuts_columns(const Node& node) {
  if (node.op->name != "slice" || node.attrs.i("step") != 1) return false;
  const std::int64_t axis = node.attrs.i("axis"), rank = node.outputs[0].shape.rank();
  return axis == rank - 1 || axis == -1;
}

FuseGrouper::FuseGrouper(const Graph& graph, const Target& target) : graph_(graph), target_(target) {
  readers_.resize(at(graph.size()));
  for (std::int32_t i = 0; i < graph.size(); ++i)
    for (const ValueId v : graph.node(i).inputs)
      if (v.valid() && (readers_[at(v.node)].empty() || readers_[at(v.node)].back() != i)) readers_[at(v.node)].push_back(i);
  const auto leaves = [&](ValueId v) {
    auto& readers = readers_[at(v.node)];
    if (readers.empty() || readers.front() != -1) readers.insert(readers.begin(), -1);
  };
  for (const GraphOutput& output : graph.outputs()) leaves(output.value);
  for (const StateUpdate& update : graph.updates()) leaves(update.value);
  group_of_.assign(at(graph.size()), -1);
  find_post_dominators();
}

// The immediate post-dominator of a node is the first node that everything computed from it flows through (Cooper, Harvey and
// Kennedy, "A simple, fast dominance algorithm"); on a DAG one backward walk suffices.
void FuseGrouper::find_post_dominators() {
  post_dominator_.assign(at(graph_.size()), -1);
  depth_.assign(at(graph_.size()), 0);
  for (std::int32_t i = graph_.size() - 1; i >= 0; --i) {
    std::int32_t meet = -1;
    bool first = true;
    for (const std::int32_t reader : readers(i)) {
      std::int32_t a = reader;
      if (first) meet = a;
      first = false;
      while (a != meet && a >= 0 && meet >= 0) {
        if (depth_[at(a)] >= depth_[at(meet)]) a = post_dominator_[at(a)];
        else meet = post_dominator_[at(meet)];
      }
      if (a < 0 || meet < 0) meet = -1;
      if (meet < 0) break;
    }
    post_dominator_[at(i)] = meet;
    depth_[at(i)] = meet < 0 ? 1 : depth_[at(meet)] + 1;
  }
}

bool FuseGrouper::pointwise(std::int32_t i) const {
  const Node& node = graph_.node(i);
  return node.op->traits.kind == OpKind::pointwise && node.outputs.size() == 1;
}

// By structure: result 0 has operand 0's shape, the other operands are [cols] parameters, the other results are one number a row.
bool FuseGrouper::row_norm(std::int32_t i) const {
  const Node& node = graph_.node(i);
  if (node.op->traits.kind != OpKind::reduction || node.inputs.size() < 2 || !node.inputs[0].valid()) return false;
  const Shape& x = graph_.type(node.inputs[0]).shape;
  if (x.rank() < 1 || node.outputs[0].shape != x) return false;
  for (std::size_t k = 1; k < node.inputs.size(); ++k) {
    if (!node.inputs[k].valid()) continue;
    const Shape& parameter = graph_.type(node.inputs[k]).shape;
    if (parameter.rank() != 1 || parameter[0] != x.last()) return false;
  }
  for (std::size_t k = 1; k < node.outputs.size(); ++k)
    if (node.outputs[k].shape.elements() * x.last() != x.elements()) return false;
  return true;
}

bool FuseGrouper::is_free(std::int32_t i) const { return group_of_[at(i)] < 0; }

bool FuseGrouper::repeatable(std::int32_t i, const Shape& wanted) const {
  const Node& node = graph_.node(i);
  if (node.op == &constant_op()) return node.outputs[0].elements() == 1;
  return node.op->traits.kind == OpKind::broadcast && node.outputs[0].shape == wanted && is_free(i);
}

// Would contracting `members` make a cycle: does a path leave the group and come back, other groups taken as one node each?
bool FuseGrouper::would_cycle(const std::vector<std::int32_t>& members) const {
  // List order is topological, so nothing behind the group leads back into it, unless a group reaches over its end.
  std::int32_t last = members.back();
  for (bool moved = true; moved;) {
    moved = false;
    for (const FuseGroup& group : groups_) {
      if (group.members.empty() || group.members.front() > last || group.members.back() <= last) continue;
      last = group.members.back();
      moved = true;
    }
  }
  stamp_.resize(at(graph_.size()), 0);
  ++stamp_now_;
  for (const std::int32_t i : members) stamp_[at(i)] = -stamp_now_;
  std::vector<std::int32_t> stack;
  const auto leave = [&](std::int32_t i) {  // true: a reader is inside
    for (const std::int32_t reader : readers(i)) {
      if (reader < 0) continue;
      if (stamp_[at(reader)] == -stamp_now_) return true;
      if (reader > last || stamp_[at(reader)] == stamp_now_) continue;
      stamp_[at(reader)] = stamp_now_;
      stack.push_back(reader);
    }
    return false;
  };
  for (const std::int32_t i : members)
    for (const std::int32_t reader : readers(i)) {
      if (reader < 0 || reader > last || stamp_[at(reader)] == -stamp_now_ || stamp_[at(reader)] == stamp_now_) continue;
      stamp_[at(reader)] = stamp_now_;
      stack.push_back(reader);
    }
  while (!stack.empty()) {
    const std::int32_t i = stack.back();
    stack.pop_back();
    const int g = group_of_[at(i)];
    if (g < 0) {
      if (leave(i)) return true;
      continue;
    }
    for (const std::int32_t j : groups_[at(g)].members) {
      if (stamp_[at(j)] != -stamp_now_) stamp_[at(j)] = stamp_now_;
      if (leave(j)) return true;
    }
  }
  return false;
}

std::string FuseGrouper::over_limits(const std::vector<std::int32_t>& members) const {
  if (members.size() > kMaxMembers) return fmt::format("the group would have {} nodes, more than {}", members.size(), kMaxMembers);
  std::set<ValueId> operands;
  std::size_t results = 0;
  for (const std::int32_t i : members) {
    for (const ValueId v : graph_.node(i).inputs)
      if (v.valid() && !contains(members, v.node) && !graph_.is_constant(v.node)) operands.insert(v);
    for (const std::int32_t reader : readers(i))
      if (!contains(members, reader)) {
        ++results;
        break;
      }
  }
  if (operands.size() > kMaxOperands) return fmt::format("the group would read {} operands, more than {}", operands.size(), kMaxOperands);
  if (results > kMaxResults) return fmt::format("the group would have {} results, more than {}", results, kMaxResults);
  return "";
}

int FuseGrouper::make_group(FusePattern pattern, std::int32_t anchor, std::vector<std::int32_t> members) {
  const int id = static_cast<int>(groups_.size());
  for (const std::int32_t i : members) group_of_[at(i)] = id;
  groups_.push_back({.pattern = pattern, .anchor = anchor, .members = std::move(members)});
  return id;
}

// From the contraction to its post-dominator, and on from there, as long as everything on the way is pointwise of the same shape:
// then one value leaves the group, so it can run where its last node stood.
void FuseGrouper::grow_epilogue(std::int32_t anchor) {
  const Node& node = graph_.node(anchor);
  if (node.outputs.size() != 1) {
    for (const std::int32_t reader : readers(anchor))
      reasons_[{anchor, reader}] = fmt::format("{} has {} results", label(anchor), node.outputs.size());
    return;
  }
  std::vector<std::int32_t> members = united(float8_sources(anchor), {anchor});
  std::int32_t exit = anchor;
  while (true) {
    const std::int32_t next = post_dominator_[at(exit)];
    if (next < 0 || readers(exit).empty()) break;
    std::vector<std::int32_t> region, stack(readers(exit).begin(), readers(exit).end());
    std::set<std::int32_t> seen;
    std::string reason;
    while (!stack.empty() && reason.empty()) {
      const std::int32_t i = stack.back();
      stack.pop_back();
      if (!seen.insert(i).second) continue;
      if (!pointwise(i)) reason = fmt::format("{} on the way to %{} is not pointwise", label(i), next);
      else if (shape(i) != node.outputs[0].shape) reason = fmt::format("{} has another shape", label(i));
      else if (!is_free(i)) reason = fmt::format("{} is in another group already", label(i));
      else if (members.size() + region.size() > kMaxMembers) reason = "the group would be too large";
      region.push_back(i);
      if (i != next) stack.insert(stack.end(), readers(i).begin(), readers(i).end());
    }
    std::sort(region.begin(), region.end());
    std::vector<std::int32_t> grown = united(members, region);
    if (reason.empty()) reason = over_limits(grown);
    if (!reason.empty()) {
      for (const std::int32_t reader : readers(exit)) reasons_[{exit, reader}] = reason;
      break;
    }
    members = std::move(grown);
    exit = next;
  }
  if (members.size() > 1) make_group(FusePattern::epilogue, anchor, std::move(members));
}

// What dequantises both operands of a product for it alone, and moves them; none if it is no product of FP8 tensors.
std::vector<std::int32_t> FuseGrouper::float8_sources(std::int32_t product) const {
  const Node& node = graph_.node(product);
  std::vector<std::int32_t> sources;
  if (!target_.float8 || node.op->name != "matmul") return {};
  for (ValueId v : node.inputs) {
    for (std::int32_t reader = product;;) {
      const Node& from = graph_.node(v);
      const bool dequantises = from.op->name == "dequantize_f8";
      const bool taken = dequantises || from.op->name == "reshape" || from.op->name == "transpose";
      if (!taken || !is_free(v.node) || readers(v.node) != std::vector<std::int32_t>{reader}) return {};
      sources = united(sources, {v.node});
      if (dequantises) break;
      reader = v.node;
      v = from.inputs[0];
    }
  }
  return sources;
}

// A multiplication of the norm's result by one number and its cast to FP8, which the norm's kernel stores beside that result.
std::vector<std::int32_t> FuseGrouper::float8_tail(std::int32_t norm) const {
  if (!target_.float8) return {};
  for (const std::int32_t product : readers(norm)) {
    if (product < 0 || graph_.node(product).op->name != "mul" || readers(product).size() != 1 || !is_free(product)) continue;
    const std::int32_t narrow = readers(product)[0];
    if (narrow < 0 || graph_.node(narrow).op->name != "cast" || graph_.node(narrow).outputs[0].dtype != DType::f8e4m3 || !is_free(narrow))
      continue;
    const std::vector<ValueId>& factors = graph_.node(product).inputs;
    const ValueId number = factors[factors[0] == ValueId{norm, 0} ? 1 : 0];
    const Node& repeat = graph_.node(number);
    if (repeat.op->name == "broadcast_to" && graph_.type(repeat.inputs[0]).shape.rank() == 0 && repeatable(number.node, shape(norm)))
      return {product, narrow};
  }
  return {};
}

void FuseGrouper::grow_norm(std::int32_t norm) {
  const std::int32_t sum = graph_.node(norm).inputs[0].node;
  const std::vector<std::int32_t> tail = float8_tail(norm);
  const bool prologue = pointwise(sum) && shape(sum) == shape(norm) && is_free(sum);
  if (!prologue && tail.empty()) return;
  std::vector<std::int32_t> members = united(prologue ? std::vector<std::int32_t>{sum, norm} : std::vector<std::int32_t>{norm}, tail);
  // Upwards: producers that nothing else reads come along; one that is read elsewhere would be one more result.
  for (std::size_t grown = 0; grown != members.size();) {
    grown = members.size();
    for (const std::int32_t i : std::vector<std::int32_t>(members)) {
      if (i == norm || contains(tail, i)) continue;
      for (const ValueId v : graph_.node(i).inputs) {
        if (!v.valid() || contains(members, v.node) || !pointwise(v.node) || shape(v.node) != shape(norm) || !is_free(v.node)) continue;
        const auto& readers_of = readers(v.node);
        const bool inside = std::all_of(readers_of.begin(), readers_of.end(), [&](std::int32_t r) { return contains(members, r); });
        const std::vector<std::int32_t> more = united(members, {v.node});
        if (inside && over_limits(more).empty()) members = more;
      }
    }
  }
  if (would_cycle(members)) {
    reasons_[{sum, norm}] = "a parameter of the norm depends on its operand";
    return;
  }
  make_group(FusePattern::norm, norm, std::move(members));
}

// The concat by columns that alone reads an op's results, and the reshapes on the way: an op that reads columns writes them too.
std::vector<std::int32_t> FuseGrouper::joined_columns(std::int32_t anchor) const {
  std::vector<std::int32_t> tail;
  std::int32_t join = -1;
  for (std::int32_t i : readers(anchor)) {
    for (; i >= 0 && is_free(i) && graph_.node(i).op->traits.alias && readers(i).size() == 1; i = readers(i)[0]) tail = united(tail, {i});
    if (i < 0 || !is_free(i) || graph_.node(i).op->name != "concat" || (join >= 0 && i != join)) return {};
    join = i;
  }
  if (join < 0) return {};
  const std::int64_t axis = graph_.node(join).attrs.i("axis");
  if (axis != -1 && axis != shape(join).rank() - 1) return {};
  for (const ValueId v : graph_.node(join).inputs)
    if (v.node != anchor && !contains(tail, v.node)) return {};
  return united(tail, {join});
}

// Upwards: reshapes and slices of the last dim that nothing else reads. Downwards: the concat of the results.
void FuseGrouper::grow_strided(std::int32_t anchor) {
  std::vector<std::int32_t> members{anchor};
  bool slices = false;
  for (ValueId v : graph_.node(anchor).inputs) {
    std::vector<std::int32_t> chain;
    while (v.valid()) {
      const Node& node = graph_.node(v);
      const bool moves = node.op->traits.kind == OpKind::layout && node.inputs.size() == 1 && node.outputs.size() == 1;
      const auto& read_by = readers(v.node);
      if (!moves || !is_free(v.node) || read_by.size() != 1 || (read_by[0] != anchor && !contains(chain, read_by[0]))) break;
      const bool columns = cuts_columns(node);
      if (!node.op->traits.alias && !columns) break;
      chain.insert(chain.begin(), v.node);
      v = node.inputs[0];
      if (!columns) continue;
      slices = true;
      members = united(members, chain);
      break;
    }
  }
  const std::vector<std::int32_t> joined = united(members, joined_columns(anchor));
  if (joined.size() > members.size() && !would_cycle(joined)) members = joined;
  else if (!slices || would_cycle(members)) return;
  make_group(FusePattern::strided, anchor, std::move(members));
}

void FuseGrouper::merge_pointwise(std::int32_t i) {
  if (!pointwise(i)) return;
  if (is_free(i)) make_group(FusePattern::pointwise, -1, {i});
  if (groups_[at(group_of_[at(i)])].pattern != FusePattern::pointwise) return;
  for (const ValueId v : graph_.node(i).inputs) {
    if (!v.valid() || is_free(v.node) || shape(v.node) != shape(i)) continue;
    const int from = group_of_[at(v.node)], to = group_of_[at(i)];
    if (from == to || groups_[at(from)].pattern != FusePattern::pointwise) continue;
    std::vector<std::int32_t> members = united(groups_[at(from)].members, groups_[at(to)].members);
    std::string reason = over_limits(members);
    if (reason.empty() && would_cycle(members)) reason = "a path through other kernels leads from the one to the other";
    if (!reason.empty()) {
      reasons_[{v.node, i}] = reason;
      continue;
    }
    for (const std::int32_t m : groups_[at(from)].members) group_of_[at(m)] = to;
    groups_[at(from)].members.clear();
    groups_[at(to)].members = std::move(members);
  }
}

std::vector<FuseGroup> FuseGrouper::run() {
  if (target_.few_rows > 0)
    for (FuseGroup& group : decode_groups(graph_, target_, *this))
      if (!would_cycle(group.members)) groups_[at(make_group(group.pattern, group.anchor, group.members))].name = group.name;
  // Later contractions choose first: the operands of an epilogue (a residual, the other half of a gate) have to be there before it.
  for (std::int32_t i = 0; i < graph_.size(); ++i)
    if (target_.strided.contains(graph_.node(i).op->name) && is_free(i)) grow_strided(i);
  if (target_.fuse_epilogue)
    for (std::int32_t i = graph_.size() - 1; i >= 0; --i)
      if (graph_.node(i).op->traits.kind == OpKind::contraction && is_free(i)) grow_epilogue(i);
  if (target_.fuse_norm)
    for (std::int32_t i = 0; i < graph_.size(); ++i)
      if (row_norm(i)) grow_norm(i);
  if (target_.fuse_pointwise)
    for (std::int32_t i = 0; i < graph_.size(); ++i) merge_pointwise(i);

  std::vector<FuseGroup> out;
  for (const FuseGroup& group : groups_) {
    if (group.members.empty()) continue;
    bool worth = group.members.size() > 1;
    // A single op gains if a broadcast operand need not be written out.
    for (const std::int32_t i : group.members)
      for (const ValueId v : graph_.node(i).inputs)
        worth = worth || (v.valid() && graph_.node(v).op->traits.kind == OpKind::broadcast && repeatable(v.node, shape(i)));
    if (worth) out.push_back(group);
  }
  return out;
}

std::string FuseGrouper::label(std::int32_t i) const { return fmt::format("{} %{}", graph_.node(i).op->name, i); }

std::string FuseGrouper::why_not(std::int32_t from, std::int32_t to) const {
  const OpKind producer = graph_.node(from).op->traits.kind, consumer = graph_.node(to).op->traits.kind;
  if (consumer == OpKind::contraction) return "the consumer is a contraction, which takes no prologue";
  if (consumer == OpKind::reduction && !row_norm(to)) return "the consumer is a reduction";
  if (producer == OpKind::reduction) return "the producer is a reduction, whose kernel takes no epilogue";
  if (consumer == OpKind::reduction && producer == OpKind::contraction) return "the consumer is a reduction";
  if (const auto found = reasons_.find({from, to}); found != reasons_.end()) return found->second;
  if (shape(from) != shape(to)) return fmt::format("the shapes differ: {} and {}", shape(from).str(), shape(to).str());
  if (consumer == OpKind::reduction && !target_.fuse_norm) return fmt::format("no kernel for norms with a prologue on {}", target_.device);
  if (producer == OpKind::contraction && !target_.fuse_epilogue) return fmt::format("no kernel for epilogues on {}", target_.device);
  if (producer == OpKind::pointwise && consumer == OpKind::pointwise && !target_.fuse_pointwise && is_free(from) && is_free(to))
    return fmt::format("no kernel for pointwise groups on {}", target_.device);
  const auto outside = [&](std::int32_t i) {
    const int g = group_of_[at(i)];
    if (g < 0) return std::string();
    const FuseGroup& group = groups_[at(g)];
    if (group.pattern == FusePattern::epilogue) return fmt::format("{} is in the epilogue of {} already", label(i), label(group.anchor));
    if (group.pattern == FusePattern::norm) return fmt::format("{} is fused into {} already", label(i), label(group.anchor));
    return std::string();
  };
  if (producer == OpKind::contraction) {
    if (std::string reason = outside(to); !reason.empty()) return reason;
    return fmt::format("the result of {} is read by {} kernels, so it has to be stored", label(from), readers(from).size());
  }
  for (const std::int32_t i : {from, to})
    if (std::string reason = outside(i); !reason.empty()) return reason;
  return "no pattern joins them";
}

std::vector<Refusal> FuseGrouper::refusals() const {
  std::vector<Refusal> out;
  for (std::int32_t to = 0; to < graph_.size(); ++to) {
    const OpKind consumer = graph_.node(to).op->traits.kind;
    std::set<std::int32_t> seen;
    for (const ValueId v : graph_.node(to).inputs) {
      if (!v.valid() || !seen.insert(v.node).second) continue;
      const OpKind producer = graph_.node(v).op->traits.kind;
      const bool fusible = producer == OpKind::pointwise || producer == OpKind::contraction ||
                           (producer == OpKind::reduction && consumer == OpKind::pointwise);
      const bool fuses = consumer == OpKind::pointwise || consumer == OpKind::reduction ||
                         (consumer == OpKind::contraction && producer == OpKind::pointwise);
      if (!fusible || !fuses) continue;
      if (group_of_[at(to)] >= 0 && group_of_[at(to)] == group_of_[at(v.node)]) continue;
      out.push_back({"fuse", fmt::format("{} -> {}", label(v.node), label(to)), why_not(v.node, to)});
    }
  }
  return out;
}

}  // namespace rhetor
