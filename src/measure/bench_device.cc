#include "measure/bench_device.h"

#include "base/display.h"
#include "base/error.h"
#include "measure/energy.h"
#include "measure/machine.h"
#include "runtime/profile.h"

namespace rhetor {

void add_device_cells(BenchResult& result, const CudaDevice* device, const Executable& executable, double ms, double items,
                      const std::function<void()>& run) {
  if (!device) return;
  const CompileReport& report = executable.report();
  auto& cells = result.rows.front().cells;
  result.machine["device"] = cuda_description(*device);
  const Energy energy = energy_of(*device, ms / 1000, run);
  if (energy.note.empty()) cells.emplace_back("joules_per_item", energy.joules / items);
  else cells.emplace_back("joules_per_item", nullptr), cells.emplace_back("energy_note", energy.note);
  // Others may use the device too: the machine of a benchmark is ours alone.
  cells.emplace_back("peak_memory_bytes", static_cast<std::int64_t>(device->memory - cuda_free_bytes(*device)));
  cells.emplace_back("least_memory_bytes", static_cast<std::int64_t>(report.weight_bytes + report.state_bytes + report.lower_bound));
}

void add_profile(BenchResult& result, Session& session, const CudaDevice* device, const std::string& dtype, int runs) {
  std::vector<ProfileRow> rows = profile(session, runs);
  if (device)
    for (ProfileRow& row : rows)
      row.floor_seconds = device_floor(*device, {.flops = row.cost.flops, .bytes = row.cost.bytes, .working_set = row.cost.bytes}, dtype).ms / 1000;
  const std::vector<ProfileRow> merged = merge_by_kernel(rows);
  const CompileReport& report = session.executable().report();
  const auto size = [](std::uint64_t bytes) { return human_bytes(bytes); };
  result.profile = profile_table(merged) + profile_reasons(merged) +
                   fmt::format("memory: weights {} (packed {}), states {}, arena {}, of which the liveness bound is {}\n", size(report.weight_bytes),
                               size(report.packed_bytes), size(report.state_bytes), size(report.arena_bytes), size(report.lower_bound));
  result.trace = chrome_trace(rows, result.what);
}

}  // namespace rhetor
