// What a benchmark row says besides on a device, and its profile on any.
#pragma once

#include <functional>
#include <string>

#include "measure/bench.h"
#include "runtime/executable.h"

namespace rhetor {

// Adds to the one row: joules_per_item (null, with energy_note, where there is no counter), peak_memory_bytes (what the process has taken
// of the device by now) and least_memory_bytes (weights, states and the liveness bound of `executable`). `run` is one run of `ms`, which
// makes `items`. Does nothing on the CPU (null).
void add_device_cells(BenchResult& result, const CudaDevice* device, const Executable& executable, double ms, double items,
                      const std::function<void()>& run);

// Fills result.profile and result.trace; floors by row for `dtype` on a device.
void add_profile(BenchResult& result, Session& session, const CudaDevice* device, const std::string& dtype, int runs = 10);

}  // namespace rhetor
