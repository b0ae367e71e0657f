// Several ranks that train together: what they must agree on before the first step and after each.
#include "base/log.h"
#include "comm/loopback.h"
#include "train/run.h"

namespace rhetor {

void Run::join_ranks() {
  joined_ = Clock::now();
  if (ranks_.size() > 1) {
    // What each sees alone comes first: it is then said by every rank, not by the fastest.
    if (recipe_.batch % ranks_.size())
      fail("train.batch is {}, which does not divide among {} ranks; make it a multiple of {}", recipe_.batch, ranks_.size(),
           ranks_.size());
    if (recipe_.minutes > 0)
      fail("train.minutes is {:g}, but the steps of several ranks are not timed; give train.steps", recipe_.minutes);
    ranks_.require_same("recipe", recipe_.to_toml(), [&](const std::string& first) {
      return recipe_difference(Recipe::parse(first, "rank 0's recipe"), recipe_);
    });
    const Recipe shared = Recipe::parse(ranks_.from_first("strategy", recipe_.to_toml()), "rank 0's recipe");
    if (shared.strategy != recipe_.strategy || shared.folder != recipe_.folder ||
        shared.checkpoint_every != recipe_.checkpoint_every)
      log_warning("rank {} follows rank 0 in parallel.strategy and [output]", ranks_.rank());
    recipe_.strategy = shared.strategy;
    recipe_.checkpoint_every = shared.checkpoint_every;
    recipe_.keep_checkpoints = shared.keep_checkpoints;
    ranks_.strategy = parse_strategy(recipe_.strategy);
    line_.note(fmt::format("{} ranks on {}, strategy {}: {}", ranks_.size(), ranks_.communicator->backend(),
                           row(ranks_.strategy).name, row(ranks_.strategy).doc));
  }
  if (ranks_.first()) lock_.emplace(folder_);
}

void Run::require_same_data() const {
  const std::string hash = fmt::format("{:016x}", data_hash());
  ranks_.require_same("text or tokenizer", hash, [&](const std::string& first) {
    return first == hash ? "" : fmt::format("the hash of its tokens is {}, not {}", hash, first);
  });
}

// Rank 0 looks first, for it puts damaged ones aside; then all must see the same.
std::optional<Checkpoint> Run::newest_checkpoint() const {
  if (ranks_.size() == 1) return load_newest_checkpoint(folder_);
  std::optional<Checkpoint> found;
  if (ranks_.first()) found = load_newest_checkpoint(folder_);
  ranks_.communicator->barrier("rank 0 has read the checkpoint");
  if (!ranks_.first()) found = load_newest_checkpoint(folder_);
  const std::string step = found ? std::to_string(found->state.step) : "none";
  ranks_.require_same("newest checkpoint", step, [&](const std::string& first) {
    return first == step ? ""
                         : fmt::format("that of step {}, not {}; output.folder must be one folder for all ranks", step, first);
  });
  return found;
}

Run::Wishes Run::agree(Wishes own) const {
  const std::int32_t all = ranks_.most(own.stop ? 2 : 0, "stop after this step");
  const std::int32_t busy = ranks_.most(own.skip_save ? 1 : 0, "checkpoint being written");
  return {all != 0, busy != 0};
}

void Run::name_slow_rank(std::int64_t steps) {
  constexpr std::int64_t kFirst = 32;   // then after twice as many steps each time: a long run is not told the same for ever
  if (ranks_.size() == 1 || steps < kFirst || (steps & (steps - 1)) != 0) return;
  const std::string slow = slow_rank(gather_waits(*ranks_.communicator), seconds_since(joined_));
  if (!slow.empty()) line_.note(fmt::format("step {}: {}", state_.step, slow));
}

TrainResult train_on_threads(const Recipe& recipe, const TrainOptions& options, int ranks) {
  const InterruptGuard interrupt;
  TrainResult result;
  run_loopback(ranks, [&](Communicator& communicator) {
    TrainOptions own = options;
    own.communicator = &communicator;
    own.signals = false;
    if (communicator.rank() > 0) own.progress = nullptr;
    TrainResult found = train(recipe, own);
    if (communicator.rank() == 0) result = std::move(found);
  });
  return result;
}

}  // namespace rhetor
