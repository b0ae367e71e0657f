// The losses of the fine-tuning heads, each a mean over the examples that count. Logistic terms are written so that no exponent
// is positive: log(1 + e^z) = max(z, 0) + log(1 + e^-|z|).
#include "models/layers.h"

namespace rhetor {
namespace {

constexpr double kNever = -1e9;  // a score whose softmax weight is 0 in every precision

Value f32(Graph& g, double value) { return scalar(g, DType::f32, value); }

// sum(x * weight) / sum(weight), 0 if no weight is positive. Any equal shapes.
Value weighted_mean(Value x, Value weight) {
  std::vector<std::int64_t> axes;
  for (int i = 0; i < x.shape().rank(); ++i) axes.push_back(i);
  const Value total = reduce_sum(weight, axes);
  const Value some = less(f32(total.graph(), 0), total);
  return div(reduce_sum(mul(x, weight), axes), where(some, total, f32(total.graph(), 1)));
}

// `values` where finite, else 0; `counted` receives 1 or 0. NaN marks what has no value.
Value finite_part(Value values, Value* counted) {
  const Value finite = is_finite(values);
  *counted = cast(finite, DType::f32);
  return where(finite, values, full_like(values, 0));
}

Value softplus(Value z) {
  const Value rest = log(add(exp(neg(abs(z))), 1.0));
  return add(maximum(z, full_like(z, 0)), rest);
}

// Rows of logits [R,K] against targets i32 [R], -100 not counted; `weights` (optional) one a class. With smoothing e, a target is
// (1-e) on its class plus e/K on each (Szegedy et al. 2016); weights apply to each class's term, and the mean divides by the
// weights of the targets, as PyTorch's cross_entropy does.
Value smoothed_loss(Net& net, Value logits, Value targets, const std::vector<double>& weights) {
  Graph& g = net.graph();
  const double smoothing = net.spec().losses.label_smoothing;
  const std::int64_t classes = logits.dim(1);
  if (smoothing == 0 && weights.empty()) return net.masked_cross_entropy(logits, targets);
  const CrossEntropyResult ce = cross_entropy_full(logits, targets);
  const Value counted = less_equal(scalar(g, DType::i32, 0), targets);  // bool [R]
  Value weight = cast(counted, DType::f32);
  std::vector<float> table(static_cast<std::size_t>(classes), 1.0f);
  double sum = static_cast<double>(classes);
  if (!weights.empty()) {
    if (static_cast<std::int64_t>(weights.size()) != classes)
      fail("{} class weights were given for {} labels", weights.size(), classes);
    sum = 0;
    for (std::size_t i = 0; i < weights.size(); ++i) table[i] = static_cast<float>(weights[i]), sum += weights[i];
    const Value known = where(counted, targets, full_like(targets, 0));
    const Value of_target = embedding(g.constant(Tensor::of<float>(Shape{classes, 1}, table)), known);  // [R,1]
    weight = mul(weight, reshape(of_target, weight.shape()));
  }
  Value loss = mul(ce.loss, weight);
  if (smoothing > 0) {
    // sum_k w_k (lse - x_k) / K
    const Value rows = g.constant(Tensor::of<float>(Shape{classes}, table));
    const Value spread = sub(mul(ce.lse, sum), reduce_sum(mul(logits, rows), {1}));
    const Value part = mul(mul(spread, cast(counted, DType::f32)), smoothing / static_cast<double>(classes));
    loss = add(mul(loss, 1 - smoothing), part);
  }
  const Value total = reduce_sum(weight, {0});
  return div(reduce_sum(loss, {0}), where(less(f32(g, 0), total), total, f32(g, 1)));
}

Shape groups_shape(const Net& net) { return Shape{net.spec().batch / net.spec().group, net.spec().group}; }

}  // namespace

Value classification_loss(Net& net, Value logits, Value targets) {
  return smoothed_loss(net, logits, targets, net.spec().losses.class_weights);
}

// Padding is no candidate, so the loss does not depend on how far a batch is padded.
Value span_loss(Net& net, Value start_logits, Value end_logits, Value lengths) {
  const Value real = less(f32(net.graph(), 0.5), net.real_tokens(lengths));
  const auto loss = [&](Value logits, const char* target) {
    return net.masked_cross_entropy(where(real, logits, full_like(logits, kNever)), net.per_sequence(target));
  };
  const Value start = loss(start_logits, "start");
  return mul(add(start, loss(end_logits, "end")), 0.5);
}

Value regression_loss(Net& net, Value logits) {
  Value counted;
  const Value values = finite_part(net.graph().input("values", logits.type()), &counted);
  return weighted_mean(square(sub(logits, values)), counted);
}

// Softmax over the choices of an example (Zellers et al., "SWAG", 2018).
Value choice_loss(Net& net, Value logits) {
  Graph& g = net.graph();
  const Shape shape = groups_shape(net);
  const Value counts = g.input("counts", {DType::i32, Shape{shape[0]}});
  const Value used = less(iota(g, {DType::i32, shape}, 1), reshape(counts, Shape{shape[0], 1}));
  Value scores = reshape(logits, shape);
  scores = where(used, scores, full_like(scores, kNever));
  return net.masked_cross_entropy(scores, g.input("labels", {DType::i32, Shape{shape[0]}}));
}

Value ranking_loss(Net& net, Value logits) {
  Graph& g = net.graph();
  const Shape shape = groups_shape(net);  // [N,K]
  const Value scores = reshape(logits, shape);
  Value used;
  const Value relevance = finite_part(g.input("values", {DType::f32, shape}), &used);
  switch (net.spec().losses.ranking) {
    case LossOptions::Ranking::pointwise:  // -y log s(x) - (1-y) log(1-s(x))
      return weighted_mean(sub(softplus(scores), mul(scores, relevance)), used);
    case LossOptions::Ranking::pairwise: {  // RankNet (Burges et al. 2005), over the pairs of unequal relevance
      const Shape pairs{shape[0], shape[1], shape[1]}, left{shape[0], shape[1], 1}, right{shape[0], 1, shape[1]};
      const auto square_of = [&](Value x, const Shape& s) { return broadcast_to(reshape(x, s), pairs); };
      const Value better = less(square_of(relevance, right), square_of(relevance, left));
      const Value both = mul(square_of(used, left), square_of(used, right));
      const Value margin = sub(square_of(scores, left), square_of(scores, right));
      return weighted_mean(softplus(neg(margin)), mul(both, cast(better, DType::f32)));
    }
    default:
      break;
  }
  // ListNet (Cao et al. 2007) with relevance divided by its sum as the wanted distribution; an example without a relevant
  // document says nothing.
  const Value masked = where(less(f32(g, 0.5), used), scores, full_like(scores, kNever));
  const Value total = reduce_sum(relevance, {1}, true);  // [N,1]
  const Value some = less(f32(g, 0), total);
  const Value wanted = div(relevance, where(some, total, full_like(total, 1)));
  const Value loss = neg(reduce_sum(mul(wanted, log_softmax(masked)), {1}));
  return weighted_mean(loss, reshape(cast(some, DType::f32), Shape{shape[0]}));
}

// Contrastive: the match of each anchor against the matches and others of all examples in the batch (van den Oord et al. 2018;
// Gao et al., "SimCSE", 2021). Cosine: mean square difference of the cosine from a given value (Reimers & Gurevych 2019).
Value embedding_loss(Net& net, Value embedding) {
  Graph& g = net.graph();
  const Shape shape = groups_shape(net);
  const std::int64_t n = shape[0], group = shape[1], width = embedding.dim(1);
  if (group < 2) fail("an embedding model is trained on pairs of texts: an example needs at least 2 rows, not {}", group);
  const Value rows = reshape(embedding, Shape{n, group, width});
  const Value anchors = reshape(slice(rows, 1, 0, 1), Shape{n, width});
  if (net.spec().losses.embedding == LossOptions::Embedding::cosine) {
    const Value others = reshape(slice(rows, 1, 1, 2), Shape{n, width});
    Value counted;
    const Value values = finite_part(g.input("values", {DType::f32, Shape{n}}), &counted);
    return weighted_mean(square(sub(reduce_sum(mul(anchors, others), {1}), values)), counted);
  }
  const std::int64_t candidates = n * (group - 1);
  const Value labels = g.input("labels", {DType::i32, Shape{n}});
  const Value counted = less_equal(scalar(g, DType::i32, 0), labels);  // bool [N]
  const Value others = reshape(slice(rows, 1, 1, group), Shape{candidates, width});
  Value scores = mul(matmul(anchors, others, false, true), 1.0 / net.spec().losses.temperature);  // [N, candidates]
  const Value used =
      reshape(broadcast_to(reshape(cast(counted, DType::f32), Shape{n, 1}), Shape{n, group - 1}), Shape{1, candidates});
  scores = where(broadcast_to(less(f32(g, 0.5), used), scores.shape()), scores, full_like(scores, kNever));
  std::vector<std::int32_t> own;
  for (std::int64_t i = 0; i < n; ++i) own.push_back(static_cast<std::int32_t>(i * (group - 1)));
  const Value match = g.constant(Tensor::of<std::int32_t>(Shape{n}, own));
  return net.masked_cross_entropy(scores, where(counted, match, full_like(match, -100)));
}

}  // namespace rhetor
