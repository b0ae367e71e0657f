// The learning rate of each step.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>

#include "train/trainer.h"

namespace rhetor {

// Linear warm-up, then from lr to lr * min_lr_ratio as recipe.schedule says. `step` counts from 1.
inline double learning_rate(const Recipe& recipe, std::int64_t step, std::int64_t steps) {
  const auto total = static_cast<double>(steps), now = static_cast<double>(step);
  // No warm-up at all is a warm-up of one step.
  const double warm = std::max(1.0, std::round(recipe.warmup * total));
  if (now <= warm) return recipe.lr * now / warm;
  if (recipe.schedule == "constant") return recipe.lr;
  const double progress = std::min(1.0, (now - warm) / std::max(1.0, total - warm));
  double left = 0.5 * (1 + std::cos(std::numbers::pi * progress));
  if (recipe.schedule == "linear") left = 1 - progress;
  if (recipe.schedule == "polynomial") left = std::pow(1 - progress, recipe.power);
  return recipe.lr * (recipe.min_lr_ratio + (1 - recipe.min_lr_ratio) * left);
}

}  // namespace rhetor
