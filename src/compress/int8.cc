#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "compress/compress.h"
#include "compress/rows.h"

namespace rhetor {

WeightRows::WeightRows(const Tensor& w, bool transposed)
    : values_(w.dtype() == DType::f32 ? w : w.cast(DType::f32)),
      n_(w.shape()[transposed ? 0 : 1]),
      k_(w.shape()[transposed ? 1 : 0]),
      row_stride_(transposed ? k_ : 1),
      stride_(transposed ? 1 : n_) {}

void WeightRows::read(std::int64_t row, float* to) const {
  const float* from = values_.data<float>().data() + row * row_stride_;
  for (std::int64_t i = 0; i < k_; ++i) to[i] = from[i * stride_];
}

// The rule is ops.h's quantize_rows: half to even, scale max|w| / 127, so a model quantised when it is compiled and one quantised here
// give the same numbers.
void quantize_int8_weight(const Tensor& w, bool transposed, Tensor& q, Tensor& scale) {
  const WeightRows rows(w, transposed);
  const std::int64_t n = rows.n(), k = rows.k();
  q = Tensor::uninitialized({DType::i8, Shape{n, k}});
  scale = Tensor::uninitialized({DType::f32, Shape{n}});
  auto* to = q.data<std::int8_t>().data();
  auto* scales = scale.data<float>().data();
  std::vector<float> x(static_cast<std::size_t>(k));
  for (std::int64_t row = 0; row < n; ++row) {
    rows.read(row, x.data());
    float largest = 0;
    for (const float v : x) largest = std::max(largest, std::fabs(v));
    const float step = largest > 0 ? largest / 127.0f : 1.0f;
    scales[row] = step;
    for (std::int64_t i = 0; i < k; ++i)
      to[row * k + i] = static_cast<std::int8_t>(std::clamp(std::nearbyint(x[static_cast<std::size_t>(i)] / step), -127.0f, 127.0f));
  }
}

Model quantizable(const Model& model, std::string_view quantization) {
  if (!model.config.quantization.empty())
    fail("the model '{}' is already quantised ({}); give the original", model.name, model.config.quantization);
  Model out = model;
  out.config.quantization = quantization;
  return out;
}

Model quantize_int8(const Model& model) {
  Model out = quantizable(model, kInt8);
  // The models room decides, weight by weight, and tells the loader and the compiler the same.
  for (const auto& [weight, transposed] : int8_weights(out.config)) {
    const auto node = out.weights.extract(weight);
    if (node.empty()) continue;  // a head that this folder lacks
    quantize_int8_weight(node.mapped(), transposed, out.weights[weight + ".int8"], out.weights[weight + ".scale"]);
  }
  return out;
}

}  // namespace rhetor
