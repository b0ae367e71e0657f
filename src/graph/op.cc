#include "graph/op.h"

#include <algorithm>
#include <numeric>

namespace rhetor {

std::string_view name(OpKind kind) {
  constexpr std::string_view names[] = {"source",      "pointwise", "broadcast", "reduction",
                                        "contraction", "layout",    "opaque",    "collective"};
  return names[static_cast<std::size_t>(kind)];
}

std::vector<Value> kNotDifferentiable(const GradCall& call) { return std::vector<Value>(call.in.size()); }

Cost bytes_only_cost(std::span<const Type> in, std::span<const Type> out, const Attrs&) {
  Cost cost;
  for (const Type& type : in) cost.bytes += static_cast<double>(type.bytes());
  for (const Type& type : out) cost.bytes += static_cast<double>(type.bytes());
  return cost;
}

Cost pointwise_cost(std::span<const Type> in, std::span<const Type> out, const Attrs& attrs) {
  Cost cost = bytes_only_cost(in, out, attrs);
  for (const Type& type : out) cost.flops += static_cast<double>(type.elements());
  return cost;
}

OpTable::OpTable(std::vector<const OpDef*> ops) : ops_(std::move(ops)) {
  std::sort(ops_.begin(), ops_.end(), [](const OpDef* a, const OpDef* b) { return a->name < b->name; });
  for (std::size_t i = 1; i < ops_.size(); ++i)
    if (ops_[i]->name == ops_[i - 1]->name) fail(ErrorKind::internal, "two ops are called '{}'", ops_[i]->name);
}

const OpDef* OpTable::find(std::string_view name) const {
  const auto at = std::lower_bound(ops_.begin(), ops_.end(), name,
                                   [](const OpDef* op, std::string_view n) { return op->name < n; });
  return at != ops_.end() && (*at)->name == name ? *at : nullptr;
}

const OpDef& OpTable::at(std::string_view name) const {
  if (const OpDef* op = find(name)) return *op;
  std::vector<std::string_view> names;
  for (const OpDef* op : ops_) names.push_back(op->name);
  const std::string near = nearest(name, names);
  if (near.empty()) fail("there is no op called '{}'", name);
  fail("there is no op called '{}'; did you mean '{}'?", name, near);
}

std::string nearest(std::string_view word, std::span<const std::string_view> candidates) {
  std::string best;
  std::size_t best_distance = std::max<std::size_t>(2, word.size() / 3) + 1;
  for (const std::string_view candidate : candidates) {
    std::vector<std::size_t> row(candidate.size() + 1);
    std::iota(row.begin(), row.end(), std::size_t{0});
    for (std::size_t i = 1; i <= word.size(); ++i) {
      std::size_t diagonal = row[0];
      row[0] = i;
      for (std::size_t j = 1; j <= candidate.size(); ++j) {
        const std::size_t substitute = diagonal + (word[i - 1] != candidate[j - 1]);
        diagonal = row[j];
        row[j] = std::min({substitute, row[j] + 1, row[j - 1] + 1});
      }
    }
    if (row.back() < best_distance) {
      best_distance = row.back();
      best = candidate;
    }
  }
  return best;
}

namespace {

std::vector<Type> infer_constant(std::span<const Type>, const Attrs& attrs) { return {attrs.tensor("value").type()}; }

template <class T>
void reference_constant(RefCall<T>& call) {
  const Tensor& value = call.attrs.tensor("value");
  auto& out = call.out[0];
  for (std::int64_t i = 0; i < value.elements(); ++i) {
    const auto at = static_cast<std::size_t>(i);
    if (is_float(value.dtype())) out.f[at] = static_cast<T>(value.at(i));
    else if (value.dtype() == DType::i64) out.i[at] = value.data<std::int64_t>()[at];
    else out.i[at] = static_cast<std::int64_t>(value.at(i));
  }
}

std::vector<Sample> constant_samples() {
  return {{.label = "f32", .inputs = {}, .attrs = {{"value", Tensor::of<float>({3}, {1, 2, 3})}}, .differentiable = false}};
}

}  // namespace

const OpDef& input_op() {
  static const OpDef def{
      .name = "input",
      .doc = "A graph input. Made by Graph::input only; its type is written in the node.",
      .traits = {.kind = OpKind::source},
      .operands = {},
      .attrs = {{"name", AttrKind::text, "unique name"},
                {"kind", AttrKind::text, "input, param or state"},
                {"init", AttrKind::text, "how a trainer fills it", false, std::string()}},
      .infer = [](std::span<const Type>, const Attrs&) -> std::vector<Type> {
        fail(ErrorKind::internal, "inputs are made by Graph::input");
      },
      .grad = kNotDifferentiable,
      .cost = bytes_only_cost,
      .shard = "",
      .reference = {},
      .samples = [] { return std::vector<Sample>{}; },
  };
  return def;
}

const OpDef& constant_op() {
  static const OpDef def{
      .name = "constant",
      .doc = "A tensor known when the graph is built.",
      .traits = {.kind = OpKind::source},
      .operands = {},
      .attrs = {{"value", AttrKind::tensor, "the data"}},
      .infer = infer_constant,
      .grad = kNotDifferentiable,
      .cost = bytes_only_cost,
      .shard = "",
      .reference = [](auto& call) { reference_constant(call); },
      .samples = constant_samples,
  };
  return def;
}

}  // namespace rhetor
