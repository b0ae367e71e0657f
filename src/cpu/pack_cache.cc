#include "cpu/pack_cache.h"

#include <algorithm>
#include <map>
#include <mutex>

#include "cpu/onednn.h"

namespace rhetor {
namespace {

struct Key {
  Hash128 content;
  std::string form;
  auto operator<=>(const Key&) const = default;
};

// One block; its lock is held while the first caller packs.
struct Entry {
  std::mutex packing;
  std::weak_ptr<void> block;
  std::uint64_t bytes = 0;
};

class PackCache {
 public:
  // Never destroyed: executables may be static objects.
  static PackCache& instance() {
    static PackCache* const one = new PackCache;
    return *one;
  }

  std::shared_ptr<void> get(Key key, std::uint64_t bytes, const std::function<std::shared_ptr<void>()>& make) {
    const std::shared_ptr<Entry> entry = entry_of(std::move(key));
    const std::lock_guard lock(entry->packing);
    if (std::shared_ptr<void> block = entry->block.lock()) return block;
    std::shared_ptr<void> block = make();
    const std::lock_guard naming(mutex_);  // `use` reads these
    entry->block = block;
    entry->bytes = bytes;
    return block;
  }

  PackCacheUse use() {
    const std::lock_guard lock(mutex_);
    PackCacheUse out;
    for (const auto& [key, entry] : entries_) {
      if (entry->block.expired()) continue;
      ++out.blocks;
      out.bytes += entry->bytes;
    }
    return out;
  }

 private:
  std::shared_ptr<Entry> entry_of(Key key) {
    const std::lock_guard lock(mutex_);
    // Entries whose block is gone are swept when the table has doubled: it stays within twice the living blocks.
    if (entries_.size() >= sweep_at_) {
      std::erase_if(entries_, [](const auto& item) { return item.second.use_count() == 1 && item.second->block.expired(); });
      sweep_at_ = std::max<std::size_t>(64, 2 * entries_.size());
    }
    std::shared_ptr<Entry>& entry = entries_[std::move(key)];
    if (!entry) entry = std::make_shared<Entry>();
    return entry;
  }

  std::mutex mutex_;  // of everything but packing itself; taken inside Entry::packing, never the other way round
  std::map<Key, std::shared_ptr<Entry>> entries_;
  std::size_t sweep_at_ = 64;
};

}  // namespace

Hash128 content_of(const Tensor& tensor) { return hash128({static_cast<const std::byte*>(tensor.raw()), tensor.bytes()}); }

std::shared_ptr<void> shared_pack(const Hash128& content, const std::string& form, std::uint64_t bytes,
                                  const std::function<void(void*)>& pack) {
  return PackCache::instance().get({content, fmt::format("{} bytes, {}", bytes, form)}, bytes, [&] {
    std::shared_ptr<void> block = onednn::aligned_block(bytes);
    pack(block.get());
    return block;
  });
}

Tensor shared_constant(const Tensor& tensor) {
  // Dim names are part of a handle, not of the memory: the view below wears the caller's own type.
  const auto block = PackCache::instance().get({content_of(tensor), fmt::format("as it is, {} bytes", tensor.bytes())}, tensor.bytes(), [&] {
    auto keeper = std::make_shared<Tensor>(tensor);
    return std::shared_ptr<void>(keeper, keeper->raw());
  });
  return Tensor::view(tensor.type(), block.get(), block);
}

PackCacheUse pack_cache_use() { return PackCache::instance().use(); }

}  // namespace rhetor
