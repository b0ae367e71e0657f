// The training loop. Everything that decides the numbers is a pure function of (recipe, text, step), so a run that was killed
// goes on from its newest checkpoint bit for bit.
#include "train/trainer.h"

#include "base/file.h"
#include "base/log.h"
#include "tensor/safetensors.h"
#include "train/run.h"
#include "train/schedule.h"

namespace rhetor {

// With so many bad steps in a row the run is not training any more, whatever on_nan says.
constexpr std::int64_t kMaxSkippedInARow = 50;

void Run::record(const std::string& name, const std::map<std::string, Tensor>& tensors) const {
  if (!options_.record.empty() && ranks_.first()) save_safetensors(options_.record / (name + ".safetensors"), tensors);
}

void Run::one_step(const Feed& batches) {
  const auto start = Clock::now();
  const NamedTensors batch = batches.next();
  data_waited_ = batches.waited_seconds();
  ++state_.step;
  record("step-" + std::to_string(state_.step), {batch.begin(), batch.end()});
  const double lr = learning_rate(recipe_, state_.step, state_.steps);
  const std::uint64_t dropout_seed = recipe_.seed * 0x9E3779B97F4A7C15u + static_cast<std::uint64_t>(state_.step);
  const Stepper::Outcome outcome = stepper_->run(batch, lr, state_.updates + 1, dropout_seed);
  batch_tokens_ = flat_tokens_ > 0 ? flat_tokens_ * recipe_.accumulation : rows() * recipe_.sequence(config_);
  if (task_) {
    batch_tokens_ = 0;
    for (const auto& [name, tensor] : batch)
      if (name == "lengths")
        for (const std::int32_t length : tensor.data<std::int32_t>()) batch_tokens_ += length;
  }
  state_.tokens += batch_tokens_;
  const double now_rate = static_cast<double>(batch_tokens_) / std::max(1e-9, seconds_since(start));
  rate_ = rate_ == 0 ? now_rate : rate_ + 0.1 * (now_rate - rate_);
  if (state_.step == 1) state_.first_loss = outcome.loss;
  if (outcome.applied) {
    state_.smooth_loss = smooth(state_.smooth_loss, outcome.loss, state_.updates);
    state_.last_loss = outcome.loss;
    ++state_.updates;
    state_.skipped_in_a_row = 0;
  }
  report(outcome, lr);
  if (!outcome.applied) handle_bad_step(outcome);
}

void Run::handle_bad_step(const Stepper::Outcome& outcome) {
  ++state_.skipped;
  ++state_.skipped_in_a_row;
  if (outcome.overflow) {   // f16 at work: on_nan is about gradients that no smaller scale would save
    line_.note(fmt::format("step {}: the gradient overflowed at a loss scale of {:g}; the update was left out, the scale halved", state_.step,
                           outcome.loss_scale));
    return;
  }
  if (recipe_.on_nan == "stop") {
    save_checkpoint();
    fail(
        "step {}: the gradient is not finite (loss {}); the update was left out and the state saved in '{}'. Lower train.lr, or "
        "let train.on_nan "
        "be skip or rollback",
        state_.step, outcome.loss, folder_.string());
  }
  if (state_.skipped_in_a_row >= kMaxSkippedInARow) {
    fail("steps {} to {}: no gradient was finite; the weights are those of step {}. Lower train.lr or raise train.warmup",
         state_.step - state_.skipped_in_a_row + 1, state_.step, state_.step - state_.skipped_in_a_row);
  }
  line_.note(fmt::format("step {}: the gradient is not finite; the update was left out", state_.step));
  if (recipe_.on_nan == "rollback") roll_back();
}

// The newest checkpoint's weights and moments come back; the step goes on counting, so the next batch is another one.
void Run::roll_back() {
  writer_->wait();
  const auto checkpoint = newest_checkpoint();
  if (checkpoint) {
    stepper_->restore(checkpoint->tensors, checkpoint->path.string());
    state_.updates = checkpoint->state.updates;
  } else {
    stepper_->initialize(recipe_.seed, origin_ ? origin_->weights : Weights());
    state_.updates = 0;
  }
  line_.note(fmt::format("rolled back to the weights of step {}", checkpoint ? checkpoint->state.step : 0));
}

void Run::validate() {
  if (!can_validate()) return;
  double sum = 0, count = 0;
  metrics_found_.clear();
  if (task_) {
    TaskData::Scorer scorer(*task_);
    for (std::size_t i = 0; i < task_->validation_batches(); ++i) {
      const auto examples = static_cast<double>(task_->validation_count(i));
      sum += stepper_->evaluate(task_->validation_batch(i)) * examples;
      count += examples;
      scorer.add(i, *stepper_);
    }
    metrics_found_ = scorer.finish();
  } else {
    for (const auto& batch : validation_) sum += stepper_->evaluate(batch);
    count = static_cast<double>(validation_.size());
  }
  state_.validation_loss = sum / count;
  if (metrics_) metrics_->validation(state_.step, state_.validation_loss, metrics_found_);
  history_.validation.push_back({state_.step, state_.validation_loss});
  const std::string metric = deciding_metric();
  double value = state_.validation_loss;
  for (const auto& [name, found] : metrics_found_)
    if (name == metric) value = found;
  state_.metric = value;
  judge(value);
}

// Keeps the weights of the best validation in a model folder of their own. Training is deterministic, so a run that goes on from
// an older checkpoint meets the same validations and writes the same weights again.
void Run::judge(double value) {
  const bool higher = TaskData::higher_is_better(deciding_metric());
  const bool better =
      std::isfinite(value) && (!std::isfinite(state_.best) || (higher ? value > state_.best : value < state_.best));
  if (!better) {
    ++state_.stale;
    return;
  }
  state_.best = value;
  state_.best_step = state_.step;
  state_.best_metrics = metrics_found_;
  state_.stale = 0;
  if (keeps_best()) save_weights(best_folder(), stepper_->weight_copies());
}

void Run::save_weights(const fs::path& folder, Weights weights) const {
  if (!ranks_.first()) return;
  if (!lora()) {
    save_model(folder, {config_, std::move(weights), data_.tokenizer, folder_.filename().string(), data_.chat_template});
    return;
  }
  const LoraOptions options{.rank = recipe_.lora_rank, .alpha = recipe_.lora_alpha, .dropout = recipe_.lora_dropout, .targets = recipe_.lora_targets};
  const std::string base = fs::absolute(recipe_.from).lexically_normal().string();
  save_adapter(folder, {config_, options, base, base_hash_, std::move(weights)}, data_.tokenizer.get());
}

Weights Run::final_weights() {
  if (!keeps_best() || state_.best_step == 0 || state_.best_step == state_.step) return stepper_->weight_copies();
  if (!ranks_.first()) return {};
  line_.note(
      fmt::format("the best {} was {:.4f} at step {}; its weights are kept", deciding_metric(), state_.best, state_.best_step));
  metrics_found_ = state_.best_metrics;
  return lora() ? load_adapter(best_folder()).weights : load_model(best_folder())->weights;
}

void Run::report(const Stepper::Outcome& outcome, double lr) {
  state_.seconds = seconds_before_ + seconds_since(started_);
  const auto tokens = static_cast<double>(batch_tokens_);
  const double data_wait = data_waited_ / std::max(1e-9, seconds_since(started_));
  if (metrics_) metrics_->step({.step = state_.step,
                  .tokens = state_.tokens,
                  .loss = outcome.loss,
                  .lr = lr,
                  .grad_norm = outcome.grad_norm,
                  .applied = outcome.applied,
                  .loss_scale = outcome.loss_scale,
                  .seconds = state_.seconds,
                  .tokens_per_s = rate_,
                  .data_wait = data_wait});
  history_.train.push_back({state_.step, outcome.loss});
  const auto left = static_cast<double>(state_.steps - state_.step);
  const TrainProgress progress{.step = state_.step,
                               .steps = state_.steps,
                               .tokens = state_.tokens,
                               .loss = outcome.loss,
                               .smooth_loss = state_.smooth_loss,
                               .validation_loss = state_.validation_loss,
                               .lr = lr,
                               .grad_norm = outcome.grad_norm,
                               .tokens_per_s = rate_,
                               .seconds = state_.seconds,
                               .seconds_left = rate_ > 0 ? left * tokens / rate_ : 0,
                               .data_wait_share = data_wait,
                               .metric = task_ ? deciding_metric() : "",
                               .metric_value = state_.metric};
  if (options_.progress) options_.progress(progress);
  line_.update(progress);
}

void Run::save_checkpoint() {
  if (checkpoint_step_ == state_.step) return;
  checkpoint_step_ = state_.step;
  if (!metrics_found_.empty()) state_.last_metrics = metrics_found_;
  state_.seconds = seconds_before_ + seconds_since(started_);
  state_.metrics_bytes = metrics_ ? metrics_->bytes() : 0;
  writer_->wait();   // before the copy is made: there is never more than one
  writer_->write(state_, stepper_->snapshot());
}

void Run::draw_curve() {
  if (!ranks_.first()) return;
  const std::string title = fmt::format("{} - loss over {} steps", folder_.filename().string(), state_.steps);
  try {
    write_file_atomic(folder_ / "loss.svg", loss_curve_svg(history_, title));
  } catch (const Error& error) {
    log_warning("the loss curve was not drawn: {}", error.what());
  }
}

TrainResult Run::train() {
  open_data();
  TrainResult result;
  result.parameters = parameters_;
  result.resumed = state_.step > 0;
  result.model_folder = folder_;
  result.metrics_file = folder_ / "metrics.jsonl";
  result.curve_file = folder_ / "loss.svg";
  if (ranks_.first()) {
    metrics_.emplace(result.metrics_file, state_.metrics_bytes);
    history_ = read_metrics(result.metrics_file, metrics_->bytes());
  }
  if (ranks_.size() > 1) save_channel_ = ranks_.communicator->split(0, ranks_.rank());
  writer_.emplace(folder_, recipe_.keep_checkpoints, CheckpointParts{save_channel_.get(), stepper_->cut_dims()});
  std::optional<InterruptGuard> interrupt;
  if (options_.signals) interrupt.emplace();
  started_ = Clock::now();
  const std::int64_t begin = state_.step;
  if (begin < state_.steps) {
    if (!options_.record.empty() && ranks_.first()) fs::create_directories(options_.record);
    if (!options_.record.empty()) record("first", stepper_->weight_copies());
    const Feed batches = stream(begin);
    while (state_.step < state_.steps) {
      one_step(batches);
      if ((recipe_.validate_every > 0 && state_.step % recipe_.validate_every == 0) || state_.step == state_.steps) {
        validate();
        draw_curve();
        if (recipe_.early_stop > 0 && state_.stale >= recipe_.early_stop && state_.step < state_.steps) {
          line_.note(fmt::format("stopping at step {}: {} validations without a better {}", state_.step, state_.stale,
                                 deciding_metric()));
          state_.steps = state_.step;
        }
      }
      name_slow_rank(state_.step - begin);
      const Wishes wishes = agree({.stop = g_interrupted != 0, .skip_save = writer_->busy()});
      result.stopped =
          state_.step < state_.steps &&
          (wishes.stop || (options_.stop_after_steps > 0 && state_.step - begin >= options_.stop_after_steps));
      // A disk slower than the interval costs checkpoints, not time; a rollback needs each one, to be the same in every run.
      const bool due = recipe_.checkpoint_every > 0 && state_.step % recipe_.checkpoint_every == 0 &&
                       (recipe_.on_nan == "rollback" || !wishes.skip_save);
      if (due || result.stopped || state_.step == state_.steps) save_checkpoint();
      if (result.stopped) break;
    }
    writer_->wait();
  }
  draw_curve();
  result.steps = state_.step;
  result.tokens = state_.tokens;
  result.first_loss = state_.first_loss;
  result.last_loss = state_.smooth_loss;
  result.validation_loss = state_.validation_loss;
  result.skipped = state_.skipped;
  result.seconds = state_.seconds = begin < state_.step ? seconds_before_ + seconds_since(started_) : state_.seconds;
  result.tokens_per_s = state_.seconds > 0 ? static_cast<double>(state_.tokens) / state_.seconds : 0;
  if (result.stopped) {
    if (const std::string reason = writer_->failure(); !reason.empty()) {
      fail(ErrorKind::io, "training stopped at step {} but its checkpoint was not written: {}; the former checkpoints are intact",
           state_.step, reason);
    }
    line_.note(fmt::format("stopped at step {} of {}; the same command goes on from there", state_.step, state_.steps));
    return result;
  }
  if (metrics_found_.empty()) metrics_found_ = state_.last_metrics;
  Weights weights = final_weights();
  result.metrics = metrics_found_;
  result.best_step = state_.best_step;
  save_weights(folder_, std::move(weights));
  if (ranks_.size() > 1) ranks_.communicator->barrier("the model is written");
  return result;
}

TrainResult train(const Recipe& recipe, const TrainOptions& options) {
  recipe.validate();
  std::string reason;
  try {
    return Run(recipe, options).train();
  } catch (const std::bad_alloc&) {
    reason = "out of memory";
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::resource || !std::string_view(error.what()).starts_with("out of memory")) throw;
    reason = error.what();
  }
  fail(ErrorKind::resource,
       "{}; lower train.batch (it is {}; train.accumulation makes up for it), train.seq or model.layers, or set "
       "train.memory_budget",
       reason, recipe.batch);
}

}  // namespace rhetor
