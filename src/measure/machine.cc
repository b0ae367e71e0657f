// The ceilings of this machine, measured: the best of a few large matmuls, and streaming reads of a buffer no cache holds.
#include <cstdint>
#include <map>
#include <mutex>

#include "base/rng.h"
#include "base/thread_pool.h"
#include "measure/bench.h"
#include "measure/timing.h"
#include "ops/ops.h"
#include "runtime/executable.h"

namespace rhetor {
namespace {

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
  const Timing timing = measure(0.15, [&] { session.run(); });
  return 2.0 * static_cast<double>(n * n * n) / (timing.min_ms / 1000);
}

// Bytes/s of reading 256 MiB with every thread of the pool.
double read_rate(ThreadPool& pool) {
  const std::int64_t words = (256 << 20) / 8;
  Tensor data(DType::i64, Shape{words});
  const auto values = data.data<std::int64_t>();
  std::vector<std::int64_t> sums(static_cast<std::size_t>(words >> 16));
  const Timing timing = measure(0.2, [&] {
    pool.parallel_for(words, 1 << 16, [&](std::int64_t begin, std::int64_t end) {
      std::int64_t sum[8] = {};
      for (std::int64_t i = begin; i < end; i += 8)
        for (int k = 0; k < 8; ++k) sum[k] += values[static_cast<std::size_t>(i + k)];
      // Kept, so that the reads cannot be optimised away.
      sums[static_cast<std::size_t>(begin >> 16)] = sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
    });
  });
  return static_cast<double>(words) * 8 / (timing.min_ms / 1000);
}

}  // namespace

MachinePeak machine_peak(int threads, const std::string& dtype) {
  static std::mutex mutex;
  static std::map<std::pair<int, std::string>, MachinePeak> known;
  std::lock_guard lock(mutex);
  MachinePeak& peak = known[{threads, dtype}];
  if (peak.flops > 0) return peak;
  ThreadPool pool(threads);
  for (const std::int64_t n : {768, 1536}) peak.flops = std::max(peak.flops, matmul_rate(dtype, n, pool));
  peak.bytes_per_s = read_rate(pool);
  return peak;
}

}  // namespace rhetor
