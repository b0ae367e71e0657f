// Ranks as processes of an MPI launch. The MPI library is loaded when it is needed and not before.
#pragma once

#include <memory>

#include "comm/transport.h"

namespace rhetor {

// Loads librhetor_mpi.so (beside the program, in ../lib, or where the environment variable RHETOR_MPI says), starts MPI and checks that it
// has the rank and size that the launcher announced. Fails with the way out when there is no MPI backend or the launch is not MPI's.
std::shared_ptr<Transport> mpi_transport(int rank, int size, const CommOptions& options = {});

}  // namespace rhetor
