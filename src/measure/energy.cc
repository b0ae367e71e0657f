#include "measure/energy.h"

#include <dlfcn.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace rhetor {
namespace {

// NVML's C interface, as its documentation gives it: 0 is success, energy in millijoules since the driver was loaded.
using Init = int (*)();
using HandleByBus = int (*)(const char* bus, void** handle);
using TotalEnergy = int (*)(void* handle, unsigned long long* millijoules);
using ErrorText = const char* (*)(int status);

}  // namespace

std::function<double()> energy_counter(const std::string& bus, std::string& note, const char* library) {
  void* nvml = dlopen(library, RTLD_NOW | RTLD_LOCAL);   // never closed: counters outlive this call
  if (!nvml) {
    note = fmt::format("{} was not found, so energy is not known", library);
    return {};
  }
  const auto init = reinterpret_cast<Init>(dlsym(nvml, "nvmlInit_v2"));
  const auto handle_by_bus = reinterpret_cast<HandleByBus>(dlsym(nvml, "nvmlDeviceGetHandleByPciBusId_v2"));
  const auto total = reinterpret_cast<TotalEnergy>(dlsym(nvml, "nvmlDeviceGetTotalEnergyConsumption"));
  const auto text = reinterpret_cast<ErrorText>(dlsym(nvml, "nvmlErrorString"));
  if (!init || !handle_by_bus || !total || !text) {
    note = fmt::format("{} lacks the energy counter's functions: it is older than this program", library);
    return {};
  }
  void* handle = nullptr;
  unsigned long long millijoules = 0;
  int status = init();
  if (status == 0) status = handle_by_bus(bus.c_str(), &handle);
  if (status == 0) status = total(handle, &millijoules);
  if (status != 0) {
    note = fmt::format("NVML has no energy counter for the GPU {}: {}", bus, text(status));
    return {};
  }
  return [total, handle] {
    unsigned long long now = 0;
    return total(handle, &now) == 0 ? static_cast<double>(now) / 1000 : std::nan("");
  };
}

double joules_a_run(const std::function<double()>& counter, double seconds_a_run, const std::function<void()>& run, double seconds) {
  const int runs = static_cast<int>(std::clamp(std::ceil(seconds / std::max(seconds_a_run, 1e-6)), 1.0, 1e6));
  const double before = counter();
  for (int i = 0; i < runs; ++i) run();
  return (counter() - before) / runs;
}

Energy energy_of(const CudaDevice& device, double seconds_a_run, const std::function<void()>& run, double seconds) {
  Energy energy;
  const std::function<double()> counter = energy_counter(device.bus, energy.note);
  if (!counter) return energy;
  energy.joules = joules_a_run(counter, seconds_a_run, run, seconds);
  if (!(energy.joules > 0)) energy.note = "NVML's energy counter stood still";
  return energy;
}

}  // namespace rhetor
