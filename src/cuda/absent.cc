// In place of the CUDA backend where the build found no nvcc (cuda.cmake chooses): the same functions, which say so.
#include "base/error.h"
#include "cuda/cuda.h"

namespace rhetor {
namespace {

[[noreturn]] void absent() { throw Error(ErrorKind::unsupported, cuda_absence()); }

}  // namespace

std::string cuda_absence() { return "this program was built without CUDA (no nvcc was found when it was built)"; }
const std::vector<CudaDevice>& cuda_devices() {
  static const std::vector<CudaDevice> none;
  return none;
}
std::string cuda_description(const CudaDevice&) { absent(); }
std::shared_ptr<void> cuda_allocate(const CudaDevice&, CudaMemory, std::uint64_t) { absent(); }
void cuda_copy(void*, const void*, std::uint64_t) { absent(); }
void cuda_zero(const CudaDevice&, void*, std::uint64_t) { absent(); }
std::uint64_t cuda_free_bytes(const CudaDevice&) { absent(); }

CudaStream::CudaStream(const CudaDevice& device) : device_(device) { absent(); }
CudaStream::~CudaStream() = default;
void CudaStream::activate() const { absent(); }
void CudaStream::copy(void*, const void*, std::uint64_t) { absent(); }
void CudaStream::fill(void*, int, std::uint64_t) { absent(); }
void CudaStream::synchronize() { absent(); }
void CudaStream::begin_recording() { absent(); }
std::shared_ptr<void> CudaStream::end_recording() { absent(); }
void CudaStream::run(void*) { absent(); }
void CudaStream::make_marks(int) { absent(); }
void CudaStream::mark(int) { absent(); }
double CudaStream::seconds(int, int) { absent(); }

CudaTrial try_cuda_way(const CudaDevice&, const std::string&, const std::string&) { absent(); }

const std::vector<KernelRow>& cuda_kernel_table() {
  static const std::vector<KernelRow> none;
  return none;
}
ChosenKernel choose_cuda_kernel(const KernelRequest&, std::string_view) { absent(); }

}  // namespace rhetor
