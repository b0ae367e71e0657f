// Launchers of cross-entropy of rows of logits against target classes.
#pragma once

#include "cuda/launch.h"

namespace rhetor::gpu {

struct LossProblem {
  std::int64_t rows = 0, classes = 0, ignore = -100;
  DType dtype = DType::f32, index = DType::i32;   // of the logits, of the targets
};

// logits [rows, classes], targets [rows] -> loss and lse [rows] in f32 (f64 for f64); either may be null.
void cross_entropy(const LossProblem& p, const void* logits, const void* targets, void* loss, void* lse, void* stream);
// dloss, lse [rows] -> dlogits, which may be the logits.
void cross_entropy_grad(const LossProblem& p, const void* dloss, const void* logits, const void* targets, const void* lse, void* dlogits,
                        void* stream);

}  // namespace rhetor::gpu
