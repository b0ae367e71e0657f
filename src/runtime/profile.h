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
  double floor_seconds = 0;           // no implementation is faster, all calls together; 0: not known
  std::string detail, refused;        // how the kernel does it; "cuda.a (k is 3); cuda.b (needs sm_90)"
};

// Runs the session `runs` times (after one warm-up run) and returns one row an instruction, in order of execution.
std::vector<ProfileRow> profile(Session& session, int runs = 10);
// Rows of the same op and kernel added up, slowest first.
std::vector<ProfileRow> merge_by_kernel(const std::vector<ProfileRow>& rows);
// A table: time, share, GFLOP/s, GB/s and, where the floor is known, how much of the time it is.
std::string profile_table(const std::vector<ProfileRow>& rows);
// Under it: how each kernel works and which candidates before it refused, and why; what was said of a row is not said again.
std::string profile_reasons(const std::vector<ProfileRow>& rows);
// One run's rows, in order of execution, one after another: for chrome://tracing and Perfetto.
std::string chrome_trace(const std::vector<ProfileRow>& rows, const std::string& title);

}  // namespace rhetor
