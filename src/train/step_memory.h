// Whether a training step fits into memory, known before the first one runs; and if not, what would. Internal to the room.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "runtime/executable.h"

namespace rhetor {

// Bytes that a session takes beside the states: its arena, inputs and outputs.
std::uint64_t session_bytes(const Executable& executable);

struct MemoryHere {
  std::uint64_t bytes = 0;  // 0: not known
  std::string what;         // "this machine has", for the sentence
};
// Of a device what is free now; of this machine its memory and swap, or less where a control group says so.
MemoryHere memory_here(const CudaDevice* device);

// The largest micro-batch with which a step of batch x accumulation examples fits into `have` bytes, as a clause that says what
// to write in the recipe. `need` gives the bytes of a step of so many examples a micro-batch and so many micro-batches; smaller
// ones need no more. Micro-batches divide among `ranks`.
std::string what_fits(std::int64_t batch, std::int64_t accumulation, std::int64_t ranks, std::uint64_t have,
                      const std::function<std::uint64_t(std::int64_t batch, std::int64_t accumulation)>& need);

}  // namespace rhetor
