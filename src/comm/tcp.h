// Ranks as processes that are connected pair by pair over TCP: torchrun-style launches, and clusters without MPI.
#pragma once

#include "comm/rendezvous.h"

namespace rhetor {

// REQUIRES: `meeting` comes from meet() with this rank and size.
std::shared_ptr<Transport> tcp_transport(Meeting meeting, int rank, int size, const CommOptions& options = {});

}  // namespace rhetor
