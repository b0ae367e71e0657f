// int4 weights, group by group: the scale is searched for, not taken from the greatest weight, because most of a group's error is the
// rounding of its many small weights.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/thread_pool.h"
#include "compress/compress.h"
#include "compress/rows.h"
#include "ops/ops.h"

namespace rhetor {
namespace {

// Nibbles reach from -8 to 7, so the greatest weight (by magnitude) may take the side that reaches farther: the scale has the other sign.
constexpr float kLow = -8, kHigh = 7;
// Candidates put the greatest weight at these steps; past 8 it is clipped, and the others get finer steps.
constexpr float kReaches[] = {6.6f, 7.0f, 7.4f, 7.7f, 8.0f, 8.3f, 8.7f, 9.1f};

// Whole numbers nearest to x / scale, and how well scale can be chosen for them: least squares gives scale = xq / qq and leaves
// an error of |x|^2 - gain.
struct Fit {
  float xq = 0, qq = 0;
  float gain() const { return qq > 0 ? xq * xq / qq : 0; }
};
Fit fit(const float* x, float inverse) {
  Fit f;
  for (int i = 0; i < kInt4Group; ++i) {
    const float q = std::clamp(std::nearbyintf(x[i] * inverse), kLow, kHigh);
    f.xq += x[i] * q;
    f.qq += q * q;
  }
  return f;
}

void quantize_group(const float* x, std::uint8_t* q, f16& scale) {
  float greatest = 0;
  for (int i = 0; i < kInt4Group; ++i)
    if (std::fabs(x[i]) > std::fabs(greatest)) greatest = x[i];
  Fit best;
  for (const float reach : kReaches)
    if (const Fit f = fit(x, greatest == 0 ? 0 : -reach / greatest); f.gain() > best.gain()) best = f;
  scale = f16::from_float(best.qq > 0 ? best.xq / best.qq : 0.0f);
  const float step = scale.to_float(), inverse = step == 0 ? 0 : 1 / step;
  const auto nibble = [&](float v) { return static_cast<unsigned>(std::clamp(std::nearbyintf(v * inverse), kLow, kHigh) - kLow); };
  for (int j = 0; j < kInt4Group / 2; ++j) q[j] = static_cast<std::uint8_t>(nibble(x[2 * j]) | nibble(x[2 * j + 1]) << 4);
}

void quantize_weight(const Tensor& w, bool transposed, Tensor& q, Tensor& scale) {
  const WeightRows rows(w, transposed);
  const std::int64_t n = rows.n(), k = rows.k(), groups = k / kInt4Group;
  q = Tensor::uninitialized({DType::u8, Shape{n, k / 2}});
  scale = Tensor::uninitialized({DType::f16, Shape{n, groups}});
  auto* to = q.data<std::uint8_t>().data();
  auto* scales = scale.data<f16>().data();
  default_pool().parallel_for(n, 16, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> row(static_cast<std::size_t>(k));
    for (std::int64_t i = begin; i < end; ++i) {
      rows.read(i, row.data());
      for (std::int64_t g = 0; g < groups; ++g)
        quantize_group(row.data() + g * kInt4Group, to + i * k / 2 + g * kInt4Group / 2, scales[i * groups + g]);
    }
  });
}

}  // namespace

Model quantize_int4(const Model& model, bool head) {
  Model out = quantizable(model, head ? kInt4Head : kInt4);
  const auto int4 = int4_weights(out.config);
  if (int4.empty())
    fail("no weight of the model '{}' can be int4: rows must be whole groups of {} weights, and its hidden size is {}; use --int8", model.name,
         kInt4Group, model.config.hidden);
  for (const auto& [name, transposed] : int8_weights(out.config)) {
    const auto node = out.weights.extract(name);
    if (node.empty()) continue;  // a head that this folder lacks
    if (int4.contains(name))
      quantize_weight(node.mapped(), transposed, out.weights[name + ".int4"], out.weights[name + ".scale"]);
    else
      quantize_int8_weight(node.mapped(), transposed, out.weights[name + ".int8"], out.weights[name + ".scale"]);
  }
  return out;
}

}  // namespace rhetor
