// Tensor comparison for tests and gates: NaN/Inf positions first, then errors, with the worst coordinate.
#pragma once

#include <string>

#include "tensor/tensor.h"

namespace rhetor {

struct Comparison {
  bool same_type = true;
  std::int64_t nonfinite_mismatches = 0;   // places where one is NaN/Inf and the other is not (or another one)
  double max_abs = 0;                      // largest |a - b| over finite places
  double max_rel_to_scale = 0;             // max_abs / max|b|
  double rms = 0;
  std::int64_t worst = -1;                 // flat index of max_abs
  double left = 0, right = 0;              // the two values there
  std::string place;                       // its coordinates, "[0,12,3]"
  std::string str() const;                 // "max |a-b| 3.1e-06 at [0,12,3]: 1.25 against 1.2499969"
  bool within(double absolute) const { return same_type && nonfinite_mismatches == 0 && max_abs <= absolute; }
};
// Shapes must agree (else same_type = false); dtypes may differ.
Comparison compare(const Tensor& a, const Tensor& b);

// The derived bound: `factor` times the error that the naive evaluation in the declared precision makes against float64,
// but at least one unit in the last place of the result's scale.
double derived_tolerance(const Tensor& naive, const Tensor& oracle, DType dtype, double factor = 3.0);

}  // namespace rhetor
