#include "cuda/library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>

#include "base/error.h"

namespace rhetor::gpu {
namespace {

std::vector<std::string> folders() {
  std::vector<std::string> out;
  if (const char* own = std::getenv("RHETOR_CUDA_LIBRARIES")) {
    std::string_view rest = own;
    while (!rest.empty()) {
      const std::size_t end = std::min(rest.find(':'), rest.size());
      if (end > 0) out.emplace_back(rest.substr(0, end));
      rest.remove_prefix(std::min(end + 1, rest.size()));
    }
  }
  std::error_code error;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  if (!error) {
    out.push_back(program.string());
    out.push_back((program.parent_path() / "lib").string());
  }
  out.emplace_back();   // as the loader looks
  out.emplace_back("/usr/local/cuda/lib64");
  return out;
}

}  // namespace

DynamicLibrary::DynamicLibrary(std::vector<std::string> names) {
  std::string reason;
  for (const std::string& folder : folders())
    for (const std::string& name : names) {
      path_ = folder.empty() ? name : folder + "/" + name;
      if (!folder.empty() && !std::filesystem::exists(path_)) continue;
      handle_ = dlopen(path_.c_str(), RTLD_NOW | RTLD_LOCAL);
      if (handle_) return;
      reason = dlerror();
    }
  missing_ = fmt::format("{} was not found (set RHETOR_CUDA_LIBRARIES to its folder{}{})", names.front(), reason.empty() ? "" : "; ", reason);
  path_.clear();
}

void* DynamicLibrary::find(const char* name) const {
  if (!handle_) throw Error(ErrorKind::unsupported, missing_);
  void* symbol = dlsym(handle_, name);
  if (!symbol) throw Error(ErrorKind::unsupported, fmt::format("{} has no function {}: it is another version than this program was built for", path_, name));
  return symbol;
}

}  // namespace rhetor::gpu
