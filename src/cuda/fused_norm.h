// `fused` nodes around layer_norm or rms_norm.
#pragma once

#include "cuda/cuda.h"

namespace rhetor::gpu {

KernelRow fused_norm_row();

}  // namespace rhetor::gpu
