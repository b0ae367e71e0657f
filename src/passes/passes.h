// The passes themselves, one a file; only pipeline.cc lists them. What each does is told where it is defined.
#pragma once

#include "passes/pipeline.h"

namespace rhetor {

Graph simplify_pass(const Graph& graph, PassContext& context);
Graph precision_pass(const Graph& graph, PassContext& context);
Graph narrow_all(const Graph& graph, PassContext& context);   // precision_pass with PassOptions.narrow (narrow.cc)
Graph merge_pass(const Graph& graph, PassContext& context);
Graph float8_pass(const Graph& graph, PassContext& context);
Graph quantize_pass(const Graph& graph, PassContext& context);
Graph remat_pass(const Graph& graph, PassContext& context);
Graph fuse_pass(const Graph& graph, PassContext& context);
Graph schedule_pass(const Graph& graph, PassContext& context);

}  // namespace rhetor
