#include "runtime/tune_device.h"

#include <map>
#include <mutex>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/version.h"

namespace rhetor {
namespace {

// A way must be this much faster, twice: less is noise.
constexpr double kLeastGain = 0.97;
constexpr double kPatience = 30;  // seconds for one way; the first includes the start of the driver

std::mutex guard;
std::vector<std::string>& worker_command() {
  static std::vector<std::string> command;
  return command;
}

TuneCache& cache_of(const CudaDevice& device) {
  static std::map<int, std::unique_ptr<TuneCache>> caches;
  std::unique_ptr<TuneCache>& cache = caches[device.index];
  if (!cache) {
    const std::filesystem::path folder = cache_folder();
    const std::uint64_t world = hash64(std::string(kVersion) + cuda_description(device));
    cache = std::make_unique<TuneCache>(folder.empty() ? folder : folder / fmt::format("device-ways-{:016x}.txt", world));
  }
  return *cache;
}

int tune_device(const CudaDevice& device, const std::string& problem, const std::vector<CudaWay>& ways) {
  static std::unique_ptr<TuneWorker> worker;
  const std::lock_guard lock(guard);
  const Tuning mode = tuning();
  if (mode == Tuning::off) return 0;
  if (mode == Tuning::measure && !worker && !worker_command().empty()) worker = std::make_unique<TuneWorker>(worker_command(), kPatience);
  return choose_way(device.index, problem, ways, mode, cache_of(device), worker.get());
}

int index_of(const std::vector<CudaWay>& ways, const std::string& name) {
  for (std::size_t i = 0; i < ways.size(); ++i)
    if (ways[i].name == name && ways[i].rounding == ways[0].rounding) return static_cast<int>(i);
  return 0;  // another library's, or anybody's file: the default
}

}  // namespace

void set_tune_worker(std::vector<std::string> command) {
  const std::lock_guard lock(guard);
  worker_command() = std::move(command);
}

void install_device_tuner() { set_cuda_tuner(tune_device); }

int choose_way(int device, const std::string& problem, const std::vector<CudaWay>& ways, Tuning mode, TuneCache& cache, TuneWorker* worker) {
  if (mode == Tuning::off || ways.size() < 2) return 0;
  const std::uint64_t key = hash64(problem);
  TunedWay known;
  if (cache.find(key, known)) return index_of(ways, known.kernel);
  if (mode != Tuning::measure || !worker) return 0;
  std::string why;
  const std::optional<CudaTrial> standard = worker->ask(device, ways[0].name, problem, why);
  if (!standard) {
    log_warning("tuning '{}': the default could not be measured ({}); it stays", problem, why);
    return 0;  // not kept: the next tuning tries again
  }
  TunedWay best{.kernel = ways[0].name, .default_us = standard->us, .best_us = standard->us};
  for (std::size_t i = 1; i < ways.size(); ++i) {
    if (ways[i].rounding != ways[0].rounding) continue;
    const std::optional<CudaTrial> trial = worker->ask(device, ways[i].name, problem, why);
    if (!trial) log_warning("tuning '{}': the way '{}' loses: {}", problem, ways[i].name, why);
    else if (trial->hash == standard->hash && trial->us < kLeastGain * standard->us && trial->us < best.best_us)
      best.kernel = ways[i].name, best.best_us = trial->us;
  }
  if (best.kernel != ways[0].name) {
    const auto once_more = worker->ask(device, ways[0].name, problem, why), other = worker->ask(device, best.kernel, problem, why);
    if (!once_more || !other || other->hash != standard->hash || other->us >= kLeastGain * once_more->us)
      best = {.kernel = ways[0].name, .default_us = standard->us, .best_us = standard->us};
  }
  cache.put(key, best);
  return index_of(ways, best.kernel);
}

}  // namespace rhetor
