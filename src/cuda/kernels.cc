// The table of CUDA kernels and the choice among them.
#include <algorithm>
#include <map>

#include "base/error.h"
#include "cuda/families.h"

namespace rhetor {
namespace {

const std::vector<std::vector<KernelRow> (*)()> kFamilies = {
    gpu::small_matmul_rows, gpu::matmul_rows, gpu::quantize_rows, gpu::conv_rows, gpu::norm_rows, gpu::pointwise_rows, gpu::layout_rows,
    gpu::reduce_rows, gpu::softmax_rows, gpu::attention_rows, gpu::embedding_rows, gpu::loss_rows, gpu::optimizer_rows};

}  // namespace

const std::vector<KernelRow>& cuda_kernel_table() {
  static const std::vector<KernelRow> table = join_families(kFamilies);
  return table;
}

ChosenKernel choose_cuda_kernel(const KernelRequest& request, std::string_view only) {
  check(request.device != nullptr, "a CUDA kernel is chosen for a device");
  ChosenKernel chosen;
  if (choose_from(cuda_kernel_table(), request, only, chosen)) return chosen;
  std::string reasons;
  for (const KernelRefusal& refusal : chosen.refused) reasons += fmt::format("; {}: {}", refusal.candidate, refusal.reason);
  throw Error(ErrorKind::unsupported,
              fmt::format("no CUDA kernel takes the {} node in '{}' with the result {}{}", request.node.op->name, request.node.scope,
                          request.out.empty() ? "nothing" : request.out[0].str(), reasons));
}

}  // namespace rhetor
