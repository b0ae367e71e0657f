#include "serve/metrics.h"

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ctime>

#include "base/error.h"

namespace rhetor {
namespace {

std::string escaped(const std::string& text, bool quotes) {
  std::string out;
  for (const char c : text) {
    if (c == '\\' || (quotes && c == '"')) out += '\\';
    if (c == '\n')
      out += "\\n";
    else
      out += c;
  }
  return out;
}

std::string label_text(const Labels& labels) {
  std::string out;
  for (const auto& [name, value] : labels) out += fmt::format("{}{}=\"{}\"", out.empty() ? "" : ",", name, escaped(value, true));
  return out;
}

std::string number_text(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  return fmt::format("{}", value);
}

// name{labels,extra} value
void append_line(std::string& out, const std::string& name, const std::string& labels, const std::string& extra,
                 const std::string& value) {
  out += name;
  if (!labels.empty() || !extra.empty())
    out += fmt::format("{{{}{}{}}}", labels, labels.empty() || extra.empty() ? "" : ",", extra);
  out += fmt::format(" {}\n", value);
}

// Field `index` (from 0) of /proc/self/statm, in bytes.
double memory_bytes(int index) {
  double pages[2] = {0, 0};
  if (std::FILE* file = std::fopen("/proc/self/statm", "re")) {
    if (std::fscanf(file, "%lf %lf", &pages[0], &pages[1]) != 2) pages[0] = pages[1] = 0;
    std::fclose(file);
  }
  return pages[index] * static_cast<double>(::sysconf(_SC_PAGESIZE));
}

double open_files() {
  double count = -3;  // ".", ".." and the folder itself
  if (DIR* folder = ::opendir("/proc/self/fd")) {
    while (::readdir(folder)) ++count;
    ::closedir(folder);
  }
  return std::max(0.0, count);
}

double cpu_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) { return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec); };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double allowed_files() {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  return static_cast<double>(limit.rlim_cur);
}

}  // namespace

Histogram::Histogram(std::vector<double> bounds) : bounds_(std::move(bounds)), buckets_(bounds_.size() + 1) {}

void Histogram::observe(double value) {
  const auto at = static_cast<std::size_t>(std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin());
  buckets_[at].fetch_add(1, std::memory_order_relaxed);
  sum_.fetch_add(value, std::memory_order_relaxed);
}

Metrics::Series& Metrics::series(const std::string& name, const std::string& help, const char* type, const Labels& labels) {
  Family& family = families_[name];
  if (family.type.empty()) family.help = help, family.type = type;
  check(family.type == type, "a metric has one type");
  return family.series[label_text(labels)];
}

Counter& Metrics::counter(const std::string& name, const std::string& help, const Labels& labels) {
  std::lock_guard lock(mutex_);
  auto& counter = series(name, help, "counter", labels).counter;
  if (!counter) counter = std::make_unique<Counter>();
  return *counter;
}

Histogram& Metrics::histogram(const std::string& name, const std::string& help, const std::vector<double>& bounds,
                              const Labels& labels) {
  std::lock_guard lock(mutex_);
  auto& histogram = series(name, help, "histogram", labels).histogram;
  if (!histogram) histogram = std::make_unique<Histogram>(bounds);
  return *histogram;
}

void Metrics::gauge(const std::string& name, const std::string& help, std::function<double()> read, const Labels& labels) {
  std::lock_guard lock(mutex_);
  series(name, help, "gauge", labels).read = std::move(read);
}

void Metrics::counter_from(const std::string& name, const std::string& help, std::function<double()> read, const Labels& labels) {
  std::lock_guard lock(mutex_);
  series(name, help, "counter", labels).read = std::move(read);
}

void Metrics::add_process() {
  const auto start = static_cast<double>(std::time(nullptr));
  gauge("process_resident_memory_bytes", "Memory that the process has in RAM.", [] { return memory_bytes(1); });
  gauge("process_virtual_memory_bytes", "Address space that the process has.", [] { return memory_bytes(0); });
  gauge("process_open_fds", "Open file descriptors.", open_files);
  gauge("process_max_fds", "File descriptors that the process may open.", allowed_files);
  gauge("process_start_time_seconds", "When the service was started, seconds since 1970.", [start] { return start; });
  counter_from("process_cpu_seconds_total", "CPU time used, user and system.", cpu_seconds);
}

std::string Metrics::text() const {
  std::lock_guard lock(mutex_);
  std::string out;
  for (const auto& [name, family] : families_) {
    out += fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, escaped(family.help, false), name, family.type);
    for (const auto& [labels, one] : family.series) {
      if (one.read) append_line(out, name, labels, "", number_text(one.read()));
      if (one.counter) append_line(out, name, labels, "", number_text(one.counter->value()));
      if (!one.histogram) continue;
      const Histogram& h = *one.histogram;
      std::uint64_t total = 0;  // from the same reads as the buckets: they must agree
      for (std::size_t i = 0; i < h.buckets_.size(); ++i) {
        total += h.buckets_[i].load(std::memory_order_relaxed);
        const std::string bound = i < h.bounds_.size() ? number_text(h.bounds_[i]) : "+Inf";
        append_line(out, name + "_bucket", labels, fmt::format("le=\"{}\"", bound), fmt::format("{}", total));
      }
      append_line(out, name + "_sum", labels, "", number_text(h.sum_.load(std::memory_order_relaxed)));
      append_line(out, name + "_count", labels, "", fmt::format("{}", total));
    }
  }
  return out;
}

const std::vector<double>& latency_bounds() {
  static const std::vector<double> bounds = {.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300};
  return bounds;
}

}  // namespace rhetor
