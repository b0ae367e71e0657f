// T5: Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", 2020. Pre-norm encoder and
// decoder with RMS norm, no biases, and a bias per head and distance added to the scores in place of positions; ReLU feed-forward
// (T5 1.0). Parameter names and layouts as in Hugging Face's T5ForConditionalGeneration: linear layers are [out,in].
//
// Inputs: "tokens" i32 [B,S] with "lengths" i32 [B], "decoder_tokens" i32 [B,U]; with Task::loss "targets" i32 [B,U], -100 ignored.
#include <cmath>

#include "models/families.h"
#include "models/layers.h"

namespace rhetor {
namespace {

constexpr std::int64_t kBuckets = 32, kFarthest = 128;  // of distances; beyond kFarthest all are one
constexpr double kUnseen = -1e9;                         // a score whose softmax weight is 0

// The bucket of the distance from query i to key j (section 2.1, and the authors' code): near ones have their own, further ones share
// in steps that grow as the logarithm. Both ways in the encoder; the decoder sees what is behind only.
std::int32_t bucket(std::int64_t i, std::int64_t j, bool both_ways) {
  std::int64_t buckets = kBuckets, out = 0, distance = i - j;
  if (both_ways) {
    buckets /= 2;
    if (distance < 0) out = buckets;
    distance = std::abs(distance);
  } else {
    distance = std::max<std::int64_t>(distance, 0);
  }
  const std::int64_t exact = buckets / 2;
  if (distance < exact) return static_cast<std::int32_t>(out + distance);
  // In float, as the code that trained the published weights.
  const float far = std::log(static_cast<float>(distance) / static_cast<float>(exact)) /
                    std::log(static_cast<float>(kFarthest) / static_cast<float>(exact)) * static_cast<float>(buckets - exact);
  return static_cast<std::int32_t>(out + std::min(exact + static_cast<std::int64_t>(far), buckets - 1));
}

class T5 {
 public:
  explicit T5(Net& net) : net_(net), c_(net.config()), width_(static_cast<double>(c_.hidden)) {}

  // [B,S,C]
  Value encode(Value ids, Value lengths) {
    Value x = net_.dropout(embedding(table(), ids));
    const Value bias = distance_bias("encoder", ids.dim(1), true);  // [1,H,S,S]
    const Value real = reshape(net_.real_tokens(lengths), Shape{net_.batch(), 1, 1, net_.seq()});
    const Value hidden = mul(sub(full_like(real, 1), real), kUnseen);
    const Value scores = add(broadcast_to(bias, Shape{ids.dim(0), c_.heads, ids.dim(1), ids.dim(1)}), hidden);
    for (std::int64_t layer = 0; layer < c_.layers; ++layer) {
      const std::string name = fmt::format("encoder.block.{}", layer);
      const auto scope = net_.graph().scope(name);
      x = add(x, self_attention(norm(x, name + ".layer.0"), name + ".layer.0.SelfAttention", scores));
      x = add(x, feed_forward(norm(x, name + ".layer.1"), name + ".layer.1.DenseReluDense"));
    }
    return net_.dropout(net_.rms_norm(x, "encoder.final_layer_norm"));
  }

  // [B,U,C]; `memory` [B,S,C] is what the encoder gave.
  Value decode(Value ids, Value memory, Value lengths) {
    Graph& g = net_.graph();
    const std::int64_t u = ids.dim(1);
    Value x = net_.dropout(embedding(table(), ids));
    const Shape square{u, u};
    const Value ahead = less(iota(g, {DType::i32, square}, 0), iota(g, {DType::i32, square}, 1));  // key behind the query
    const Value scores = add(distance_bias("decoder", u, false), mul(cast(ahead, DType::f32), kUnseen));
    for (std::int64_t layer = 0; layer < c_.layers; ++layer) {
      const std::string name = fmt::format("decoder.block.{}", layer);
      const auto scope = g.scope(name);
      x = add(x, self_attention(norm(x, name + ".layer.0"), name + ".layer.0.SelfAttention", scores));
      x = add(x, cross_attention(norm(x, name + ".layer.1"), memory, lengths, name + ".layer.1.EncDecAttention"));
      x = add(x, feed_forward(norm(x, name + ".layer.2"), name + ".layer.2.DenseReluDense"));
    }
    return net_.dropout(net_.rms_norm(x, "decoder.final_layer_norm"));
  }

  // Tied outputs are scaled, for the embedding has unit variance.
  Value logits(Value x) {
    if (c_.tied_embeddings) return matmul(mul(x, 1.0 / std::sqrt(width_)), table(), false, true);
    return matmul(x, net_.param("lm_head.weight", Shape{Dim{c_.vocab, "vocab"}, net_.hidden()}, net_.normal(1.0 / std::sqrt(width_))), false, true);
  }

