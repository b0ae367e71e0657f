#include "cpu/huge_block.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>

#include "base/error.h"

namespace rhetor {
namespace {

constexpr std::uint64_t kHugePage = 2 << 20, kPiece = 32 << 20;
// Smaller blocks come from the heap: they fit a few pages.
constexpr std::uint64_t kLeast = 64 << 10;

std::uint64_t round_up(std::uint64_t bytes, std::uint64_t to) { return (bytes + to - 1) / to * to; }

std::shared_ptr<void> allocate(std::uint64_t alignment, std::uint64_t bytes) {
  void* memory = std::aligned_alloc(alignment, bytes);
  if (!memory) fail(ErrorKind::resource, "out of memory: {} bytes for packed weights", bytes);
  return {memory, [](void* p) { std::free(p); }};
}
std::shared_ptr<void> new_piece(std::uint64_t bytes) {
  std::shared_ptr<void> piece = allocate(kHugePage, bytes);
  madvise(piece.get(), bytes, MADV_HUGEPAGE);  // a wish: without it the piece works with small pages
  return piece;
}

// Pages are taken when they are first written, so the unused end of a piece costs nothing.
struct Cutter {
  std::mutex mutex;
  std::weak_ptr<void> piece;  // the blocks own it
  std::uint64_t used = kPiece;
};
Cutter& cutter() {
  static Cutter* const one = new Cutter;  // never destroyed: executables may be static objects
  return *one;
}

}  // namespace

std::shared_ptr<void> huge_block(std::uint64_t bytes) {
  bytes = round_up(std::max<std::uint64_t>(bytes, 1), 64);
  if (bytes < kLeast) return allocate(64, bytes);
  if (bytes > kPiece / 2) return new_piece(round_up(bytes, kHugePage));
  Cutter& c = cutter();
  const std::lock_guard lock(c.mutex);
  std::shared_ptr<void> piece = c.piece.lock();
  if (!piece || c.used + bytes > kPiece) {
    c.piece = piece = new_piece(kPiece);
    c.used = 0;
  }
  void* block = static_cast<char*>(piece.get()) + c.used;
  c.used += bytes;
  // A control block of its own: who watches the block (cpu/pack_cache.h) sees it go although the piece stays.
  return {block, [piece](void*) {}};
}

}  // namespace rhetor
