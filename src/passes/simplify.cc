// simplify: constant folding, exact identities (simplify_rules.cc), common sub-expressions and dead code, round by round until
// nothing changes. Results keep their bits, but a folded constant is rounded once, from float64, instead of once a node.
#include <bit>
#include <span>
#include <unordered_map>

#include "base/file.h"
#include "graph/interpreter.h"
#include "graph/op.h"
#include "passes/passes.h"
#include "passes/simplify_rules.h"

namespace rhetor {
namespace {

constexpr std::int64_t kFoldLimit = 4096;      // elements of a folded result
constexpr std::int64_t kBroadcastLimit = 64;   // of a folded broadcast: a larger one is cheaper repeated than stored
constexpr int kRounds = 16;

struct Counts {
  int folded = 0, merged = 0, rewritten = 0, dead = 0;
  int changes() const { return folded + merged + rewritten + dead; }
};

void mix(std::uint64_t& hash, std::uint64_t value) { hash = (hash ^ value) * 0x9E3779B97F4A7C15ull, hash ^= hash >> 29; }

std::uint64_t hash_of(const AttrValue& value) {
  switch (kind_of(value)) {
    case AttrKind::integer: return static_cast<std::uint64_t>(std::get<std::int64_t>(value));
    case AttrKind::real: return std::bit_cast<std::uint64_t>(std::get<double>(value));
    case AttrKind::boolean: return std::get<bool>(value);
    case AttrKind::text: return hash64(std::get<std::string>(value));
    case AttrKind::integers: return hash64(std::as_bytes(std::span(std::get<std::vector<std::int64_t>>(value))));
    case AttrKind::reals: return hash64(std::as_bytes(std::span(std::get<std::vector<double>>(value))));
    case AttrKind::dtype: return static_cast<std::uint64_t>(std::get<DType>(value));
    case AttrKind::tensor: {
      const auto& tensor = std::get<Tensor>(value);
      return hash64({static_cast<const std::byte*>(tensor.raw()), tensor.bytes()}, static_cast<std::uint64_t>(tensor.dtype()));
    }
    case AttrKind::graph: return static_cast<std::uint64_t>(std::get<GraphPtr>(value)->size());
  }
  return 0;
}

class Round {
 public:
  explicit Round(Counts& counts) : counts_(counts) {}

  Graph run(const Graph& graph) {
    return Rewriter(graph).run([this](Rewriter& r, std::int32_t i) { return visit(r, i); });
  }

 private:
  std::vector<Value> visit(Rewriter& r, std::int32_t i) {
    const Node& node = r.from().node(i);
    if (r.from().is_input(i)) return {};
    const std::vector<Value> in = r.map_inputs(i);
    if (std::vector<Value> folded = fold(r.to(), node, in); !folded.empty()) {
      ++counts_.folded;
      return folded;
    }
    if (node.outputs.size() == 1) {
      if (const Value found = simpler({r.to(), *node.op, in, node.attrs, node.outputs[0]})) {
        ++counts_.rewritten;
        return {found};
      }
    }
    return merge(r, i, in);
  }

  static std::vector<Value> fold(Graph& to, const Node& node, const std::vector<Value>& in) {
    const OpKind kind = node.op->traits.kind;
    if (in.empty() || kind == OpKind::source || kind == OpKind::collective || !node.op->reference) return {};
    const std::int64_t limit = kind == OpKind::broadcast ? kBroadcastLimit : kFoldLimit;
    for (const Type& type : node.outputs)
      if (type.elements() > limit) return {};
    std::vector<Tensor> operands;
    for (const Value& v : in) {
      if (v && !to.is_constant(v.id().node)) return {};
      operands.push_back(v ? to.node(v.id()).attrs.tensor("value") : Tensor());
    }
    const std::vector<Tensor> results = evaluate_op(*node.op, operands, node.attrs, RefPrecision::f64);
    std::vector<Value> out;
    for (std::size_t k = 0; k < results.size(); ++k)
      out.push_back(to.constant(results[k].dtype() == node.outputs[k].dtype ? results[k] : results[k].cast(node.outputs[k].dtype)));
    return out;
  }

  // The equal node made before, or a new one.
  std::vector<Value> merge(Rewriter& r, std::int32_t i, const std::vector<Value>& in) {
    const Node& node = r.from().node(i);
    if (!node.op->traits.deterministic || node.op->traits.kind == OpKind::collective) return {};
    std::vector<ValueId> ids;
    for (const Value& v : in) ids.push_back(v ? v.id() : ValueId{});
    if (node.op->traits.commutative && ids.size() == 2 && ids[1] < ids[0]) std::swap(ids[0], ids[1]);
    std::uint64_t hash = std::bit_cast<std::uintptr_t>(node.op);
    for (const ValueId id : ids) mix(hash, (static_cast<std::uint64_t>(id.node) << 8) + static_cast<std::uint64_t>(id.output));
    for (const auto& [name, value] : node.attrs) mix(hash, hash_of(value));
    auto& bucket = seen_[hash];
    for (const auto& [other, key] : bucket) {
      const Node& same = r.to().node(other);
      if (same.op != node.op || key != ids || !(same.attrs == node.attrs)) continue;
      ++counts_.merged;
      std::vector<Value> out;
      for (std::size_t k = 0; k < node.outputs.size(); ++k) out.emplace_back(&r.to(), ValueId{other, static_cast<std::int32_t>(k)});
      return out;
    }
    std::vector<Value> out = r.copy(i);
    bucket.emplace_back(out[0].id().node, std::move(ids));
    return out;
  }

  Counts& counts_;
  std::unordered_map<std::uint64_t, std::vector<std::pair<std::int32_t, std::vector<ValueId>>>> seen_;
};

}  // namespace

Graph simplify_pass(const Graph& graph, PassContext& context) {
  Counts total;
  Graph current = remove_dead(graph);
  total.dead = graph.size() - current.size();
  for (int round = 0; round < kRounds; ++round) {
    Counts counts;
    Graph next = Round(counts).run(current);
    const int before = next.size();
    current = remove_dead(next);
    total.dead += before - current.size();
    total.folded += counts.folded;
    total.merged += counts.merged;
    total.rewritten += counts.rewritten;
    if (counts.changes() == 0) break;
  }
  context.record.note = fmt::format("folded {}, merged {}, rewrote {}, removed {}", total.folded, total.merged, total.rewritten, total.dead);
  return current;
}

}  // namespace rhetor
