#include <algorithm>
#include <set>

#include "cpu/pack_cache.h"
#include "runtime/impl.h"

namespace rhetor {
namespace {

constexpr std::size_t kAlwaysFold = std::size_t{64} << 10;  // bytes: computed results below are folded whatever their operands' size
constexpr std::int64_t kConstantElements = 16;              // results up to here read well inside the graph's text

// Folding must pay: a broadcast of a small vector is cheaper to repeat than to load.
bool worth_folding(const Graph& graph, const Node& node) {
  std::size_t in = 0, out = 0;
  for (ValueId v : node.inputs)
    if (v.valid()) in += graph.type(v).bytes();
  for (const Type& type : node.outputs) out += type.bytes();
  return out <= (node.op->traits.kind == OpKind::broadcast ? in : std::max(kAlwaysFold, in));
}

std::vector<Tensor> run_once(const Graph& graph, std::int32_t i, const KnownValues& known, ThreadPool& pool) {
  const Node& node = graph.node(i);
  const KernelRequest request = kernel_request(graph, i, known, pool.threads());
  if (node.op->traits.alias) return {request.constants[0]->reshaped(node.outputs[0].shape)};
  // Operands are not announced as constants here: packing a weight that is read once would be wasted work.
  KernelRequest plain = request;
  plain.constants.assign(plain.constants.size(), nullptr);
  const ChosenKernel chosen = choose_kernel(plain);
  std::vector<Tensor> results;
  std::vector<const void*> in;
  std::vector<void*> out;
  for (const Tensor* operand : request.constants) in.push_back(operand ? operand->raw() : nullptr);
  for (const Type& type : node.outputs) {
    results.push_back(Tensor::uninitialized(type));
    out.push_back(results.back().raw());
  }
  Tensor scratch = Tensor::uninitialized({DType::u8, Shape{static_cast<std::int64_t>(chosen.kernel.scratch_bytes)}});
  chosen.kernel.run(chosen.kernel.params.get(), {in.data(), out.data(), scratch.raw(), pool});
  return results;
}

std::string fresh_name(const Graph& graph, int& counter) {
  for (;;) {
    std::string name = fmt::format("folded.{}", counter++);
    if (!graph.find_input(name).valid()) return name;
  }
}

}  // namespace

Folded fold(const Graph& graph, const Weights& params, ThreadPool& pool) {
  const auto n = static_cast<std::size_t>(graph.size());
  std::vector<std::vector<Tensor>> values(n);
  KnownValues known(n);
  std::vector<char> computed(n, 0);
  Folded out;
  for (std::int32_t i = 0; i < graph.size(); ++i) {
    const auto at = static_cast<std::size_t>(i);
    const Node& node = graph.node(i);
    if (graph.is_input(i)) {
      if (graph.input_kind(i) == InputKind::param)
        if (const auto found = params.find(graph.input_name(i)); found != params.end()) values[at] = {found->second};
    } else if (graph.is_constant(i)) {
      values[at] = {node.attrs.tensor("value")};
    } else {
      const bool ready = std::all_of(node.inputs.begin(), node.inputs.end(), [&](ValueId v) {
        return !v.valid() || !values[static_cast<std::size_t>(v.node)].empty();
      });
      const Traits& traits = node.op->traits;
      if (!ready || !traits.deterministic || traits.kind == OpKind::collective || !worth_folding(graph, node)) continue;
      values[at] = run_once(graph, i, known, pool);
      computed[at] = 1;
      ++out.nodes;
    }
    for (const Tensor& value : values[at]) known[at].push_back(&value);
  }

  // Readers that stay decide which folded values are needed.
  std::vector<std::set<std::int32_t>> needed(n);
  const auto need = [&](ValueId v) {
    if (v.valid()) needed[static_cast<std::size_t>(v.node)].insert(v.output);
  };
  for (std::int32_t i = 0; i < graph.size(); ++i)
    if (!computed[static_cast<std::size_t>(i)])
      for (ValueId v : graph.node(i).inputs) need(v);
  for (const auto& output : graph.outputs()) need(output.value);
  for (const auto& update : graph.updates()) need(update.value);

  int counter = 0;
  out.graph = Rewriter(graph).run([&](Rewriter& r, std::int32_t i) -> std::vector<Value> {
    const auto at = static_cast<std::size_t>(i);
    const bool is_param = graph.is_input(i) && graph.input_kind(i) == InputKind::param;
    if (needed[at].empty() && (computed[at] || is_param || graph.is_constant(i))) {
      r.set({i, 0}, Value());  // dropped
      return {};
    }
    if (is_param) out.params[graph.input_name(i)] = values[at].empty() ? Tensor() : values[at][0];
    if (!computed[at]) return {};
    for (const std::int32_t k : needed[at]) {
      Tensor& value = values[at][static_cast<std::size_t>(k)];
      if (value.elements() <= kConstantElements) {
        r.set({i, k}, r.to().constant(value));
        continue;
      }
      const std::string name = fresh_name(graph, counter);
      r.set({i, k}, r.to().input(name, value.type(), InputKind::param));
      out.params[name] = shared_constant(value);
    }
    return {};
  });
  return out;
}

}  // namespace rhetor
