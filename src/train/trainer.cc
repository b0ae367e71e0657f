// The training loop. Everything that decides the numbers is a pure function of (recipe, text, step), so a run that was killed
// goes on from its newest checkpoint bit for bit.
#include "train/trainer.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <numbers>
#include <optional>

#include "base/file.h"
#include "base/log.h"
#include "train/checkpoint.h"
#include "train/curve.h"
#include "train/metrics.h"
#include "train/progress.h"
#include "train/run_data.h"
#include "train/step.h"

namespace rhetor {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
// With so many bad steps in a row the run is not training any more, whatever on_nan says.
constexpr std::int64_t kMaxSkippedInARow = 50;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// ---- interrupt: SIGINT and SIGTERM ask for a checkpoint and an orderly end -------------------------
volatile std::sig_atomic_t g_interrupted = 0;

class InterruptGuard {
 public:
  InterruptGuard() {
    g_interrupted = 0;
    struct sigaction action {};
    // A second signal finds the former handler: it ends the process at once.
    action.sa_handler = [](int) { g_interrupted = 1; };
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    ::sigaction(SIGINT, &action, &old_int_);
    ::sigaction(SIGTERM, &action, &old_term_);
  }
  ~InterruptGuard() {
    ::sigaction(SIGINT, &old_int_, nullptr);
    ::sigaction(SIGTERM, &old_term_, nullptr);
  }
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

 private:
  struct sigaction old_int_ {
  }, old_term_{};
};

// One training at a time writes to a folder; the kernel releases the lock when the process ends, however it ends.
class FolderLock {
 public:
  explicit FolderLock(const fs::path& folder) {
    std::error_code error;
    fs::create_directories(folder, error);
    if (error) fail(ErrorKind::io, "cannot create the output folder '{}': {}", folder.string(), error.message());
    const fs::path path = folder / ".lock";
    fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd_ < 0) fail(ErrorKind::io, "cannot write in the output folder '{}': {}", folder.string(), std::strerror(errno));
    if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
      ::close(fd_);
      fail(ErrorKind::resource, "another training is writing to '{}'; wait for it or choose another output.folder",
           folder.string());
    }
  }
  ~FolderLock() { ::close(fd_); }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int fd_ = -1;
};

// run.json: what must not be decided twice. Written before the first step, so that a run killed before its first
// checkpoint starts again exactly as it started.
struct RunFile {
  std::string recipe;
  std::int64_t steps = 0;
  std::uint64_t data_hash = 0;

  static std::optional<RunFile> load(const fs::path& path) {
    if (!fs::exists(path)) return std::nullopt;
    try {
      const auto j = nlohmann::json::parse(read_file(path, 64u << 20));
      return RunFile{j.at("recipe").get<std::string>(), j.at("steps").get<std::int64_t>(),
                     j.at("data_hash").get<std::uint64_t>()};
    } catch (const nlohmann::json::exception& error) {
      log_warning("{} is not readable ({}); the run is set up again", path.string(), error.what());
      return std::nullopt;
    }
  }
  void save(const fs::path& path) const {
    write_file_atomic(path, nlohmann::json{{"recipe", recipe}, {"steps", steps}, {"data_hash", data_hash}}.dump(1) + "\n");
  }
};

// Linear warm-up, then half a cosine down to min_lr_ratio. `step` counts from 1.
double learning_rate(const Recipe& recipe, std::int64_t step, std::int64_t steps) {
  const auto total = static_cast<double>(steps);
  const double warm = std::max(1.0, std::round(recipe.warmup * total));
  const auto now = static_cast<double>(step);
  if (now <= warm) return recipe.lr * now / warm;
  const double progress = (now - warm) / std::max(1.0, total - warm);
  return recipe.lr * (recipe.min_lr_ratio + (1 - recipe.min_lr_ratio) * 0.5 * (1 + std::cos(std::numbers::pi * progress)));
}

// The run.
class Run {
 public:
  Run(const Recipe& recipe, const TrainOptions& options)
      : recipe_(recipe), options_(options), folder_(recipe.folder), lock_(folder_), line_(options.quiet || options.progress) {}

  TrainResult train();

 private:
  void open_data();
  void build_step();
  void choose_steps();
  void resume(const Checkpoint& checkpoint);
  void one_step(BatchStream& batches);
  void handle_bad_step(const Stepper::Outcome& outcome);
  void roll_back();
  void validate();
  void report(const Stepper::Outcome& outcome, double lr);
  void save_checkpoint();
  void draw_curve();
  bool bert() const { return config_.family == "bert"; }
  std::int64_t rows() const { return recipe_.batch * recipe_.accumulation; }
  BatchStream stream(std::int64_t first) const {
    return BatchStream(data_, bert(), rows(), recipe_.sequence(config_), recipe_.seed, static_cast<std::uint64_t>(first));
  }

