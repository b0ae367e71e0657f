// The text form of a graph, with exact round trip: parse_graph(to_text(g)) rebuilds g node for node, and
// to_text(parse_graph(t)) == t for any t that to_text wrote. Floats are printed with 17 digits or as hex.
#pragma once

#include <string>
#include <string_view>

#include "graph/graph.h"
#include "graph/op.h"

namespace rhetor {

struct TextOptions {
  bool scopes = true;             // "# h.0.attn" comments where the scope changes
  int max_constant_elements = -1; // longer constants are elided ("..."): readable, not parseable; -1 = never
};
std::string to_text(const Graph& graph, const TextOptions& options = {});

// Fails naming line and column, what was expected and what was found. Safe on hostile text: depth, counts and sizes are bounded.
Graph parse_graph(std::string_view text, const OpTable& ops);

}  // namespace rhetor
