// The CUDA backend as the rest of Rhetor sees it: devices, memory, streams, recorded graphs and the choice of kernels. No CUDA header is
// needed to include this, and a program built without CUDA has the same functions (absent.cc), which say so.
//
// Failures of the driver are Errors (resource: out of memory, with the bytes asked for and free; unsupported: no device).
// Thread-safety: the functions may be called from any thread; a stream and a recording belong to one thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cpu/kernel.h"

namespace rhetor {

struct CudaDevice {
  int index = 0;
  std::string name;             // "NVIDIA H200"
  int compute = 0;              // compute capability times ten: 90
  int processors = 0;           // streaming multiprocessors
  std::uint64_t memory = 0;     // bytes
  int l2_bytes = 0;
  int shared_bytes = 0;         // most dynamic shared memory a block may ask for
  std::string bus = {};         // "0000:1b:00.0", by which NVML knows it
};

// "" if this machine has a device this program can use, else the reason as a sentence: no driver, driver too old, built without CUDA.
std::string cuda_absence();
// The same reason from what the driver said. Versions as CUDA counts them (13020 is 13.2); `driver` 0: there is none.
std::string cuda_absence(int driver, int needed, int count, const std::string& other_failure);
// Devices in the driver's order; empty where cuda_absence() is not.
const std::vector<CudaDevice>& cuda_devices();
// The device of "cuda" (the first) or "cuda:N"; null for "cpu". Fails for others, and naming the reason where there is none.
const CudaDevice* find_device(std::string_view name);
// The same among `devices`, of a machine that cannot use them for the reason `absence`.
const CudaDevice* find_device(std::string_view name, const std::vector<CudaDevice>& devices, const std::string& absence);
// "" or what went wrong in a device for good: it fell off the bus, or a kernel broke it. Every later call fails; the program must be
// started again. Set by whatever call sees it first (and by tests).
std::string lost_device();
void set_lost_device(const std::string& reason);
// Called once, from whatever thread sees the loss: a service stops itself then.
void on_lost_device(void (*call)());
// The device that compile() uses where its options name none; null, the CPU, until set. Set it before the first compilation.
const CudaDevice* default_device();
void set_default_device(std::string_view name);
// "NVIDIA H200, 132 processors, sm_90, driver 13.0"
std::string cuda_description(const CudaDevice& device);

// ---- memory --------------------------------------------------------------------------------------
enum class CudaMemory {
  device,   // only kernels may touch it
  pinned,   // host memory that copies asynchronously
};
// At least 256-byte aligned, not initialised; freed with the last owner.
std::shared_ptr<void> cuda_allocate(const CudaDevice& device, CudaMemory kind, std::uint64_t bytes);
// Copies between any two places, and waits.
void cuda_copy(void* to, const void* from, std::uint64_t bytes);
void cuda_zero(const CudaDevice& device, void* to, std::uint64_t bytes);
std::uint64_t cuda_free_bytes(const CudaDevice& device);

// ---- order of work -------------------------------------------------------------------------------
// A queue of kernels and copies on one device; run in order.
class CudaStream {
 public:
  explicit CudaStream(const CudaDevice& device);
  ~CudaStream();
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;
  void* handle() const { return handle_; }          // cudaStream_t; what KernelArgs.stream holds
  const CudaDevice& device() const { return device_; }
  void activate() const;                             // makes the device this thread's
  void copy(void* to, const void* from, std::uint64_t bytes);
  void fill(void* to, int byte, std::uint64_t bytes);
  void synchronize();                                // waits; fails with what went wrong in any kernel before

  // What is enqueued between the two is recorded, not run; the recording then runs by one call, any number of times.
  void begin_recording();
  std::shared_ptr<void> end_recording();
  void run(void* recording);

  // Marks in the queue, to time what lies between: mark(i) for i in [0, count), then seconds(i, j) after synchronize().
  void make_marks(int count);
  void mark(int i);
  double seconds(int from, int to);

 private:
  const CudaDevice& device_;
  void* handle_ = nullptr;
  std::vector<void*> marks_;
};

// ---- tuning --------------------------------------------------------------------------------------
// One of the ways in which a library computes a problem. Ways of equal `rounding` add the same numbers in the same order.
struct CudaWay {
  std::string name, rounding;   // no spaces in the name
};
// Asked when a problem is planned: the index of the way to take, 0 for the library's own choice. Null, at first: that one.
using CudaTuner = int (*)(const CudaDevice& device, const std::string& problem, const std::vector<CudaWay>& ways);
CudaTuner cuda_tuner();
void set_cuda_tuner(CudaTuner tuner);
struct CudaTrial {
  std::uint64_t hash = 0;       // of the result on made-up operands
  double us = 0;                // the least of several runs
};
// Computes `problem` that way. What it does wrong may end the process: for the tuner's worker (runtime/tune_device.h).
CudaTrial try_cuda_way(const CudaDevice& device, const std::string& problem, const std::string& way);

// ---- kernels -------------------------------------------------------------------------------------
// The table of CUDA kernels (kernels.cc), candidates best first.
const std::vector<KernelRow>& cuda_kernel_table();
// As choose_kernel() (cpu/kernel.h), for request.device; fails naming the node and every refusal if no kernel takes it.
ChosenKernel choose_cuda_kernel(const KernelRequest& request, std::string_view only = "");

}  // namespace rhetor
