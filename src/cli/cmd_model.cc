// rhetor compress, compile, explain: what is done to a finished model.
#include <cmath>

#include "base/error.h"
#include "base/file.h"
#include "cli/args.h"
#include "cli/commands.h"
#include "cli/machine_args.h"
#include "cli/output.h"
#include "compress/compress.h"
#include "generate/generator.h"
#include "generate/plan_model.h"
#include "models/explain.h"
#include "runtime/plan.h"
#include "runtime/tune.h"

namespace rhetor {

int cmd_compress(int argc, const char* const* argv) {
  std::string path, output, text, json;
  bool int8 = false, int4 = false, int4_head = false;
  Args args("compress", "Makes a model smaller and faster; prints size, loss and speed before and after.",
            "  rhetor compress runs/quickstart --int8 -o runs/quickstart/int8 --text book.txt\n"
            "  rhetor compress runs/quickstart --int4 -o runs/quickstart/int4 --text book.txt");
  args.positional("model", path, "model folder")
      .flag("--int8", int8, "8-bit weights (per output channel), 8-bit activations (per row, at run time)")
      .flag("--int4", int4, "4-bit weights in groups of 32 (f16 scales); the vocabulary's stay 8-bit; 8-bit activations by the same groups")
      .flag("--int4-head", int4_head, "as --int4, the vocabulary's weights (head, tied embedding) in 4 bits too")
      .option("-o,--output", output, "model folder to write")
      .option("--text", text, "text to measure the loss on")
      .option("--json", json, "write the report to this file");
  if (!args.parse(argc, argv)) return 0;
  if (int{int8} + int{int4} + int{int4_head} != 1) fail("rhetor compress needs one method: --int8, --int4 or --int4-head");
  if (output.empty()) fail("rhetor compress needs an output folder: -o FOLDER");
  const CompressReport report = compress(path, output, text, [&](const Model& model) {
    return int8 ? quantize_int8(model) : quantize_int4(model, int4_head);
  });
  fmt::print("{:<22}{:>12}{:>12}\n", "", "before", "after");
  fmt::print("{:<22}{:>12}{:>12}\n", "weights", human_bytes(report.bytes_before), human_bytes(report.bytes_after));
  if (report.loss_note.empty()) {
    fmt::print("{:<22}{:>12.4f}{:>12.4f}\n", report.encoder ? "masked-token loss" : "loss (nats/token)", report.loss_before, report.loss_after);
  } else {
    fmt::print("{:<22}not measured: {}{}\n", report.encoder ? "masked-token loss" : "loss (nats/token)", report.loss_note,
               text.empty() ? "; --text FILE gives one" : "");
  }
  fmt::print("{:<22}{:>12.0f}{:>12.0f}\n", report.encoder ? "encoder tokens/s" : "decode tokens/s", report.tokens_per_s_before,
             report.tokens_per_s_after);
  const std::string run = report.encoder ? fmt::format("ms {} tokens (p50)", report.run_tokens) : "ms a token (p50)";
  fmt::print("{:<22}{:>12.3f}{:>12.3f}\nwritten to {}\n", run, report.latency_ms_before, report.latency_ms_after, output);
  write_json(json, {{"bytes_before", static_cast<std::int64_t>(report.bytes_before)},
                    {"bytes_after", static_cast<std::int64_t>(report.bytes_after)},
                    {"loss_before", report.loss_before},
                    {"loss_after", report.loss_after},
                    {"tokens_per_s_before", report.tokens_per_s_before},
                    {"tokens_per_s_after", report.tokens_per_s_after},
                    {"latency_ms_before", report.latency_ms_before},
                    {"latency_ms_after", report.latency_ms_after},
                    {"encoder", report.encoder},
                    {"run_tokens", report.run_tokens},
                    {"loss_note", report.loss_note}});
  return 0;
}

int cmd_compile(int argc, const char* const* argv) {
  std::string path, output;
  std::int64_t batch = 4;
  bool tune = false, no_tune = false;
  MachineArgs machine;
  Args args("compile", "Compiles a model folder into one plan file that starts fast.",
            "  rhetor compile runs/quickstart/int8 -o runs/quickstart/model.plan");
  args.positional("model", path, "model folder")
      .option("-o,--output", output, "plan file to write")
      .option("--max-batch", batch, "largest number of sequences decoded together", 1, 256)
      .flag("--tune", tune, "measure the ways to run each contraction on this machine and keep the fastest (once; results do not change)")
      .flag("--no-tune", no_tune, "take nothing from the tuning cache");
  machine.add_to(args);
  if (!args.parse(argc, argv)) return 0;
  machine.apply();
  set_tuning_flags(tune, no_tune);
  if (output.empty()) fail("rhetor compile needs a plan file to write: -o FILE.plan");
  std::vector<std::int64_t> batches;
  for (std::int64_t b = 1; b <= batch; b *= 2) batches.push_back(b);
  compile_to_plan(path, output, {}, batches);
  fmt::print("{}: {}\n", output, human_bytes(std::filesystem::file_size(output)));
  return 0;
}

int cmd_explain(int argc, const char* const* argv) {
  std::string path, html, dump, dtype = "f32";
  std::int64_t seq = 16, batch = 1;
  std::vector<std::string> off;
  MachineArgs machine;
  Args args("explain", "Shows the graph before and after the passes, the kernels chosen and refused and why, and the memory map.",
            "  rhetor explain runs/quickstart\n"
            "  rhetor explain bert-base --html bert.html --off fuse\n"
            "  rhetor explain gpt2 --seq 64 --dump-passes /tmp/passes");
  args.positional("model", path, "model folder, plan file, or the name of a preset (random weights)")
      .option("--seq", seq, "tokens a run", 1, 1 << 20)
      .option("--batch", batch, "sequences a run", 1, 4096)
      .choice("--dtype", dtype, "precision of contractions", {"f32", "bf16", "f16", "fp8", "int8"})
      .option("--off", off, "switch a pass off (repeatable)")
      .option("--dump-passes", dump, "write the graph after each pass into this folder")
      .option("--html", html, "write the report, with pictures, to this file");
  machine.add_to(args);
  if (!args.parse(argc, argv)) return 0;
  machine.apply();
  ExplainOptions options;
  options.batch = batch;
  options.seq = seq;
  options.dtype = dtype;
  options.off.insert(off.begin(), off.end());
  options.dump_dir = dump;
  const Explanation explanation = explain_model(path, options);
  fmt::print("{}", explanation.text);
  if (!html.empty()) {
    write_file_atomic(html, explanation.html);
    fmt::print("report with pictures: {}\n", html);
  }
  return 0;
}

}  // namespace rhetor
