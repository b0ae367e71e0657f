// What a run begins with: data, model and weights, new or as they were left.
#include "base/file.h"
#include "base/log.h"
#include "train/run.h"
#include "train/run_file.h"

namespace rhetor {

void Run::open_origin() {
  origin_ = load_model(recipe_.from);
  if (!origin_->config.quantization.empty())
    fail("train.from: '{}' is compressed to {}; train from the model that it was made from", recipe_.from,
         origin_->config.quantization);
  if (!origin_->tokenizer) fail("train.from: '{}' has no tokenizer.json", recipe_.from);
  const ModelConfig& c = origin_->config;
  if (recipe_.seq > c.context)
    fail("train.seq is {} but the model in '{}' has a context of {}", recipe_.seq, recipe_.from, c.context);
  std::error_code ignored;
  if (lora() && fs::exists(folder_ / "model.safetensors", ignored))
    fail("'{}' holds a whole model; an adapter needs an output.folder of its own", folder_.string());
  if (lora()) base_hash_ = weights_hash(origin_->weights);
}

void Run::load_data(TokenizerPtr known) {
  const auto note = [&](const std::string& text) { line_.note(text); };
  if (origin_) known = origin_->tokenizer;
  if (recipe_.task.empty()) {
    Recipe recipe = recipe_;
    if (origin_) recipe.tokenizer = recipe_.from;
    data_ = load_run_data(recipe, known, note);
  } else {
    task_ = std::make_unique<TaskData>(recipe_, known, origin_ ? &origin_->config : nullptr, note);
    data_.tokenizer = task_->tokenizer();
  }
  config_ = origin_ ? origin_->config : recipe_.model_config(data_.tokenizer->vocab_size());
  if (!origin_ && pretrains(Objective::spans)) config_.vocab = vocabulary_with_sentinels(*data_.tokenizer);
  config_.dropout = recipe_.dropout;
  if (task_) {
    task_->describe(config_);
    config_.validate();
    task_->encode(recipe_.sequence(config_), note);
  } else {
    require_enough_text(data_, recipe_.sequence(config_));
  }
}

Run::Feed Run::stream(std::int64_t first) const {
  const auto from = static_cast<std::uint64_t>(first);
  if (task_) {
    const auto batches = std::make_shared<Prefetcher<NamedTensors>>(
        [task = task_.get()](std::uint64_t i) { return task->batch(i); }, from, 4, static_cast<int>(recipe_.workers));
    return {[batches] { return batches->next(); }, [batches] { return batches->waited_seconds(); }};
  }
  const auto batches = std::make_shared<BatchStream>(data_, recipe_, objective_of(config_), rows(), recipe_.sequence(config_), from);
  return {[batches] { return batches->next(); }, [batches] { return batches->waited_seconds(); }};
}

void Run::open_data() {
  const fs::path run_path = folder_ / "run.json", tokenizer_path = run_tokenizer_path(folder_);
  if (ranks_.first()) remove_stale_temporaries(folder_);
  // A fresh start takes nothing of what is there, but removes it only when nothing can fail any more.
  std::optional<RunFile> run;
  std::optional<Checkpoint> checkpoint;
  if (!options_.fresh) {
    run = RunFile::load(run_path);
    checkpoint = newest_checkpoint();
  }
  const std::string former = checkpoint ? checkpoint->state.recipe : run ? run->recipe : "";
  const std::string difference = former.empty() ? "" : recipe_difference(Recipe::parse(former, run_path.string()), recipe_);
  if (!difference.empty()) {
    if (checkpoint) {
      fail("'{}' holds a training of another recipe: {}; start anew with --fresh or choose another output.folder",
           folder_.string(), difference);
    }
    run.reset();  // nothing was trained yet: start over
  }
  TokenizerPtr known;
  if (run && recipe_.tokenizer.empty()) {
    // Runs of earlier versions kept their tokenizer in the model's place.
    for (const fs::path& path : {tokenizer_path, folder_ / "tokenizer.json"})
      if (!known && fs::exists(path)) known = load_tokenizer(path);
  }
  load_data(known);
  const std::uint64_t former_hash = checkpoint ? checkpoint->state.data_hash : run ? run->data_hash : data_hash();
  if (former_hash != data_hash()) {
    if (checkpoint) {
      fail(
          "the text or the tokenizer has changed since '{}' was trained to step {}; start anew with --fresh or choose another "
          "output.folder",
          folder_.string(), checkpoint->state.step);
    }
    run.reset();
    if (known) load_data(nullptr);  // that tokenizer was made from another text
  }
  require_same_data();
  build_step();

  if (checkpoint) {
    resume(*checkpoint);
    return;
  }
  const std::size_t taken = stepper_->initialize(recipe_.seed, origin_ ? origin_->weights : Weights());
  if (origin_ && !lora()) line_.note(fmt::format("{} of {} weights begin as in '{}'", taken, stepper_->weights().size(), recipe_.from));
  state_.steps = recipe_.steps;
  if (task_ && recipe_.epochs > 0)
    state_.steps = std::max<std::int64_t>(1, std::llround(recipe_.epochs * static_cast<double>(task_->steps_per_epoch())));
  if (run) state_.steps = run->steps;
  if (!run && recipe_.minutes > 0) choose_steps();
  state_.recipe = recipe_.to_toml();
  state_.data_hash = data_hash();
  if (ranks_.first()) write_run_files();
}

void Run::write_run_files() {
  const fs::path run_path = folder_ / "run.json", tokenizer_path = run_tokenizer_path(folder_);
  if (options_.fresh) {
    std::error_code ignored;
    fs::remove(run_path, ignored);  // first: a kill in between leaves checkpoints that go on without it
    remove_checkpoints(folder_);
  }
  std::error_code error;
  fs::create_directories(tokenizer_path.parent_path(), error);
  if (error) fail(ErrorKind::io, "cannot create '{}': {}", tokenizer_path.parent_path().string(), error.message());
  data_.tokenizer->save(tokenizer_path);
  RunFile{state_.recipe, state_.steps, data_hash()}.save(run_path);
}

void Run::build_step() {
  const std::int64_t seq = recipe_.sequence(config_);
  StepSpec spec{
      .config = config_,
      .batch = recipe_.batch,
      .seq = seq,
      .accumulation = recipe_.accumulation,
      .clip = recipe_.clip,
      .adamw = {.beta1 = recipe_.beta1, .beta2 = recipe_.beta2, .eps = recipe_.eps, .weight_decay = recipe_.weight_decay},
      .optimizer = recipe_.optimizer == "lamb" ? OptimizerOptions::Kind::lamb : OptimizerOptions::Kind::adamw,
      .layer_decay = recipe_.layer_decay,
      .storage = recipe_.storage == "bf16" ? DType::bf16 : DType::f32,
      .wide_layers = recipe_.fp8_wide_layers};
  if (recipe_.precision == "f16") spec.loss_scale = {.initial = recipe_.loss_scale, .growth = recipe_.loss_scale_growth};
  if (2 * recipe_.fp8_wide_layers >= config_.layers && recipe_.fp8_wide_layers > 0)
    fail("train.fp8_wide_layers is {}, which leaves none of the {} layers in FP8; lower it, or let train.precision be bf16",
         recipe_.fp8_wide_layers, config_.layers);
  if (task_) spec.group = task_->group(), spec.losses = task_->losses();
  if (pretrains(Objective::masked)) {
    spec.predictions = most_predictions(seq, recipe_.pairs == "next");
    spec.tokens = flat_tokens_ = unpadded_tokens(data_, recipe_, Objective::masked, recipe_.batch, seq);
    if (flat_tokens_ > 0) {
      spec.predictions = FlatMlmShape{.texts = recipe_.batch, .seq = seq, .tokens = flat_tokens_}.predictions();
      const auto places = static_cast<double>(recipe_.batch * seq);
      line_.note(fmt::format("unpadded: {} tokens a micro-batch in place of {} places; {:.1f} % would be padding", flat_tokens_, recipe_.batch * seq,
                             100 * (1 - static_cast<double>(flat_tokens_) / places)));
    }
  }
  if (pretrains(Objective::spans)) spec.target_seq = span_layout(seq, {.share = recipe_.corruption, .mean = recipe_.span}).output();
  if (lora()) {
    spec.lora = {.rank = recipe_.lora_rank, .alpha = recipe_.lora_alpha, .dropout = recipe_.lora_dropout, .targets = recipe_.lora_targets};
    spec.frozen = origin_->weights;
  }
  CompileOptions compile_options;
  compile_options.passes.compute = recipe_.precision == "fp8" ? DType::f8e4m3 : parse_dtype(recipe_.precision);
  compile_options.passes.memory_budget = recipe_.memory_budget;
  stepper_ = std::make_unique<Stepper>(spec, compile_options, ranks_);
  for (const auto& [name, type] : stepper_->weights()) parameters_ += type.elements();
  std::int64_t all = parameters_;
  if (lora()) {
    all = 0;
    for (const auto& [name, tensor] : origin_->weights) all += tensor.elements();
  }
  line_.note(fmt::format("model: {} with {} layers, hidden {}, context {}: {:.2f} M parameters", config_.family, config_.layers,
                         config_.hidden, config_.context, static_cast<double>(all) / 1e6));
  if (lora())
    line_.note(fmt::format("lora: {} of them stay as they are, {} are trained", all, parameters_));
  for (const PassRecord& pass : stepper_->executable().report().passes)
    if (pass.name == "float8" && recipe_.precision == "fp8") line_.note("precision: " + pass.note);
  if (!task_) validation_ = validation_batches(data_, recipe_, objective_of(config_), recipe_.batch, seq, recipe_.validation_batches);
  if (!can_validate())
    line_.note(task_ ? "no validation: there are no examples for it"
                     : "no validation: its part of the text is shorter than one sequence");
  if (!can_validate() && keeps_best())
    fail("output.keep = \"best\" and train.early_stop need a validation; raise data.validation{}",
         task_ ? " or name data.validation_files" : " or give more text");
}

void Run::resume(const Checkpoint& checkpoint) {
  stepper_->restore(checkpoint.tensors, checkpoint.path.string());
  state_ = checkpoint.state;
  checkpoint_step_ = state_.step;
  seconds_before_ = state_.seconds;
  if (state_.step < state_.steps) line_.note(fmt::format("resuming at step {} of {}", state_.step, state_.steps));
}

// Times a few real steps and one validation, then puts the states back: the choice must leave no other trace than its number.
void Run::choose_steps() {
  const auto start = Clock::now();
  const Feed batches = stream(0);
  stepper_->run(batches.next(), 0, 1, 0);  // warm: first touch of memory
  // Steps in which a graph is compiled (for a length that had not come yet) say nothing about the others.
  std::int64_t timed = 0;
  double timed_seconds = 0;
  while (timed < 3 || (timed_seconds < 2.0 && timed < 200)) {
    const std::size_t compiled = stepper_->compiled();
    const NamedTensors batch = batches.next();
    const auto before = Clock::now();
    stepper_->run(batch, 0, 1, 0);
    if (stepper_->compiled() != compiled) continue;
    timed_seconds += seconds_since(before);
    ++timed;
  }
  const double step_seconds = timed_seconds / static_cast<double>(timed);
  double validation_seconds = 0;
  if (can_validate() && recipe_.validate_every > 0) {
    // The middle batch of a task is as long as its examples are at the median.
    const std::size_t count = task_ ? task_->validation_batches() : validation_.size();
    const NamedTensors probe = task_ ? task_->validation_batch(count / 2) : validation_[0];
    stepper_->evaluate(probe);
    const auto before = Clock::now();
    stepper_->evaluate(probe);
    validation_seconds = seconds_since(before) * static_cast<double>(count) / static_cast<double>(recipe_.validate_every);
  }
  const double left = std::max(0.0, recipe_.minutes * 60 - seconds_since(start));
  // A few percent go to checkpoints, the curve and the last validation.
  state_.steps = std::max<std::int64_t>(10, static_cast<std::int64_t>(0.96 * left / (step_seconds + validation_seconds)));
  stepper_->initialize(recipe_.seed, origin_ ? origin_->weights : Weights());
  line_.note(fmt::format("{} steps of {:.0f} ms fit into {:g} minutes", state_.steps, step_seconds * 1e3, recipe_.minutes));
}

}  // namespace rhetor
