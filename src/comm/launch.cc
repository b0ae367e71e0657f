#include "comm/launch.h"

#include <charconv>
#include <cstdlib>

#include "comm/host_communicator.h"
#include "comm/mpi.h"
#include "comm/tcp.h"

namespace rhetor {
namespace {

// Where ranks meet when nobody says: Slurm steps get one of 20,000 ports by their job's number.
constexpr int kPort = 29500, kFirstSlurmPort = 30000, kSlurmPorts = 20000;

std::optional<int> number(const Environment& environment, const char* name, int least, int most) {
  const std::optional<std::string> text = environment(name);
  if (!text) return std::nullopt;
  int value = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  if (error != std::errc() || end != text->data() + text->size() || value < least || value > most)
    fail("the environment variable {} is '{}'; expected a number from {} to {}", name, *text, least, most);
  return value;
}
constexpr int kMostRanks = 65535;

// The variables of one launcher: all of rank and size, or it is not the one.
std::optional<Launch> from(const Environment& environment, Launcher launcher, std::string_view backend, const char* rank, const char* size,
                           const char* local_rank) {
  const std::optional<int> r = number(environment, rank, 0, kMostRanks), n = number(environment, size, 1, kMostRanks);
  if (!r || !n) return std::nullopt;
  if (*r >= *n) fail("{} is {} but {} is {}: ranks go from 0 to {}", rank, *r, size, *n, *n - 1);
  return Launch{.launcher = launcher, .backend = backend, .rank = *r, .size = *n,
                .local_rank = number(environment, local_rank, 0, kMostRanks).value_or(0)};
}

std::optional<Launch> from_any(const Environment& environment) {
  if (auto launch = from(environment, Launcher::torchrun, "tcp", "RANK", "WORLD_SIZE", "LOCAL_RANK")) return launch;
  if (auto launch = from(environment, Launcher::mpi, "mpi", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"))
    return launch;
  // SLURM_STEP_NUM_TASKS exists in what srun starts only: a batch script that runs one program is not a launch of many. srun may speak
  // PMI as well; that is of use to MPI only, which is not the default here.
  if (auto launch = from(environment, Launcher::slurm, "tcp", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")) return launch;
  return from(environment, Launcher::mpi, "mpi", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID");
}

SocketAddress master_of(const Launch& launch, const Environment& environment) {
  SocketAddress master{"127.0.0.1", kPort};
  if (launch.launcher == Launcher::slurm) {
    const auto nodes = environment("SLURM_STEP_NODELIST") ? environment("SLURM_STEP_NODELIST") : environment("SLURM_NODELIST");
    if (nodes) master.host = first_node(*nodes);
    const int job = number(environment, "SLURM_JOB_ID", 0, 2147483647).value_or(0);
    const int step = number(environment, "SLURM_STEP_ID", 0, 2147483647).value_or(0);
    master.port = kFirstSlurmPort + static_cast<int>((std::int64_t{job} * 31 + step) % kSlurmPorts);
  }
  const auto host = environment("MASTER_ADDR");
  if (host && !host->empty()) master.host = *host;
  if (const auto port = number(environment, "MASTER_PORT", 1, 65535)) {
    master.port = *port;
    // torchrun itself listens there.
    if (environment("TORCHELASTIC_USE_AGENT_STORE").value_or("") == "True") master.port = *port == 65535 ? 65534 : *port + 1;
  } else if (launch.launcher == Launcher::torchrun && launch.size > 1 && !host) {
    fail("RANK and WORLD_SIZE are set but MASTER_ADDR and MASTER_PORT are not: rank {} cannot know where rank 0 is", launch.rank);
  }
  return master;
}

}  // namespace

Environment process_environment() {
  return [](const char* name) -> std::optional<std::string> {
    const char* value = std::getenv(name);
    return value ? std::optional<std::string>(value) : std::nullopt;
  };
}

std::optional<Launch> detect_launch(const Environment& environment) {
  std::optional<Launch> launch = from_any(environment);
  if (!launch) return launch;
  if (const auto wish = environment("RHETOR_COMM")) {
    if (*wish != "tcp" && *wish != "mpi") fail("RHETOR_COMM is '{}'; expected tcp or mpi", *wish);
    launch->backend = *wish == "tcp" ? "tcp" : "mpi";
  }
  if (launch->backend == "tcp") launch->master = master_of(*launch, environment);
  return launch;
}

std::string first_node(std::string_view node_list) {
  std::string name;
  bool bracket = false;   // inside, only the first number counts; the text after ']' belongs to the name again
  bool skip = false;
  for (const char c : node_list) {
    if (c == '[') {
      bracket = true;
    } else if (c == ']') {
      bracket = skip = false;
    } else if (bracket && (c == '-' || c == ',')) {
      skip = true;
    } else if (c == ',') {
      break;
    } else if (!skip) {
      name += c;
    }
  }
  return name;
}

std::unique_ptr<Communicator> join(const Launch& launch, const CommOptions& options) {
  if (launch.backend == "mpi") return world_of(mpi_transport(launch.rank, launch.size, options));
  return world_of(tcp_transport(meet(launch.master, launch.rank, launch.size, options), launch.rank, launch.size, options));
}

}  // namespace rhetor
