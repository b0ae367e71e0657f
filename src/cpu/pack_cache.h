// Packed weights, shared by all executables of the process: prefill buckets, batches and decode of one model ask for the same block.
//
// A block is found by what it holds, never by where its source lies: the key is a 128-bit hash of the source's bytes and a text that
// says how they were laid out and packed. So memory that was freed and reused, weights changed between two compilations, a second
// mapping of the same file and folded constants computed anew are all told apart or recognised without knowing their owners.
// The hash reads the weights once, which is cheaper than packing them; that two weights of one process agree in all 128 bits by chance
// has a probability near 1e-30.
//
// Thread-safe. The cache owns nothing: a block is freed with the last kernel that holds it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/file.h"
#include "tensor/tensor.h"

namespace rhetor {

// The content of a weight, by which its packed forms are known.
Hash128 content_of(const Tensor& tensor);

// The block of `bytes` (64-byte aligned) packed from `content` as `form` says: the one somebody holds, or a new one filled by `pack`.
// Callers that ask for the same block at once wait for the first. REQUIRES: equal (content, form) mean equal bytes from `pack`.
std::shared_ptr<void> shared_pack(const Hash128& content, const std::string& form, std::uint64_t bytes,
                                  const std::function<void(void*)>& pack);

// A tensor of the same type and bytes: one handed out before if it is still alive, else `tensor`, handed out from now on. REQUIRES:
// nobody writes to it. For folded constants that kernels read unpacked.
Tensor shared_constant(const Tensor& tensor);

// What is alive now; shared blocks count once.
struct PackCacheUse {
  std::uint64_t blocks = 0, bytes = 0;
};
PackCacheUse pack_cache_use();

}  // namespace rhetor
