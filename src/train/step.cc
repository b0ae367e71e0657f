#include "train/step.h"

#include <cstring>

#include "base/rng.h"
#include "passes/grad.h"
#include "train/step_memory.h"
#include "train/storage.h"

namespace rhetor {
namespace {

bool is_bert(const ModelConfig& config) { return config.family == "bert"; }

BuildSpec forward_spec(const StepSpec& spec, bool training, InputKind weights) {
  BuildSpec build;
  const TaskKind* kind = find_task_kind(spec.config.task);
  build.task = kind ? kind->task : is_bert(spec.config) ? BuildSpec::Task::pretrain : BuildSpec::Task::loss;
  build.group = kind ? spec.group : 1;
  build.batch = spec.batch * build.group;
  build.seq = spec.seq;
  build.training = training;
  build.with_loss = true;
  build.weights = weights;
  build.losses = spec.losses;
  build.predictions = spec.predictions;
  build.tokens = spec.tokens;
  build.target_seq = spec.target_seq;
  return build;
}

// The model's graph with its trained weights as states. With adapters the others are parameters.
Graph model_graph(const StepSpec& spec, bool training) {
  if (spec.lora.rank == 0) return build_model(spec.config, forward_spec(spec, training, InputKind::state));
  const Graph whole = build_model(spec.config, forward_spec(spec, training, InputKind::param));
  LoraOptions options = spec.lora;
  if (!training) options.dropout = 0;
  return add_lora(whole, options, [&](const std::string& name) {
    if (!spec.config.task.empty() && is_head_weight(name)) return true;
    const auto kept = spec.frozen.find(name);
    return kept == spec.frozen.end() || kept->second.type() != whole.type(whole.find_input(name));
  });
}

Graph forward_graph(const StepSpec& spec, bool training) {
  Graph graph = model_graph(spec, training);
  return spec.storage == DType::bf16 ? store_in_bf16(graph) : graph;
}

OptimizerOptions optimizer_of(const StepSpec& spec) {
  return {.kind = spec.optimizer,
          .adamw = spec.adamw,
          .clip = spec.clip,
          .layer_decay = spec.layer_decay,
          .layers = spec.config.layers,
          .scale = spec.loss_scale};
}

void copy_into(Tensor& to, const Tensor& from) { std::memcpy(to.raw(), from.raw(), to.bytes()); }

// In FP8 training: embeddings, heads, adapters, and the layers next to both ends that the spec names.
std::set<std::string, std::less<>> sensitive_weights(const StepSpec& spec, const Graph& graph) {
  std::set<std::string, std::less<>> out;
  for (const std::int32_t node : graph.input_nodes()) {
    const std::string& name = graph.input_name(node);
    const std::int64_t depth = layer_depth(name, spec.config.layers);
    if (depth <= spec.wide_layers || depth > spec.config.layers - spec.wide_layers || name.find(".lora_") != std::string::npos)
      out.insert(name);
  }
  return out;
}

// Positive, as a seed is.
std::int64_t seed_of(const Philox& word) { return static_cast<std::int64_t>((std::uint64_t{word[0]} << 31) ^ word[1]); }

// A graph of nothing but the trained weights, with their init rules.
Graph trained_inputs(const StepGraphs& graphs) {
  Graph out;
  for (const auto& [name, type] : graphs.weights) {
    const ValueId input = graphs.train.find_input(name);
    out.input(name, type, InputKind::param, graphs.train.node(input).attrs.s("init"));
  }
  return out;
}

bool takes(const Session& session, const std::string& name) { return session.executable().graph().find_input(name).valid(); }

}  // namespace

StepGraphs build_step(const StepSpec& spec) {
  StepGraphs out;
  out.train = forward_graph(spec, true);
  Graph& graph = out.train;
  std::vector<Value> kept, weights;
  std::vector<std::string> names;
  for (const std::int32_t node : graph.input_nodes()) {
    if (graph.input_kind(node) != InputKind::state) continue;
    kept.push_back(graph.value({node, 0}));
    weights.push_back(weight_value(graph, node));
    names.push_back(graph.input_name(node));
    out.weights.emplace_back(names.back(), weights.back().type());
    for (const char* prefix : {"", "adam.m.", "adam.v."}) out.states.emplace_back(prefix + names.back(), kept.back().type());
  }
  if (spec.loss_scale.initial > 0) out.states.emplace_back(kLossScaleState, loss_scale_type());
  std::vector<Value> grads;
  {
    auto scope = graph.scope("backward");
    Value loss = graph.value(graph.find_output("loss"));
    if (spec.loss_scale.initial > 0) loss = mul(loss, loss_scale(graph));
    grads = gradients(loss, weights);
  }
  if (spec.accumulation == 1) {
    add_update(graph, optimizer_of(spec), 1, kept, names, grads);
    return out;
  }
  Graph& update = out.update;
  std::vector<Value> update_weights, update_grads;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const Type type = grads[i].type();
    const Value sum = graph.input("grad." + names[i], type, InputKind::state, "zeros");
    graph.set_update(sum, add(sum, grads[i]));
    update_weights.push_back(update.input(names[i], kept[i].type(), InputKind::state));
    update_grads.push_back(update.input("grad." + names[i], type, InputKind::state));
  }
  add_update(update, optimizer_of(spec), spec.accumulation, update_weights, names, update_grads);
  return out;
}

