#include "runtime/device_memory.h"

#include <cstring>
#include <map>
#include <mutex>
#include <tuple>

#include "cpu/pack_cache.h"

namespace rhetor {

std::shared_ptr<void> on_device(const CudaDevice& device, const Tensor& tensor) {
  static std::mutex mutex;
  static std::map<std::tuple<int, std::uint64_t, std::uint64_t, std::size_t>, std::weak_ptr<void>> blocks;
  const Hash128 content = content_of(tensor);
  const std::lock_guard lock(mutex);   // held while copying: who asks for the same block waits for it
  std::weak_ptr<void>& known = blocks[{device.index, content.low, content.high, tensor.bytes()}];
  if (std::shared_ptr<void> block = known.lock()) return block;
  std::shared_ptr<void> block = cuda_allocate(device, CudaMemory::device, tensor.bytes());
  cuda_copy(block.get(), tensor.raw(), tensor.bytes());
  known = block;
  std::erase_if(blocks, [](const auto& entry) { return entry.second.expired(); });
  return block;
}

Tensor pinned_tensor(const CudaDevice& device, const Type& type) {
  std::shared_ptr<void> memory = cuda_allocate(device, CudaMemory::pinned, type.bytes());
  void* address = memory.get();
  if (type.bytes()) std::memset(address, 0, type.bytes());
  return Tensor::view(type, address, std::move(memory));
}

}  // namespace rhetor
