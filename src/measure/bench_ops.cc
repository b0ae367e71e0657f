// bench ops: the benchmark samples of the op matrix, each with what it moves and computes against what the machine can.
#include <fmt/core.h>

#include <cstring>

#include "base/thread_pool.h"
#include "measure/bench.h"
#include "measure/machine.h"
#include "measure/result.h"
#include "measure/timing.h"
#include "ops/op_matrix.h"
#include "ops/registry.h"
#include "runtime/executable.h"

namespace rhetor {
namespace {

struct Measured {
  std::string name, kernel, dtype;   // dtype: the arithmetic that bounds it
  Timing timing;
  Work work;
};

Measured measure_case(const OpCase& one, double seconds) {
  const ExecutablePtr exe = compile(case_graph(one), {});
  Session session(exe);
  for (const auto& [name, tensor] : named_operands(make_operands(one)))
    std::memcpy(session.input(name).raw(), tensor.raw(), tensor.bytes());
  const bool narrow = one.dtype == DType::bf16 || one.dtype == DType::f16;
  Measured out{.name = one.str(), .kernel = {}, .dtype = one.op->name == "matmul_i8" ? "int8" : narrow ? "bf16" : "f32"};
  for (const auto& choice : exe->report().choices) {
    out.work.flops += choice.cost.flops;
    out.work.bytes += choice.cost.bytes;
    if (out.kernel.empty()) out.kernel = choice.kernel;
  }
  // Run after run touches the same operands: small ones stay in a cache, and the floor is that cache's.
  out.work.working_set = out.work.bytes;
  out.timing = measure(seconds, [&] { session.run(); });
  return out;
}

BenchRow row_of(const Measured& one, int threads) {
  const double ms = one.timing.p50_ms;
  const Floor floor = floor_of(one.work, threads, one.dtype, ms);
  return {one.name,
          {{"time_ms_p50", ms},
           {"gb_per_s", one.work.bytes / ms / 1e6},
           {"gflop_per_s", one.work.flops / ms / 1e6},
           {"floor_ms", floor.ms},
           {"percent_of_floor", 100 * floor.ms / ms},
           {"kernel", one.kernel},
           {"limit", floor.limit}}};
}

}  // namespace

BenchResult bench_ops(const BenchOptions& options) {
  const int threads = options.threads > 0 ? options.threads : available_cores();
  BenchResult result = new_result(fmt::format("ops{}{}", options.filter.empty() ? "" : " with ", options.filter), threads);
  std::vector<Measured> measured;
  for (const OpDef* op : all_ops().all()) {
    if (op->name.find(options.filter) == std::string_view::npos) continue;
    for (const OpCase& one : op_cases(*op, true))
      if (one.ranks() == 1) measured.push_back(measure_case(one, options.seconds / 10));
  }
  // A case may have its ceiling probed again, which also holds for those before it: the second round sees the last word.
  for (const Measured& one : measured) row_of(one, threads);
  for (const Measured& one : measured) result.rows.push_back(row_of(one, threads));
  return result;
}

}  // namespace rhetor
