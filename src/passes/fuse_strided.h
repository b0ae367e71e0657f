// Before fusion: columns of a wider tensor that several ops read where they lie (Target.strided).
#pragma once

#include "graph/graph.h"
#include "passes/pipeline.h"

namespace rhetor {

// Gives each such op slices and reshapes of its own, where nothing else reads them: then they can be fused into every one of the
// ops (attention and its gradient), and the slices are never stored. Values keep their bits.
Graph separate_columns(const Graph& graph, const Target& target);

}  // namespace rhetor
