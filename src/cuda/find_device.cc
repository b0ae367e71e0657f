// "cpu", "cuda", "cuda:N": the same in programs built with and without CUDA.
#include <atomic>
#include <charconv>
#include <mutex>

#include "base/error.h"
#include "cuda/cuda.h"

namespace rhetor {

namespace {
const CudaDevice* chosen = nullptr;
std::atomic<CudaTuner> tuner{nullptr};
std::atomic<void (*)()> lost_call{nullptr};
std::mutex lost_mutex;
std::string& lost() {
  static std::string reason;
  return reason;
}
std::string version(int number) { return fmt::format("{}.{}", number / 1000, number % 1000 / 10); }
}  // namespace

CudaTuner cuda_tuner() { return tuner; }
void set_cuda_tuner(CudaTuner wish) { tuner = wish; }

std::string lost_device() {
  const std::lock_guard lock(lost_mutex);
  return lost();
}
void set_lost_device(const std::string& reason) {
  {
    const std::lock_guard lock(lost_mutex);
    if (!lost().empty() && !reason.empty()) return;   // the first reason is the cause
    lost() = reason;
  }
  if (const auto call = lost_call.load(); call && !reason.empty()) call();
}
void on_lost_device(void (*call)()) { lost_call = call; }

std::string cuda_absence(int driver, int needed, int count, const std::string& other_failure) {
  if (driver == 0) return "this machine has no NVIDIA driver (libcuda.so.1 was not found)";
  if (driver / 1000 < needed / 1000)   // within one major version any driver will do
    return fmt::format("the NVIDIA driver is for CUDA {}, but this program needs one for CUDA {}.0 or later (it was built with {}): update the driver",
                       version(driver), needed / 1000, version(needed));
  if (!other_failure.empty()) return fmt::format("this machine has no usable NVIDIA GPU ({}; the driver is for CUDA {})", other_failure, version(driver));
  return count == 0 ? "this machine has no NVIDIA GPU" : "";
}

const CudaDevice* default_device() { return chosen; }
void set_default_device(std::string_view name) { chosen = find_device(name); }

const CudaDevice* find_device(std::string_view name) {
  if (name.empty() || name == "cpu") return nullptr;
  return find_device(name, cuda_devices(), cuda_absence());
}

const CudaDevice* find_device(std::string_view name, const std::vector<CudaDevice>& devices, const std::string& absence) {
  if (name.empty() || name == "cpu") return nullptr;
  int index = 0;
  const std::string_view digits = name.starts_with("cuda:") ? name.substr(5) : "0";
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
  if ((name != "cuda" && !name.starts_with("cuda:")) || error != std::errc() || end != digits.data() + digits.size() || index < 0)
    fail("there is no device '{}'; devices are cpu, cuda (the first GPU) and cuda:N", name);
  if (!absence.empty())
    throw Error(ErrorKind::unsupported, fmt::format("the device '{}' cannot be used: {}; --device cpu runs everywhere", name, absence));
  if (index >= static_cast<int>(devices.size()))
    fail("the device '{}' does not exist: this machine has {} GPU{} (cuda:0{})", name, devices.size(), devices.size() == 1 ? "" : "s",
         devices.size() == 1 ? "" : fmt::format(" to cuda:{}", devices.size() - 1));
  return &devices[static_cast<std::size_t>(index)];
}

}  // namespace rhetor
