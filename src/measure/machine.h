// Floors: the time no implementation can go below, from what this machine was seen to do.
#pragma once

#include <string>

#include "cuda/cuda.h"

namespace rhetor {

// What one run must do at least. `bytes` are moved, out of `working_set` distinct bytes that every run touches again: where those
// lie (L1, L2, L3, DRAM) decides how fast they can be moved.
struct Work {
  double flops = 0, bytes = 0, working_set = 0;
};
struct Floor {
  double ms = 0;
  std::string limit;   // "memory, 64.0 MiB at 21.3 GB/s" or "compute, 310 GFLOP/s"
};
// The floor of `work`, for a measured time of `measured_ms`. Probes are short, and a machine that others use may have been slow
// during them: if the measured time lies below the floor they are taken again, and if it still does, `limit` says so.
Floor floor_of(const Work& work, int threads, const std::string& dtype, double measured_ms);

// The same on a device, whose ceilings are measured once: its largest products and copies.
Floor device_floor(const CudaDevice& device, const Work& work, const std::string& dtype);

}  // namespace rhetor
