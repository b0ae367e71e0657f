// The ceilings of this machine, measured: the best of several matmuls, and the fastest of reading, copying and filling buffers of
// the size in question.
#include "measure/machine.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>

#include "base/display.h"
#include "base/rng.h"
#include "base/thread_pool.h"
#include "measure/bench.h"
#include "measure/timing.h"
#include "ops/ops.h"
#include "runtime/executable.h"

namespace rhetor {
namespace {

constexpr std::int64_t kSmallest = 32 << 10,
                       kLargest = std::int64_t{1} << 30;  // bytes; the largest is beyond the caches of today

void fill_random(Tensor& tensor, std::uint64_t stream) {
  Rng rng(17, stream);
  for (std::int64_t i = 0; i < tensor.elements(); ++i)
    tensor.set(i, is_float(tensor.dtype()) ? rng.uniform() - 0.5 : static_cast<double>(rng.below(255)) - 127.0);
}

// FLOP/s of [n,n] x [n,n] with a weight known when compiling, as in inference.
double matmul_rate(const std::string& dtype, std::int64_t n, ThreadPool& pool) {
  Graph g;
  Weights weights;
  const DType type = dtype == "int8" ? DType::i8 : dtype == "bf16" ? DType::bf16 : DType::f32;
  weights["w"] = Tensor(type, Shape{n, n});
  fill_random(weights["w"], 1);
  const Value x = g.input("x", {type, Shape{n, n}});
  const Value w = g.input("w", {type, Shape{n, n}}, InputKind::param);
  if (dtype == "int8") {
    const Value xs = g.input("xs", {DType::f32, Shape{n}});
    weights["ws"] = Tensor(DType::f32, Shape{n});
    fill_random(weights["ws"], 2);
    const Value ws = g.input("ws", {DType::f32, Shape{n}}, InputKind::param);
    g.output("y", matmul_i8(x, xs, w, ws));
  } else {
    g.output("y", matmul(x, w));
  }
  Session session(compile(g, weights, {.pool = &pool}));
  fill_random(session.input("x"), 3);
  if (dtype == "int8") fill_random(session.input("xs"), 4);
  const Timing timing = measure(0.1, [&] { session.run(); });
  return 2.0 * static_cast<double>(n * n * n) / (timing.min_ms / 1000);
}

// Bytes/s over a working set of `bytes` (a power of two), split between the threads as kernels split theirs. The C library's
// routines use the widest vectors there are: the fastest of comparing (reads only), copying and filling is taken for a ceiling of
// any op.
double memory_rate(std::int64_t bytes, ThreadPool& pool) {
  const std::int64_t half = bytes / 2, share = half / pool.threads() / 64 * 64;
  Tensor buffer(DType::u8, Shape{bytes});   // zero-filled: the halves are equal
  auto* first = static_cast<unsigned char*>(buffer.raw());
  auto* second = first + half;
  // Small sets are passed over many times, so that waking the threads does not count.
  const std::int64_t passes = std::max<std::int64_t>(1, (8 << 20) / bytes);
  std::atomic<int> different{0};
  const auto rate_of = [&](double moved, auto&& action) {
    const Timing timing = measure(0.04, [&] {
      pool.parallel_for(pool.threads(), 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t t = begin; t < end; ++t)
          for (std::int64_t pass = 0; pass < passes; ++pass)
            action(first + t * share, second + t * share, static_cast<std::size_t>(share));
      });
    });
    return moved * static_cast<double>(share * pool.threads() * passes) / (timing.min_ms / 1000);
  };
  double best = rate_of(2, [&](const auto* a, const auto* b, std::size_t n) {
    if (std::memcmp(a, b, n) != 0) different.fetch_add(1, std::memory_order_relaxed);   // used, so that it is not optimised away
  });
  best = std::max(best, rate_of(2, [](auto* a, const auto* b, std::size_t n) { std::memcpy(a, b, n); }));
  best = std::max(best, rate_of(2, [](auto* a, auto* b, std::size_t n) {
    std::memset(a, 0, n);
    std::memset(b, 0, n);
  }));
  return best;
}

// The power of two at or below the working set: a smaller set is never slower, so its rate is a ceiling for the larger one too.
std::int64_t probe_size(double working_set) {
  std::int64_t size = kSmallest;
  while (size < kLargest && 2.0 * static_cast<double>(size) <= working_set) size *= 2;
  return size;
}

// The best ever seen, by number of threads and what was probed. Takes the lock for as long as it probes.
struct Ceilings {
  std::mutex mutex;
  std::map<std::pair<int, std::string>, double> flops;
  std::map<std::pair<int, std::int64_t>, double> memory;

  double probe_flops(int threads, const std::string& dtype) {
    ThreadPool pool(threads);
    double& best = flops[{threads, dtype}];
    for (const std::int64_t n : {256, 512, 1024}) best = std::max(best, matmul_rate(dtype, n, pool));
    return best;
  }
  double probe_memory(int threads, std::int64_t size) {
    ThreadPool pool(threads);
    double& best = memory[{threads, size}];
    for (int round = 0; round < 2; ++round) best = std::max(best, memory_rate(size, pool));
    return best;
  }
};

Ceilings& ceilings() {
  static Ceilings all;
  return all;
}

enum class Again { none, flops, memory };

MachinePeak peak(int threads, const std::string& dtype, double working_set, Again again) {
  Ceilings& known = ceilings();
  const std::int64_t size = probe_size(working_set);
  std::lock_guard lock(known.mutex);
  MachinePeak out;
  if (const auto at = known.flops.find({threads, dtype}); at != known.flops.end() && again != Again::flops)
    out.flops = at->second;
  else out.flops = known.probe_flops(threads, dtype);
  if (const auto at = known.memory.find({threads, size}); at != known.memory.end() && again != Again::memory)
    out.bytes_per_s = at->second;
  else out.bytes_per_s = known.probe_memory(threads, size);
  // What a larger set was once moved at, a smaller one can be.
  for (const auto& [key, rate] : known.memory)
    if (key.first == threads && key.second > size) out.bytes_per_s = std::max(out.bytes_per_s, rate);
  return out;
}

Floor floor_at(const Work& work, const MachinePeak& peak) {
  const double compute = 1000 * work.flops / peak.flops, memory = 1000 * work.bytes / peak.bytes_per_s;
  if (compute >= memory) return {compute, fmt::format("compute, {:.0f} GFLOP/s", peak.flops / 1e9)};
  return {memory, fmt::format("memory, {} at {:.1f} GB/s", memory_bytes(work.working_set), peak.bytes_per_s / 1e9)};
}

}  // namespace

MachinePeak machine_peak(int threads, const std::string& dtype, double working_set) {
  return peak(threads, dtype, working_set, Again::none);
}

Floor floor_of(const Work& work, int threads, const std::string& dtype, double measured_ms) {
  Floor floor = floor_at(work, peak(threads, dtype, work.working_set, Again::none));
  if (measured_ms < floor.ms)
    floor =
        floor_at(work, peak(threads, dtype, work.working_set, floor.limit.starts_with("compute") ? Again::flops : Again::memory));
  if (measured_ms < floor.ms)
    floor.limit += "; beaten: fewer bytes moved or operations done than counted, or the machine was slower when probed";
  return floor;
}

}  // namespace rhetor
