// Finds and loads librhetor_mpi.so.
#pragma once

#include "comm/mpi_api.h"

namespace rhetor {

// Stays loaded to the end of the process. Fails with the places that were tried.
const RhetorMpiApi& load_mpi();

}  // namespace rhetor
