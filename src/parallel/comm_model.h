// How long a collective of n bytes takes, learned from measured sizes.
#pragma once

#include <span>
#include <string>
#include <vector>

namespace rhetor {

struct CommSample {
  double bytes = 0, seconds = 0;
};

// t(n) = latency + n / bandwidth on each of one or two ranges of sizes. Never negative, never falling within a range.
class CommModel {
 public:
  struct Range {
    double from = 0;          // bytes; the first range begins at 0
    double latency = 0;       // seconds (a)
    double bandwidth = 1e9;   // bytes a second (b)
  };
  // One range.
  CommModel(double latency, double bandwidth) : ranges_{{0, latency, bandwidth}} {}
  // REQUIRES: one or more ranges in rising order of `from`, the first at 0, latency >= 0, bandwidth > 0.
  explicit CommModel(std::vector<Range> ranges);

  double seconds(double bytes) const;
  const std::vector<Range>& ranges() const { return ranges_; }
  // "43.1 us + n / 175.0 GB/s", ranges separated by "; from 1.0 MB ".
  std::string str() const;

 private:
  std::vector<Range> ranges_;
};

// Least squares of the relative error, so that a microsecond of a small message counts like a millisecond of a large one. Two ranges are
// taken when they explain the samples clearly better: Akaike's criterion for small samples, which charges for the three more parameters.
// Fails without two different sizes.
CommModel fit_comm_model(std::span<const CommSample> samples);

// The root mean square of (t(n) - measured) / measured.
double relative_error(const CommModel& model, std::span<const CommSample> samples);

}  // namespace rhetor
