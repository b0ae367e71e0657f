// metrics.jsonl: one JSON object a line, appended as training runs. {"step":1,"loss":..,"lr":..,"grad_norm":..,"tokens":..,
// "applied":true, in f16 "loss_scale":.., and timings "seconds","tokens_per_s","data_wait"}; validation lines are {"step":50,"validation_loss":..}
// and, for tasks, their metrics.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace rhetor {

struct CurvePoint {
  std::int64_t step = 0;
  double loss = 0;
};
struct MetricsHistory {
  std::vector<CurvePoint> train, validation;
};

// A write that fails (disk full) is reported once and does not stop training.
class MetricsLog {
 public:
  // Opens for appending, cut to `bytes`: lines that a killed run wrote after its last checkpoint are written again.
  MetricsLog(std::filesystem::path path, std::uint64_t bytes);
  ~MetricsLog();
  MetricsLog(const MetricsLog&) = delete;
  MetricsLog& operator=(const MetricsLog&) = delete;
  struct Step {
    std::int64_t step = 0, tokens = 0;
    double loss = 0, lr = 0, grad_norm = 0;
    bool applied = true;
    double loss_scale = 0;  // 0 = none, and not written
    double seconds = 0, tokens_per_s = 0, data_wait = 0;  // timings; data_wait: share of the time spent waiting for batches
  };
  void step(const Step& values);
  void validation(std::int64_t step, double loss, const std::vector<std::pair<std::string, double>>& metrics = {});
  std::uint64_t bytes() const { return bytes_; }

 private:
  void append(const std::string& line);
  std::filesystem::path path_;
  int fd_ = -1;
  std::uint64_t bytes_ = 0;
  bool warned_ = false;
};

// The points of the first `bytes` of a metrics file; lines that are not metrics are skipped.
MetricsHistory read_metrics(const std::filesystem::path& path, std::uint64_t bytes);

}  // namespace rhetor
