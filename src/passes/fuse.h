// Fusion: groups of nodes that one kernel computes become nodes of op `fused`, with the group as a graph attribute.
//
//   pointwise  body of pointwise ops and broadcasts, all results of one shape; anchor ""
//   epilogue   a contraction whose result only feeds pointwise ops of its shape; anchor: the contraction; one result
//   strided    slices of the last dim and reshapes feeding an op that reads columns of a wider tensor in place (Target.strided);
//              anchor: that op; results: its own, or the concat by columns that alone reads them
//   decode     what a decoding step does around its products and its attention (fuse_decode.h)
//   norm       pointwise ops feeding a row norm; anchor: the norm; results: those of the norm, then the sum if it is read elsewhere
#pragma once

#include <cstdint>
#include <functional>

#include "graph/graph.h"

namespace rhetor {

// Puts the bodies of the fused nodes for which `which` says so back into the graph: fuse undone. Values keep their bits.
Graph inline_fused(const Graph& graph, const std::function<bool(std::int32_t node)>& which);

}  // namespace rhetor
