// How weights are kept between steps.
#pragma once

#include "graph/graph.h"

namespace rhetor {

// The graph with its f32 states kept in bf16: each is read through a cast to f32, of which contractions in bf16 need nothing.
Graph store_in_bf16(const Graph& graph);
// What the graph computes with for the state input `node`: the state itself, or its cast.
Value weight_value(Graph& graph, std::int32_t node);

}  // namespace rhetor
