// Memory for packed weights, on huge pages where the system gives them: decoding streams through all weights at every token, and with
// 4 KiB pages it waits for page walks.
#pragma once

#include <cstdint>
#include <memory>

namespace rhetor {

// `bytes` of memory, 64-byte aligned, not initialised. Blocks are cut from larger pieces; a piece is given back with its last block.
// Fails if there is none. Thread-safe.
std::shared_ptr<void> huge_block(std::uint64_t bytes);

}  // namespace rhetor