Stepper::Stepper(const StepSpec& spec, const CompileOptions& options, const Ranks& ranks)
    : spec_(spec), options_(options), ranks_(ranks), graphs_(build_step(spec)), states_(std::make_shared<StateStore>()) {
  if (!options_.device) options_.device = default_device();
  // On a device what lies between the products is bf16 too; f16 has too little range for gradients between them.
  if (options_.device && options_.passes.compute == DType::bf16) options_.passes.narrow = true;
  if (options_.passes.compute == DType::f8e4m3) options_.passes.wide_weights = sensitive_weights(spec, graphs_.train);
  options_.communicator = ranks_.communicator;
  train_session(spec.seq);
  if (spec.accumulation > 1) update_ = std::make_unique<Session>(compile(ranks_.graph(graphs_.update), {}, options_), states_);
}

// Where memory is promised freely, an allocation that is far too large succeeds and the process is killed when it touches it.
void Stepper::require_memory(const Executable& executable) const {
  const bool first = train_.size() <= 1;   // the states of a device are taken with the first session
  const MemoryHere here = memory_here(options_.device);
  // With micro-batches the graph of one knows no moments, but it has the sums of gradients.
  const auto states = [&](const StepGraphs& graphs, std::int64_t accumulation) {
    std::uint64_t bytes = 0;
    for (const auto& [name, type] : graphs.states) bytes += ranks_.part_type(name, type).bytes();
    if (accumulation > 1)
      for (const auto& [name, type] : graphs.weights) bytes += ranks_.part_type("grad." + name, type).bytes();
    return bytes;
  };
  const std::uint64_t need = session_bytes(executable) + (first || !options_.device ? states(graphs_, spec_.accumulation) : 0);
  if (here.bytes == 0 || need <= here.bytes) return;
  std::string fits;
  if (first && spec_.tokens == 0)
    fits = "; " + what_fits(spec_.batch, spec_.accumulation, ranks_.size(), here.bytes, [&](std::int64_t batch, std::int64_t accumulation) {
      StepSpec spec = spec_;
      spec.batch = batch;
      spec.accumulation = accumulation;
      const StepGraphs graphs = build_step(spec);
      return session_bytes(*compile(ranks_.graph(graphs.train), spec.frozen, options_)) + states(graphs, accumulation);
    });
  fail(ErrorKind::resource, "out of memory: a training step needs {} bytes and {} {}{}", need, here.what, here.bytes, fits);
}

Session& Stepper::train_session(std::int64_t seq) {
  auto& session = train_[seq];
  if (!session) {
    StepSpec spec = spec_;
    spec.seq = seq;
    const ExecutablePtr executable = compile(ranks_.graph(seq == spec_.seq ? graphs_.train : build_step(spec).train), spec_.frozen, options_);
    require_memory(*executable);   // before the session takes any
    session = std::make_unique<Session>(executable, states_);
  }
  return *session;
}

Session& Stepper::evaluate_session(std::int64_t seq) {
  auto& session = evaluate_[seq];
  if (!session) {
    StepSpec spec = spec_;
    spec.seq = seq;
    CompileOptions options = options_;
    options.passes.memory_budget = 0;  // there is no backward pass to recompute for
    session = std::make_unique<Session>(compile(ranks_.graph(forward_graph(spec, false)), spec_.frozen, options), states_);
  }
  return *session;
}

// The tokens of a batch say which length it was padded to; without padding there is one graph.
static std::int64_t length_of(const NamedTensors& batch, std::int64_t seq) {
  for (const auto& [name, tensor] : batch)
    if (name == "tokens") return tensor.shape().rank() == 1 ? seq : tensor.shape()[1];
  check(false, "a batch has tokens");
  return 0;
}

void Stepper::fill(Session& session, const NamedTensors& batch, std::int64_t part, std::int64_t parts) {
  for (const auto& [name, tensor] : batch) {
    if (!takes(session, name)) continue;  // gpt2 and llama have no segments
    Tensor& to = session.input(name);
    const std::int64_t rows = tensor.shape()[0] / parts;
    Tensor from = tensor.rows(part * rows, (part + 1) * rows);
    if (const std::int64_t own = to.shape()[0]; own < rows) from = from.rows(own * ranks_.rank(), own * (ranks_.rank() + 1));
    check(from.type() == to.type(), "a training batch has the shape of its graph");
    copy_into(to, from);
  }
}

