#include "tensor/compare.h"

#include <algorithm>
#include <cmath>

namespace rhetor {
namespace {

std::string coordinates(const Shape& shape, std::int64_t flat) {
  std::string out = "]";
  for (int d = shape.rank() - 1; d >= 0; --d) {
    const std::int64_t size = std::max<std::int64_t>(shape[d], 1);
    out = (d ? "," : "") + std::to_string(flat % size) + out;
    flat /= size;
  }
  return "[" + out;
}

bool same_nonfinite(double a, double b) { return (std::isnan(a) && std::isnan(b)) || a == b; }

}  // namespace

std::string Comparison::str() const {
  if (!same_type) return "the shapes differ";
  std::string out = fmt::format("max |a-b| {:.3g} ({:.3g} of the scale), rms {:.3g}", max_abs, max_rel_to_scale, rms);
  if (nonfinite_mismatches)
    out = fmt::format("{} places where NaN or Inf disagree, first at {}: {} against {}", nonfinite_mismatches, place, left, right);
  else if (worst >= 0) out += fmt::format(" at {}: {:.9g} against {:.9g}", place, left, right);
  return out;
}

Comparison compare(const Tensor& a, const Tensor& b) {
  Comparison out;
  if (!a.defined() || !b.defined() || a.shape() != b.shape()) {
    out.same_type = false;
    return out;
  }
  const std::vector<double> x = a.to_doubles(), y = b.to_doubles();
  double squares = 0, scale = 0;
  std::size_t finite = 0;
  std::int64_t first_mismatch = -1;
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (!std::isfinite(x[i]) || !std::isfinite(y[i])) {
      if (!same_nonfinite(x[i], y[i]) && out.nonfinite_mismatches++ == 0) first_mismatch = static_cast<std::int64_t>(i);
      continue;
    }
    ++finite;
    scale = std::max(scale, std::abs(y[i]));
    const double error = std::abs(x[i] - y[i]);
    squares += error * error;
    if (out.worst < 0 || error > out.max_abs) {
      out.max_abs = error;
      out.worst = static_cast<std::int64_t>(i);
    }
  }
  if (finite) out.rms = std::sqrt(squares / static_cast<double>(finite));
  out.max_rel_to_scale = scale > 0 ? out.max_abs / scale : out.max_abs > 0 ? HUGE_VAL : 0;
  const std::int64_t shown = first_mismatch >= 0 ? first_mismatch : out.worst;
  if (shown >= 0) {
    out.left = x[static_cast<std::size_t>(shown)];
    out.right = y[static_cast<std::size_t>(shown)];
    out.place = coordinates(a.shape(), shown);
  }
  return out;
}

double derived_tolerance(const Tensor& naive, const Tensor& oracle, DType dtype, double factor) {
  const Comparison error = compare(naive, oracle);
  if (!error.same_type) fail(ErrorKind::internal, "derived_tolerance: {} against {}", naive.type().str(), oracle.type().str());
  double scale = 0;
  for (const double v : oracle.to_doubles())
    if (std::isfinite(v)) scale = std::max(scale, std::abs(v));
  return std::max(factor * error.max_abs, epsilon(dtype) * scale);
}

}  // namespace rhetor
