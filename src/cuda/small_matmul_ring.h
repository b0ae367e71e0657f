// A lane's own ring of asynchronous copies: what a lane copies only that lane reads, so no barrier is needed, and how many bytes
// are on their way does not depend on registers or on the order the compiler likes. Device code; needs sm_80.
#pragma once

#include "cuda/launch.h"

namespace rhetor::gpu {

#ifdef __CUDACC__

// Copies `bytes` (16 or 8) from global to shared memory, or zeros where not `wanted` (then `from` is not read). Weights (`once`)
// pass by the first-level cache.
template <int bytes, bool once>
__device__ inline void copy_async(void* to, const void* from, bool wanted) {
#if __CUDA_ARCH__ >= 800
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(to));
  const int size = wanted ? bytes : 0;
  if constexpr (once)
    asm volatile("cp.async.cg.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(from), "n"(bytes), "r"(size) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(from), "n"(bytes), "r"(size) : "memory");
#endif
}
// Ends a group of copies.
__device__ inline void close_group() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Waits until at most `pending` groups of this lane are on their way.
template <int pending>
__device__ inline void wait_groups() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#endif
}

#endif

// Launches with dynamic shared memory beyond what a kernel may use unasked.
template <class Kernel, class... Args>
void launch_shared(Kernel kernel, dim3 grid, unsigned cluster, unsigned threads, std::size_t shared, void* handle, Args... args) {
  require(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared)),
          "cudaFuncSetAttribute");
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = stream(handle);
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {1, cluster, 1};
  config.attrs = &attribute;
  config.numAttrs = cluster > 1 ? 1 : 0;
  require(cudaLaunchKernelEx(&config, kernel, args...), "cudaLaunchKernelEx");
}

}  // namespace rhetor::gpu
