// remat: recomputation. While more bytes are live at the peak than the budget allows, the buffer that saves most bytes a unit of
// work there is given up after its early readers and computed again, from what is alive anyway, just before its late ones. Only
// cheap work is repeated (pointwise, broadcast, layout, norms, softmax), never a contraction, and the same op on the same operands
// gives the same bits.
//
// After Chen et al., "Training deep nets with sublinear memory cost" (2016), with the choice made by bytes and cost instead of by layer.
#include <algorithm>
#include <map>
#include <set>

#include "graph/op.h"
#include "passes/index.h"
#include "passes/liveness.h"
#include "passes/passes.h"

namespace rhetor {
namespace {

constexpr int kMaxRounds = 2000;
constexpr int kMaxStall = 40;         // rounds without a lower peak
constexpr int kMaxCopies = 2;         // of one node
constexpr int kMaxDepth = 12;         // length of a recomputed chain
constexpr std::uint64_t kSmall = 8;   // an operand of less than 1/8 of the bytes (row statistics) is kept, not recomputed

bool cheap(const Node& node) {
  switch (node.op->traits.kind) {
    case OpKind::pointwise: case OpKind::broadcast: case OpKind::layout: case OpKind::reduction: return node.op->traits.deterministic;
    default: return false;
  }
}

double work(const Flow& flow, const Flow::Step& step) {
  std::vector<Type> in;
  for (const ValueId v : step.in)
    in.push_back(v.valid() ? flow.steps[at(v.node)].node->outputs[at(v.output)] : Type{DType::boolean, Shape{}});
  const Cost cost = step.node->op->cost(in, step.node->outputs, step.node->attrs);
  return cost.flops + cost.bytes;
}

// One way to lower the live bytes at the peak.
struct Eviction {
  std::set<std::int32_t> copies;       // steps to run again
  std::vector<ValueId> late;           // values whose readers after the peak get the copy
  std::int32_t before = 0;             // the first of these readers
  std::int64_t saved = 0;
  double cost = 0;
};

class Evictor {
 public:
  Evictor(const Flow& flow, const Buffers& buffers) : flow_(flow), buffers_(buffers), last_(last_uses(flow)), peak_(buffers.peak_step) {
    for (const Flow::Step& step : flow.steps) ++runs_[step.origin];
    members_.resize(buffers.list.size());
    uses_.resize(flow.steps.size());
    for (std::size_t i = 0; i < flow.steps.size(); ++i) {
      uses_[i].resize(flow.steps[i].node->outputs.size());
      for (std::size_t k = 0; k < uses_[i].size(); ++k)
        members_[at(buffers.of[i][k])].push_back({static_cast<std::int32_t>(i), static_cast<std::int32_t>(k)});
      for (const ValueId v : flow.steps[i].in)
        if (v.valid()) uses_[at(v.node)][at(v.output)].push_back(static_cast<std::int32_t>(i));
    }
  }

  // The buffer across the peak that saves most a unit of work; no copies if none does.
  Eviction best() {
    Eviction chosen;
    for (std::size_t b = 0; b < buffers_.list.size(); ++b) {
      const Buffer& buffer = buffers_.list[b];
      if (buffer.home != Buffer::Home::arena || buffer.output >= 0 || buffer.born >= peak_ || buffer.dies <= peak_) continue;
      Eviction candidate = evict(static_cast<int>(b));
      if (candidate.saved <= 0) continue;
      if (chosen.copies.empty() || static_cast<double>(candidate.saved) * chosen.cost > static_cast<double>(chosen.saved) * candidate.cost)
        chosen = std::move(candidate);
    }
    return chosen;
  }

 private:
  Eviction evict(int b) {
    Eviction e;
    const auto end = static_cast<std::int32_t>(flow_.steps.size());
    std::int32_t early = -1;
    e.before = end;
    for (const ValueId v : members_[at(b)]) {
      if (v.node > peak_) continue;  // an alias made later reads the member it is made of
      if (last_[at(v.node)][at(v.output)] == end) return {};
      bool late = false;
      for (const std::int32_t reader : uses_[at(v.node)][at(v.output)]) {
        if (reader > peak_) {
          late = true;
          e.before = std::min(e.before, reader);
        } else {
          early = std::max(early, reader);
        }
      }
      if (late) e.late.push_back(v);
      early = std::max(early, v.node);
    }
    if (early >= peak_ || e.late.empty()) return {};
    const std::uint64_t bytes = aligned(buffers_.list[at(b)].bytes);
    e.saved = static_cast<std::int64_t>(bytes);
    std::set<int> extended;
    for (const ValueId v : e.late)
      if (!recompute(v.node, b, bytes, e, extended, 0)) return {};
    for (const std::int32_t i : e.copies) e.cost += work(flow_, flow_.steps[at(i)]);
    return e;
  }

