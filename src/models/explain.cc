#include "models/explain.h"

#include "base/error.h"
#include "models/model.h"
#include "runtime/plan.h"

namespace rhetor {
namespace {

Explanation explain_plan(const std::filesystem::path& file) {
  const Plan plan = load_plan(file);
  std::vector<ExplainPart> parts;
  for (const auto& [name, executable] : plan.executables) parts.push_back({fmt::format("{}: {}", file.filename().string(), name), executable.get()});
  return explain(parts);
}

}  // namespace

Explanation explain_model(const std::filesystem::path& model, const ExplainOptions& options) {
  std::error_code ignored;
  if (std::filesystem::is_regular_file(model, ignored)) return explain_plan(model);
  ModelPtr loaded;
  if (std::filesystem::is_directory(model, ignored)) loaded = load_model(model);
  const ModelConfig config = loaded ? loaded->config : model_preset(model.string());

  if (options.seq > config.context)
    fail("--seq {} is longer than the context of {}, which is {}", options.seq, model.string(), config.context);
  const bool quantised = !config.quantization.empty();
  if (quantised && options.dtype != "f32" && options.dtype != "int8")
    fail("{} holds {} weights, whose contractions run in integers; give no --dtype, or explain the model it was compressed from",
         model.string(), config.quantization);

  const BuildSpec spec{.task = config.family == "bert" ? BuildSpec::Task::hidden : BuildSpec::Task::cached,
                       .batch = options.batch,
                       .seq = options.seq};
  const Graph graph = build_model(config, spec);
  CompileOptions compile_options = compile_options_for(config);
  compile_options.passes.off = options.off;
  compile_options.passes.dump_dir = options.dump_dir;
  if (options.dtype == "bf16" || options.dtype == "f16") compile_options.passes.compute = parse_dtype(options.dtype);
  else if (options.dtype == "fp8") compile_options.passes.compute = DType::f8e4m3;
  else if (options.dtype == "int8") compile_options.passes.int8 = true;
  else if (options.dtype != "f32") fail("the precision '{}' is unknown; expected f32, bf16, f16, fp8 or int8", options.dtype);
  compile_options.device = default_device();
  compile_options.passes.narrow = compile_options.device && compile_options.passes.compute != DType::f32;
  const ExecutablePtr executable = compile(graph, loaded ? loaded->weights : init_weights(graph, 1), compile_options);
  const std::string title = fmt::format("{}: {} {}, batch {}, {} tokens, {}", loaded ? loaded->name : model.string(), config.family,
                                        config.family == "bert" ? "encoder" : "step with cache", spec.batch, spec.seq,
                                        quantised ? config.quantization : options.dtype);
  return explain(title, *executable, &graph);
}

}  // namespace rhetor
