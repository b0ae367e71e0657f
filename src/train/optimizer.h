// The update part of a training graph: clipping, the guard against gradients that are not finite, AdamW or LAMB.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "models/model.h"
#include "ops/ops.h"
#include "train/loss_scale.h"

namespace rhetor {

struct OptimizerOptions {
  enum class Kind { adamw, lamb } kind = Kind::adamw;
  AdamwOptions adamw;        // of LAMB too; weight_decay applies to matrices (rank >= 2) only
  double clip = 1.0;         // largest global gradient norm; 0 = off
  double layer_decay = 1.0;  // rate of a layer over that of the layer above it
  std::int64_t layers = 0;   // of the model
  LossScale scale;           // what the gradients were multiplied by
};

// How far a weight is from the bottom, by its name in any family: 0 embeddings, 1 to `layers` the layers, layers + 1 heads and
// last norms.
std::int64_t layer_depth(std::string_view weight, std::int64_t layers);

// Appends the update of `weights` by `grads` (sums over `accumulation` micro-batches) with the inputs "lr" and "step" and the
// outputs "grad_norm" and "applied". If the norm is not finite every old value stays, even the moments'. Weights kept in bf16 have
// moments in bf16: the update is computed in f32 and rounded stochastically, by the input "round_seed" (i64 scalar).
void add_update(Graph& graph, const OptimizerOptions& options, std::int64_t accumulation, const std::vector<Value>& weights,
                const std::vector<std::string>& names, const std::vector<Value>& grads);

}  // namespace rhetor