 private:
  Value table() { return net_.param("shared.weight", Shape{Dim{c_.vocab, "vocab"}, net_.hidden()}, net_.normal(1.0)); }
  Value norm(Value x, const std::string& name) { return net_.rms_norm(x, name + ".layer_norm"); }

  // [1,H,N,N]; every layer of a stack adds the first one's.
  Value distance_bias(const std::string& stack, std::int64_t n, bool both_ways) {
    std::vector<std::int32_t> ids;
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j < n; ++j) ids.push_back(bucket(i, j, both_ways));
    const Value places = net_.graph().constant(Tensor::of<std::int32_t>(Shape{n, n}, ids));
    const Value weights = net_.param(stack + ".block.0.layer.0.SelfAttention.relative_attention_bias.weight",
                                     Shape{Dim{kBuckets, "buckets"}, Dim{c_.heads, "heads"}}, net_.normal(1.0 / std::sqrt(width_)));
    return reshape(transpose(embedding(weights, places), {2, 0, 1}), Shape{1, c_.heads, n, n});
  }

  // First deviations of the authors' code: scores are not divided by sqrt(D), so queries begin smaller by that.
  Value project(Value x, const std::string& name, const char* which) {
    const double head = width_ / static_cast<double>(c_.heads);
    const double stddev = 1.0 / std::sqrt(which[0] == 'q' ? width_ * head : width_);
    return net_.linear(x, name + "." + which, net_.hidden(), Layout::out_in, false, stddev);
  }
  Value heads(Value x) { return reshape(x, Shape{net_.batch(), x.shape().dim(1), Dim{c_.heads, "heads"}, Dim{c_.hidden / c_.heads, "head_dim"}}); }
  Value output(Value o, const std::string& name) { return net_.dropout(project(reshape(o, Shape{net_.batch(), o.shape().dim(1), net_.hidden()}), name, "o")); }

  // Softmax of q k^T + scores, as products: the attention op has no operand that is added to its scores.
  Value self_attention(Value x, const std::string& name, Value scores) {
    const auto part = [&](const char* which) { return transpose(heads(project(x, name, which)), {0, 2, 1, 3}); };  // [B,H,N,D]
    const Value q = part("q"), k = part("k"), v = part("v");
    const Value p = net_.dropout(softmax(add(matmul(q, k, false, true), scores)));                                 // [B,H,N,N]
    return output(transpose(matmul(p, v), {0, 2, 1, 3}), name);
  }

  Value cross_attention(Value x, Value memory, Value lengths, const std::string& name) {
    const Value q = heads(project(x, name, "q")), k = heads(project(memory, name, "k")), v = heads(project(memory, name, "v"));
    return output(attention(q, k, v, {.scale = 1.0, .lengths = lengths}), name);
  }

  Value feed_forward(Value x, const std::string& name) {
    const Value h = net_.dropout(relu(net_.linear(x, name + ".wi", Dim{c_.ffn, "ffn"}, Layout::out_in, false, 1.0 / std::sqrt(width_))));
    return net_.dropout(net_.linear(h, name + ".wo", net_.hidden(), Layout::out_in, false, 1.0 / std::sqrt(static_cast<double>(c_.ffn))));
  }

  Net& net_;
  const ModelConfig& c_;
  double width_;
};

}  // namespace

Graph build_t5(const ModelConfig& config, const BuildSpec& spec) {
  using Task = BuildSpec::Task;
  require_task(config, spec, {Task::logits, Task::loss});
  Net net(config, spec);
  Graph& g = net.graph();
  const Value ids = net.tokens(), lengths = net.per_sequence("lengths");
  const Shape answer{net.batch(), Dim{spec.target_seq > 0 ? spec.target_seq : spec.seq, "target_seq"}};
  const Value decoder_ids = g.input("decoder_tokens", {DType::i32, answer});
  T5 t5(net);
  const Value x = t5.decode(decoder_ids, t5.encode(ids, lengths), lengths);
  if (spec.task == Task::logits) {
    g.output("logits", t5.logits(x));
    return net.take();
  }
  const std::int64_t rows = answer[0] * answer[1];
  const Value targets = g.input("targets", {DType::i32, answer});
  Value per_row;
  g.output("loss", net.masked_cross_entropy(t5.logits(reshape(x, Shape{rows, net.hidden()})), reshape(targets, Shape{rows}), &per_row));
  g.output("token_loss", reshape(per_row, answer));
  return net.take();
}

}  // namespace rhetor
