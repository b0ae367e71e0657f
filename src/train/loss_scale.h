// Dynamic loss scaling for training in f16 (Micikevicius et al., "Mixed precision training", 2018): the loss is multiplied by a scale
// before the backward pass, so that small gradients of activations stay above f16's least number, and the gradients of the weights are
// divided by it. An overflow halves the scale and leaves the update out; `growth` applied updates in a row double it.
#pragma once

#include <cstdint>

#include "graph/graph.h"

namespace rhetor {

struct LossScale {
  double initial = 0;          // a power of two, so that scaling rounds nothing; 0 = no scaling
  std::int64_t growth = 2000;  // updates in a row before the scale doubles
};

// Where the scale ends: at 1 an overflow is no matter of scaling any more; beyond 2^24 nothing is left to gain.
inline constexpr double kLeastLossScale = 1, kGreatestLossScale = 16777216;

// The state of the scale, f32 [2]: the scale, and the updates applied since it last changed.
inline constexpr const char* kLossScaleState = "loss_scale";
inline Type loss_scale_type() { return {DType::f32, Shape{2}}; }

// The scale, a f32 scalar; its state is made at the first call.
Value loss_scale(Graph& graph);
// Sets the state's next value. finite: bool scalar, no gradient overflowed.
void add_scale_update(Graph& graph, Value finite, std::int64_t growth);

}  // namespace rhetor
