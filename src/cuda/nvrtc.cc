#include "cuda/nvrtc.h"

#include <cuda_runtime.h>
#include <nvrtc.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "cuda/launch.h"
#include "cuda/library.h"

namespace rhetor::gpu {
namespace {

constexpr std::string_view kMagic = "rhetor cubin 1\n\n";  // 16 bytes, then 8 of hash, then what NVRTC made
constexpr std::uint64_t kMostBytes = 64 << 20;

const DynamicLibrary& library() {
  static const DynamicLibrary one({"libnvrtc.so.13", "libnvrtc.so.12"});
  return one;
}

// The compiler's functions, found once.
struct Nvrtc {
  decltype(&nvrtcCreateProgram) create = library().symbol("nvrtcCreateProgram", &nvrtcCreateProgram);
  decltype(&nvrtcDestroyProgram) destroy = library().symbol("nvrtcDestroyProgram", &nvrtcDestroyProgram);
  decltype(&nvrtcCompileProgram) compile = library().symbol("nvrtcCompileProgram", &nvrtcCompileProgram);
  decltype(&nvrtcGetProgramLogSize) log_size = library().symbol("nvrtcGetProgramLogSize", &nvrtcGetProgramLogSize);
  decltype(&nvrtcGetProgramLog) log = library().symbol("nvrtcGetProgramLog", &nvrtcGetProgramLog);
  decltype(&nvrtcGetCUBINSize) cubin_size = library().symbol("nvrtcGetCUBINSize", &nvrtcGetCUBINSize);
  decltype(&nvrtcGetCUBIN) cubin = library().symbol("nvrtcGetCUBIN", &nvrtcGetCUBIN);
  decltype(&nvrtcGetPTXSize) ptx_size = library().symbol("nvrtcGetPTXSize", &nvrtcGetPTXSize);
  decltype(&nvrtcGetPTX) ptx = library().symbol("nvrtcGetPTX", &nvrtcGetPTX);
  decltype(&nvrtcGetErrorString) error = library().symbol("nvrtcGetErrorString", &nvrtcGetErrorString);
  std::vector<int> architectures;  // ascending: 75, 80, ...
  int version = 0;

