// "cpu", "cuda", "cuda:N": the same in programs built with and without CUDA.
#include <charconv>

#include "base/error.h"
#include "cuda/cuda.h"

namespace rhetor {

namespace {
const CudaDevice* chosen = nullptr;
}  // namespace

const CudaDevice* default_device() { return chosen; }
void set_default_device(std::string_view name) { chosen = find_device(name); }

const CudaDevice* find_device(std::string_view name) {
  if (name.empty() || name == "cpu") return nullptr;
  int index = 0;
  const std::string_view digits = name.starts_with("cuda:") ? name.substr(5) : "0";
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
  if ((name != "cuda" && !name.starts_with("cuda:")) || error != std::errc() || end != digits.data() + digits.size() || index < 0)
    fail("there is no device '{}'; devices are cpu, cuda (the first GPU) and cuda:N", name);
  if (const std::string reason = cuda_absence(); !reason.empty())
    throw Error(ErrorKind::unsupported, fmt::format("the device '{}' cannot be used: {}; --device cpu runs everywhere", name, reason));
  const auto& devices = cuda_devices();
  if (index >= static_cast<int>(devices.size()))
    fail("the device '{}' does not exist: this machine has {} GPU{} (cuda:0{})", name, devices.size(), devices.size() == 1 ? "" : "s",
         devices.size() == 1 ? "" : fmt::format(" to cuda:{}", devices.size() - 1));
  return &devices[static_cast<std::size_t>(index)];
}

}  // namespace rhetor
