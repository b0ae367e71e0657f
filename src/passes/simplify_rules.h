// Exact identities: rewrites of one node whose result has the same bits. Used by simplify.cc only.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "graph/graph.h"

namespace rhetor {

// A node about to be added to `graph`, its operands simplified already.
struct Draft {
  Graph& graph;
  const OpDef& op;
  const std::vector<Value>& in;
  const Attrs& attrs;
  const Type& type;  // of result 0
};
// An equal value already in the graph or made of simpler nodes; no value if no identity applies.
Value simpler(const Draft& draft);

// The number every element of v has, if v is known to be so (constants and what only moves their elements).
std::optional<double> splat_of(Value v);

}  // namespace rhetor
