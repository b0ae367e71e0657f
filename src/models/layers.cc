#include "models/layers.h"

#include <algorithm>
#include <cmath>

namespace rhetor {

Net::Net(const ModelConfig& config, const BuildSpec& spec) : config_(config), spec_(spec) {
  if (spec.training) seed_ = graph_.input("seed", {DType::i64, Shape{}});
}

Value Net::tokens(const std::string& name) { return graph_.input(name, {DType::i32, Shape{batch(), seq()}}); }
Value Net::per_sequence(const std::string& name) { return graph_.input(name, {DType::i32, Shape{batch()}}); }

Value Net::param(const std::string& name, Shape shape, const std::string& init) {
  if (const ValueId known = graph_.find_input(name); known.valid()) return graph_.value(known);
  return graph_.input(name, {DType::f32, shape}, spec_.weights, init);
}

std::string Net::normal(double stddev) const { return fmt::format("normal:{}", stddev); }

double Net::residual_stddev() const { return 0.02 / std::sqrt(2.0 * static_cast<double>(config_.layers)); }

Value Net::linear(Value x, const std::string& name, Dim out, Layout layout, bool bias, double stddev) {
  const Dim in = x.shape().dim(-1);
  const bool transposed = layout == Layout::out_in;
  const Value w = param(name + ".weight", transposed ? Shape{out, in} : Shape{in, out}, normal(stddev));
  Value y = matmul(x, w, false, transposed);
  if (bias) y = add(y, param(name + ".bias", Shape{out}, "zeros"));
  return y;
}

Value Net::layer_norm(Value x, const std::string& name) {
  const Shape shape{x.shape().dim(-1)};
  const Value gamma = param(name + ".weight", shape, "ones");
  return rhetor::layer_norm(x, gamma, param(name + ".bias", shape, "zeros"), config_.norm_eps);
}

Value Net::rms_norm(Value x, const std::string& name) {
  return rhetor::rms_norm(x, param(name + ".weight", Shape{x.shape().dim(-1)}, "ones"), config_.norm_eps);
}

Value Net::dropout(Value x) {
  if (!spec_.training || config_.dropout <= 0) return x;
  return rhetor::dropout(x, seed_, config_.dropout, ++stream_);
}

Value Net::lookup(const std::string& name, Dim rows, Value ids, double stddev) {
  return embedding(param(name, Shape{rows, hidden()}, normal(stddev)), ids);
}

Value Net::split_heads(Value x, std::int64_t heads) {
  return reshape(x, Shape{batch(), seq(), Dim{heads, "heads"}, Dim{x.dim(-1) / heads, "head_dim"}});
}

Value Net::merge_heads(Value x) { return reshape(x, Shape{batch(), seq(), Dim{x.dim(2) * x.dim(3), "hidden"}}); }

Value Net::causal_attention(Value q, Value k, Value v, std::int64_t layer) {
  AttentionOptions options{.causal = true};
  if (!cached()) return attention(q, k, v, options);
  // Rows of the cache beyond the tokens seen hold padding or old data; the causal mask with `offsets` hides them.
  const Shape shape{batch(), Dim{spec_.capacity, "capacity"}, k.shape().dim(2), k.shape().dim(3)};
  const auto append = [&](const char* which, Value rows) {
    const Value cache = graph_.input(fmt::format("cache.{}.{}", layer, which), {spec_.cache, shape}, InputKind::state, "zeros");
    const Value next = cache_write(cache, cast(rows, spec_.cache), start_);
    graph_.set_update(cache, next);
    return cast(next, rows.dtype());
  };
  k = append("k", k);
  v = append("v", v);
  options.offsets = start_;
  return attention(q, k, v, options);
}

Value Net::positions() {
  if (positions_) return positions_;
  const Value index = iota(graph_, {DType::i32, Shape{batch(), seq()}}, 1);
  if (!cached()) return positions_ = index;
  start_ = per_sequence("positions");
  // Padding behind the last token may run past the context; its rows are never read, but must stay inside the tables.
  const Value absolute = add(index, reshape(start_, Shape{batch(), 1}));
  const Value last = graph_.constant(Tensor::scalar<std::int32_t>(static_cast<std::int32_t>(config_.context - 1)));
  return positions_ = minimum(absolute, last);
}

Value Net::pick_rows(Value x, Value rows) {
  if (spec_.seq == 1) return reshape(x, Shape{batch(), hidden()});
  // Row rows[b] of x[b] is row b * S + rows[b] of x flattened to [B*S,C].
  std::vector<std::int32_t> first_row;
  for (std::int64_t b = 0; b < spec_.batch; ++b) first_row.push_back(static_cast<std::int32_t>(b * spec_.seq));
  const Value row = add(rows, graph_.constant(Tensor::of<std::int32_t>(Shape{batch()}, first_row)));
  return embedding(reshape(x, Shape{spec_.batch * spec_.seq, hidden()}), row);
}

Value Net::real_tokens(Value lengths) {
  const Value index = iota(graph_, {DType::i32, Shape{batch(), seq()}}, 1);
  return cast(less(index, reshape(lengths, Shape{batch(), 1})), DType::f32);
}

void Net::language_head(Value x, Value embedding_table, const std::string& head_name, const std::function<Value(Value)>& norm) {
  const Dim vocab{config_.vocab, "vocab"};
  const Value table = config_.tied_embeddings ? embedding_table : param(head_name, Shape{vocab, hidden()}, normal(0.02));
  if (cached()) {
    // Only one row per sequence is wanted.
    const Value last = per_sequence("last");
    x = pick_rows(x, last);
    graph_.output("logits", matmul(norm(x), table, false, true));
    return;
  }
  x = norm(x);
  if (spec_.task == BuildSpec::Task::logits) {
    graph_.output("logits", matmul(x, table, false, true));
    return;
  }
  const std::int64_t rows = spec_.batch * spec_.seq;
  const Value logits = matmul(reshape(x, Shape{rows, hidden()}), table, false, true);
  Value per_row;
  const Value targets = reshape(tokens("targets"), Shape{rows});
  graph_.output("loss", masked_cross_entropy(logits, targets, &per_row));
  graph_.output("token_loss", reshape(per_row, Shape{batch(), seq()}));
}

Value Net::masked_cross_entropy(Value logits, Value targets, Value* per_row) {
  constexpr std::int32_t kIgnored = -100;
  const Value losses = cross_entropy(logits, targets, kIgnored);
  if (per_row) *per_row = losses;
  const Value ignored = graph_.constant(Tensor::scalar<std::int32_t>(kIgnored));
  const Value counted = cast(logical_not(equal(targets, ignored)), DType::f32);
  const Value count = maximum(reduce_sum(counted, {0}), scalar(graph_, DType::f32, 1.0));
  return div(reduce_sum(losses, {0}), count);
}

std::string_view name(BuildSpec::Task task) {
  switch (task) {
    case BuildSpec::Task::logits: return "logits";
    case BuildSpec::Task::loss: return "loss";
    case BuildSpec::Task::cached: return "cached";
    case BuildSpec::Task::hidden: return "hidden";
    case BuildSpec::Task::pretrain: return "pretrain";
    default: break;
  }
  for (const TaskKind& kind : task_kinds())
    if (kind.task == task) return kind.name;
  return "?";
}

void require_task(const ModelConfig& config, const BuildSpec& spec, std::initializer_list<BuildSpec::Task> tasks) {
  if (std::find(tasks.begin(), tasks.end(), spec.task) != tasks.end()) return;
  std::string known;
  for (const BuildSpec::Task task : tasks) known.append(known.empty() ? "" : ", ").append(name(task));
  fail("a {} model cannot be built for the task '{}'; it has: {}", config.family, name(spec.task), known);
}

}  // namespace rhetor
