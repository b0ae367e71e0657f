#include <algorithm>
#include <map>
#include <mutex>

#include "runtime/executable.h"

namespace rhetor {

// A mutex per bucket: a bucket that is compiling delays only those who wait for it.
struct Buckets::Impl {
  struct Slot {
    std::mutex mutex;
    ExecutablePtr executable;
  };
  std::map<std::int64_t, Slot> slots;   // fixed after construction
  Build build;
};

Buckets::Buckets(std::string dim, std::vector<std::int64_t> sizes, Build build)
    : dim_(std::move(dim)), sizes_(std::move(sizes)), impl_(std::make_shared<Impl>()) {
  if (sizes_.empty()) fail("the dim '{}' needs at least one bucket", dim_);
  std::sort(sizes_.begin(), sizes_.end());
  sizes_.erase(std::unique(sizes_.begin(), sizes_.end()), sizes_.end());
  if (sizes_.front() < 1) fail("the dim '{}' has a bucket of size {}; sizes start at 1", dim_, sizes_.front());
  for (const std::int64_t size : sizes_) impl_->slots[size];
  impl_->build = std::move(build);
}

std::int64_t Buckets::bucket(std::int64_t size) const {
  const auto found = std::lower_bound(sizes_.begin(), sizes_.end(), size);
  if (found == sizes_.end()) fail("{} = {} is larger than the largest bucket, {}", dim_, size, sizes_.back());
  return *found;
}

ExecutablePtr Buckets::get(std::int64_t size) {
  const std::int64_t which = bucket(size);
  Impl::Slot& slot = impl_->slots.at(which);
  std::lock_guard lock(slot.mutex);
  if (!slot.executable) slot.executable = impl_->build(which);
  return slot.executable;
}

}  // namespace rhetor
