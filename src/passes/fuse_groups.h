// Which nodes to fuse: the grouping half of the fuse pass (fuse.cc builds the nodes).
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "graph/graph.h"
#include "passes/pipeline.h"

namespace rhetor {

enum class FusePattern { none, pointwise, epilogue, norm, strided, decode };

struct FuseGroup {
  FusePattern pattern = FusePattern::none;
  std::int32_t anchor = -1;               // contraction or norm
  std::vector<std::int32_t> members;      // ascending
  std::string name = {};                  // what the fused node says its anchor is; "": the anchor's op
};

// A slice that is a run of columns of its operand.
bool cuts_columns(const Node& node);

class FuseGrouper {
 public:
  FuseGrouper(const Graph& graph, const Target& target);
  // Groups that become fused nodes. No two share a node, and contracting them leaves the graph acyclic.
  std::vector<FuseGroup> run();
  // One refusal for every edge between nodes that some pattern could have joined.
  std::vector<Refusal> refusals() const;

  // Readers of the node's results, ascending; -1 for a graph output or a state update.
  const std::vector<std::int32_t>& readers(std::int32_t node) const { return readers_[static_cast<std::size_t>(node)]; }
  // A broadcast to `shape` (or a one-element constant) that a body repeats instead of reading: it costs nothing there.
  bool repeatable(std::int32_t node, const Shape& shape) const;

 private:
  void find_post_dominators();
  std::vector<std::int32_t> float8_sources(std::int32_t product) const;
  std::vector<std::int32_t> float8_tail(std::int32_t norm) const;
  void grow_epilogue(std::int32_t anchor);
  void grow_norm(std::int32_t norm);
  std::vector<std::int32_t> joined_columns(std::int32_t anchor) const;
  void grow_strided(std::int32_t anchor);
  void merge_pointwise(std::int32_t node);
  bool pointwise(std::int32_t node) const;
  bool row_norm(std::int32_t node) const;
  bool is_free(std::int32_t node) const;
  bool would_cycle(const std::vector<std::int32_t>& members) const;
  std::string over_limits(const std::vector<std::int32_t>& members) const;
  int make_group(FusePattern pattern, std::int32_t anchor, std::vector<std::int32_t> members);
  std::string why_not(std::int32_t from, std::int32_t to) const;
  std::string label(std::int32_t node) const;
  const Shape& shape(std::int32_t node) const { return graph_.node(node).outputs[0].shape; }

  const Graph& graph_;
  Target target_;
  std::vector<std::vector<std::int32_t>> readers_;
  std::vector<std::int32_t> post_dominator_, depth_;   // -1: the end of the graph
  std::vector<int> group_of_;
  std::vector<FuseGroup> groups_;
  std::map<std::pair<std::int32_t, std::int32_t>, std::string> reasons_;
  // Marks of the current walk: stamp_now_ = seen, -stamp_now_ = a member.
  mutable std::vector<int> stamp_;
  mutable int stamp_now_ = 0;
};

}  // namespace rhetor
