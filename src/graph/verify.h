// What a legal graph is (the invariants listed in graph.h). Run after every pass in tests and with
// --verify; throws Error{internal} naming `after`, the node and the broken invariant.
#pragma once

#include <string_view>

#include "graph/graph.h"

namespace rhetor {

void verify(const Graph& graph, std::string_view after = "");

}  // namespace rhetor
