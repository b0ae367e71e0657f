#include "parallel/comm_model.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace rhetor {
namespace {

constexpr double kFastest = 1e15;   // bytes a second; also what "no visible cost per byte" becomes

// Least squares of (a + n / b - t) / t over samples, a >= 0 and 1 / b >= 0: of the unconstrained and the two bounded solutions the best.
CommModel::Range fit_line(std::span<const CommSample> samples) {
  double w = 0, wn = 0, wnn = 0, wt = 0, wnt = 0;
  const double scale = std::max(1.0, samples.back().bytes);   // keeps the sums of squares near each other
  for (const CommSample& s : samples) {
    const double weight = 1 / (s.seconds * s.seconds), n = s.bytes / scale;
    w += weight;
    wn += weight * n;
    wnn += weight * n * n;
    wt += weight * s.seconds;
    wnt += weight * n * s.seconds;
  }
  const double determinant = w * wnn - wn * wn;
  double latency = wt / w, slope = 0;   // the best constant
  if (determinant > 1e-12 * w * wnn) {
    latency = (wt * wnn - wn * wnt) / determinant;
    slope = (w * wnt - wn * wt) / determinant;
    if (latency < 0) latency = 0, slope = wnt / wnn;
    if (slope < 0) latency = wt / w, slope = 0;
  }
  return {.latency = latency, .bandwidth = std::min(kFastest, slope > 0 ? scale / slope : kFastest)};
}

double squares(const CommModel& model, std::span<const CommSample> samples) {
  double sum = 0;
  for (const CommSample& s : samples) {
    const double error = (model.seconds(s.bytes) - s.seconds) / s.seconds;
    sum += error * error;
  }
  return sum;
}

// Akaike's criterion with its correction for few samples; lower is better.
double criterion(double sum_of_squares, std::size_t samples, int parameters) {
  const auto n = static_cast<double>(samples), k = static_cast<double>(parameters + 1);   // and the variance
  if (n <= k + 1) return std::numeric_limits<double>::infinity();
  // Errors below a tenth of a percent are the clock's.
  return n * std::log(std::max(sum_of_squares / n, 1e-6)) + 2 * k + 2 * k * (k + 1) / (n - k - 1);
}

std::string size_text(double bytes) {
  return bytes >= 1e6 ? fmt::format("{:.1f} MB", bytes / 1e6) : fmt::format("{:.1f} kB", bytes / 1e3);
}

}  // namespace

CommModel::CommModel(std::vector<Range> ranges) : ranges_(std::move(ranges)) {
  check(!ranges_.empty() && ranges_[0].from == 0, "a communication model begins at 0 bytes");
  for (std::size_t i = 0; i < ranges_.size(); ++i)
    check(ranges_[i].latency >= 0 && ranges_[i].bandwidth > 0 && (i == 0 || ranges_[i].from > ranges_[i - 1].from),
          "a communication model has rising ranges and positive costs");
}

double CommModel::seconds(double bytes) const {
  const Range* range = &ranges_[0];
  for (const Range& one : ranges_)
    if (bytes >= one.from) range = &one;
  return range->latency + bytes / range->bandwidth;
}

std::string CommModel::str() const {
  std::string text;
  for (const Range& one : ranges_)
    text += fmt::format("{}{:.1f} us + n / {:.3g} GB/s", one.from > 0 ? "; from " + size_text(one.from) + " " : "", one.latency * 1e6,
                        one.bandwidth / 1e9);
  return text;
}

CommModel fit_comm_model(std::span<const CommSample> samples) {
  std::vector<CommSample> sorted(samples.begin(), samples.end());
  for (const CommSample& s : sorted)
    if (!(s.bytes >= 0) || !(s.seconds > 0) || !std::isfinite(s.bytes) || !std::isfinite(s.seconds))
      fail("a collective of {} bytes in {} s is no measurement", s.bytes, s.seconds);
  std::sort(sorted.begin(), sorted.end(), [](const CommSample& a, const CommSample& b) { return a.bytes < b.bytes; });
  if (sorted.size() < 2 || sorted.front().bytes == sorted.back().bytes)
    fail("a model of communication needs measurements of two sizes at least, found {}", sorted.empty() ? 0 : 1);

  CommModel best({fit_line(sorted)});
  double least = criterion(squares(best, sorted), sorted.size(), 2);
  for (std::size_t cut = 2; cut + 2 <= sorted.size(); ++cut) {
    if (sorted[cut].bytes == sorted[cut - 1].bytes) continue;
    CommModel::Range low = fit_line(std::span(sorted).first(cut)), high = fit_line(std::span(sorted).subspan(cut));
    // Between two sizes nothing was measured: the ranges meet where the lines cross, or halfway (geometrically).
    const double before = sorted[cut - 1].bytes, after = sorted[cut].bytes;
    const double slopes = 1 / low.bandwidth - 1 / high.bandwidth;
    const double crossing = slopes != 0 ? (high.latency - low.latency) / slopes : -1;
    high.from = crossing > before && crossing < after ? crossing : std::sqrt(std::max(1.0, before) * after);
    const CommModel model({low, high});
    const double value = criterion(squares(model, sorted), sorted.size(), 5);
    if (value < least) least = value, best = model;
  }
  return best;
}

double relative_error(const CommModel& model, std::span<const CommSample> samples) {
  return samples.empty() ? 0 : std::sqrt(squares(model, samples) / static_cast<double>(samples.size()));
}

}  // namespace rhetor
