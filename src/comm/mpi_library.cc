#include "comm/mpi_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "base/error.h"

namespace rhetor {

const RhetorMpiApi& load_mpi() {
  std::vector<std::string> places;
  if (const char* given = std::getenv("RHETOR_MPI")) {
    places.push_back(given);
  } else {
    std::error_code none;
    const std::filesystem::path folder = std::filesystem::read_symlink("/proc/self/exe", none).parent_path();
    places = {(folder / "librhetor_mpi.so").string(), (folder.parent_path() / "lib/librhetor_mpi.so").string(), "librhetor_mpi.so"};
  }
  std::string tried;
  for (const std::string& place : places) {
    // Global: MPI libraries load parts of themselves that look for its symbols.
    void* library = ::dlopen(place.c_str(), RTLD_NOW | RTLD_GLOBAL);
    if (!library) {
      const char* why = ::dlerror();
      tried += fmt::format("{}{}", tried.empty() ? "" : "; ", why ? why : place);
      continue;
    }
    const auto table = reinterpret_cast<const RhetorMpiApi* (*)()>(::dlsym(library, "rhetor_mpi_api"));
    if (!table || table()->version != RHETOR_MPI_API_VERSION)
      fail(ErrorKind::unsupported, "{} belongs to another version of Rhetor; build it together with the program", place);
    return *table();
  }
  fail(ErrorKind::unsupported, "this was started by an MPI launcher, but the MPI backend cannot be loaded ({}); install an MPI "
       "(libopenmpi-dev) and build again, or start the ranks with torchrun-style variables or srun, which need none", tried);
}

}  // namespace rhetor
