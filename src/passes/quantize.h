// int8 inference: which weights can be quantised, for the pass and for the tool that writes quantised models.
#pragma once

#include <string>
#include <vector>

#include "graph/graph.h"

namespace rhetor {

// A parameter W that matmuls read: [k,n], or [n,k] if transposed. Stored as "W.int8" i8 [n,k] and "W.scale" f32 [n].
struct QuantizableWeight {
  std::string name;
  bool transposed = false;
};
std::vector<QuantizableWeight> quantizable_weights(const Graph& graph);

}  // namespace rhetor
