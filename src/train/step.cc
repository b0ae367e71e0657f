#include "train/step.h"

#include <sys/sysinfo.h>

#include <cstring>

#include "base/rng.h"
#include "passes/grad.h"

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
  return build;
}

OptimizerOptions optimizer_of(const StepSpec& spec) {
  return {.kind = spec.optimizer,
          .adamw = spec.adamw,
          .clip = spec.clip,
          .layer_decay = spec.layer_decay,
          .layers = spec.config.layers};
}

void copy_into(Tensor& to, const Tensor& from) { std::memcpy(to.raw(), from.raw(), to.bytes()); }

// Where memory is promised freely, an allocation that is far too large succeeds and the process is killed when it touches it.
void require_memory(const Executable& executable) {
  struct sysinfo machine {};
  if (::sysinfo(&machine) != 0) return;
  const double have = (static_cast<double>(machine.totalram) + static_cast<double>(machine.totalswap)) * machine.mem_unit;
  const auto need = static_cast<double>(executable.report().arena_bytes + executable.report().state_bytes);
  if (need > have)
    fail(ErrorKind::resource, "out of memory: a training step needs {:.1f} GB, this machine has {:.1f}", need / 1e9, have / 1e9);
}

bool takes(const Session& session, const std::string& name) { return session.executable().graph().find_input(name).valid(); }

}  // namespace

StepGraphs build_step(const StepSpec& spec) {
  StepGraphs out;
  out.train = build_model(spec.config, forward_spec(spec, true, InputKind::state));
  Graph& graph = out.train;
  std::vector<Value> weights;
  std::vector<std::string> names;
  for (const std::int32_t node : graph.input_nodes()) {
    if (graph.input_kind(node) != InputKind::state) continue;
    weights.push_back(graph.value({node, 0}));
    names.push_back(graph.input_name(node));
    out.weights.emplace_back(names.back(), weights.back().type());
  }
  std::vector<Value> grads;
  {
    auto scope = graph.scope("backward");
    grads = gradients(graph.value(graph.find_output("loss")), weights);
  }
  if (spec.accumulation == 1) {
    add_update(graph, optimizer_of(spec), 1, weights, names, grads);
    return out;
  }
  Graph& update = out.update;
  std::vector<Value> update_weights, update_grads;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const Type type = grads[i].type();
    const Value sum = graph.input("grad." + names[i], type, InputKind::state, "zeros");
    graph.set_update(sum, add(sum, grads[i]));
    update_weights.push_back(update.input(names[i], weights[i].type(), InputKind::state));
    update_grads.push_back(update.input("grad." + names[i], type, InputKind::state));
  }
  add_update(update, optimizer_of(spec), spec.accumulation, update_weights, names, update_grads);
  return out;
}

Stepper::Stepper(const StepSpec& spec, const CompileOptions& options)
    : spec_(spec), options_(options), graphs_(build_step(spec)), states_(std::make_shared<StateStore>()) {
  train_session(spec.seq);
  if (spec.accumulation > 1) update_ = std::make_unique<Session>(compile(graphs_.update, {}, options), states_);
}

Session& Stepper::train_session(std::int64_t seq) {
  auto& session = train_[seq];
  if (!session) {
    StepSpec spec = spec_;
    spec.seq = seq;
    const ExecutablePtr executable = compile(seq == spec_.seq ? graphs_.train : build_step(spec).train, {}, options_);
    require_memory(*executable);
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
    session = std::make_unique<Session>(
        compile(build_model(spec.config, forward_spec(spec, false, InputKind::state)), {}, options), states_);
  }
  return *session;
}

// The tokens of a batch say which length it was padded to.
static std::int64_t length_of(const NamedTensors& batch) {
  for (const auto& [name, tensor] : batch)
    if (name == "tokens") return tensor.shape()[1];
  check(false, "a batch has tokens");
  return 0;
}

void Stepper::fill(Session& session, const NamedTensors& batch, std::int64_t part, std::int64_t parts) {
  for (const auto& [name, tensor] : batch) {
    if (!takes(session, name)) continue;  // gpt2 and llama have no segments
    Tensor& to = session.input(name);
    const std::int64_t rows = tensor.shape()[0] / parts;
    const Tensor from = tensor.rows(part * rows, (part + 1) * rows);
    check(from.type() == to.type(), "a training batch has the shape of its graph");
    copy_into(to, from);
  }
}