Stepper::Outcome Stepper::run(const NamedTensors& batch, double lr, std::int64_t update, std::uint64_t dropout_seed) {
  Outcome out;
  Session& train = train_session(length_of(batch, spec_.seq));
  const std::int64_t parts = spec_.accumulation;
  const auto prepare_update = [&](Session& session) {
    session.input("lr").data<float>()[0] = static_cast<float>(lr);
    session.input("step").data<float>()[0] = static_cast<float>(update);
    if (takes(session, "round_seed"))
      session.input("round_seed").data<std::int64_t>()[0] = seed_of(random_block(dropout_seed, 0x726f756e64, 0));
  };
  if (spec_.loss_scale.initial > 0) out.loss_scale = states_->read(kLossScaleState).at(0);
  if (parts > 1) {
    for (const auto& [name, type] : graphs_.weights) states_->zero("grad." + name);
  }
  for (std::int64_t part = 0; part < parts; ++part) {
    fill(train, batch, part, parts);
    if (takes(train, "seed")) {
      // A stream of its own for every micro-batch.
      const Philox word = random_block(dropout_seed, 0x6d6963726f, static_cast<std::uint64_t>(part));
      train.input("seed").data<std::int64_t>()[0] = seed_of(word);
    }
    if (parts == 1) prepare_update(train);
    train.run();
    out.loss += train.output("loss").at(0) / static_cast<double>(parts);
  }
  Session& last = parts > 1 ? *update_ : train;
  if (parts > 1) {
    prepare_update(last);
    last.run();
  }
  out.grad_norm = last.output("grad_norm").at(0);
  out.applied = last.output("applied").at(0) != 0;
  out.overflow = !out.applied && out.loss_scale > kLeastLossScale && std::isfinite(out.loss);
  return out;
}

double Stepper::evaluate(const NamedTensors& batch) {
  Session& session = evaluate_session(length_of(batch, spec_.seq));
  fill(session, batch, 0, 1);
  session.run();
  last_evaluated_ = &session;
  return session.output("loss").at(0);
}

std::size_t Stepper::initialize(std::uint64_t seed, const Weights& from) {
  std::size_t taken = 0;
  const Weights first = init_weights(trained_inputs(graphs_), seed);
  for (const auto& [name, type] : graphs_.states) {
    Tensor& tensor = states_->get(name, ranks_.part_type(name, type));
    std::memset(tensor.raw(), 0, tensor.bytes());
    if (name == kLossScaleState) tensor.set(0, spec_.loss_scale.initial);
  }
  for (const auto& [name, type] : graphs_.weights) {
    const auto it = first.find(name);
    check(it != first.end() && it->second.type() == type, "every weight has an initial value of its type");
    const auto given = from.find(name);
    const bool take = given != from.end() && given->second.type() == type;
    const Tensor first_value = ranks_.part(name, (take ? given->second : it->second).cast(spec_.storage));
    copy_into(states_->get(name, first_value.type()), first_value);
    taken += take ? 1 : 0;
  }
  return taken;
}

std::map<std::string, Tensor> Stepper::snapshot() const {
  std::map<std::string, Tensor> out;
  for (const auto& [name, type] : graphs_.states) out[name] = states_->read(name).clone();
  return out;
}

std::map<std::string, int> Stepper::cut_dims() const {
  std::map<std::string, int> out;
  for (const auto& [name, type] : graphs_.states)
    if (const int dim = ranks_.cut_dim(name, type); dim >= 0) out[name] = dim;
  return out;
}

Weights Stepper::weight_copies() const {
  Weights out;
  for (const auto& [name, type] : graphs_.weights) {
    const Tensor kept = ranks_.whole(name, {spec_.storage, type.shape}, states_->read(name));
    out[name] = kept.dtype() == DType::f32 ? kept : kept.cast(DType::f32);
  }
  return out;
}

void Stepper::restore(const std::map<std::string, Tensor>& states, const std::string& source) {
  for (const bool commit : {false, true}) {
    for (const auto& [name, expected] : graphs_.states) {
      const auto it = states.find(name);
      if (it == states.end()) fail("{}: the tensor '{}' is missing", source, name);
      if (it->second.type() != expected)
        fail("{}: the tensor '{}' is {}, expected {}", source, name, it->second.type().str(), expected.str());
      if (commit) copy_into(states_->get(name, ranks_.part_type(name, expected)), ranks_.part(name, it->second));
    }
  }
}

}  // namespace rhetor
