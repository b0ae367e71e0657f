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
  build.task = is_bert(spec.config) ? BuildSpec::Task::pretrain : BuildSpec::Task::loss;
  build.batch = spec.batch;
  build.seq = spec.seq;
  build.training = training;
  build.weights = weights;
  return build;
}

// Appends clipping and AdamW for `grads` (sums over `accumulation` micro-batches) and the guard against gradients that are not
// finite: `where` puts every old value back, so that a bad batch leaves no trace, not even in the moments.
void add_update(Graph& graph, const StepSpec& spec, const std::vector<Value>& weights, const std::vector<std::string>& names,
                const std::vector<Value>& grads) {
  auto scope = graph.scope("update");
  const Value lr = graph.input("lr", Type{DType::f32, {}});
  const Value step = graph.input("step", Type{DType::f32, {}});
  Value total;
  for (const Value& grad : grads) total = total ? add(total, sum_squares(grad)) : sum_squares(grad);
  const double mean = 1.0 / static_cast<double>(spec.accumulation);
  const Value norm = mul(sqrt(total), mean);
  const Value finite = is_finite(total);
  Value scale = full_like(norm, mean);
  if (spec.clip > 0) {
    scale = mul(minimum(full_like(norm, 1.0), div(full_like(norm, spec.clip), add(norm, 1e-6))), mean);
  }
  scale = where(finite, scale, full_like(norm, 0.0));
  graph.output("grad_norm", norm);
  graph.output("applied", cast(finite, DType::f32));
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const Type type{DType::f32, weights[i].shape()};
    const Value m = graph.input("adam.m." + names[i], type, InputKind::state, "zeros");
    const Value v = graph.input("adam.v." + names[i], type, InputKind::state, "zeros");
    AdamwOptions options = spec.adamw;
    if (type.shape.rank() < 2) options.weight_decay = 0;
    const AdamwResult next = adamw(weights[i], grads[i], m, v, lr, step, scale, options);
    graph.set_update(weights[i], where(finite, next.p, weights[i]));
    graph.set_update(m, where(finite, next.m, m));
    graph.set_update(v, where(finite, next.v, v));
  }
}

void copy_into(Tensor& to, const Tensor& from) { std::memcpy(to.raw(), from.raw(), to.bytes()); }

// Where memory is promised freely, an allocation that is far too large succeeds and the process is killed when it touches it.
void require_memory(const Executable& executable) {
  struct sysinfo machine {};
  if (::sysinfo(&machine) != 0) return;
  const double have = (static_cast<double>(machine.totalram) + static_cast<double>(machine.totalswap)) * machine.mem_unit;
  const auto need = static_cast<double>(executable.report().arena_bytes + executable.report().state_bytes);
  if (need > have) fail(ErrorKind::resource, "out of memory: a training step needs {:.1f} GB, this machine has {:.1f}", need / 1e9, have / 1e9);
}

bool takes(const Session& session, const std::string& name) { return session.executable().graph().find_input(name).valid(); }

}  // namespace

StepGraphs build_step(const StepSpec& spec) {
  StepGraphs out;
  out.evaluate = build_model(spec.config, forward_spec(spec, false, InputKind::state));
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
    add_update(graph, spec, weights, names, grads);
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
  add_update(update, spec, update_weights, names, update_grads);
  return out;
}

Stepper::Stepper(const StepSpec& spec, const CompileOptions& options)
    : spec_(spec), graphs_(build_step(spec)), states_(std::make_shared<StateStore>()) {
  train_exe_ = compile(graphs_.train, {}, options);
  require_memory(*train_exe_);
  train_ = std::make_unique<Session>(train_exe_, states_);
  if (spec.accumulation > 1) update_ = std::make_unique<Session>(compile(graphs_.update, {}, options), states_);
  CompileOptions eval_options = options;
  eval_options.passes.memory_budget = 0;  // there is no backward pass to recompute for
  evaluate_ = std::make_unique<Session>(compile(graphs_.evaluate, {}, eval_options), states_);
}

void Stepper::fill(Session& session, const NamedTensors& batch, std::int64_t part, std::int64_t parts) {
  for (const auto& [name, tensor] : batch) {
    Tensor& to = session.input(name);
    const std::int64_t rows = tensor.shape()[0] / parts;
    const Tensor from = tensor.rows(part * rows, (part + 1) * rows);
    check(from.type() == to.type(), "a training batch has the shape of its graph");
    copy_into(to, from);
  }
}

Stepper::Outcome Stepper::run(const NamedTensors& batch, double lr, std::int64_t update, std::uint64_t dropout_seed) {
  Outcome out;
  const std::int64_t parts = spec_.accumulation;
  if (parts > 1) {
    for (const auto& [name, type] : graphs_.weights) {
      Tensor& sum = train_->state("grad." + name);
      std::memset(sum.raw(), 0, sum.bytes());
    }
  }
  for (std::int64_t part = 0; part < parts; ++part) {
    fill(*train_, batch, part, parts);
    if (takes(*train_, "seed")) {
      // A stream of its own for every micro-batch; positive, as a seed is.
      const Philox word = random_block(dropout_seed, 0x6d6963726f, static_cast<std::uint64_t>(part));
      train_->input("seed").data<std::int64_t>()[0] = static_cast<std::int64_t>((std::uint64_t{word[0]} << 31) ^ word[1]);
    }
    if (parts == 1) {
      train_->input("lr").data<float>()[0] = static_cast<float>(lr);
      train_->input("step").data<float>()[0] = static_cast<float>(update);
    }
    train_->run();
    out.loss += train_->output("loss").at(0) / static_cast<double>(parts);
  }
  Session& last = parts > 1 ? *update_ : *train_;
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
  fill(*evaluate_, batch, 0, 1);
  evaluate_->run();
  return evaluate_->output("loss").at(0);
}

void Stepper::initialize(std::uint64_t seed) {
  const Weights first = init_weights(build_model(spec_.config, forward_spec(spec_, false, InputKind::param)), seed);
  for (const auto& [name, type] : graphs_.weights) {
    const auto it = first.find(name);
    check(it != first.end() && it->second.type() == type, "every weight has an initial value of its type");
    copy_into(states_->get(name, type), it->second);
    for (const char* moment : {"adam.m.", "adam.v."}) {
      Tensor& tensor = states_->get(moment + name, Type{DType::f32, type.shape});
      std::memset(tensor.raw(), 0, tensor.bytes());
    }
  }
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
