// One training run: set up in run_setup.cc, carried out in trainer.cc. Internal to the room.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "train/checkpoint.h"
#include "train/curve.h"
#include "train/metrics.h"
#include "train/progress.h"
#include "train/run_data.h"
#include "train/run_guards.h"
#include "train/ranks.h"
#include "train/step.h"
#include "train/task_data.h"

namespace rhetor {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Everything of one call of train().
class Run {
 public:
  Run(const Recipe& recipe, const TrainOptions& options)
      : recipe_(recipe), options_(options), folder_(recipe.folder),
        ranks_{options.communicator, parse_strategy(recipe.strategy)}, line_(options.quiet || options.progress || !ranks_.first()) {
    join_ranks();
    if (!recipe.from.empty()) open_origin();
  }

  TrainResult train();

 private:
  // Batches of the run, in order, from some step on.
  struct Feed {
    std::function<NamedTensors()> next;
    std::function<double()> waited_seconds;
  };

  void open_origin();
  void join_ranks();
  void require_same_data() const;
  std::optional<Checkpoint> newest_checkpoint() const;
  void write_run_files();
  // What any rank wants to do after this step, all do.
  struct Wishes {
    bool stop = false, skip_save = false;
  };
  Wishes agree(Wishes own) const;
  // Says now and then, after `steps` of this process, which rank the others keep waiting for, if one stands out.
  void name_slow_rank(std::int64_t steps);
  void load_data(TokenizerPtr known);
  std::uint64_t data_hash() const {
    const std::uint64_t hash = task_ ? task_->hash() : data_.hash;
    return base_hash_.empty() ? hash : hash64(base_hash_, hash);
  }
  void open_data();
  void build_step();
  void choose_steps();
  void resume(const Checkpoint& checkpoint);
  void record(const std::string& name, const std::map<std::string, Tensor>& tensors) const;
  void one_step(const Feed& batches);
  void handle_bad_step(const Stepper::Outcome& outcome);
  void roll_back();
  void validate();
  void judge(double value);
  bool keeps_best() const { return recipe_.keep == "best" || recipe_.early_stop > 0; }
  std::string deciding_metric() const { return task_ && recipe_.metric != "loss" ? task_->metrics().front() : "loss"; }
  bool can_validate() const { return task_ ? task_->validation_batches() > 0 : !validation_.empty(); }
  Weights final_weights();
  bool lora() const { return recipe_.lora_rank > 0; }
  void save_weights(const fs::path& folder, Weights weights) const;
  void report(const Stepper::Outcome& outcome, double lr);
  void save_checkpoint();
  void draw_curve();
  bool pretrains(Objective objective) const { return !task_ && objective_of(config_) == objective; }
  std::int64_t rows() const { return recipe_.batch * recipe_.accumulation; }
  Feed stream(std::int64_t first) const;
  fs::path best_folder() const { return folder_ / "checkpoints" / "best"; }

  Recipe recipe_;
  const TrainOptions& options_;
  fs::path folder_;
  Ranks ranks_;
  std::optional<FolderLock> lock_;  // rank 0's
  std::unique_ptr<Communicator> save_channel_;   // the checkpoint writer's own
  ProgressLine line_;
  ModelPtr origin_;                 // train.from
  std::unique_ptr<TaskData> task_;  // of a fine-tuning run, in place of data_ and validation_
  RunData data_;
  ModelConfig config_;
  std::unique_ptr<Stepper> stepper_;
  std::vector<NamedTensors> validation_;
  std::optional<MetricsLog> metrics_;
  std::optional<CheckpointWriter> writer_;
  MetricsHistory history_;
  TrainerState state_;
  Clock::time_point joined_;   // the other ranks; waits for them count from here
  Clock::time_point started_;  // of this process's training; state_.seconds holds what came before
  double seconds_before_ = 0, data_waited_ = 0, rate_ = 0;
  std::int64_t checkpoint_step_ = -1;
  std::int64_t parameters_ = 0;     // trained
  std::int64_t flat_tokens_ = 0;    // of a micro-batch without padding
  std::string base_hash_;           // of the weights that adapters rest on
  std::int64_t batch_tokens_ = 0;  // real tokens in the batch of this step
  std::vector<std::pair<std::string, double>> metrics_found_;
};

}  // namespace rhetor
