// Where the time of an executable goes, instruction by instruction.
#pragma once

#include <string>
#include <vector>

#include "runtime/executable.h"

namespace rhetor {

struct ProfileRow {
  std::string op, kernel, scope;      // "fused(matmul)", "cpu.fused_matmul", "h.0.mlp"
  std::int32_t node = -1;             // in the final graph; -1 where rows were merged
  int calls = 0;                      // in one run
  double seconds = 0;                 // mean of the runs, all calls together
  Cost cost;                          // of one run
};

// Runs the session `runs` times (after one warm-up run) and returns one row an instruction, in order of execution.
std::vector<ProfileRow> profile(Session& session, int runs = 10);
// Rows of the same op and kernel added up, slowest first.
std::vector<ProfileRow> merge_by_kernel(const std::vector<ProfileRow>& rows);
// A table: time, share, GFLOP/s, GB/s.
std::string profile_table(const std::vector<ProfileRow>& rows);

}  // namespace rhetor
