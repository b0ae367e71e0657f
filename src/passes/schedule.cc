// schedule: list scheduling for memory. Several greedy orders are made and measured with the memory plan's own liveness; the given
// order is kept unless one of them has a lower peak.
#include <algorithm>
#include <set>

#include "graph/op.h"
#include "passes/index.h"
#include "passes/liveness.h"
#include "passes/passes.h"

namespace rhetor {
namespace {

enum class Greed { frees_most, frees_then_latest, depth_first };

class ListScheduler {
 public:
  explicit ListScheduler(const Flow& flow) : flow_(flow), successors_(flow.steps.size()), degree_(flow.steps.size(), 0) {
    const auto edge = [&](std::int32_t before, std::int32_t after) {
      successors_[at(before)].push_back(after);
      ++degree_[at(after)];
    };
    readers_.resize(flow.steps.size());
    for (std::size_t i = 0; i < flow.steps.size(); ++i) {
      readers_[i].resize(flow.steps[i].node->outputs.size());
      std::set<std::int32_t> sources;
      for (const ValueId v : flow.steps[i].in) {
        if (!v.valid()) continue;
        sources.insert(v.node);
        readers_[at(v.node)][at(v.output)].push_back(static_cast<std::int32_t>(i));
      }
      for (const std::int32_t s : sources) edge(s, static_cast<std::int32_t>(i));
    }
    for (const ValueId v : flow.outputs) readers_[at(v.node)][at(v.output)].push_back(-1);
    for (const StateUpdate& u : flow.updates) readers_[at(u.value.node)][at(u.value.output)].push_back(-1);
    // Readers of a state that come before its update stay before it, so that the update remains possible in place.
    for (const StateUpdate& u : flow.updates)
      for (const std::int32_t reader : readers_[at(u.state)][0])
        if (reader >= 0 && reader < u.value.node && flow.steps[at(u.value.node)].node->op != &input_op()) edge(reader, u.value.node);
  }

  std::vector<std::int32_t> order(Greed greed) const {
    std::vector<int> degree = degree_;
    std::vector<std::vector<int>> waiting(readers_.size());
    for (std::size_t i = 0; i < readers_.size(); ++i)
      for (const auto& readers : readers_[i]) waiting[i].push_back(static_cast<int>(readers.size()));
    std::vector<std::int32_t> ready, out;
    // Inputs take no memory and keep their order at the front.
    for (std::int32_t i = 0; i < static_cast<std::int32_t>(degree.size()); ++i)
      if (flow_.steps[at(i)].node->op == &input_op()) out.push_back(i);
    std::vector<std::int32_t> last_made(degree.size(), 0);
    const auto release = [&](std::int32_t done, std::int32_t time) {
      for (const std::int32_t next : successors_[at(done)]) {
        last_made[at(next)] = time;
        if (--degree[at(next)] == 0) ready.push_back(next);
      }
    };
    for (std::int32_t i = 0; i < static_cast<std::int32_t>(degree.size()); ++i)
      if (degree[at(i)] == 0 && flow_.steps[at(i)].node->op != &input_op()) ready.push_back(i);
    const std::size_t inputs = out.size();
    for (std::size_t i = 0; i < inputs; ++i) release(out[i], 0);

    std::int32_t time = 0;
    while (!ready.empty()) {
      std::size_t best = 0;
      std::int64_t best_growth = 0;
      for (std::size_t k = 0; k < ready.size(); ++k) {
        const std::int64_t growth = growth_of(ready[k], waiting);
        if (k == 0 || better(greed, ready[k], growth, ready[best], best_growth, last_made)) {
          best = k;
          best_growth = growth;
        }
      }
      const std::int32_t chosen = ready[best];
      ready[best] = ready.back();
      ready.pop_back();
      out.push_back(chosen);
      for (const ValueId v : flow_.steps[at(chosen)].in)
        if (v.valid()) --waiting[at(v.node)][at(v.output)];
      release(chosen, ++time);
    }
    return out;
  }

 private:
  // Bytes that live on after the step, less bytes it frees.
  std::int64_t growth_of(std::int32_t i, const std::vector<std::vector<int>>& waiting) const {
    const Flow::Step& step = flow_.steps[at(i)];
    std::int64_t growth = 0;
    if (!step.node->op->traits.alias && step.node->op != &constant_op())
      for (const Type& type : step.node->outputs) growth += static_cast<std::int64_t>(type.bytes());
    for (std::size_t k = 0; k < step.in.size(); ++k) {
      const ValueId v = step.in[k];
      const auto here = step.in.begin() + static_cast<std::ptrdiff_t>(k);
      if (!v.valid() || std::find(step.in.begin(), here, v) != here) continue;  // counted at its first place
      const Node& source = *flow_.steps[at(v.node)].node;
      if (source.op == &input_op() || source.op == &constant_op()) continue;
      const auto reads = std::count(step.in.begin(), step.in.end(), v);
      if (waiting[at(v.node)][at(v.output)] == reads && !step.node->op->traits.alias)
        growth -= static_cast<std::int64_t>(source.outputs[at(v.output)].bytes());
    }
    return growth;
  }

  static bool better(Greed greed, std::int32_t a, std::int64_t growth_a, std::int32_t b, std::int64_t growth_b,
                     const std::vector<std::int32_t>& last_made) {
    if (greed == Greed::depth_first) {
      const bool frees_a = growth_a <= 0, frees_b = growth_b <= 0;
      if (frees_a != frees_b) return frees_a;
      return last_made[at(a)] != last_made[at(b)] ? last_made[at(a)] > last_made[at(b)] : a < b;
    }
    if (greed == Greed::frees_then_latest && growth_a > 0 && growth_b > 0) return a < b;
    return growth_a != growth_b ? growth_a < growth_b : a < b;
  }

  const Flow& flow_;
  std::vector<std::vector<std::int32_t>> successors_;
  std::vector<int> degree_;
  std::vector<std::vector<std::vector<std::int32_t>>> readers_;
};

}  // namespace

Graph schedule_pass(const Graph& graph, PassContext& context) {
  const Flow given = flow_of(graph);
  const std::uint64_t before = find_buffers(given).peak;
  std::uint64_t best = before;
  Flow chosen;
  const ListScheduler scheduler(given);
  for (const Greed greed : {Greed::frees_most, Greed::frees_then_latest, Greed::depth_first}) {
    Flow candidate = reordered(given, scheduler.order(greed));
    const Buffers buffers = find_buffers(candidate);
    if (buffers.peak >= best) continue;
    best = buffers.peak;
    chosen = std::move(candidate);
  }
  context.record.note = best < before ? fmt::format("peak {} -> {} bytes", before, best) : fmt::format("order kept, peak {} bytes", before);
  return best < before ? to_graph(chosen) : graph;
}

}  // namespace rhetor
