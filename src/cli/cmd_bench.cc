// rhetor bench ops|model|train|generate|tune.
#include "base/error.h"
#include "base/file.h"
#include "cli/args.h"
#include "cli/commands.h"
#include "cli/machine_args.h"
#include "measure/bench.h"
#include "runtime/tune.h"

namespace rhetor {

int cmd_bench(int argc, const char* const* argv) {
  std::string what, json, trace;
  BenchOptions options;
  MachineArgs machine;
  bool tune = false, no_tune = false;
  Args args("bench", "Measures. Every row carries its floor: the time that operations and bytes alone would take on this machine.",
            "  rhetor bench ops --filter matmul\n"
            "  rhetor bench model --model bert-base --device cpu --dtype f32 --seq 128 --batch 1 --threads 2 --json result.json\n"
            "  rhetor bench train --model gpt2-124m --seq 256 --batch 2 --dtype bf16\n"
            "  rhetor bench generate --model gpt2-124m --dtype int8 --prompt 128 --tokens 64");
  args.positional("what", what, "ops, model, train, generate or tune")
      .option("--model", options.model, "preset (random weights) or model folder")
      .choice("--dtype", options.dtype, "precision of contractions; int4: weights in 4 bits, arithmetic in 8", {"f32", "bf16", "f16", "fp8", "int8", "int4"})
      .option("--seq", options.seq, "tokens a sequence", 1, 1 << 20)
      .option("--batch", options.batch, "sequences", 1, 1 << 16)
      .option("--prompt", options.prompt, "generate: prompt tokens", 1, 1 << 20)
      .option("--tokens", options.tokens, "generate: new tokens", 1, 1 << 20)
      .option("--filter", options.filter, "ops: only names that contain this")
      .option("--seconds", options.seconds, "measuring time a row", 0.01, 3600.0)
      .flag("--tune", tune, "measure the ways to run each contraction on this machine and keep the fastest (once; results do not change)")
      .flag("--no-tune", no_tune, "take nothing from the tuning cache")
      .flag("--profile", options.profile, "model, train, generate: a table of the time each kernel takes")
      .flag("--varlen", options.varlen, "model: encoders on sequences of many lengths up to --seq, as question answering has them")
      .option("--trace", trace, "model, train, generate: write one run's kernels as a Chrome trace (chrome://tracing, Perfetto)")
      .option("--json", json, "write the result to this file");
  machine.add_to(args);
  if (!args.parse(argc, argv)) return 0;
  set_tuning_flags(tune, no_tune);
  const bool table = options.profile;
  if (!trace.empty()) options.profile = true;
  options.threads = machine.threads();
  options.device = machine.device();
  machine.apply();
  BenchResult result;
  if (what == "ops") result = bench_ops(options);
  else if (what == "model") result = options.varlen ? bench_varlen(options) : bench_model(options);
  else if (what == "train") result = bench_train(options);
  else if (what == "generate") result = bench_generate(options);
  else if (what == "tune") result = bench_tune(options);
  else fail("rhetor bench {}: unknown; measure ops, model, train, generate or tune", what);
  fmt::print("{}{}", to_table(result), table ? result.profile : "");
  if (!trace.empty() && result.trace.empty()) fail("rhetor bench {} runs no graph of which --trace could be written", what);
  if (!trace.empty()) write_file_atomic(trace, result.trace);
  if (!json.empty()) write_file_atomic(json, to_json(result));
  return 0;
}

}  // namespace rhetor
