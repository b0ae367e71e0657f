// Training by recipe: `rhetor train RECIPE.toml`.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "models/model.h"

namespace rhetor {

class Communicator;

// A recipe as read from TOML; every field has a default that works. docs/recipes.md documents each key ([section] key).
struct Recipe {
  // [model]
  std::string family = "gpt2";       // or a preset name
  std::int64_t layers = 0;           // the size dial; 0 = 4, or the preset's
  std::int64_t hidden = 0, heads = 0, kv_heads = 0, ffn = 0, context = 0;   // 0 = from the dial
  double dropout = 0.0;
  std::int64_t vocab = 1024;
  // [data]
  std::vector<std::string> files;    // relative to the recipe's folder
  std::string text_field = "text", separator = "<|endoftext|>", tokenizer;   // tokenizer: "" = train one
  std::string tokenizer_kind = "byte-bpe";   // what is trained then; text/make_tokenizer.h
  double validation = 0.05;
  std::vector<std::string> validation_files;
  std::vector<double> weights;       // of data.files, one each; empty = by size
  std::string packing = "stream";    // gpt2, llama: stream | whole | single
  std::string masking = "tokens", pairs = "next";   // bert: tokens | words; next | none
  double corruption = 0.15, span = 3.0;   // t5: share of the tokens taken out, in spans so long on average
  std::int64_t workers = 1;          // threads that prepare batches
  // [task]
  std::string task;                  // kind: "" = language modelling, else a name of task_kinds()
  std::string text, pair, label;     // fields; "" = the usual ones (data/examples.h)
  std::vector<std::string> choices, labels, class_weights;
  std::string metric, ranking = "listwise", embedding = "contrastive";
  std::int64_t stride = 64, group = 8;
  double temperature = 0.05, scale = 1.0;
  // [lora]
  std::int64_t lora_rank = 0;        // 0 = train all weights
  double lora_alpha = 0, lora_dropout = 0;
  std::vector<std::string> lora_targets;
  // [train]
  std::string from;                  // a model folder to begin with
  double epochs = 0;                 // > 0: decides `steps` for a task
  std::int64_t steps = 400, batch = 16, seq = 0 /* 0 = context */, accumulation = 1;
  double minutes = 0;                // > 0: choose `steps` so that training takes about this long on this machine
  double lr = 1e-3, min_lr_ratio = 0.1, warmup = 0.05 /* fraction of steps */, weight_decay = 0.1, beta1 = 0.9, beta2 = 0.95, eps = 1e-8,
         clip = 1.0;
  std::string schedule = "cosine", optimizer = "adamw";
  double power = 1.0, layer_decay = 1.0, label_smoothing = 0;
  std::int64_t early_stop = 0;       // validations without progress; 0 = off
  std::string precision = "f32";     // of contractions: f32 | bf16 | f16 | fp8
  double loss_scale = 65536;         // f16: the first one
  std::int64_t loss_scale_growth = 2000, fp8_wide_layers = 0;
  std::string storage = "f32";       // of weights and moments: f32 | bf16
  std::uint64_t memory_budget = 0;
  std::uint64_t seed = 1;
  std::string on_nan = "skip";       // skip | stop | rollback
  // [parallel]
  std::string strategy = "ddp";      // what ranks share: a row of parallel/strategy.h
  // [output]
  std::string folder = "runs/model", keep = "last";
  std::int64_t validate_every = 50, validation_batches = 8, checkpoint_every = 100, keep_checkpoints = 2;

  // Reads TOML; unknown keys fail naming the nearest known one. `overrides` are "train.lr=3e-4" strings.
  static Recipe load(const std::filesystem::path& file, const std::vector<std::string>& overrides = {});
  static Recipe parse(std::string_view toml, const std::string& name, const std::vector<std::string>& overrides = {});
  // Every key, in the order of the reference; parse(to_toml()) gives the same recipe.
  std::string to_toml() const;
  // Fails naming the key, what was expected and what was found.
  void validate() const;
  // The model this recipe describes for a tokenizer of `vocab` tokens.
  ModelConfig model_config(std::int64_t vocab) const;
  std::int64_t sequence(const ModelConfig& config) const { return seq > 0 ? seq : config.context; }
};
// The first key in which two recipes differ and which changes the numbers that training computes, as a clause
// "train.lr is 0.001 there and 0.003 here"; "" if a run of one may be continued by the other.
std::string recipe_difference(const Recipe& there, const Recipe& here);

struct TrainProgress {
  std::int64_t step = 0, steps = 0, tokens = 0;
  double loss = 0, smooth_loss = 0, validation_loss = 0 /* NaN until measured */, lr = 0, grad_norm = 0;
  double tokens_per_s = 0, seconds = 0, seconds_left = 0, data_wait_share = 0;
  std::string metric;                // tasks: the one that decides, and its newest value
  double metric_value = std::numeric_limits<double>::quiet_NaN();   // until measured
};
struct TrainResult {
  std::int64_t steps = 0, tokens = 0, parameters = 0;
  double first_loss = 0, last_loss = 0 /* smoothed */, validation_loss = 0 /* NaN if the text is too short for one */;
  double seconds = 0, tokens_per_s = 0;
  std::int64_t skipped = 0;          // steps whose gradient was not finite
  // Tasks: the metrics of the weights that became the model; the first one decides. Also "loss".
  std::vector<std::pair<std::string, double>> metrics;
  std::int64_t best_step = 0;        // of the best validation; 0 if there was none
  bool resumed = false, stopped = false;
  std::filesystem::path model_folder, metrics_file, curve_file;
};
struct TrainOptions {
  Communicator* communicator = nullptr;                   // this rank's among all that train; null: one rank
  bool signals = true;                                    // SIGINT and SIGTERM are handled by this call
  bool fresh = false;                                     // ignore checkpoints in the folder
  bool quiet = false;
  std::int64_t stop_after_steps = 0;                      // > 0: save and stop early (tests)
  std::function<void(const TrainProgress&)> progress;     // replaces the progress line
  // Not empty: the weights before the first step (first.safetensors) and each batch (step-N.safetensors) are written to this folder, for
  // comparing a run with another program's.
  std::filesystem::path record;
};
// Trains, or continues from the newest good checkpoint in recipe.folder bit-identically (on as many threads). Writes run.json,
// metrics.jsonl, loss.svg, checkpoints/ (step-N/ and the run's tokenizer) and at the end the model folder itself; a model that is
// there from before stays usable until then. A finished run returns at once. SIGINT and SIGTERM save a checkpoint and return with `stopped`; a second one ends the process. Fails if the folder holds a
// training of another recipe or text (naming the key), or is being trained in by another process. One training a process at a time.
TrainResult train(const Recipe& recipe, const TrainOptions& options = {});
// The same by `ranks` threads, each a rank of options.communicator's kind (docs/parallel.md). Returns rank 0's result.
TrainResult train_on_threads(const Recipe& recipe, const TrainOptions& options, int ranks);

}  // namespace rhetor
