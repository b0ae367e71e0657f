// shard: the graph of one rank, from a graph that is written for all ranks of a mesh together.
//
// Inputs are placed by the caller; every other placement follows from the ops' factor rules (ops/shard.h). Where a rule asks for
// another placement than a value has, a collective or a slice is put in. The local graph computes what the whole one computes, up
// to the order of sums: whatever is normalised by a count over the batch (a mean over masked tokens) stays normalised over the
// whole batch. GSPMD (Xu et al., 2021) for the idea; ZeRO (Rajbhandari et al., 2020) for storage.
//
// Thread-safe (no globals). Units: bytes.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "graph/graph.h"
#include "graph/interpreter.h"

namespace rhetor {

// Where a value lives on the mesh. An axis cuts at most one dim, or is one over which the value is still a partial sum.
struct Placement {
  std::vector<int> dims;  // per dim: the mesh axis that cuts it, or -1; empty: no dim is cut
  unsigned partial = 0;   // bit a: the value is the sum of what the ranks along axis a hold
  // Cut to save memory, not work: gathered before whatever is not done element by element (an optimiser's update is).
  bool storage = false;
};

struct ShardSpec {
  std::vector<MeshAxis> mesh;
  std::vector<std::int64_t> position;  // of this rank, along each axis
  // The placement of an input node of the whole graph. Its cut dims must divide by the sizes of their axes: fails naming the
  // input.
  std::function<Placement(const Graph& graph, std::int32_t node)> place;
};

struct ShardReport {
  // What one rank takes part in: "all_reduce", calls, bytes of the whole value.
  struct Row {
    std::string op;
    std::int64_t calls = 0;
    double bytes = 0;
  };
  std::vector<Row> rows;
};

// Outputs of the local graph are whole on every rank; states are as placed. A mesh of one rank gives the graph itself.
Graph shard(const Graph& graph, const ShardSpec& spec, ShardReport* report = nullptr);

}  // namespace rhetor