Stepper::Outcome Stepper::run(const NamedTensors& batch, double lr, std::int64_t update, std::uint64_t dropout_seed) {
  Outcome out;
  Session& train = train_session(length_of(batch));
  const std::int64_t parts = spec_.accumulation;
  if (parts > 1) {
    for (const auto& [name, type] : graphs_.weights) {
      Tensor& sum = train.state("grad." + name);
      std::memset(sum.raw(), 0, sum.bytes());
    }
  }
  for (std::int64_t part = 0; part < parts; ++part) {
    fill(train, batch, part, parts);
    if (takes(train, "seed")) {
      // A stream of its own for every micro-batch; positive, as a seed is.
      const Philox word = random_block(dropout_seed, 0x6d6963726f, static_cast<std::uint64_t>(part));
      train.input("seed").data<std::int64_t>()[0] = static_cast<std::int64_t>((std::uint64_t{word[0]} << 31) ^ word[1]);
    }
    if (parts == 1) {
      train.input("lr").data<float>()[0] = static_cast<float>(lr);
      train.input("step").data<float>()[0] = static_cast<float>(update);
    }
    train.run();
    out.loss += train.output("loss").at(0) / static_cast<double>(parts);
  }
  Session& last = parts > 1 ? *update_ : train;
  if (parts > 1) {
    last.input("lr").data<float>()[0] = static_cast<float>(lr);
    last.input("step").data<float>()[0] = static_cast<float>(update);
    last.run();
  }
  out.grad_norm = last.output("grad_norm").at(0);
  out.applied = last.output("applied").at(0) != 0;
  return out;
}

double Stepper::evaluate(const NamedTensors& batch) {
  Session& session = evaluate_session(length_of(batch));
  fill(session, batch, 0, 1);
  session.run();
  last_evaluated_ = &session;
  return session.output("loss").at(0);
}

std::size_t Stepper::initialize(std::uint64_t seed, const Weights& from) {
  std::size_t taken = 0;
  const Weights first = init_weights(build_model(spec_.config, forward_spec(spec_, false, InputKind::param)), seed);
  for (const auto& [name, type] : graphs_.weights) {
    const auto it = first.find(name);
    check(it != first.end() && it->second.type() == type, "every weight has an initial value of its type");
    const auto given = from.find(name);
    const bool take = given != from.end() && given->second.type() == type;
    copy_into(states_->get(name, type), take ? given->second : it->second);
    taken += take ? 1 : 0;
    for (const char* moment : {"adam.m.", "adam.v."}) {
      Tensor& tensor = states_->get(moment + name, Type{DType::f32, type.shape});
      std::memset(tensor.raw(), 0, tensor.bytes());
    }
  }
  return taken;
}

std::map<std::string, Tensor> Stepper::snapshot() const {
  std::map<std::string, Tensor> out;
  for (const auto& [name, type] : graphs_.weights) {
    for (const char* prefix : {"", "adam.m.", "adam.v."}) out[prefix + name] = states_->all().at(prefix + name).clone();
  }
  return out;
}

Weights Stepper::weight_copies() const {
  Weights out;
  for (const auto& [name, type] : graphs_.weights) out[name] = states_->all().at(name).clone();
  return out;
}

void Stepper::restore(const std::map<std::string, Tensor>& states, const std::string& source) {
  for (const bool commit : {false, true}) {
    for (const auto& [name, type] : graphs_.weights) {
      for (const char* prefix : {"", "adam.m.", "adam.v."}) {
        const std::string full = prefix + name;
        const Type expected = *prefix ? Type{DType::f32, type.shape} : type;
        const auto it = states.find(full);
        if (it == states.end()) fail("{}: the tensor '{}' is missing", source, full);
        if (it->second.type() != expected)
          fail("{}: the tensor '{}' is {}, expected {}", source, full, it->second.type().str(), expected.str());
        if (commit) copy_into(states_->get(full, expected), it->second);
      }
    }
  }
}

}  // namespace rhetor
