// What a device's arithmetic cannot do, said before anything is compiled for it.
#pragma once

#include "cuda/cuda.h"
#include "tensor/dtype.h"

namespace rhetor {

// Fails (unsupported) with the reason and what to use instead if the device has no units for contractions in `compute`.
void require_supported(const CudaDevice& device, DType compute);

}  // namespace rhetor
