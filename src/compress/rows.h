// What the quantisers share: a weight's rows of output channels, and the start of a quantised model.
#pragma once

#include <string_view>

#include "models/model.h"

namespace rhetor {

// w [n,k], or [k,n] if not `transposed`, as f32 rows [k] of output channels.
class WeightRows {
 public:
  WeightRows(const Tensor& w, bool transposed);
  std::int64_t n() const { return n_; }
  std::int64_t k() const { return k_; }
  void read(std::int64_t row, float* to) const;

 private:
  Tensor values_;  // f32
  std::int64_t n_, k_, row_stride_, stride_;
};

// Per output channel: q i8 [n,k], scale f32 [n].
void quantize_int8_weight(const Tensor& w, bool transposed, Tensor& q, Tensor& scale);

// A copy of `model` marked as `quantization`; fails if it is quantised already.
Model quantizable(const Model& model, std::string_view quantization);

}  // namespace rhetor
