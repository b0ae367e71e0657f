// Quantised inference: which weights can be quantised, for the pass and for the tool that writes quantised models.
#pragma once

#include <string>
#include <vector>

#include "graph/graph.h"

namespace rhetor {

// A parameter W that matmuls read: [k,n], or [n,k] if transposed. Stored as "W.int8" i8 [n,k] and "W.scale" f32 [n], or as "W.int4"
// u8 [n,k/2] and "W.scale" f16 [n,k/32].
struct QuantizableWeight {
  std::string name;
  bool transposed = false;
  std::int64_t n = 0, k = 0;
};
std::vector<QuantizableWeight> quantizable_weights(const Graph& graph);

}  // namespace rhetor
