// Collectives as kernels: what shard() (passes/shard.h) put into a rank's graph, carried out by the rank's communicator. Host
// memory only.
#pragma once

#include "cpu/kernel.h"

namespace rhetor {

class Communicator;

// REQUIRES: request.node is a collective. Fails if its group is not all ranks of `communicator`, which must outlive the kernel.
// Sums are taken in rank order, so all ranks hold the same bits.
ChosenKernel collective_kernel(const KernelRequest& request, Communicator& communicator);

}  // namespace rhetor
