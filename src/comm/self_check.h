// What one runs first on a new cluster: are the collectives right, and how fast are they?
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "parallel/comm_model.h"

namespace rhetor {

// Runs every collective, on every dtype and operation it takes, on several odd sizes, and compares with what this rank computes alone:
// bit for bit with the sum in rank order, and with the float64 sum within the rounding of the dtype. Fails with the first difference.
// `line` gets one line a case with the hash of the result ("all_reduce sum bf16 x 1001  93b1.."), the same for every backend.
// All ranks call it.
void check_collectives(Communicator& communicator, const std::vector<std::int64_t>& counts, const std::function<void(const std::string&)>& line);

// The median seconds of an f32 all_reduce of each size, as the slowest rank saw it; the same on every rank.
std::vector<CommSample> time_all_reduce(Communicator& communicator, const std::vector<std::int64_t>& bytes, int runs);

}  // namespace rhetor
