// Which ranks there are: told by the launcher's environment variables, or by --ranks.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "comm/socket.h"

namespace rhetor {

enum class Launcher { torchrun, mpi, slurm };

// A process as its launcher sees it.
struct Launch {
  Launcher launcher = Launcher::torchrun;
  std::string_view backend;   // "tcp" or "mpi"
  int rank = 0, size = 1;
  int local_rank = 0;         // among the processes of this machine: the device to take
  SocketAddress master;       // tcp: where rank 0 listens
};

using Environment = std::function<std::optional<std::string>(const char* name)>;
Environment process_environment();

// In this order: RANK and WORLD_SIZE (torchrun and whatever speaks like it; MASTER_ADDR, MASTER_PORT, LOCAL_RANK with them), mpirun of Open
// MPI (OMPI_COMM_WORLD_*) and of MPICH (PMI_*), srun (SLURM_*: tcp, with rank 0 on the first node). RHETOR_COMM=tcp|mpi overrides the
// backend. Nothing when no launcher is behind this process. Fails on variables that make no sense together.
std::optional<Launch> detect_launch(const Environment& environment = process_environment());

// The first name of a Slurm node list: "node[07-09,12],b1" -> "node07".
std::string first_node(std::string_view node_list);

// Joins the other processes of the launch. Fails within options.rendezvous seconds if they do not all come.
std::unique_ptr<Communicator> join(const Launch& launch, const CommOptions& options = {});

}  // namespace rhetor
