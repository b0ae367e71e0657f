// How large an activation can become, whatever the input: scales of FP8 inference that need no calibration.
#pragma once

#include <map>
#include <vector>

#include "graph/graph.h"

namespace rhetor {

// By node: does it depend on parameters and constants alone?
std::vector<char> fixed_nodes(const Graph& graph);

// Greatest magnitudes as nodes over the parameters, which are folded before the first run. The roots are norms: n normalised numbers
// have the length sqrt(n), so |gamma| sqrt(n) + |beta| bounds a norm's result, and by Cauchy and Schwarz the length of a weight's row
// times the length of what it is multiplied with bounds a product. Activations do not grow, attention mixes its values convexly.
class ActivationBounds {
 public:
  ActivationBounds(const Graph& graph, Rewriter& rewriter, const std::vector<char>& fixed)
      : graph_(graph), r_(rewriter), fixed_(fixed) {}
  // An f32 scalar in the graph that is written, or an absent value: nothing bounds v.
  Value greatest(ValueId v) { return bound(v).greatest; }

 private:
  struct Bound {
    Value greatest;  // of all elements
    Value length;    // of a row along the last dim; absent: sqrt(its elements) times the greatest
  };
  Bound bound(ValueId v);
  Bound find(ValueId v);
  Bound of_norm(const Node& node, bool centered);
  Bound of_product(const Node& node);
  bool fixed(ValueId v) const { return v.valid() && fixed_[static_cast<std::size_t>(v.node)]; }
  Value number(double value);

  const Graph& graph_;
  Rewriter& r_;
  const std::vector<char>& fixed_;
  std::map<ValueId, Bound> known_;
};

}  // namespace rhetor
