// The row of top_k.
#include "cuda/top_k.h"

#include "cuda/families.h"

namespace rhetor::gpu {
namespace {

std::string refuse(const KernelRequest& r) { return r.in[0].shape.last() < std::int64_t{1} << 31 ? "" : "a row has more than 2^31 elements"; }

Kernel prepare(const KernelRequest& r) {
  const std::int64_t size = r.in[0].shape.last();
  const TopKProblem p{.rows = size ? r.in[0].elements() / size : 0, .size = size, .k = r.out[0].shape.last(), .dtype = r.in[0].dtype};
  Kernel kernel;
  kernel.params = std::make_shared<const TopKProblem>(p);
  kernel.scratch_bytes = top_k_scratch(p);
  kernel.run = [](const void* params, const KernelArgs& a) {
    top_k(*static_cast<const TopKProblem*>(params), a.in[0], a.out[0], a.out[1], a.scratch, a.stream);
  };
  return kernel;
}

}  // namespace

KernelRow top_k_row() { return {"top_k", {{"cuda.top_k", refuse, prepare}}}; }

}  // namespace rhetor::gpu
