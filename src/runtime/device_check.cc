#include "runtime/device_check.h"

#include "base/error.h"

namespace rhetor {
namespace {

// The first compute capability whose matrix units take the dtype. Where there are none for bf16, kernels without them stand in.
int first_compute(DType dtype) { return dtype == DType::f8e4m3 || dtype == DType::f8e5m2 ? 89 : 0; }

}  // namespace

void require_supported(const CudaDevice& device, DType compute) {
  const int needed = first_compute(compute);
  if (device.compute >= needed) return;
  fail(ErrorKind::unsupported, "{} (sm_{}) has no matrix units for {}, which begin with sm_{}; use {}", device.name, device.compute,
       name(compute), needed, device.compute >= 80 ? "bf16, f16 or int8" : "f16 or f32");
}

}  // namespace rhetor
