// The row of cumsum.
#include "cuda/cumsum.h"

#include <fmt/format.h>

#include "cuda/families.h"

namespace rhetor::gpu {
namespace {

std::string refuse(const KernelRequest& r) {
  const DType dtype = r.in[0].dtype;
  return byte_size(dtype) == 1 && is_float(dtype) ? fmt::format("has no {}", name(dtype)) : "";
}

Kernel prepare(const KernelRequest& r) {
  const Shape& x = r.in[0].shape;
  const int axis = normalize_axis(r.node.attrs.i("axis"), x.rank(), "cumsum");
  Kernel kernel;
  kernel.params = std::make_shared<const CumsumProblem>(CumsumProblem{.outer = x.elements(0, axis), .size = x[axis],
                                                                      .inner = x.elements(axis + 1, x.rank()),
                                                                      .reverse = r.node.attrs.b("reverse"), .dtype = r.in[0].dtype});
  kernel.run = [](const void* params, const KernelArgs& a) {
    cumsum(*static_cast<const CumsumProblem*>(params), a.in[0], a.out[0], a.stream);
  };
  return kernel;
}

}  // namespace

KernelRow cumsum_row() { return {"cumsum", {{"cuda.cumsum", refuse, prepare}}}; }

}  // namespace rhetor::gpu
