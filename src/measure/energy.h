// What a run costs in energy, by the GPU's own counter (NVML, opened when first needed).
#pragma once

#include <functional>
#include <string>

#include "cuda/cuda.h"

namespace rhetor {

struct Energy {
  double joules = 0;   // of one run; not known where `note` is not empty
  std::string note;    // why it is not known
};
// Runs `run` as often as fills `seconds`, of which each takes about `seconds_a_run`; the counter moves every few tens of milliseconds, so
// less than a second says little. The whole board is counted, memory and idling included.
Energy energy_of(const CudaDevice& device, double seconds_a_run, const std::function<void()>& run, double seconds = 1.5);

// The same with any counter of joules.
double joules_a_run(const std::function<double()>& counter, double seconds_a_run, const std::function<void()>& run, double seconds);
// The counter of the board on this PCI bus ("0000:1b:00.0"); null, with the reason, where there is none. `library`: NVML's name.
std::function<double()> energy_counter(const std::string& bus, std::string& note, const char* library = "libnvidia-ml.so.1");

}  // namespace rhetor
