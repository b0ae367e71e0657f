// Counters, gauges and histograms, and their text for Prometheus (exposition format 0.0.4).
//
// Thread-safety: all of it. Series live as long as their Metrics; updating one takes no lock.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace rhetor {

class Counter {
 public:
  void add(double amount = 1) { value_.fetch_add(amount, std::memory_order_relaxed); }
  double value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<double> value_ = 0;
};

class Histogram {
 public:
  // `bounds` ascend; a last bucket without bound is added.
  explicit Histogram(std::vector<double> bounds);
  void observe(double value);

 private:
  friend class Metrics;
  std::vector<double> bounds_;
  std::vector<std::atomic<std::uint64_t>> buckets_;
  std::atomic<double> sum_ = 0;
};

using Labels = std::vector<std::pair<std::string, std::string>>;

class Metrics {
 public:
  // The series of that name with those labels, made at first use. The callers see to it that label values are few.
  Counter& counter(const std::string& name, const std::string& help, const Labels& labels = {});
  Histogram& histogram(const std::string& name, const std::string& help, const std::vector<double>& bounds,
                       const Labels& labels = {});
  // A value that is read when somebody asks. `read` must stay callable for as long as text() is called.
  void gauge(const std::string& name, const std::string& help, std::function<double()> read, const Labels& labels = {});
  // The same for a total that something else counts.
  void counter_from(const std::string& name, const std::string& help, std::function<double()> read, const Labels& labels = {});
  // This process: memory, CPU time, open files, start time, under the names that Prometheus's clients use.
  void add_process();

  std::string text() const;
  static constexpr const char* kContentType = "text/plain; version=0.0.4; charset=utf-8";

 private:
  struct Series {
    std::unique_ptr<Counter> counter;
    std::unique_ptr<Histogram> histogram;
    std::function<double()> read;
  };
  struct Family {
    std::string help, type;
    std::map<std::string, Series> series;  // by the text of their labels
  };
  Series& series(const std::string& name, const std::string& help, const char* type, const Labels& labels);

  mutable std::mutex mutex_;
  std::map<std::string, Family> families_;
};

// Bounds in seconds for what takes from half a millisecond to minutes.
const std::vector<double>& latency_bounds();

}  // namespace rhetor
