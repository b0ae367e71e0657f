// Libraries of the CUDA toolkit, opened when first needed, so that one program runs with and without them.
#pragma once

#include <string>
#include <vector>

namespace rhetor::gpu {

class DynamicLibrary {
 public:
  // Tries the names ("libcublasLt.so.13", "libcublasLt.so.12") in the folders of RHETOR_CUDA_LIBRARIES (':' between them), beside the
  // program and in its ../lib, where the loader looks, and in /usr/local/cuda/lib64. Never fails: see missing().
  explicit DynamicLibrary(std::vector<std::string> names);
  DynamicLibrary(const DynamicLibrary&) = delete;
  DynamicLibrary& operator=(const DynamicLibrary&) = delete;
  // "" if it is open, else what was tried, as a clause: "libcublasLt.so.13 was not found (...)".
  const std::string& missing() const { return missing_; }
  const std::string& path() const { return path_; }
  // Fails naming library and symbol. `like` gives the type: `auto* f = library.symbol("cublasLtCreate", &cublasLtCreate);`
  template <class F>
  F* symbol(const char* name, F*) const { return reinterpret_cast<F*>(find(name)); }

 private:
  void* find(const char* name) const;
  void* handle_ = nullptr;
  std::string path_, missing_;
};

}  // namespace rhetor::gpu
