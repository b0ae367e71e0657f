#include "passes/pipeline.h"

#include <chrono>
#include <filesystem>

#include "base/file.h"
#include "graph/op.h"
#include "graph/text.h"
#include "graph/verify.h"
#include "passes/passes.h"

namespace rhetor {
namespace {

std::string pass_names() {
  std::string out;
  for (const Pass& pass : all_passes()) out += (out.empty() ? "" : ", ") + std::string(pass.name);
  return out;
}

void check_off_switches(const PassOptions& options) {
  std::vector<std::string_view> names;
  for (const Pass& pass : all_passes()) names.push_back(pass.name);
  for (const std::string& off : options.off) {
    bool known = false;
    for (const std::string_view name : names) known = known || name == off;
    if (known) continue;
    const std::string near = nearest(off, names);
    if (near.empty()) fail("there is no pass called '{}' to switch off; the passes are: {}", off, pass_names());
    fail("there is no pass called '{}' to switch off; did you mean '{}'? The passes are: {}", off, near, pass_names());
  }
}

void dump(const PassOptions& options, int number, std::string_view name, const Graph& graph) {
  if (options.dump_dir.empty()) return;
  const std::filesystem::path folder = options.dump_dir;
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) fail(ErrorKind::io, "cannot make the folder '{}' for graph dumps: {}", options.dump_dir, error.message());
  write_file_atomic(folder / fmt::format("{:02}-{}.txt", number, name), to_text(graph));
}

}  // namespace

const std::vector<Pass>& all_passes() {
  static const std::vector<Pass> passes{
      {"simplify", "fold constants, merge equal nodes, apply exact identities, drop dead nodes", simplify_pass},
      {"precision", "run contractions in bf16 or f16, everything else in f32", precision_pass},
      {"merge", "products of the same rows with several weights become one, where slices of it can be read in place", merge_pass},
      {"float8", "run products with a weight in FP8: e4m3 forward, e5m2 for gradients", float8_pass},
      {"quantize", "run matmuls with parameters in int8", quantize_pass},
      {"remat", "recompute cheap activations in the backward pass to fit a memory budget", remat_pass},
      {"fuse", "group pointwise chains, matmul epilogues and norm prologues into one kernel each", fuse_pass},
      {"schedule", "order nodes so that fewer bytes are live at once", schedule_pass},
  };
  return passes;
}

PipelineResult run_passes(Graph graph, const PassOptions& options) {
  check_off_switches(options);
  PipelineResult result{.graph = std::move(graph), .records = {}};
  if (options.verify) verify(result.graph, "the start");
  dump(options, 0, "start", result.graph);
  int number = 0;
  for (const Pass& pass : all_passes()) {
    PassRecord record{.name = std::string(pass.name)};
    record.nodes_before = record.nodes_after = result.graph.size();
    record.skipped = options.off.contains(pass.name);
    if (!record.skipped) {
      const auto start = std::chrono::steady_clock::now();
      PassContext context{options, record};
      result.graph = pass.run(result.graph, context);
      record.milliseconds = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
      record.nodes_after = result.graph.size();
      if (options.verify) verify(result.graph, pass.name);
    }
    dump(options, ++number, pass.name, result.graph);
    result.records.push_back(std::move(record));
  }
  return result;
}

}  // namespace rhetor
