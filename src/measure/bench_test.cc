#include "measure/bench.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "measure/machine.h"
#include "measure/timing.h"

namespace rhetor {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

double number(const BenchRow& row, const std::string& key) {
  for (const auto& [name, value] : row.cells) {
    if (name != key) continue;
    if (const auto* real = std::get_if<double>(&value)) return *real;
    if (const auto* integer = std::get_if<std::int64_t>(&value)) return static_cast<double>(*integer);
  }
  ADD_FAILURE() << "no number " << key;
  return 0;
}

TEST(Timing, WarmsUpAndRunsOftenEnough) {
  int calls = 0;
  const Timing timing = measure(0, [&] { ++calls; });
  EXPECT_EQ(timing.runs, 5);
  EXPECT_EQ(calls, 7);   // two before the clock counts
  EXPECT_LE(timing.min_ms, timing.p50_ms);
  EXPECT_LE(timing.min_ms, timing.mean_ms);
  EXPECT_GE(timing.min_ms, 0);
}

TEST(Timing, RunsForTheTimeGiven) {
  const Timing timing = measure(0.01, [] {});
  EXPECT_GT(timing.runs, 5);
}

TEST(Machine, CeilingsArePositiveAndKept) {
  const MachinePeak cached = machine_peak(1, "f32", 64 << 10), large = machine_peak(1, "f32", 64 << 20),
                    again = machine_peak(1, "f32", 64 << 10);
  EXPECT_GT(cached.flops, 0);
  EXPECT_GE(cached.bytes_per_s, large.bytes_per_s);   // a smaller set is never slower
  EXPECT_EQ(cached.flops, again.flops);
  EXPECT_GE(again.bytes_per_s, cached.bytes_per_s);
}

TEST(Machine, FloorIsTheLargerOfComputeAndMemory) {
  const MachinePeak peak = machine_peak(1, "f32", 1 << 20);
  const Floor compute = floor_of({.flops = peak.flops, .bytes = 1, .working_set = 1 << 20}, 1, "f32", 1e9);
  EXPECT_DOUBLE_EQ(compute.ms, 1000);
  EXPECT_THAT(compute.limit, HasSubstr("compute"));
  const Floor memory = floor_of({.flops = 1, .bytes = 2 * peak.bytes_per_s, .working_set = 1 << 20}, 1, "f32", 1e9);
  EXPECT_DOUBLE_EQ(memory.ms, 2000);
  EXPECT_THAT(memory.limit, HasSubstr("memory, 1.0 MiB at"));
  EXPECT_THAT(memory.limit, Not(HasSubstr("beaten")));
  // Faster than physics: said, not hidden.
  EXPECT_THAT(floor_of({.flops = 1, .bytes = 1e12, .working_set = 1 << 20}, 1, "f32", 1e-6).limit, HasSubstr("beaten"));
}

TEST(Bench, OpsGiveRowsWithFloors) {
  const BenchResult result = bench_ops({.filter = "relu", .threads = 1, .seconds = 0.01});
  ASSERT_FALSE(result.rows.empty());
  for (const BenchRow& row : result.rows) {
    EXPECT_GT(number(row, "time_ms_p50"), 0);
    EXPECT_GT(number(row, "floor_ms"), 0);
    EXPECT_NEAR(number(row, "percent_of_floor"), 100 * number(row, "floor_ms") / number(row, "time_ms_p50"), 1e-6);
  }
  EXPECT_TRUE(bench_ops({.filter = "no such op"}).rows.empty());
}

TEST(Bench, ModelsGiveRowsWithFloors) {
  const BenchResult model = bench_model({.model = "bert-tiny", .seq = 16, .threads = 1, .seconds = 0.01});
  ASSERT_EQ(model.rows.size(), 1u);
  for (const char* key : {"latency_ms_p50", "throughput_per_s", "floor_ms", "memory_bytes", "runs"})
    EXPECT_GT(number(model.rows[0], key), 0) << key;
  EXPECT_THROW(bench_model({.model = "bert-tiny", .seq = 1 << 20}), Error);
  EXPECT_THROW(bench_generate({.model = "bert-tiny"}), Error);
  for (const char* dtype : {"f32", "int4"}) {
    const BenchResult decode =
        bench_generate({.model = "llama-tiny", .dtype = dtype, .prompt = 16, .tokens = 4, .threads = 1, .seconds = 0.01});
    for (const char* key : {"prefill_ms", "prefill_floor_ms", "decode_ms", "floor_ms"})
      EXPECT_GT(number(decode.rows[0], key), 0) << key;
  }
  EXPECT_THROW(bench_train({.model = "bert-tiny", .dtype = "int8"}), Error);
}

}  // namespace
}  // namespace rhetor
