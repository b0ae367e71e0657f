// Lifetimes: which values share a buffer, and how many bytes are live when. The one model of memory that scheduling,
// recomputation and the memory plan reason with.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "graph/graph.h"

namespace rhetor {

// A graph as an ordered list of steps that may be reordered and may run a node more than once, without rebuilding nodes each time.
struct Flow {
  struct Step {
    const Node* node = nullptr;
    std::int32_t origin = -1;        // node of `graph`
    std::vector<ValueId> in;         // .node is an index into `steps`
  };
  const Graph* graph = nullptr;
  std::vector<Step> steps;
  std::vector<ValueId> outputs;      // parallel to graph->outputs()
  std::vector<StateUpdate> updates;
  bool free_broadcasts = false;      // broadcasts are going to be repeated inside fused kernels: count no bytes for them
};
Flow flow_of(const Graph& graph);
// The same steps in another order: new step i is old step order[i]. REQUIRES: a topological order.
Flow reordered(const Flow& flow, const std::vector<std::int32_t>& order);
Graph to_graph(const Flow& flow);

inline constexpr std::uint64_t kArenaAlignment = 64;
inline std::uint64_t aligned(std::uint64_t bytes) { return (bytes + kArenaAlignment - 1) / kArenaAlignment * kArenaAlignment; }

// Values that share memory: a root, its aliases (reshape) and the results written over it.
struct Buffer {
  enum class Home { arena, input, param, state, constant };
  Home home = Home::arena;
  ValueId root;
  std::uint64_t bytes = 0;
  std::int32_t born = 0, dies = 0;   // steps, inclusive; steps.size() = read after the run
  std::int32_t output = -1;          // first graph output that reads it
  std::int32_t state = -1;           // step of the state whose memory it is
};
struct Buffers {
  std::vector<Buffer> list;
  std::vector<std::vector<int>> of;  // [step][output] -> index in list
  int in_place = 0;
  // Live arena bytes (aligned) while each step runs; graph outputs and values written straight into states are not in the arena.
  std::vector<std::uint64_t> live;
  std::uint64_t peak = 0;
  std::int32_t peak_step = 0;
};
// `scratch` may be empty.
Buffers find_buffers(const Flow& flow, bool in_place = true, const std::vector<std::uint64_t>& scratch = {});

// {result, operand} pairs of a node that may share a buffer, by its traits; a pointwise `fused` node may overwrite any operand of the
// same shape and element size (its program loads a tile before it stores one, cpu/program.h).
std::vector<std::pair<int, int>> in_place_pairs(const Node& node);

// last[step][output] = last step that reads the value itself (-1: none; steps.size(): a graph output or state update).
std::vector<std::vector<std::int32_t>> last_uses(const Flow& flow);

}  // namespace rhetor
