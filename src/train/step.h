// One training step as graphs: forward, backward, clipping and update, built from a model's loss graph.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "models/lora.h"
#include "models/model.h"
#include "train/optimizer.h"
#include "train/ranks.h"

namespace rhetor {

struct StepSpec {
  ModelConfig config;
  std::int64_t batch = 1, seq = 1, accumulation = 1;  // batch: examples in a micro-batch
  double clip = 1.0;                                  // largest global gradient norm; 0 = off
  AdamwOptions adamw;                                 // weight_decay applies to matrices (rank >= 2) only
  OptimizerOptions::Kind optimizer = OptimizerOptions::Kind::adamw;
  double layer_decay = 1.0;
  LossScale loss_scale;                               // for contractions in f16
  DType storage = DType::f32;                         // of weights and moments; bf16: no f32 copies, updates rounded stochastically
  // With contractions in FP8: so many layers at the bottom and as many at the top stay in bf16, as embeddings and heads do.
  std::int64_t wide_layers = 0;
  // Fine-tuning (config.task): rows an example, and the loss. Without a task: language modelling.
  std::int64_t group = 1;
  std::int64_t predictions = 0, tokens = 0, target_seq = 0;  // pre-training of bert, t5: as in BuildSpec
  LossOptions losses = {};
  // Adapters (lora.rank > 0): the weights that stay as they are. Trained are the adapters, heads, and what `frozen` lacks.
  LoraOptions lora = {};
  Weights frozen = {};
};

// The weights are states under their own names; their moments are the states "adam.m.NAME" and "adam.v.NAME".
// accumulation == 1: `train` does everything. Otherwise `train` adds a micro-batch's gradients to the states "grad.NAME",
// which the caller zeroes before each step, and `update` applies their mean. A loss scale is a state too.
// Inputs beside the batch: lr, step (f32 scalars; step counts applied updates from 1), seed (i64 scalar, if there is dropout),
// round_seed (i64 scalar, if weights are kept in bf16).
// Outputs: "loss"; and where the update is: "grad_norm" (f32, before clipping) and "applied" (f32: 1, or 0 if the norm
// was not finite, in which case no state changed).
struct StepGraphs {
  Graph train, update;
  std::vector<std::pair<std::string, Type>> weights;  // as the model computes with them
  std::vector<std::pair<std::string, Type>> states;   // all that a step changes and the next one needs, as they are kept
};
StepGraphs build_step(const StepSpec& spec);

// The compiled graphs and the states they share. Batches of a task may be shorter than spec.seq: the graphs of another length are
// compiled when first needed, and kept. Used by one thread.
class Stepper {
 public:
  // With several ranks: `spec` and batches are of all of them together, losses and outputs too; states are this rank's part. All ranks
  // call everything but snapshot() and restore() in the same order.
  Stepper(const StepSpec& spec, const CompileOptions& options, const Ranks& ranks = {});

  struct Outcome {
    double loss = 0, grad_norm = 0;
    bool applied = true;
    double loss_scale = 0;  // of this step; 0: none
    bool overflow = false;  // not applied, but the loss was finite: the scale was too large and is halved
  };
  // `batch` holds accumulation x batch rows by input name. `update` counts applied updates from 1.
  Outcome run(const NamedTensors& batch, double lr, std::int64_t update, std::uint64_t dropout_seed);
  // Mean loss of spec.batch examples with the present weights, without dropout.
  double evaluate(const NamedTensors& batch);
  // Of the last evaluate(): "logits", "embedding", ...
  const Tensor& evaluated(const std::string& output) const { return last_evaluated_->output(output); }

  const std::vector<std::pair<std::string, Type>>& weights() const { return graphs_.weights; }
  // First weights for `seed`, those of `from` in place of the ones they have name and type of; moments zero. Returns how many
  // came from there.
  std::size_t initialize(std::uint64_t seed, const Weights& from = {});
  // Copies of all states (this rank's parts), and back from whole ones. restore() fails naming a missing or mismatched tensor and then has
  // changed nothing.
  std::map<std::string, Tensor> snapshot() const;
  void restore(const std::map<std::string, Tensor>& states, const std::string& name);
  // Of the states that the ranks share: the dim along which they do.
  std::map<std::string, int> cut_dims() const;
  Weights weight_copies() const;  // whole, in f32
  const Executable& executable() const { return train_.at(spec_.seq)->executable(); }
  std::size_t compiled() const { return train_.size(); }  // sequence lengths so far
  Session& session() { return *train_.at(spec_.seq); }    // for the profiler

 private:
  void fill(Session& session, const NamedTensors& batch, std::int64_t part, std::int64_t parts);
  // Fails with the bytes needed, those there are, and what would fit.
  void require_memory(const Executable& executable) const;
  Session& train_session(std::int64_t seq);
  Session& evaluate_session(std::int64_t seq);

  StepSpec spec_;
  CompileOptions options_;
  Ranks ranks_;
  StepGraphs graphs_;  // of spec.seq
  std::shared_ptr<StateStore> states_;
  std::map<std::int64_t, std::unique_ptr<Session>> train_, evaluate_;  // by sequence length
  std::unique_ptr<Session> update_;
  const Session* last_evaluated_ = nullptr;
};

}  // namespace rhetor
