// What CUDA kernels and their launchers share. Files come in threes: x.cu holds device code and launchers with plain parameters, x.h
// declares the launchers, x.cc asks and prepares (refusals, parameters) in ordinary C++, so that nvcc never sees the graph's headers.
//
// A launcher only enqueues on the stream it is given: it neither allocates nor waits nor copies from host memory, so that everything
// can be recorded once and replayed.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "tensor/dtype.h"

namespace rhetor::gpu {

// Throws Error naming the call if `status` is a failure (device.cc).
void require(cudaError_t status, const char* call);
// After <<<>>>: did the launch succeed?
inline void launched(const char* kernel) { require(cudaGetLastError(), kernel); }

inline cudaStream_t stream(void* handle) { return static_cast<cudaStream_t>(handle); }

// Blocks of `per_block` for `count` items, at least one, at most `most` (grid-stride loops take the rest).
inline unsigned blocks(std::int64_t count, std::int64_t per_block, std::int64_t most = 1 << 20) {
  const std::int64_t n = (count + per_block - 1) / per_block;
  return static_cast<unsigned>(n < 1 ? 1 : n > most ? most : n);
}

// Calls f with a zero of the device type that holds `dtype`: float, __half, __nv_bfloat16 (kernels compute in f32).
template <class F>
void with_float(DType dtype, F&& f) {
  if (dtype == DType::f16) f(__half{});
  else if (dtype == DType::bf16) f(__nv_bfloat16{});
  else f(float{});
}
// As above for f64 too.
template <class F>
void with_any_float(DType dtype, F&& f) {
  if (dtype == DType::f64) f(double{});
  else with_float(dtype, static_cast<F&&>(f));
}
// Calls f with an unsigned integer of that many bytes (1, 2, 4, 8): for what only moves elements.
template <class F>
void with_bytes(std::size_t bytes, F&& f) {
  if (bytes == 1) f(std::uint8_t{});
  else if (bytes == 2) f(std::uint16_t{});
  else if (bytes == 4) f(std::uint32_t{});
  else f(std::uint64_t{});
}
template <class F>
void with_index(DType dtype, F&& f) {
  if (dtype == DType::i32) f(std::int32_t{});
  else f(std::int64_t{});
}

// Launches a kernel that may begin while the one before it on the stream still runs (programmatic dependent launch, sm_90): it calls
// wait_for_previous() before it touches what earlier kernels write or read, on every path, and only constants before that.
template <class Kernel, class... Args>
void launch_early(Kernel kernel, bool early, dim3 grid, unsigned cluster, unsigned threads, std::size_t shared, void* handle, Args... args) {
  if (shared > 48 * 1024)
    require(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
            "cudaFuncSetAttribute");
  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = stream(handle);
  config.attrs = attributes;
  if (cluster > 1) {
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[config.numAttrs++].val.clusterDim = {cluster, 1, 1};
  }
  if (early) {
    attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
  }
  require(cudaLaunchKernelEx(&config, kernel, args...), "cudaLaunchKernelEx");
}

#ifdef __CUDACC__   // device code only; host compilers see the launchers' declarations
// Waits until the kernels before this one on its stream are done and what they wrote can be seen; does nothing after a plain launch.
__device__ inline void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// The next kernel, if launched early, may begin once all blocks have called this or ended.
__device__ inline void let_next_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(__half x) { return __half2float(x); }
__device__ inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline double widen(double x) { return x; }
template <class T> __device__ inline T narrow(float x) { return static_cast<T>(x); }
template <> __device__ inline __half narrow<__half>(float x) { return __float2half_rn(x); }
template <> __device__ inline __nv_bfloat16 narrow<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }

// N elements moved by one instruction (N * sizeof(T) in 2, 4, 8, 16 bytes, and the address so aligned).
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T v[N];
};

template <class T, class Op>
__device__ inline T warp_reduce(T x, Op op) {
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) x = op(x, __shfl_xor_sync(0xffffffffu, x, d));
  return x;
}
struct Add {
  template <class T> __device__ T operator()(T a, T b) const { return a + b; }
};
struct Max {
  template <class T> __device__ T operator()(T a, T b) const { return a > b ? a : b; }
};
// The sum (or max) over a block of at most 1,024 threads, whole warps; every thread gets it. `shared` holds 32 values.
template <class T, class Op>
__device__ inline T block_reduce(T x, Op op, T* shared, T identity) {
  x = warp_reduce(x, op);
  const int warps = blockDim.x / 32;
  if (warps == 1) return x;
  __syncthreads();   // `shared` may still be read from a reduction before
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  x = static_cast<int>(threadIdx.x % 32) < warps ? shared[threadIdx.x % 32] : identity;
  return warp_reduce(x, op);
}
#endif

}  // namespace rhetor::gpu
