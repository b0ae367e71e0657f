#include "ops/op_matrix.h"

#include <cmath>

#include "base/file.h"
#include "base/rng.h"

namespace rhetor {
namespace {

bool replaceable(const SampleInput& input) {
  return input.type.dtype == DType::f32 && !input.absent && !input.fixed && !input.value.defined();
}

Tensor fill(const SampleInput& input, const Type& type, std::uint64_t seed, std::uint64_t stream) {
  if (input.value.defined()) return input.value;
  Rng rng(seed, stream);
  std::vector<double> values(static_cast<std::size_t>(type.elements()));
  for (double& v : values) {
    if (is_float(type.dtype)) v = input.low + (input.high - input.low) * static_cast<double>(rng.uniform());
    else v = input.low + static_cast<double>(rng.below(static_cast<std::uint64_t>(input.high - input.low) + 1));
  }
  return Tensor::from_doubles(type, values);
}

}  // namespace

std::string OpCase::str() const { return fmt::format("{} / {} / {}", op->name, sample.label, name(dtype)); }

std::vector<Type> OpCase::types() const {
  std::vector<Type> out;
  for (const SampleInput& input : sample.inputs) {
    if (input.absent) out.push_back({DType::boolean, Shape{}});
    else out.push_back({replaceable(input) ? dtype : input.type.dtype, input.type.shape});
  }
  return out;
}

std::int64_t OpCase::ranks() const { return op->traits.kind == OpKind::collective ? sample.attrs.i("group") : 1; }

std::vector<OpCase> op_cases(const OpDef& op, bool benchmark) {
  std::vector<OpCase> out;
  for (Sample& sample : op.samples()) {
    if (sample.benchmark != benchmark) continue;
    bool any = false;
    for (const SampleInput& input : sample.inputs) any |= replaceable(input);
    for (const DType dtype : sample.dtypes) {
      out.push_back({&op, sample, dtype});
      if (!any) break;
    }
  }
  return out;
}

std::vector<Tensor> make_operands(const OpCase& one, std::int64_t rank) {
  // The dtype is not in the seed: every precision sees the same numbers, rounded.
  const std::uint64_t seed = hash64(one.sample.label, hash64(one.op->name));
  const std::vector<Type> types = one.types();
  std::vector<Tensor> out;
  for (std::size_t k = 0; k < types.size(); ++k) {
    const SampleInput& input = one.sample.inputs[k];
    out.push_back(input.absent ? Tensor() : fill(input, types[k], seed, k + 256 * static_cast<std::uint64_t>(rank)));
  }
  return out;
}

std::map<std::string, Tensor> named_operands(const std::vector<Tensor>& operands) {
  std::map<std::string, Tensor> out;
  for (std::size_t k = 0; k < operands.size(); ++k)
    if (operands[k].defined()) out.emplace(std::to_string(k), operands[k]);
  return out;
}

Graph case_graph(const OpDef& op, const std::vector<Type>& types, const std::vector<bool>& absent, const Attrs& attrs) {
  Graph graph;
  std::vector<Value> operands;
  for (std::size_t k = 0; k < types.size(); ++k)
    operands.push_back(absent[k] ? Value() : graph.input(std::to_string(k), types[k]));
  const Value first = graph.add(op, operands, attrs);
  const auto results = static_cast<std::int32_t>(graph.node(first.id()).outputs.size());
  for (std::int32_t k = 0; k < results; ++k) graph.output(std::to_string(k), graph.value({first.id().node, k}));
  return graph;
}

Graph case_graph(const OpCase& one) {
  std::vector<bool> absent;
  for (const SampleInput& input : one.sample.inputs) absent.push_back(input.absent);
  return case_graph(*one.op, one.types(), absent, one.sample.attrs);
}

}  // namespace rhetor