  // Adds step i and what it needs again to the eviction; false if that is not cheap.
  bool recompute(std::int32_t i, int evicted, std::uint64_t bytes, Eviction& e, std::set<int>& extended, int depth) {
    if (e.copies.contains(i)) return true;
    const Flow::Step& step = flow_.steps[at(i)];
    if (depth > kMaxDepth || !cheap(*step.node) || runs_[step.origin] > kMaxCopies) return false;
    e.copies.insert(i);
    for (const ValueId v : step.in) {
      if (!v.valid()) continue;
      const int b = buffers_.of[at(v.node)][at(v.output)];
      const Buffer& buffer = buffers_.list[at(b)];
      if (b == evicted) {
        if (!recompute(v.node, evicted, bytes, e, extended, depth + 1)) return false;
        continue;
      }
      if (buffer.home != Buffer::Home::arena || buffer.output >= 0) continue;
      if (last_[at(v.node)][at(v.output)] >= e.before || extended.contains(b)) continue;
      const bool small = aligned(buffer.bytes) * kSmall <= bytes;
      if (!small && buffer.dies < peak_) {
        // Not there any more at the peak: compute it again too, or keep it after all.
        Eviction attempt = e;
        std::set<int> attempt_extended = extended;
        if (recompute(v.node, evicted, bytes, attempt, attempt_extended, depth + 1)) {
          e = std::move(attempt);
          extended = std::move(attempt_extended);
          continue;
        }
      }
      if (buffer.dies < peak_) e.saved -= static_cast<std::int64_t>(aligned(buffer.bytes));
      extended.insert(b);
      if (e.saved <= 0) return false;
    }
    return true;
  }

  const Flow& flow_;
  const Buffers& buffers_;
  std::vector<std::vector<std::int32_t>> last_;
  std::int32_t peak_;
  std::map<std::int32_t, int> runs_;                              // by node of the graph
  std::vector<std::vector<ValueId>> members_;                     // by buffer
  std::vector<std::vector<std::vector<std::int32_t>>> uses_;      // readers by [step][output]
};

// The flow with the copies put in before their first reader.
Flow applied(const Flow& flow, const Eviction& e, std::int32_t peak) {
  Flow grown = flow;
  std::map<std::int32_t, std::int32_t> copy_of;
  for (const std::int32_t i : e.copies) {
    Flow::Step step = flow.steps[at(i)];
    for (ValueId& v : step.in)
      if (v.valid() && copy_of.contains(v.node)) v.node = copy_of.at(v.node);
    copy_of[i] = static_cast<std::int32_t>(grown.steps.size());
    grown.steps.push_back(std::move(step));
  }
  for (std::int32_t i = peak + 1; i < static_cast<std::int32_t>(flow.steps.size()); ++i)
    for (ValueId& v : grown.steps[at(i)].in)
      if (std::find(e.late.begin(), e.late.end(), v) != e.late.end()) v.node = copy_of.at(v.node);
  std::vector<std::int32_t> order;
  for (std::int32_t i = 0; i < static_cast<std::int32_t>(flow.steps.size()); ++i) {
    if (i == e.before)
      for (const auto& [original, copy] : copy_of) order.push_back(copy);
    order.push_back(i);
  }
  return reordered(grown, order);
}

}  // namespace

Graph remat_pass(const Graph& graph, PassContext& context) {
  const std::uint64_t budget = context.options.memory_budget;
  if (budget == 0) return graph;
  Flow flow = flow_of(graph);
  flow.free_broadcasts = context.options.target.fuse_pointwise && !context.options.off.contains("fuse");
  Buffers buffers = find_buffers(flow);
  const std::uint64_t before = buffers.peak;
  if (before <= budget) {
    context.record.note = fmt::format("peak {} bytes fits the budget of {}", before, budget);
    return graph;
  }
  Flow best = flow;
  std::uint64_t best_peak = before;
  double extra = 0, best_extra = 0;
  for (int round = 0, stall = 0; round < kMaxRounds && stall < kMaxStall && buffers.peak > budget; ++round, ++stall) {
    const Eviction e = Evictor(flow, buffers).best();
    if (e.copies.empty()) break;
    extra += e.cost;
    flow = applied(flow, e, buffers.peak_step);
    buffers = find_buffers(flow);
    if (buffers.peak < best_peak) {
      best = flow;
      best_peak = buffers.peak;
      best_extra = extra;
      stall = 0;
    }
  }
  if (best_peak > budget)
    context.record.refusals.push_back({"remat", fmt::format("budget of {} bytes", budget),
                                       fmt::format("the peak is {} bytes after recomputing everything cheap; a smaller batch needs less", best_peak)});
  double total = 0;
  const Flow original = flow_of(graph);
  for (const Flow::Step& step : original.steps) total += work(original, step);
  context.record.note = fmt::format("peak {} -> {} bytes (budget {}), {} nodes recomputed, {:.1f} % more work", before, best_peak, budget,
                                    best.steps.size() - at(graph.size()), total > 0 ? 100 * best_extra / total : 0.0);
  return best_peak < before ? to_graph(best) : graph;
}

}  // namespace rhetor
