#include "compress/compress.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <vector>

#include "base/error.h"
#include "eval/perplexity.h"
#include "generate/generator.h"

namespace rhetor {
namespace {

// w [n,k], or [k,n] if not `transposed`, as int8 rows of output channels. The rule is ops.h's quantize_rows: half to even, scale
// max|w| / 127, so a model quantised when it is compiled and one quantised here give the same numbers.
void quantize_weight(const Tensor& w, bool transposed, Tensor& q, Tensor& scale) {
  const std::int64_t n = w.shape()[transposed ? 0 : 1], k = w.shape()[transposed ? 1 : 0];
  const std::int64_t row_stride = transposed ? k : 1, stride = transposed ? 1 : n;
  const Tensor values = w.dtype() == DType::f32 ? w : w.cast(DType::f32);
  const auto from = values.data<float>();
  q = Tensor::uninitialized({DType::i8, Shape{n, k}});
  scale = Tensor::uninitialized({DType::f32, Shape{n}});
  auto to = q.data<std::int8_t>();
  auto scales = scale.data<float>();
  for (std::int64_t row = 0; row < n; ++row) {
    const float* x = from.data() + row * row_stride;
    float largest = 0;
    for (std::int64_t i = 0; i < k; ++i) largest = std::max(largest, std::fabs(x[i * stride]));
    const float step = largest > 0 ? largest / 127.0f : 1.0f;
    scales[static_cast<std::size_t>(row)] = step;
    for (std::int64_t i = 0; i < k; ++i) {
      const float rounded = std::nearbyint(x[i * stride] / step);
      to[static_cast<std::size_t>(row * k + i)] = static_cast<std::int8_t>(std::clamp(rounded, -127.0f, 127.0f));
    }
  }
}

std::uint64_t weight_file_bytes(const std::filesystem::path& folder) {
  return std::filesystem::file_size(folder / "model.safetensors");
}

// Greedy decode of a batch of one through the cache: median seconds a token.
double decode_seconds(const LanguageModel& model) {
  const std::int64_t tokens = std::min<std::int64_t>(model.config().context, 64);
  Session session(model.cached(1, 1));
  std::vector<double> times;
  TokenId id = 0;
  for (std::int64_t i = 0; i < tokens; ++i) {
    session.input("tokens").data<std::int32_t>()[0] = id;
    session.input("positions").data<std::int32_t>()[0] = static_cast<std::int32_t>(i);
    session.input("last").data<std::int32_t>()[0] = 0;
    const auto start = std::chrono::steady_clock::now();
    session.run();
    id = sample(session.output("logits").data<float>(), {.temperature = 0}, static_cast<std::uint64_t>(i));
    times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

struct Measured {
  double loss = std::numeric_limits<double>::quiet_NaN(), latency_ms = 0, tokens_per_s = 0;
};

Measured measure(const ModelPtr& model, const std::filesystem::path& text) {
  Measured out;
  if (model->config.family == "bert") return out;
  if (!text.empty() && model->tokenizer) out.loss = perplexity(*model, text).loss;
  const double seconds = decode_seconds(*make_language_model(model));
  out.latency_ms = seconds * 1e3;
  out.tokens_per_s = 1 / seconds;
  return out;
}

}  // namespace

Model quantize_int8(const Model& model) {
  if (!model.config.quantization.empty())
    fail("the model '{}' is already quantised ({}); give the original", model.name, model.config.quantization);
  Model out = model;
  out.config.quantization = "int8";
  // The models room decides, weight by weight, and tells the loader and the compiler the same.
  for (const auto& [weight, transposed] : int8_weights(model.config)) {
    const auto node = out.weights.extract(weight);
    if (node.empty()) continue;  // a head that this folder lacks
    quantize_weight(node.mapped(), transposed, out.weights[weight + ".int8"], out.weights[weight + ".scale"]);
  }
  return out;
}

CompressReport compress_int8(const std::filesystem::path& input, const std::filesystem::path& output,
                             const std::filesystem::path& text) {
  std::error_code error;
  if (std::filesystem::equivalent(input, output, error)) {
    fail("the compressed model would overwrite its source '{}'; choose another output folder", input.string());
  }
  const ModelPtr before = load_model(input);
  Model small = quantize_int8(*before);
  small.name = output.filename().empty() ? output.parent_path().filename().string() : output.filename().string();
  save_model(output, small);
  const ModelPtr after = load_model(output);  // what is measured is what is on the disk
  const Measured a = measure(before, text), b = measure(after, text);
  return {.bytes_before = weight_file_bytes(input),
          .bytes_after = weight_file_bytes(output),
          .loss_before = a.loss,
          .loss_after = b.loss,
          .tokens_per_s_before = a.tokens_per_s,
          .tokens_per_s_after = b.tokens_per_s,
          .latency_ms_before = a.latency_ms,
          .latency_ms_after = b.latency_ms};
}

}  // namespace rhetor
