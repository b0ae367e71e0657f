// rhetor eval, compress, compile, explain: what is done to a finished model.
#include <cmath>

#include "base/error.h"
#include "base/file.h"
#include "base/thread_pool.h"
#include "cli/args.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "compress/compress.h"
#include "eval/perplexity.h"
#include "generate/generator.h"
#include "generate/plan_model.h"
#include "models/explain.h"
#include "runtime/plan.h"

namespace rhetor {

int cmd_eval(int argc, const char* const* argv) {
  std::string path, task = "perplexity", data, json;
  std::int64_t limit = 0, threads = 0;
  Args args("eval", "Measures a model on a task.", "  rhetor eval runs/quickstart --task perplexity --data book.txt --json result.json");
  args.positional("model", path, "model folder or plan file")
      .choice("--task", task, "what to measure", {"perplexity"})
      .option("--data", data, "text or JSONL, plain or compressed")
      .option("--max-tokens", limit, "stop after this many tokens, 0 = all", 0, std::int64_t{1} << 40)
      .option("--threads", threads, "CPU threads, 0 = all cores", 0, 1024)
      .option("--json", json, "write the result to this file");
  if (!args.parse(argc, argv)) return 0;
  if (data.empty()) fail("rhetor eval --task perplexity needs a text: give it with --data FILE");
  if (threads > 0) set_default_threads(static_cast<int>(threads));
  const PerplexityResult result = perplexity(std::filesystem::path(path), data, limit);
  fmt::print("loss {:.4f} nats a token, perplexity {:.3f}, {:.4f} bits a byte ({} tokens, {} bytes, {:.1f} s)\n", result.loss,
             result.perplexity, result.bits_per_byte, result.tokens, result.bytes, result.seconds);
  write_json(json, {{"loss", result.loss},
                    {"perplexity", result.perplexity},
                    {"bits_per_byte", result.bits_per_byte},
                    {"tokens", result.tokens},
                    {"bytes", result.bytes},
                    {"seconds", result.seconds}});
  return 0;
}

int cmd_compress(int argc, const char* const* argv) {
  std::string path, output, text, json;
  bool int8 = false;
  Args args("compress", "Makes a model smaller and faster; prints size, loss and speed before and after.",
            "  rhetor compress runs/quickstart --int8 -o runs/quickstart/int8 --text book.txt");
  args.positional("model", path, "model folder")
      .flag("--int8", int8, "8-bit weights (per output channel), 8-bit activations (per row, at run time)")
      .option("-o,--output", output, "model folder to write")
      .option("--text", text, "text to measure the loss on")
      .option("--json", json, "write the report to this file");
  if (!args.parse(argc, argv)) return 0;
  if (!int8) fail("rhetor compress needs a method; --int8 is the one there is");
  if (output.empty()) fail("rhetor compress needs an output folder: -o FOLDER");
  const CompressReport report = compress_int8(path, output, text);
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
  Args args("compile", "Compiles a model folder into one plan file that starts fast.",
            "  rhetor compile runs/quickstart/int8 -o runs/quickstart/model.plan");
  args.positional("model", path, "model folder")
      .option("-o,--output", output, "plan file to write")
      .option("--max-batch", batch, "largest number of sequences decoded together", 1, 256);
  if (!args.parse(argc, argv)) return 0;
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
  Args args("explain", "Shows the graph before and after the passes, the kernels chosen and refused and why, and the memory map.",
            "  rhetor explain runs/quickstart\n"
            "  rhetor explain bert-base --html bert.html --off fuse\n"
            "  rhetor explain gpt2 --seq 64 --dump-passes /tmp/passes");
  args.positional("model", path, "model folder, plan file, or the name of a preset (random weights)")
      .option("--seq", seq, "tokens a run", 1, 1 << 20)
      .option("--batch", batch, "sequences a run", 1, 4096)
      .choice("--dtype", dtype, "precision of contractions", {"f32", "bf16", "int8"})
      .option("--off", off, "switch a pass off (repeatable)")
      .option("--dump-passes", dump, "write the graph after each pass into this folder")
      .option("--html", html, "write the report, with pictures, to this file");
  if (!args.parse(argc, argv)) return 0;
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
