// `rhetor bench`: every measuring command returns rows that print as a table and as JSON.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace rhetor {

struct BenchRow {
  std::string name;
  // In order of printing: "latency_ms_p50" -> 12.3; null: not known.
  using Cell = std::variant<double, std::int64_t, std::string, std::nullptr_t>;
  std::vector<std::pair<std::string, Cell>> cells;
};
struct BenchResult {
  std::string what;                  // "model bert-base f32 seq 128 batch 1 threads 2"
  std::map<std::string, std::string> machine;  // cpu, threads, date, commit
  std::vector<BenchRow> rows;
  std::string profile;               // a table by kernel, if asked for
  std::string trace;                 // Chrome's trace format, if profiled
};
std::string to_table(const BenchResult& result);
std::string to_json(const BenchResult& result);

struct BenchOptions {
  std::string model = "bert-base", device = "cpu", dtype = "f32", filter;   // dtype: f32, bf16, int8, int4 (model, generate)
  std::int64_t seq = 128, batch = 1, prompt = 128, tokens = 64;
  int threads = 0;                   // 0 = all
  double seconds = 3;                // measuring time a row, after warm-up
  bool profile = false;              // where the time goes, by kernel
  bool varlen = false;               // model: sequences of many lengths, up to `seq`
};
BenchResult bench_ops(
    const BenchOptions& options);  // the op matrix's benchmark samples: time, GB/s, GFLOP/s, % of floor, what limits
BenchResult bench_model(const BenchOptions& options);     // keys latency_ms_p50, throughput_per_s, floor_ms, memory_bytes, ...
BenchResult bench_varlen(const BenchOptions& options);    // sequences_per_s of a sorted set of many lengths, beside padding them all
BenchResult bench_train(const BenchOptions& options);     // tokens_per_s, step_ms_p50, memory_bytes, floor_ms
// On a device: 20 products with what the library chose for each, and the hash of each result (tools/tune_bits compares runs).
BenchResult bench_tune(const BenchOptions& options);
BenchResult bench_generate(const BenchOptions& options);  // prefill_ms, prefill_floor_ms, decode_ms, floor_ms, ...

// What this machine can do with operations in `dtype` (f32, bf16, int8) and a working set of so many bytes: the best of several
// probes, measured at first use (about a second) and kept.
struct MachinePeak { double flops = 0, bytes_per_s = 0; };
MachinePeak machine_peak(int threads, const std::string& dtype, double working_set);

}  // namespace rhetor
