// The loss curve as a self-contained SVG that reads in light and dark.
#pragma once

#include <string>
#include <vector>

#include "train/metrics.h"

namespace rhetor {

// Training loss (raw, faint, and smoothed) and validation loss over steps. `title` is plain text.
std::string loss_curve_svg(const MetricsHistory& history, const std::string& title);

// The smoothed training losses of several runs in one picture; the same label gives the same colour (seeds of one recipe). The scale
// leaves out the first tenth of the steps, where everything is steep.
struct LabelledCurve {
  std::string label;
  std::vector<CurvePoint> points;
};
std::string compared_curves_svg(const std::vector<LabelledCurve>& curves, const std::string& title);

// Exponential moving average that starts at its first value; `alpha` is the weight of a new one.
inline double smooth(double before, double value, std::int64_t seen, double alpha = 0.1) {
  return seen == 0 ? value : before + alpha * (value - before);
}

}  // namespace rhetor
