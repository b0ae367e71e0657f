// bench ops: the benchmark samples of the op matrix, each with what it moves and computes against what the machine can.
#include <fmt/core.h>

#include <algorithm>
#include <cstring>

#include "base/thread_pool.h"
#include "measure/bench.h"
#include "measure/result.h"
#include "measure/timing.h"
#include "ops/op_matrix.h"
#include "ops/registry.h"
#include "runtime/executable.h"

namespace rhetor {
namespace {

BenchRow measure_case(const OpCase& one, const BenchOptions& options, int threads) {
  const ExecutablePtr exe = compile(case_graph(one), {});
  Session session(exe);
  for (const auto& [name, tensor] : named_operands(make_operands(one)))
    std::memcpy(session.input(name).raw(), tensor.raw(), tensor.bytes());
  const Timing timing = measure(options.seconds / 10, [&] { session.run(); });
  Cost cost;
  std::string kernel;
  for (const auto& choice : exe->report().choices) {
    cost.flops += choice.cost.flops;
    cost.bytes += choice.cost.bytes;
    if (kernel.empty()) kernel = choice.kernel;
  }
  const bool narrow = one.dtype == DType::bf16 || one.dtype == DType::f16;
  const MachinePeak peak = machine_peak(threads, one.op->name == "matmul_i8" ? "int8" : narrow ? "bf16" : "f32");
  const double seconds = timing.p50_ms / 1000;
  const double floor_ms = 1000 * std::max(cost.flops / peak.flops, cost.bytes / peak.bytes_per_s);
  return {one.str(),
          {{"time_ms_p50", timing.p50_ms},
           {"gb_per_s", cost.bytes / seconds / 1e9},
           {"gflop_per_s", cost.flops / seconds / 1e9},
           {"floor_ms", floor_ms},
           {"percent_of_floor", 100 * floor_ms / timing.p50_ms},
           {"kernel", kernel}}};
}

}  // namespace

BenchResult bench_ops(const BenchOptions& options) {
  const int threads = options.threads > 0 ? options.threads : available_cores();
  BenchResult result = new_result(fmt::format("ops{}{}", options.filter.empty() ? "" : " with ", options.filter), threads);
  for (const OpDef* op : all_ops().all()) {
    if (op->name.find(options.filter) == std::string_view::npos) continue;
    for (const OpCase& one : op_cases(*op, true))
      if (one.ranks() == 1) result.rows.push_back(measure_case(one, options, threads));
  }
  return result;
}

}  // namespace rhetor
