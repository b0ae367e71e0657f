// Reverse-mode differentiation by graph rewriting: walks back from a scalar loss and calls OpDef.grad.
// Unused and zero gradients cost nothing: they are never built.
#pragma once

#include <vector>

#include "graph/graph.h"

namespace rhetor {

// Appends the gradient nodes of `loss` (a float scalar) to its graph; returns d(loss)/d(w) per entry of `wrt`, zeros where
// the loss does not depend on it. Fails naming the op if a path crosses a non-differentiable op other than through integers.
std::vector<Value> gradients(Value loss, const std::vector<Value>& wrt);

}  // namespace rhetor