  const Recipe& recipe_;
  const TrainOptions& options_;
  fs::path folder_;
  FolderLock lock_;
  ProgressLine line_;
  RunData data_;
  ModelConfig config_;
  std::unique_ptr<Stepper> stepper_;
  std::vector<NamedTensors> validation_;
  std::optional<MetricsLog> metrics_;
  std::optional<CheckpointWriter> writer_;
  MetricsHistory history_;
  TrainerState state_;
  Clock::time_point started_;  // of this process's training; state_.seconds holds what came before
  double seconds_before_ = 0, data_waited_ = 0, rate_ = 0;
  std::int64_t checkpoint_step_ = -1;
  std::int64_t parameters_ = 0;
};

void Run::open_data() {
  const fs::path run_path = folder_ / "run.json", tokenizer_path = run_tokenizer_path(folder_);
  remove_stale_temporaries(folder_);
  // A fresh start takes nothing of what is there, but removes it only when nothing can fail any more.
  std::optional<RunFile> run;
  std::optional<Checkpoint> checkpoint;
  if (!options_.fresh) {
    run = RunFile::load(run_path);
    checkpoint = load_newest_checkpoint(folder_);
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
  const auto note = [&](const std::string& text) { line_.note(text); };
  TokenizerPtr known;
  if (run && recipe_.tokenizer.empty()) {
    // Runs of earlier versions kept their tokenizer in the model's place.
    for (const fs::path& path : {tokenizer_path, folder_ / "tokenizer.json"})
      if (!known && fs::exists(path)) known = load_tokenizer(path);
  }
  data_ = load_run_data(recipe_, known, note);
  const std::uint64_t former_hash = checkpoint ? checkpoint->state.data_hash : run ? run->data_hash : data_.hash;
  if (former_hash != data_.hash) {
    if (checkpoint) {
      fail(
          "the text or the tokenizer has changed since '{}' was trained to step {}; start anew with --fresh or choose another "
          "output.folder",
          folder_.string(), checkpoint->state.step);
    }
    run.reset();
    if (known) data_ = load_run_data(recipe_, nullptr, note);  // that tokenizer was made from another text
  }
  config_ = recipe_.model_config(data_.tokenizer->vocab_size());
  require_enough_text(data_, recipe_.sequence(config_));
  build_step();

  if (checkpoint) {
    resume(*checkpoint);
    return;
  }
  stepper_->initialize(recipe_.seed);
  state_.steps = run ? run->steps : recipe_.steps;
  if (!run && recipe_.minutes > 0) choose_steps();
  state_.recipe = recipe_.to_toml();
  state_.data_hash = data_.hash;
  if (options_.fresh) {
    std::error_code ignored;
    fs::remove(run_path, ignored);  // first: a kill in between leaves checkpoints that go on without it
    remove_checkpoints(folder_);
  }
  std::error_code error;
  fs::create_directories(tokenizer_path.parent_path(), error);
  if (error) fail(ErrorKind::io, "cannot create '{}': {}", tokenizer_path.parent_path().string(), error.message());
  data_.tokenizer->save(tokenizer_path);
  RunFile{state_.recipe, state_.steps, data_.hash}.save(run_path);
}

void Run::build_step() {
  const std::int64_t seq = recipe_.sequence(config_);
  StepSpec spec{
      .config = config_,
      .batch = recipe_.batch,
      .seq = seq,
      .accumulation = recipe_.accumulation,
      .clip = recipe_.clip,
      .adamw = {.beta1 = recipe_.beta1, .beta2 = recipe_.beta2, .eps = recipe_.eps, .weight_decay = recipe_.weight_decay}};
  CompileOptions compile_options;
  compile_options.passes.compute = recipe_.precision == "bf16" ? DType::bf16 : DType::f32;
  compile_options.passes.memory_budget = recipe_.memory_budget;
  stepper_ = std::make_unique<Stepper>(spec, compile_options);
  for (const auto& [name, type] : stepper_->weights()) parameters_ += type.elements();
  line_.note(fmt::format("model: {} with {} layers, hidden {}, context {}: {:.2f} M parameters", config_.family, config_.layers,
                         config_.hidden, config_.context, static_cast<double>(parameters_) / 1e6));
  validation_ = validation_batches(data_, bert(), recipe_.batch, seq, recipe_.validation_batches);
  if (validation_.empty()) line_.note("no validation: its part of the text is shorter than one sequence");
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
  BatchStream batches = stream(0);
  stepper_->run(batches.next(), 0, 1, 0);  // warm: first touch of memory
  std::int64_t timed = 0;
  const auto first = Clock::now();
  while (timed < 3 || (seconds_since(first) < 2.0 && timed < 200)) {
    stepper_->run(batches.next(), 0, 1, 0);
    ++timed;
  }
  const double step_seconds = seconds_since(first) / static_cast<double>(timed);
  double validation_seconds = 0;
  if (!validation_.empty() && recipe_.validate_every > 0) {
    const auto before = Clock::now();
    stepper_->evaluate(validation_[0]);
    validation_seconds =
        seconds_since(before) * static_cast<double>(validation_.size()) / static_cast<double>(recipe_.validate_every);
  }
  const double left = std::max(0.0, recipe_.minutes * 60 - seconds_since(start));
  // A few percent go to checkpoints, the curve and the last validation.
  state_.steps = std::max<std::int64_t>(10, static_cast<std::int64_t>(0.96 * left / (step_seconds + validation_seconds)));
  stepper_->initialize(recipe_.seed);
  line_.note(fmt::format("{} steps of {:.0f} ms fit into {:g} minutes", state_.steps, step_seconds * 1e3, recipe_.minutes));
}

void Run::one_step(BatchStream& batches) {
  const auto start = Clock::now();
  const NamedTensors batch = batches.next();
  data_waited_ = batches.waited_seconds();
  ++state_.step;
  const double lr = learning_rate(recipe_, state_.step, state_.steps);
  const std::uint64_t dropout_seed = recipe_.seed * 0x9E3779B97F4A7C15u + static_cast<std::uint64_t>(state_.step);
  const Stepper::Outcome outcome = stepper_->run(batch, lr, state_.updates + 1, dropout_seed);
  const std::int64_t tokens = rows() * recipe_.sequence(config_);
  state_.tokens += tokens;
  const double now_rate = static_cast<double>(tokens) / std::max(1e-9, seconds_since(start));
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
  const auto checkpoint = load_newest_checkpoint(folder_);
  if (checkpoint) {
    stepper_->restore(checkpoint->tensors, checkpoint->path.string());
    state_.updates = checkpoint->state.updates;
  } else {
    stepper_->initialize(recipe_.seed);
    state_.updates = 0;
  }
  line_.note(fmt::format("rolled back to the weights of step {}", checkpoint ? checkpoint->state.step : 0));
}

void Run::validate() {
  if (validation_.empty()) return;
  double sum = 0;
  for (const auto& batch : validation_) sum += stepper_->evaluate(batch);
  state_.validation_loss = sum / static_cast<double>(validation_.size());
  metrics_->validation(state_.step, state_.validation_loss);
  history_.validation.push_back({state_.step, state_.validation_loss});
}

void Run::report(const Stepper::Outcome& outcome, double lr) {
  state_.seconds = seconds_before_ + seconds_since(started_);
  const double tokens = static_cast<double>(rows() * recipe_.sequence(config_));
  metrics_->step({.step = state_.step,
                  .tokens = state_.tokens,
                  .loss = outcome.loss,
                  .lr = lr,
                  .grad_norm = outcome.grad_norm,
                  .applied = outcome.applied,
                  .seconds = state_.seconds,
                  .tokens_per_s = rate_});
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
                               .data_wait_share = data_waited_ / std::max(1e-9, seconds_since(started_))};
  if (options_.progress) options_.progress(progress);
  line_.update(progress);
}

