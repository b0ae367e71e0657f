#include "train/step_memory.h"

#include <sys/sysinfo.h>

#include <algorithm>
#include <fstream>
#include <vector>

namespace rhetor {

std::uint64_t session_bytes(const Executable& executable) {
  std::uint64_t bytes = executable.report().arena_bytes;
  for (const auto& [name, type] : executable.inputs()) bytes += type.bytes();
  for (const auto& [name, type] : executable.outputs()) bytes += type.bytes();
  return bytes;
}

MemoryHere memory_here(const CudaDevice* device) {
  if (device) return {cuda_free_bytes(*device), fmt::format("{} has free", device->name)};
  struct sysinfo machine {};
  if (::sysinfo(&machine) != 0) return {};
  MemoryHere here{(std::uint64_t{machine.totalram} + machine.totalswap) * machine.mem_unit, "this machine has"};
  std::ifstream group("/sys/fs/cgroup/memory.max");  // "max" or bytes (cgroup v2)
  std::uint64_t limit = 0;
  if (group >> limit && limit < here.bytes) here = {limit, "this control group has"};
  return here;
}

std::string what_fits(std::int64_t batch, std::int64_t accumulation, std::int64_t ranks, std::uint64_t have,
                      const std::function<std::uint64_t(std::int64_t batch, std::int64_t accumulation)>& need) {
  std::vector<std::int64_t> smaller;  // micro-batches of which a whole number makes the recipe's
  for (std::int64_t b = ranks; b < batch; b += ranks)
    if (batch % b == 0) smaller.push_back(b);
  std::size_t low = 0, high = smaller.size();  // those below `low` fit, those from `high` do not
  std::uint64_t least = 0, taken = 0;
  while (low < high) {
    const std::size_t middle = low + (high - low) / 2;
    const std::uint64_t bytes = need(smaller[middle], accumulation * (batch / smaller[middle]));
    if (bytes <= have)
      low = middle + 1, taken = bytes;
    else
      high = middle, least = bytes;
  }
  if (low > 0)
    return fmt::format("train.batch = {} with train.accumulation = {} makes the same step in {} bytes", smaller[low - 1],
                       accumulation * (batch / smaller[low - 1]), taken);
  if (smaller.empty()) return "no smaller micro-batch makes the same step";
  return fmt::format("even train.batch = {} needs {}", smaller[0], least);
}

}  // namespace rhetor
