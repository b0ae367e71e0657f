#include <cuda_runtime.h>

#include <algorithm>
#include <charconv>

#include "base/error.h"
#include "cuda/cuda.h"

namespace rhetor {
namespace gpu {

namespace {

// After these no call of the process succeeds.
bool is_final(cudaError_t status) {
  switch (status) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorAssert:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorDevicesUnavailable:
    case cudaErrorUnknown:
      return true;
    default:
      return false;
  }
}

}  // namespace

void require(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  if (is_final(status)) {
    set_lost_device(fmt::format("the GPU was lost: {} failed: {}; start the program again", call, cudaGetErrorString(status)));
    throw Error(ErrorKind::unsupported, lost_device());
  }
  const bool memory = status == cudaErrorMemoryAllocation;
  throw Error(memory ? ErrorKind::resource : ErrorKind::unsupported, fmt::format("CUDA: {} failed: {}", call, cudaGetErrorString(status)));
}

}  // namespace gpu

using gpu::require;

namespace {

struct Found {
  std::string absence;
  std::vector<CudaDevice> devices;
};

CudaDevice describe(int index) {
  cudaDeviceProp p;
  require(cudaGetDeviceProperties(&p, index), "cudaGetDeviceProperties");
  char bus[32] = {};
  require(cudaDeviceGetPCIBusId(bus, sizeof bus, index), "cudaDeviceGetPCIBusId");
  return {.index = index, .name = p.name, .compute = p.major * 10 + p.minor, .processors = p.multiProcessorCount,
          .memory = p.totalGlobalMem, .l2_bytes = p.l2CacheSize, .shared_bytes = static_cast<int>(p.sharedMemPerBlockOptin), .bus = bus};
}

std::string version(int number) { return fmt::format("{}.{}", number / 1000, number % 1000 / 10); }

Found look() {
  Found found;
  int driver = 0, count = 0;
  cudaDriverGetVersion(&driver);
  const cudaError_t status = cudaGetDeviceCount(&count);
  const bool told = status == cudaSuccess || status == cudaErrorNoDevice;
  found.absence = cuda_absence(driver, CUDART_VERSION, told ? count : 0, told ? "" : cudaGetErrorString(status));
  cudaGetLastError();
  if (found.absence.empty())
    for (int i = 0; i < count; ++i) found.devices.push_back(describe(i));
  return found;
}

const Found& found() {
  static const Found once = look();
  return once;
}

void use(const CudaDevice& device) { require(cudaSetDevice(device.index), "cudaSetDevice"); }

}  // namespace

std::string cuda_absence() { return found().absence; }
const std::vector<CudaDevice>& cuda_devices() { return found().devices; }

std::string cuda_description(const CudaDevice& device) {
  int driver = 0;
  cudaDriverGetVersion(&driver);
  return fmt::format("{}, {} processors, sm_{}, driver {}", device.name, device.processors, device.compute, version(driver));
}

std::shared_ptr<void> cuda_allocate(const CudaDevice& device, CudaMemory kind, std::uint64_t bytes) {
  use(device);
  void* address = nullptr;
  const std::size_t size = std::max<std::uint64_t>(bytes, 256);
  cudaError_t status = cudaSuccess;
  switch (kind) {
    case CudaMemory::device: status = cudaMalloc(&address, size); break;
    case CudaMemory::pinned: status = cudaMallocHost(&address, size); break;
  }
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw Error(ErrorKind::resource, fmt::format("{} has too little memory: {} bytes were asked for and {} of {} are free; take a smaller "
                                                 "batch or context, fewer slots, or compressed weights", device.name, size,
                                                 cuda_free_bytes(device), device.memory));
  }
  require(status, "memory allocation");
  // At exit the driver may be gone before the last owner: what it says then is of no interest.
  if (kind == CudaMemory::pinned) return {address, [](void* p) { cudaFreeHost(p); }};
  return {address, [](void* p) { cudaFree(p); }};
}

void cuda_copy(void* to, const void* from, std::uint64_t bytes) {
  if (bytes) require(cudaMemcpy(to, from, bytes, cudaMemcpyDefault), "cudaMemcpy");
}

void cuda_zero(const CudaDevice& device, void* to, std::uint64_t bytes) {
  use(device);
  if (bytes) require(cudaMemset(to, 0, bytes), "cudaMemset");
  require(cudaDeviceSynchronize(), "cudaMemset");   // it is asynchronous, and streams here do not wait for it
}

std::uint64_t cuda_free_bytes(const CudaDevice& device) {
  use(device);
  std::size_t free = 0, total = 0;
  require(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return free;
}

// ---- streams -------------------------------------------------------------------------------------
CudaStream::CudaStream(const CudaDevice& device) : device_(device) {
  use(device);
  cudaStream_t made = nullptr;
  require(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "cudaStreamCreate");
  handle_ = made;
}

CudaStream::~CudaStream() {
  for (void* mark : marks_) cudaEventDestroy(static_cast<cudaEvent_t>(mark));
  cudaStreamDestroy(static_cast<cudaStream_t>(handle_));
}

void CudaStream::activate() const { use(device_); }

void CudaStream::copy(void* to, const void* from, std::uint64_t bytes) {
  if (bytes) require(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, static_cast<cudaStream_t>(handle_)), "cudaMemcpyAsync");
}
void CudaStream::fill(void* to, int byte, std::uint64_t bytes) {
  if (bytes) require(cudaMemsetAsync(to, byte, bytes, static_cast<cudaStream_t>(handle_)), "cudaMemsetAsync");
}
void CudaStream::synchronize() { require(cudaStreamSynchronize(static_cast<cudaStream_t>(handle_)), "a kernel"); }

void CudaStream::begin_recording() {
  require(cudaStreamBeginCapture(static_cast<cudaStream_t>(handle_), cudaStreamCaptureModeRelaxed), "cudaStreamBeginCapture");
}

std::shared_ptr<void> CudaStream::end_recording() {
  cudaGraph_t graph = nullptr;
  require(cudaStreamEndCapture(static_cast<cudaStream_t>(handle_), &graph), "cudaStreamEndCapture");
  cudaGraphExec_t exec = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&exec, graph, 0);
  cudaGraphDestroy(graph);
  require(status, "cudaGraphInstantiate");
  return {exec, [](void* p) { cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(p)); }};
}

void CudaStream::run(void* recording) {
  require(cudaGraphLaunch(static_cast<cudaGraphExec_t>(recording), static_cast<cudaStream_t>(handle_)), "cudaGraphLaunch");
}

void CudaStream::make_marks(int count) {
  while (static_cast<int>(marks_.size()) < count) {
    cudaEvent_t event = nullptr;
    require(cudaEventCreate(&event), "cudaEventCreate");
    marks_.push_back(event);
  }
}
void CudaStream::mark(int i) {
  require(cudaEventRecord(static_cast<cudaEvent_t>(marks_[static_cast<std::size_t>(i)]), static_cast<cudaStream_t>(handle_)), "cudaEventRecord");
}
double CudaStream::seconds(int from, int to) {
  float ms = 0;
  require(cudaEventElapsedTime(&ms, static_cast<cudaEvent_t>(marks_[static_cast<std::size_t>(from)]),
                               static_cast<cudaEvent_t>(marks_[static_cast<std::size_t>(to)])), "cudaEventElapsedTime");
  return ms / 1000.0;
}

}  // namespace rhetor
