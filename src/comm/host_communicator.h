// The communicator over host memory: one for loopback, TCP and MPI, which differ in their transport only.
#pragma once

#include <memory>

#include "comm/group.h"

namespace rhetor {

// All ranks of a transport. The communicator and its splits share it; with the last of them it says goodbye to the other ranks.
std::unique_ptr<Communicator> world_of(std::shared_ptr<Transport> transport);

}  // namespace rhetor
