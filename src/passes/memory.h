// The memory plan: one arena for all intermediate values of a graph, computed from their lifetimes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "graph/graph.h"

namespace rhetor {

// Where a value lives while the executable runs.
enum class Place { none, arena, input, param, state, constant, output };
struct ValuePlace {
  Place place = Place::none;      // none: never materialised
  std::uint64_t offset = 0;       // arena: bytes from its start, 64-aligned
  std::uint64_t bytes = 0;
  std::int32_t slot = -1;         // input/param/state: its input node; constant: the node; output: index in graph.outputs()
  ValueId root;                   // the value whose buffer this one shares (itself if none): alias and in-place chains
  std::int32_t born = 0, dies = 0;  // node indices
};
struct MemoryPlan {
  std::vector<std::vector<ValuePlace>> places;  // [node][output]
  std::vector<std::uint64_t> scratch_offset;    // per node: its kernel's scratch in the arena
  std::vector<std::uint64_t> scratch_bytes;     // per node, 0 = none
  std::uint64_t arena_bytes = 0;
  std::uint64_t lower_bound = 0;                // max over time of live bytes (scratch included)
  int in_place = 0;                             // values that took over an operand's buffer
  double ratio() const { return lower_bound ? static_cast<double>(arena_bytes) / static_cast<double>(lower_bound) : 1.0; }
};

// `scratch[node]` bytes are live only while the node runs. A state's update is written straight into the state's buffer when
// no later node reads the old value; otherwise it gets arena space and StateCopy lists it.
// in_place=false plans without buffer reuse between operand and result (for the op matrix's in-place safety check).
MemoryPlan plan_memory(const Graph& graph, const std::vector<std::uint64_t>& scratch, bool in_place = true);

// States whose update could not be made in place: copied at the end of the run.
// In an order in which no copy overwrites what a later one reads. They run after output_copies.
std::vector<StateUpdate> state_copies(const Graph& graph, const MemoryPlan& plan);

// Indices of the graph outputs that do not live in their own buffer (an input, parameter or state handed through, one value under two
// names, a value that became a state in place): copied at the end of the run, before state_copies.
std::vector<std::int32_t> output_copies(const Graph& graph, const MemoryPlan& plan);

// A self-contained SVG of the arena: executed nodes across (inputs, parameters and constants take no time), bytes up, one rectangle a
// buffer and one a kernel's scratch.
std::string memory_map_svg(const Graph& graph, const MemoryPlan& plan);

}  // namespace rhetor
