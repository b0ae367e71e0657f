#include "cuda/codegen.h"

#include <algorithm>

#include "base/error.h"
#include "cuda/codegen_text.h"
#include "cuda/nvrtc.h"

namespace rhetor::gpu {
namespace {

constexpr std::size_t kMostParameters = 128;

class Generated : public GeneratedKernel {
 public:
  Generated(const CudaDevice& device, KernelText text) : text_(std::move(text)), processors_(device.processors) {
    if (text_.count == 0) return;
    function_ = device_function(device, text_.code, text_.name);
    text_.code.clear();
    for (const Tensor& constant : text_.operands.constants) {
      constants_.push_back(cuda_allocate(device, CudaMemory::device, constant.bytes()));
      cuda_copy(constants_.back().get(), constant.raw(), constant.bytes());
      addresses_.push_back(constants_.back().get());
    }
    text_.operands.constants.clear();
  }

  void launch(const void* const* in, void* const* out, void* stream) const override {
    if (text_.count == 0) return;
    void* args[kMostParameters];
    std::size_t used = 0;
    for (const int k : text_.operands.inputs) args[used++] = const_cast<const void**>(in + k);
    for (void* const& address : addresses_) args[used++] = const_cast<void**>(&address);
    for (std::size_t k = 0; k < text_.results; ++k) args[used++] = const_cast<void**>(out + k);
    for (const std::uint64_t& number : text_.operands.numbers) args[used++] = const_cast<std::uint64_t*>(&number);
    auto count = static_cast<std::uint64_t>(text_.count);
    auto short_count = static_cast<std::uint32_t>(count);
    args[used] = text_.wide ? static_cast<void*>(&count) : &short_count;
    unsigned threads = 0;
    const unsigned blocks = shape(threads);
    function_->launch(blocks, threads, args, stream);
  }
  const std::string& text() const override { return text_.summary; }

 private:
  // Blocks of the grid, and threads of a block: small work is spread over all processors, large work is walked a few times.
  unsigned shape(unsigned& threads) const {
    const std::int64_t row = text_.row_threads, processors = processors_;
    if (row > 32) {
      threads = static_cast<unsigned>(row);
      return static_cast<unsigned>(text_.count);
    }
    if (row == 32) {
      const std::int64_t rows = text_.count >= processors * 16 ? 4 : 1;
      threads = static_cast<unsigned>(rows * 32);
      return static_cast<unsigned>((text_.count + rows - 1) / rows);
    }
    const std::int64_t work = (text_.count + text_.width - 1) / text_.width;
    const std::int64_t each = work >= processors * 512 ? 256 : work >= processors * 128 ? 128 : 64;
    threads = static_cast<unsigned>(each);
    return static_cast<unsigned>(std::min((work + each - 1) / each, processors * 32 * (256 / each)));
  }

  KernelText text_;
  std::int64_t processors_;
  std::shared_ptr<const DeviceFunction> function_;
  std::vector<std::shared_ptr<void>> constants_;
  std::vector<void*> addresses_;
};

}  // namespace

GeneratedPtr generated(const CudaDevice& device, KernelText text) {
  const KernelOperands& o = text.operands;
  check(o.inputs.size() + o.constants.size() + text.results + o.numbers.size() < kMostParameters,
        "a generated kernel has too many parameters");
  return std::make_shared<Generated>(device, std::move(text));
}

std::string refuse_pointwise(const Graph& body, const std::vector<ValueId>& inputs, const std::vector<ValueId>& outputs,
                             const std::vector<DType>& storage) {
  try {
    pointwise_kernel(body, inputs, outputs, storage);
    return "";
  } catch (const Refused& refused) {
    return refused.reason;
  }
}

GeneratedPtr generate_pointwise(const CudaDevice& device, const Graph& body, const std::vector<ValueId>& inputs,
                                const std::vector<ValueId>& outputs, const std::vector<DType>& storage) {
  try {
    return generated(device, pointwise_kernel(body, inputs, outputs, storage));
  } catch (const Refused& refused) {
    fail(ErrorKind::internal, "a pointwise kernel is generated after it was refused: {}", refused.reason);
  }
}

}  // namespace rhetor::gpu
