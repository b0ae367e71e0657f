// Checkpoints: FOLDER/checkpoints/step-N/{state.safetensors, trainer.json}, written in the background and whole or not at all.
// checkpoints/tokenizer.json is the tokenizer of the run; the folder's own belongs to the finished model, maybe an older one.
//
// A checkpoint is written as step-N.tmp, flushed, and renamed; a kill at any moment leaves the former ones as they were.
// trainer.json holds the checksum of the states and its own, so that a damaged checkpoint is recognised and passed over.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tensor/tensor.h"

namespace rhetor {

class Communicator;

// All that a run needs beside the tensors to go on bit for bit. Batches and dropout are pure functions of (seed, step), so
// the step is their position.
struct TrainerState {
  std::int64_t step = 0;     // steps done
  std::int64_t steps = 0;    // steps planned
  std::int64_t updates = 0;  // steps whose update was applied: AdamW's time
  std::int64_t skipped = 0, skipped_in_a_row = 0;
  std::int64_t tokens = 0;
  double first_loss = 0, last_loss = 0, smooth_loss = 0;
  double validation_loss = std::numeric_limits<double>::quiet_NaN();
  // The deciding validation metric: newest and best value, at which step, and validations since. NaN until measured.
  double metric = std::numeric_limits<double>::quiet_NaN(), best = std::numeric_limits<double>::quiet_NaN();
  std::int64_t best_step = 0, stale = 0;
  std::vector<std::pair<std::string, double>> last_metrics, best_metrics;   // tasks: all of them
  double seconds = 0;               // training time so far; a timing, not reproduced
  std::uint64_t metrics_bytes = 0;  // length of metrics.jsonl at this step
  std::uint64_t data_hash = 0;      // of the token stream
  std::string recipe;               // as TOML
};

struct Checkpoint {
  TrainerState state;
  std::map<std::string, Tensor> tensors;  // whole; views of the mapped file where they were not cut
  std::filesystem::path path;
};

// The newest checkpoint that is whole; nothing if there never was one. Damaged ones after it are reported as warnings and renamed to
// step-N.damaged; what an interrupted write left behind is removed. Fails, changing nothing, if all are damaged or if one cannot be
// read for a reason that lies outside of it (rights, file handles, a newer format).
std::optional<Checkpoint> load_newest_checkpoint(const std::filesystem::path& run_folder);
// Fails naming the file and what is wrong with it.
Checkpoint load_checkpoint(const std::filesystem::path& path);
// Where the tokenizer of a run that is not finished is kept.
std::filesystem::path run_tokenizer_path(const std::filesystem::path& run_folder);
// Removes all checkpoints of a run, with its tokenizer (a fresh start).
void remove_checkpoints(const std::filesystem::path& run_folder);

// What several ranks write together: every rank its parts of the shared tensors, rank 0 all others too, and the checkpoint is renamed into
// place when all have written. Reading puts the parts together: a run may go on with another number of ranks.
struct CheckpointParts {
  Communicator* communicator = nullptr;   // of the writing thread alone; null: one rank
  std::map<std::string, int> cut;         // shared tensors: the dim along which they are cut
};

// Writes now, on the calling thread, then deletes all but the newest `keep`.
void write_checkpoint(const std::filesystem::path& run_folder, const TrainerState& state,
                      const std::map<std::string, Tensor>& tensors, std::int64_t keep, const CheckpointParts& parts = {});

// One thread that writes checkpoints while training goes on. A failed write (disk full) is reported as an error message and kept
// for failed(); the former checkpoints stay.
class CheckpointWriter {
 public:
  CheckpointWriter(std::filesystem::path run_folder, std::int64_t keep, CheckpointParts parts = {});
  ~CheckpointWriter();  // finishes what was given to it
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;
  // `tensors` are copies that nobody writes to. Waits while an earlier checkpoint is still being written.
  void write(TrainerState state, std::map<std::string, Tensor> tensors);
  void wait();
  bool busy() const;  // a checkpoint is being written
  // The sentence of the last failed write; "" if the last one succeeded.
  std::string failure() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rhetor
