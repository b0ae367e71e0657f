// The ceilings of a device, measured: its largest products in each precision, and copies within its memory.
#include <algorithm>
#include <map>
#include <mutex>

#include "base/display.h"
#include "measure/machine.h"
#include "ops/ops.h"
#include "runtime/executable.h"

namespace rhetor {
namespace {

constexpr std::int64_t kSide = 8192;                          // of the matrices
constexpr std::uint64_t kCopyBytes = std::uint64_t{1} << 30;  // far beyond the caches

DType storage_of(const std::string& dtype) {
  if (dtype.starts_with("int")) return DType::i8;
  return dtype == "f32" ? DType::f32 : dtype == "f16" ? DType::f16 : DType::bf16;
}

// FLOP/s of [n,n] x [n,n] on random numbers: zeros draw less power and run faster.
double product_rate(const CudaDevice& device, DType type) {
  const Shape square{kSide, kSide}, row{kSide};
  const bool integers = type == DType::i8;
  Graph fill, g;
  std::vector<Value> operands;
  for (const char* name : {"x", "w"}) {
    const Value state = fill.input(name, {type, square}, InputKind::state);
    const Value seed = fill.constant(Tensor::scalar<std::int64_t>(name[0]));
    const Value drawn = random_normal(seed, {DType::f32, square}, 0, 0, integers ? 40 : 1);
    fill.set_update(state, cast(drawn, type));
    operands.push_back(g.input(name, {type, square}, InputKind::state));
  }
  if (integers) {
    const Value scale = g.input("scale", {DType::f32, row}, InputKind::state);
    const Value product = matmul_i8(operands[0], scale, operands[1], scale);
    g.set_update(g.input("y", product.type(), InputKind::state), product);
  } else {
    g.set_update(g.input("y", {type, square}, InputKind::state), matmul(operands[0], operands[1]));
  }
  const auto states = std::make_shared<StateStore>();
  Session(compile(fill, {}, {.device = &device}), states).run();
  Session session(compile(g, {}, {.device = &device}), states);
  session.run();
  double best = 1e9;
  for (int i = 0; i < 10; ++i) best = std::min(best, session.run_timed());
  return 2.0 * kSide * kSide * kSide / best;
}

double copy_rate(const CudaDevice& device) {
  const auto from = cuda_allocate(device, CudaMemory::device, kCopyBytes),
             to = cuda_allocate(device, CudaMemory::device, kCopyBytes);
  CudaStream stream(device);
  stream.make_marks(2);
  double best = 1e9;
  for (int i = 0; i < 10; ++i) {
    stream.mark(0);
    stream.copy(to.get(), from.get(), kCopyBytes);
    stream.mark(1);
    stream.synchronize();
    best = std::min(best, stream.seconds(0, 1));
  }
  return 2.0 * static_cast<double>(kCopyBytes) / best;
}

}  // namespace

Floor device_floor(const CudaDevice& device, const Work& work, const std::string& dtype) {
  static std::mutex mutex;
  static std::map<std::pair<int, DType>, double> flops;
  static std::map<int, double> bytes;
  const std::lock_guard lock(mutex);
  auto& rate = flops[{device.index, storage_of(dtype)}];
  if (rate == 0) rate = product_rate(device, storage_of(dtype));
  auto& speed = bytes[device.index];
  if (speed == 0) speed = copy_rate(device);
  const double compute_ms = work.flops / rate * 1000, memory_ms = work.bytes / speed * 1000;
  if (compute_ms > memory_ms) return {compute_ms, fmt::format("compute, {:.0f} TFLOP/s", rate / 1e12)};
  return {memory_ms, fmt::format("memory, {} at {:.2f} TB/s", human_bytes(static_cast<std::uint64_t>(work.bytes)), speed / 1e12)};
}

}  // namespace rhetor