  Nvrtc() {
    int major = 0, minor = 0, count = 0;
    expect(library().symbol("nvrtcVersion", &nvrtcVersion)(&major, &minor), "nvrtcVersion");
    version = major * 1000 + minor * 10;
    expect(library().symbol("nvrtcGetNumSupportedArchs", &nvrtcGetNumSupportedArchs)(&count), "nvrtcGetNumSupportedArchs");
    architectures.resize(static_cast<std::size_t>(count));
    expect(library().symbol("nvrtcGetSupportedArchs", &nvrtcGetSupportedArchs)(architectures.data()), "nvrtcGetSupportedArchs");
    std::sort(architectures.begin(), architectures.end());
  }
  void expect(nvrtcResult result, const char* call) const {
    if (result != NVRTC_SUCCESS) fail(ErrorKind::unsupported, "{}: {} failed: {}", library().path(), call, error(result));
  }
  // The newest architecture it knows that the device runs.
  int target(int compute) const {
    const auto above = std::upper_bound(architectures.begin(), architectures.end(), compute);
    if (above == architectures.begin())
      fail(ErrorKind::unsupported, "{} compiles for compute capability {} and later, the device has {}", library().path(),
           architectures.empty() ? 0 : architectures.front(), compute);
    return *std::prev(above);
  }
};

const Nvrtc& nvrtc() {
  static const Nvrtc one;
  return one;
}

struct Program {
  nvrtcProgram handle = nullptr;
  ~Program() { nvrtc().destroy(&handle); }
};

Hash128 key_of(const std::string& source, int compute) {
  const std::string world = fmt::format("sm_{} nvrtc {}\n{}", compute, nvrtc().version, source);
  return hash128(std::as_bytes(std::span(world.data(), world.size())));
}

std::filesystem::path cached_file(const Hash128& key) {
  const std::filesystem::path folder = cache_folder();
  return folder.empty() ? folder : folder / "kernels" / fmt::format("{:016x}{:016x}.cubin", key.high, key.low);
}

// "" if there is none, or it is damaged.
std::string read_cached(const std::filesystem::path& file) {
  std::error_code missing;
  if (file.empty() || !std::filesystem::exists(file, missing)) return "";
  try {
    std::string text = read_file(file, kMostBytes);
    std::uint64_t hash = 0;
    const std::size_t header = kMagic.size() + sizeof hash;
    if (text.size() > header && text.starts_with(kMagic)) {
      std::memcpy(&hash, text.data() + kMagic.size(), sizeof hash);
      if (hash == hash64(std::string_view(text).substr(header))) return text.substr(header);
    }
    log_warning("the compiled kernel '{}' is damaged; it is compiled again", file.string());
  } catch (const std::exception& error) {
    log_warning("the compiled kernel '{}' cannot be read ({}); it is compiled again", file.string(), error.what());
  }
  return "";
}

void write_cached(const std::filesystem::path& file, const std::string& image) {
  if (file.empty()) return;
  try {
    std::filesystem::create_directories(file.parent_path());
    const std::uint64_t hash = hash64(image);
    std::string text(kMagic);
    text.append(reinterpret_cast<const char*>(&hash), sizeof hash).append(image);
    write_file_atomic(file, text);
  } catch (const std::exception& error) {
    static std::once_flag once;  // a folder that cannot be written fails for every kernel
    std::call_once(
        once, [&] { log_warning("compiled kernels cannot be kept in '{}': {}", file.parent_path().string(), error.what()); });
  }
}

}  // namespace

const std::string& nvrtc_missing() { return library().missing(); }

std::string compile_cuda(const std::string& source, int compute) {
  const Nvrtc& n = nvrtc();
  const int target = n.target(compute);
  const bool native = target == compute;
  Program program;
  n.expect(n.create(&program.handle, source.c_str(), "generated.cu", 0, nullptr, nullptr), "nvrtcCreateProgram");
  // No contraction of a * b + c: intermediate values are those of the same ops one by one.
  const std::string arch = fmt::format("--gpu-architecture={}_{}", native ? "sm" : "compute", target);
  const char* options[] = {arch.c_str(), "--std=c++17", "--fmad=false", "--disable-warnings"};
  const nvrtcResult result = n.compile(program.handle, static_cast<int>(std::size(options)), options);
  if (result != NVRTC_SUCCESS) {
    std::size_t size = 0;
    n.log_size(program.handle, &size);
    std::string log(size, '\0');
    n.log(program.handle, log.data());
    fail(ErrorKind::internal, "a generated kernel does not compile ({}): {}", n.error(result), log.c_str());
  }
  std::size_t size = 0;
  n.expect((native ? n.cubin_size : n.ptx_size)(program.handle, &size), "nvrtcGetCUBINSize");
  std::string image(size, '\0');
  n.expect((native ? n.cubin : n.ptx)(program.handle, image.data()), "nvrtcGetCUBIN");
  return image;
}

std::string cached_cuda(const std::string& source, int compute) {
  const std::filesystem::path file = cached_file(key_of(source, compute));
  std::string image = read_cached(file);
  if (!image.empty()) return image;
  image = compile_cuda(source, compute);
  write_cached(file, image);
  return image;
}

DeviceFunction::DeviceFunction(const std::string& image, const std::string& name) : name_(name) {
  cudaLibrary_t loaded = nullptr;
  require(cudaLibraryLoadData(&loaded, image.data(), nullptr, nullptr, 0, nullptr, nullptr, 0), "cudaLibraryLoadData");
  library_ = {loaded, [](void* p) { cudaLibraryUnload(static_cast<cudaLibrary_t>(p)); }};
  cudaKernel_t kernel = nullptr;
  require(cudaLibraryGetKernel(&kernel, loaded, name.c_str()), "cudaLibraryGetKernel");
  kernel_ = kernel;
  cudaFuncAttributes attributes;  // asked for here so that it is loaded here: loading waits for the device
  require(cudaFuncGetAttributes(&attributes, kernel_), name_.c_str());
}

void DeviceFunction::launch(unsigned blocks, unsigned threads, void** args, void* stream) const {
  require(cudaLaunchKernel(kernel_, dim3(blocks), dim3(threads), args, 0, gpu::stream(stream)), name_.c_str());
}

std::shared_ptr<const DeviceFunction> device_function(const CudaDevice& device, const std::string& source,
                                                      const std::string& name) {
  struct Entry {
    std::mutex mutex;
    std::shared_ptr<const DeviceFunction> function;
  };
  static std::mutex mutex;
  static auto* const entries = new std::map<Hash128, std::shared_ptr<Entry>>;  // never unloaded: a recording may hold its kernels
  if (!nvrtc_missing().empty()) throw Error(ErrorKind::unsupported, nvrtc_missing());
  const Hash128 key = key_of(source, device.compute);  // its kernel's name included
  std::shared_ptr<Entry> entry;
  {
    const std::lock_guard lock(mutex);
    auto& slot = (*entries)[key];
    if (!slot) slot = std::make_shared<Entry>();
    entry = slot;
  }
  const std::lock_guard lock(entry->mutex);
  if (entry->function) return entry->function;
  require(cudaSetDevice(device.index), "cudaSetDevice");
  try {
    entry->function = std::make_shared<DeviceFunction>(cached_cuda(source, device.compute), name);
  } catch (const Error& error) {
    // Whole, but not what this driver loads: made again once. Compiler messages and lost devices come again.
    if (error.kind() != ErrorKind::unsupported || !lost_device().empty()) throw;
    const std::string image = compile_cuda(source, device.compute);
    entry->function = std::make_shared<DeviceFunction>(image, name);
    log_warning("the compiled kernel '{}' could not be loaded ({}); it was compiled again", cached_file(key).string(), error.what());
    write_cached(cached_file(key), image);
  }
  return entry->function;
}

}  // namespace rhetor::gpu
