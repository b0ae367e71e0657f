// The list of model families, and what holds for all of them.
#include "base/error.h"
#include "models/families.h"
#include "models/model.h"
#include "ops/ops.h"
#include "passes/quantize.h"

namespace rhetor {
namespace {

using Task = BuildSpec::Task;

// The tasks whose weights a folder may hold; the first one's it must hold.
std::vector<Task> tasks_of(const ModelConfig& config) {
  std::vector<Task> tasks;
  if (const TaskKind* kind = find_task_kind(config.task)) tasks.push_back(kind->task);
  if (config.family != "bert") {
    tasks.push_back(Task::logits);
  } else {
    for (const Task task : {Task::hidden, Task::pretrain, Task::span}) tasks.push_back(task);
  }
  if (config.labels >= 2) tasks.push_back(config.task == "tagging" ? Task::tag : Task::classify);
  if (config.labels == 1) tasks.push_back(Task::regress);
  return tasks;
}

const ModelFamily& family(const std::string& name) {
  std::vector<std::string_view> known;
  std::string list;
  for (const ModelFamily& f : model_families()) {
    if (f.name == name) return f;
    known.push_back(f.name);
    list.append(list.empty() ? "" : ", ").append(f.name);
  }
  const std::string near = nearest(name, known);
  fail("there is no model family '{}'{}; families: {}", name, near.empty() ? "" : fmt::format(" (did you mean '{}'?)", near), list);
}

}  // namespace

const std::vector<ModelFamily>& model_families() {
  static const std::vector<ModelFamily> families = {
      {"gpt2", "decoder with learned positions, layer norm and GELU (GPT-2)", build_gpt2},
      {"llama", "decoder with rotary positions, RMS norm, SwiGLU and grouped-query attention (LLaMA)", build_llama},
      {"bert", "bidirectional encoder: masked language model, classification, span questions (BERT)", build_bert},
      {"t5", "encoder and decoder with distance biases and RMS norm: text to text (T5)", build_t5},
  };
  return families;
}

Graph build_model(const ModelConfig& config, const BuildSpec& spec) {
  const ModelFamily& f = family(config.family);
  config.validate();
  if (spec.batch < 1 || spec.seq < 1) fail("a graph needs batch and seq of at least 1, got {} and {}", spec.batch, spec.seq);
  if (spec.seq > config.context)
    fail("a sequence of {} tokens is longer than the model's context of {}", spec.seq, config.context);
  if (spec.capacity < 0 || spec.capacity > config.context)
    fail("a cache of {} tokens is outside the model's context of {}", spec.capacity, config.context);
  BuildSpec own = spec;
  if (own.capacity == 0) own.capacity = config.context;
  if (own.task == Task::cached && own.seq > own.capacity)
    fail("a prefill of {} tokens does not fit a cache of {}", own.seq, own.capacity);
  if (spec.group < 1 || spec.batch % spec.group != 0)
    fail("a batch of {} rows cannot be cut into examples of {} rows", spec.batch, spec.group);
  if (own.training && own.task == Task::cached) fail("a graph with a cache is for generation and cannot be built for training");
  return f.build(config, own);
}

std::int64_t ModelConfig::parameters() const {
  const TaskKind* kind = find_task_kind(task);
  const Graph graph = build_model(*this, {.task = kind ? kind->task : family == "bert" ? Task::pretrain : Task::logits});
  std::int64_t count = 0;
  for (const std::int32_t i : graph.input_nodes())
    if (graph.input_kind(i) == InputKind::param) count += graph.node(i).outputs[0].elements();
  return count;
}

CompileOptions compile_options_for(const ModelConfig& config, CompileOptions options) {
  if (config.quantization.empty()) return options;
  options.passes.int8 = true;
  options.passes.int8_stored = true;
  options.passes.int8_weights = int8_weights(config);
  options.passes.int4_weights = int4_weights(config);
  for (const auto& [name, transposed] : options.passes.int4_weights) options.passes.int8_weights.erase(name);
  return options;
}

CompileOptions inference_options(CompileOptions options) {
  if (!options.device) options.device = default_device();
  if (!options.device || options.keep_precision) return options;
  if (options.passes.compute == DType::f32) options.passes.compute = DType::bf16;
  options.passes.narrow = true;
  return options;
}

std::map<std::string, bool, std::less<>> int8_weights(const ModelConfig& config) {
  std::map<std::string, bool, std::less<>> out;
  for (const Task task : tasks_of(config))
    for (const QuantizableWeight& w : quantizable_weights(build_model(config, {.task = task}))) out.emplace(w.name, w.transposed);
  return out;
}

std::map<std::string, bool, std::less<>> int4_weights(const ModelConfig& config) {
  std::map<std::string, bool, std::less<>> out;
  const bool head = config.quantization == kInt4Head;
  if (!head && config.quantization != kInt4) return out;
  for (const Task task : tasks_of(config))
    for (const QuantizableWeight& w : quantizable_weights(build_model(config, {.task = task})))
      if (w.k % kInt4Group == 0 && (head || w.n != config.vocab)) out.emplace(w.name, w.transposed);
  return out;
}

std::map<std::string, ExpectedWeight> expected_weights(const ModelConfig& config) {
  std::map<std::string, ExpectedWeight> out;
  const std::vector<Task> tasks = tasks_of(config);
  // The quantise pass alone knows what it makes of those weights; the other passes would only cost time here.
  PassOptions options = compile_options_for(config).passes;
  for (const Pass& pass : all_passes())
    if (pass.name != "quantize") options.off.emplace(pass.name);
  for (const Task task : tasks) {
    Graph graph = build_model(config, {.task = task});
    if (!config.quantization.empty()) graph = run_passes(std::move(graph), options).graph;
    const auto uses = graph.uses();
    for (const std::int32_t i : graph.input_nodes()) {
      if (graph.input_kind(i) != InputKind::param || uses[static_cast<std::size_t>(i)][0] == 0) continue;
      out.emplace(graph.input_name(i), ExpectedWeight{graph.node(i).outputs[0], task == tasks.front()});
    }
  }
  return out;
}

}  // namespace rhetor
