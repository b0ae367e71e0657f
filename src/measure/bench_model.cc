// bench model, bench train, bench generate: whole models on random weights (or a model folder's).
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <vector>

#include "base/error.h"
#include "base/rng.h"
#include "base/thread_pool.h"
#include "data/batches.h"
#include "data/span_corruption.h"
#include "generate/generator.h"
#include "measure/bench.h"
#include "measure/bench_device.h"
#include "measure/bench_parts.h"
#include "measure/machine.h"
#include "measure/result.h"
#include "measure/timing.h"
#include "models/model.h"
#include "train/step.h"

namespace rhetor {

int bench_threads(const BenchOptions& options) { return options.threads > 0 ? options.threads : available_cores(); }

std::string describe_bench(const BenchOptions& o, const std::string& rest) {
  return fmt::format("{} {} {}, threads {}", o.model, o.dtype, rest, bench_threads(o));
}

namespace {

using Task = BuildSpec::Task;

// Random groups of 4-bit weights: what they hold does not change the speed, and choosing the best scales for a billion would take
// long.
void invent_int4(Model& model) {
  model.config.quantization = kInt4;
  std::vector<unsigned char> pool(1 << 20);
  Rng rng(7);
  for (unsigned char& byte : pool) byte = static_cast<unsigned char>(rng.u32());
  Weights made;
  for (const auto& [name, expected] : expected_weights(model.config)) {
    if (const auto known = model.weights.find(name); known != model.weights.end()) {
      made.emplace(name, known->second);
      continue;
    }
    if (!expected.required) continue;
    Tensor tensor = Tensor::uninitialized(expected.type);
    if (is_float(tensor.dtype())) {
      for (std::int64_t i = 0; i < tensor.elements(); ++i) tensor.set(i, 0.004);
    } else {
      auto* to = static_cast<unsigned char*>(tensor.raw());
      for (std::size_t at = 0; at < tensor.bytes(); at += pool.size())
        std::copy_n(pool.data(), std::min(pool.size(), tensor.bytes() - at), to + at);
    }
    made.emplace(name, std::move(tensor));
  }
  model.weights = std::move(made);
}

}  // namespace

ModelPtr open_or_invent(const BenchOptions& options) {
  if (std::filesystem::is_directory(options.model)) {
    ModelPtr model = load_model(options.model);
    if (options.dtype == "int4" && !model->config.quantization.starts_with(kInt4))
      fail("--dtype int4 needs a model with 4-bit weights, '{}' has none; make one with `rhetor compress --int4`", options.model);
    return model;
  }
  auto model = std::make_shared<Model>();
  model->config = model_preset(options.model);
  model->name = options.model;
  BuildSpec spec;
  spec.task = model->config.family == "bert" ? Task::hidden : Task::logits;
  spec.seq = std::min<std::int64_t>(options.seq, model->config.context);
  model->weights = init_weights(build_model(model->config, spec), 1);
  if (options.dtype == "int4") invent_int4(*model);
  return model;
}

CompileOptions bench_compile_options(const BenchOptions& options, const ModelConfig& config) {
  CompileOptions compile = compile_options_for(config);
  if (options.dtype == "bf16" || options.dtype == "f16") compile.passes.compute = parse_dtype(options.dtype);
  if (options.dtype == "fp8") compile.passes.compute = DType::f8e4m3;
  if (options.dtype == "int8") compile.passes.int8 = true;
  compile.device = find_device(options.device);
  compile.keep_precision = true;
  // Beside quantised products everything else has 16 bits there.
  if (compile.device && compile.passes.compute == DType::f32 && options.dtype != "f32") compile.passes.compute = DType::bf16;
  compile.passes.narrow = compile.device && options.dtype != "f32";
  return compile;
}

namespace {

// The precision whose peak bounds the model: quantised weights compute in int8 whatever is asked.
std::string arithmetic(const BenchOptions& options, const ModelConfig& config) {
  return config.quantization.empty() ? options.dtype : "int8";
}

}  // namespace

void fill_inputs(Session& session, std::int64_t vocab, std::int64_t seq) {
  Rng rng(11);
  for (const auto& [name, type] : session.executable().inputs()) {
    Tensor& tensor = session.input(name);
    const bool ids = name == "tokens" || name == "targets";
    for (std::int64_t i = 0; i < tensor.elements(); ++i)
      tensor.set(i, ids                 ? static_cast<double>(rng.below(static_cast<std::uint64_t>(vocab)))
                    : name == "lengths" ? static_cast<double>(seq)
                                        : 0.0);
  }
}

namespace {

// What no implementation can avoid: the operations of all contractions, and one read of the weights.
Work work_of(const Executable& exe, double weight_bytes) {
  Work work{.bytes = weight_bytes, .working_set = weight_bytes};
  for (const auto& choice : exe.report().choices) work.flops += choice.cost.flops;
  return work;
}

// One run: on a device what its kernels took (the peers are measured so), else the whole call.
Timing measure_session(double seconds, Session& session, const std::function<void()>& before = {}) {
  if (before) before();
  session.run();
  std::vector<double> ms;
  double sum = 0;
  for (int warm = 0; warm < 3; ++warm) sum = session.run_timed();
  const double wanted = std::clamp(seconds / std::max(sum, 1e-6), 5.0, 100000.0);
  for (sum = 0; sum < seconds && static_cast<double>(ms.size()) < wanted; sum += ms.back() / 1000) {
    if (before) before();
    ms.push_back(session.run_timed() * 1000);
  }
  std::sort(ms.begin(), ms.end());
  return {.p50_ms = ms[ms.size() / 2], .min_ms = ms[0], .mean_ms = 1000 * sum / static_cast<double>(ms.size()),
          .runs = static_cast<std::int64_t>(ms.size())};
}

Floor floor_on(const BenchOptions& options, const Work& work, int threads, const std::string& dtype, double measured_ms) {
  const CudaDevice* device = find_device(options.device);
  return device ? device_floor(*device, work, dtype) : floor_of(work, threads, dtype, measured_ms);
}

// What a run reads of the weights. The CPU's kernels hold them packed.
// On a device all weights lie as they are, and a table that is only looked up in is hardly read.
double weight_bytes(const Executable& exe, const BenchOptions& options) {
  if (find_device(options.device) == nullptr) return static_cast<double>(exe.report().packed_bytes);
  const Graph& graph = exe.graph();
  std::vector<char> read(static_cast<std::size_t>(graph.size()), 0);
  for (std::int32_t i = 0; i < graph.size(); ++i)
    for (const ValueId v : graph.node(i).inputs)
      if (v.valid() && graph.node(i).op->name != "embedding") read[static_cast<std::size_t>(v.node)] = 1;
  double bytes = 0;
  for (const std::int32_t i : graph.input_nodes())
    if (graph.input_kind(i) == InputKind::param && read[static_cast<std::size_t>(i)]) bytes += static_cast<double>(graph.node(i).outputs[0].bytes());
  return bytes;
}

std::int64_t memory_of(const CompileReport& report) {
  return static_cast<std::int64_t>(report.arena_bytes + report.weight_bytes + report.packed_bytes + report.state_bytes);
}

}  // namespace

BenchResult bench_model(const BenchOptions& options) {
  const int threads = bench_threads(options);
  const ModelPtr model = open_or_invent(options);
  const ModelConfig& config = model->config;
  if (options.seq > config.context)
    fail("--seq {} is longer than the context of {}, which is {}", options.seq, options.model, config.context);
  BuildSpec spec;
  spec.task = config.family == "bert" ? Task::hidden : Task::logits;
  spec.batch = options.batch;
  spec.seq = options.seq;
  const CompileOptions compile = bench_compile_options(options, config);
  const ExecutablePtr exe = rhetor::compile(build_model(config, spec), model->weights, compile);
  Session session(exe);
  fill_inputs(session, config.vocab, options.seq);
  const Timing timing = measure_session(options.seconds, session);
  const Timing whole = compile.device ? measure(options.seconds / 3, [&] { session.run(); }) : timing;
  const CompileReport& report = exe->report();
  const Floor floor = floor_on(options, work_of(*exe, weight_bytes(*exe, options)), threads, arithmetic(options, config), timing.p50_ms);
  BenchResult result = new_result(describe_bench(options, fmt::format("seq {} batch {}", options.seq, options.batch)), threads);
  result.rows.push_back({options.model,
                         {{"latency_ms_p50", timing.p50_ms},
                          {"latency_ms_min", timing.min_ms},
                          {"with_copies_ms_p50", whole.p50_ms},
                          {"throughput_per_s", 1000.0 * static_cast<double>(options.batch) / timing.p50_ms},
                          {"floor_ms", floor.ms},
                          {"ratio_to_floor", timing.p50_ms / floor.ms},
                          {"memory_bytes", memory_of(report)},
                          {"compile_ms", report.compile_ms},
                          {"runs", timing.runs},
                          {"limit", floor.limit}}});
  add_device_cells(result, compile.device, *exe, timing.p50_ms, static_cast<double>(options.batch), [&] { session.run(); });
  if (options.profile) add_profile(result, session, compile.device, arithmetic(options, config));
  return result;
}

BenchResult bench_generate(const BenchOptions& options) {
  const int threads = bench_threads(options);
  const ModelPtr model = open_or_invent(options);
  const ModelConfig& config = model->config;
  if (config.family == "bert") fail("rhetor bench generate needs a gpt2 or llama model; {} is bert", options.model);
  if (options.prompt + options.tokens > config.context)
    fail("--prompt {} and --tokens {} do not fit the context of {}, which is {}", options.prompt, options.tokens, options.model,
         config.context);
  OpenOptions open;
  open.compile = bench_compile_options(options, config);
  open.prefill_buckets = {options.prompt};
  const LanguageModelPtr language = make_language_model(model, open);
  auto states = std::make_shared<StateStore>();
  const ExecutablePtr prefill = language->cached(options.batch, options.prompt), decode = language->cached(options.batch, 1);
  Session first(prefill, states), next(decode, states);
  fill_inputs(first, config.vocab, options.prompt);
  fill_inputs(next, config.vocab, 1);
  for (std::int64_t b = 0; b < options.batch; ++b) first.input("last").set(b, static_cast<double>(options.prompt - 1));
  const Timing prefill_time = measure_session(options.seconds / 3, first);
  const Floor prefill_floor =
      floor_on(options, work_of(*prefill, weight_bytes(*prefill, options)), threads, arithmetic(options, config), prefill_time.p50_ms);
  // Positions walk through the generated range, so that attention reads the cache lengths a real answer would.
  std::int64_t position = options.prompt;
  const Timing decode_time = measure_session(options.seconds, next, [&] {
    for (std::int64_t b = 0; b < options.batch; ++b) next.input("positions").set(b, static_cast<double>(position));
    position = position + 1 < options.prompt + options.tokens ? position + 1 : options.prompt;
  });
  const Floor floor =
      floor_on(options, work_of(*decode, weight_bytes(*decode, options)), threads, arithmetic(options, config), decode_time.p50_ms);
  BenchResult result = new_result(
      describe_bench(options, fmt::format("prompt {} tokens {} batch {}", options.prompt, options.tokens, options.batch)), threads);
  result.rows.push_back(
      {options.model,
       {{"prefill_ms", prefill_time.p50_ms},
        {"prefill_floor_ms", prefill_floor.ms},
        {"prefill_tokens_per_s", 1000.0 * static_cast<double>(options.batch * options.prompt) / prefill_time.p50_ms},
        {"decode_ms", decode_time.p50_ms},
        {"decode_tokens_per_s", 1000.0 * static_cast<double>(options.batch) / decode_time.p50_ms},
        {"floor_ms", floor.ms},
        {"ratio_to_floor", decode_time.p50_ms / floor.ms},
        {"memory_bytes", memory_of(decode->report())},
        {"limit", floor.limit}}});
  add_device_cells(result, open.compile.device, *decode, decode_time.p50_ms, static_cast<double>(options.batch), [&] { next.run(); });
  if (options.profile) add_profile(result, next, open.compile.device, arithmetic(options, config));
  return result;
}

BenchResult bench_train(const BenchOptions& options) {
  const int threads = bench_threads(options);
  StepSpec spec;
  spec.config = model_preset(options.model);
  spec.config.vocab = (spec.config.vocab + 127) / 128 * 128;   // as those who train at speed pad it: GPT-2's 50,257 is odd
  spec.batch = options.batch;
  spec.seq = options.seq;
  if (options.dtype.starts_with("int")) fail("training in {} is not supported; use f32, bf16, f16 or fp8", options.dtype);
  if (options.seq > spec.config.context)
    fail("--seq {} is longer than the context of {}, which is {}", options.seq, options.model, spec.config.context);
  // As pre-training does: the masked-token head meets the masked places only; the decoder writes what is taken out of the text.
  if (spec.config.family == "bert") spec.predictions = most_predictions(spec.seq, true);
  if (spec.config.family == "t5") spec.target_seq = span_layout(spec.seq, {}).output();
  CompileOptions compile;
  if (options.dtype != "f32") compile.passes.compute = options.dtype == "fp8" ? DType::f8e4m3 : parse_dtype(options.dtype);
  if (options.dtype == "f16") spec.loss_scale = {.initial = 65536};
  compile.device = find_device(options.device);
  Stepper stepper(spec, compile);
  stepper.initialize(1);
  NamedTensors batch;
  Rng rng(5);
  for (const auto& [name, type] : stepper.executable().inputs()) {
    if (name == "lr" || name == "step" || name == "seed") continue;
    Tensor tensor(type);
    for (std::int64_t i = 0; i < tensor.elements(); ++i) {
      const std::uint64_t range = name == "tokens" || name == "targets" ? static_cast<std::uint64_t>(spec.config.vocab) : 2;
      tensor.set(i, name == "lengths" ? static_cast<double>(options.seq) : static_cast<double>(rng.below(range)));
    }
    batch.emplace_back(name, std::move(tensor));
  }
  std::int64_t update = 0;
  const Timing timing = measure(options.seconds, [&] { stepper.run(batch, 1e-4, ++update, 1); });
  const Executable& exe = stepper.executable();
  double weights = 0;
  for (const auto& [name, type] : stepper.weights()) weights += static_cast<double>(type.bytes());
  // One pass reads the weights forward and backward and the optimiser reads and writes weights and two moments.
  Work work = work_of(exe, 8 * weights);
  work.working_set = 4 * weights;   // weights, gradient, two moments
  const Floor floor = floor_on(options, work, threads, options.dtype, timing.p50_ms);
  BenchResult result = new_result(describe_bench(options, fmt::format("train seq {} batch {}", options.seq, options.batch)), threads);
  result.rows.push_back({options.model,
                         {{"step_ms_p50", timing.p50_ms},
                          {"tokens_per_s", 1000.0 * static_cast<double>(options.batch * options.seq) / timing.p50_ms},
                          {"floor_ms", floor.ms},
                          {"ratio_to_floor", timing.p50_ms / floor.ms},
                          {"memory_bytes", memory_of(exe.report())},
                          {"runs", timing.runs},
                          {"limit", floor.limit}}});
  add_device_cells(result, compile.device, exe, timing.p50_ms, static_cast<double>(options.batch * options.seq),
                   [&] { stepper.run(batch, 1e-4, ++update, 1); });
  if (options.profile) add_profile(result, stepper.session(), compile.device, options.dtype, 3);
  return result;
}

}  // namespace rhetor
