#include "train/optimizer.h"

#include <charconv>
#include <cmath>

namespace rhetor {
namespace {

struct Update {
  Value p, m, v;
};

// You et al., "Large batch optimization for deep learning: training BERT in 76 minutes" (2020): the direction r = m^ / (sqrt(v^)
// + eps) + decay p of Adam, scaled to the length of the weight: p' = p - lr (|p| / |r|) r, and by 1 where either length is 0. As
// in the authors' code, what has no decay (biases, norms) takes Adam's step. The direction is what adamw subtracts from zeros at
// a rate of 1.
Update lamb(Value p, Value g, Value m, Value v, Value lr, Value step, Value g_scale, const AdamwOptions& options) {
  const Value one = scalar(p.graph(), DType::f32, 1.0);
  AdamwOptions plain = options;
  plain.weight_decay = 0;
  const AdamwResult next = adamw(full_like(p, 0), g, m, v, one, step, g_scale, plain);
  const Value r = sub(mul(p, options.weight_decay), next.p);
  const Value length = sqrt(sum_squares(p)), way = sqrt(sum_squares(r));
  const Value zero = scalar(p.graph(), DType::f32, 0.0);
  const Value both = logical_and(less(zero, length), less(zero, way));
  const Value trust = where(both, div(length, where(both, way, one)), one);
  return {sub(p, mul(r, mul(lr, trust))), next.m, next.v};
}

// f32 -> how `like` is kept. `stream` counts the rounded tensors of a graph.
Value kept_as(Value like, Value next, Value seed, std::int64_t& stream) {
  return like.dtype() == DType::bf16 ? stochastic_round(next, seed, stream++) : next;
}

}  // namespace

std::int64_t layer_depth(std::string_view weight, std::int64_t layers) {
  for (const std::string_view prefix : {"bert.encoder.layer.", "h.", "model.layers.", "encoder.block.", "decoder.block."}) {
    if (!weight.starts_with(prefix)) continue;
    std::int64_t layer = 0;
    const auto rest = weight.substr(prefix.size());
    if (std::from_chars(rest.data(), rest.data() + rest.size(), layer).ec == std::errc()) return layer + 1;
  }
  const bool embedding = weight.starts_with("bert.embeddings.") || weight == "wte.weight" || weight == "wpe.weight" ||
                         weight == "model.embed_tokens.weight" || weight == "shared.weight";
  return embedding ? 0 : layers + 1;
}

void add_update(Graph& graph, const OptimizerOptions& options, std::int64_t accumulation, const std::vector<Value>& weights,
                const std::vector<std::string>& names, const std::vector<Value>& grads) {
  auto scope = graph.scope("update");
  const Value lr = graph.input("lr", Type{DType::f32, {}});
  const Value step = graph.input("step", Type{DType::f32, {}});
  Value total;
  for (const Value& grad : grads) total = total ? add(total, sum_squares(grad)) : sum_squares(grad);
  // What takes a gradient back to the mean over micro-batches of the unscaled loss.
  Value mean = full_like(total, 1.0 / static_cast<double>(accumulation));
  const bool scaled = options.scale.initial > 0;
  if (scaled) mean = div(mean, loss_scale(graph));
  const Value norm = mul(sqrt(total), mean);
  const Value finite = is_finite(total);
  Value scale = mean;
  if (options.clip > 0) {
    scale = mul(minimum(full_like(norm, 1.0), div(full_like(norm, options.clip), add(norm, 1e-6))), mean);
  }
  scale = where(finite, scale, full_like(norm, 0.0));
  graph.output("grad_norm", norm);
  graph.output("applied", cast(finite, DType::f32));
  if (scaled) add_scale_update(graph, finite, options.scale.growth);
  Value seed;
  std::int64_t stream = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const Type type = weights[i].type();
    const Value m = graph.input("adam.m." + names[i], type, InputKind::state, "zeros");
    const Value v = graph.input("adam.v." + names[i], type, InputKind::state, "zeros");
    if (type.dtype == DType::bf16 && !seed) seed = graph.input("round_seed", Type{DType::i64, {}});
    const Value wide = cast(weights[i], DType::f32), wide_m = cast(m, DType::f32), wide_v = cast(v, DType::f32);
    AdamwOptions adam = options.adamw;
    const bool matrix = type.shape.rank() >= 2;
    if (!matrix) adam.weight_decay = 0;
    Value rate = lr;
    if (options.layer_decay != 1.0) {
      const auto above = static_cast<double>(options.layers + 1 - layer_depth(names[i], options.layers));
      rate = mul(lr, std::pow(options.layer_decay, above));
    }
    Update next;
    if (matrix && options.kind == OptimizerOptions::Kind::lamb) {
      next = lamb(wide, grads[i], wide_m, wide_v, rate, step, scale, adam);
    } else {
      const bool in_place = type.dtype == DType::f32;  // what is kept rounded is chosen below
      const AdamwResult result = adamw(wide, grads[i], wide_m, wide_v, rate, step, scale, adam, in_place ? finite : Value());
      next = {result.p, result.m, result.v};
      if (in_place) {
        graph.set_update(weights[i], next.p);
        graph.set_update(m, next.m);
        graph.set_update(v, next.v);
        continue;
      }
    }
    graph.set_update(weights[i], where(finite, kept_as(weights[i], next.p, seed, stream), weights[i]));
    graph.set_update(m, where(finite, kept_as(m, next.m, seed, stream), m));
    graph.set_update(v, where(finite, kept_as(v, next.v, seed, stream), v));
  }
}

}  // namespace rhetor