void Run::save_checkpoint() {
  if (checkpoint_step_ == state_.step) return;
  checkpoint_step_ = state_.step;
  state_.seconds = seconds_before_ + seconds_since(started_);
  state_.metrics_bytes = metrics_->bytes();
  writer_->write(state_, stepper_->snapshot());
}

void Run::draw_curve() {
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
  metrics_.emplace(result.metrics_file, state_.metrics_bytes);
  history_ = read_metrics(result.metrics_file, metrics_->bytes());
  writer_.emplace(folder_, recipe_.keep_checkpoints);
  const InterruptGuard interrupt;
  started_ = Clock::now();
  const std::int64_t begin = state_.step;
  if (begin < state_.steps) {
    BatchStream batches = stream(begin);
    while (state_.step < state_.steps) {
      one_step(batches);
      if ((recipe_.validate_every > 0 && state_.step % recipe_.validate_every == 0) || state_.step == state_.steps) {
        validate();
        draw_curve();
      }
      result.stopped =
          state_.step < state_.steps &&
          (g_interrupted != 0 || (options_.stop_after_steps > 0 && state_.step - begin >= options_.stop_after_steps));
      // A disk slower than the interval costs checkpoints, not time; a rollback needs each one, to be the same in every run.
      const bool due = recipe_.checkpoint_every > 0 && state_.step % recipe_.checkpoint_every == 0 &&
                       (recipe_.on_nan == "rollback" || !writer_->busy());
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
  Model model;
  model.config = config_;
  model.weights = stepper_->weight_copies();
  model.tokenizer = data_.tokenizer;
  model.name = folder_.filename().string();
  save_model(folder_, model);
  return result;
}

}  // namespace

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
  fail(ErrorKind::resource, "{}; lower train.batch (it is {}; train.accumulation makes up for it), train.seq or model.layers, or set "
       "train.memory_budget", reason, recipe.batch);
}

}  // namespace rhetor
