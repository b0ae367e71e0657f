#include "train/loss_scale.h"

#include "ops/ops.h"

namespace rhetor {
namespace {

Value state_of(Graph& graph) {
  const ValueId known = graph.find_input(kLossScaleState);
  return known.valid() ? graph.value(known) : graph.input(kLossScaleState, loss_scale_type(), InputKind::state, "zeros");
}
Value element(Value state, int i) { return reshape(slice(state, 0, i, i + 1), Shape{}); }

}  // namespace

Value loss_scale(Graph& graph) { return element(state_of(graph), 0); }

void add_scale_update(Graph& graph, Value finite, std::int64_t growth) {
  const Value state = state_of(graph), scale = element(state, 0), good = element(state, 1);
  const Value more = add(good, 1.0), due = less_equal(full_like(good, static_cast<double>(growth)), more);
  const Value grown = where(due, minimum(mul(scale, 2.0), full_like(scale, kGreatestLossScale)), scale);
  const Value halved = maximum(mul(scale, 0.5), full_like(scale, kLeastLossScale));
  const Value none = full_like(good, 0.0);
  const Value next = where(finite, grown, halved), count = where(finite, where(due, none, more), none);
  graph.set_update(state, concat({reshape(next, Shape{1}), reshape(count, Shape{1})}, 0));
}

}  // namespace rhetor
