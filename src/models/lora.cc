#include "models/lora.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "base/error.h"
#include "graph/op.h"
#include "ops/ops.h"

namespace rhetor {
namespace {

// Places in the model count their dropout masks from 1; those of adapters must not meet them.
constexpr std::int64_t kFirstStream = 1 << 20;
constexpr std::string_view kWeight = ".weight";

// Linear layers of the blocks have their layer's number in their name; heads and embeddings have none.
bool in_block(std::string_view layer) {
  for (std::size_t at = layer.find('.'); at != std::string_view::npos; at = layer.find('.', at + 1))
    if (at + 1 < layer.size() && layer[at + 1] >= '0' && layer[at + 1] <= '9') return true;
  return false;
}

// Hu et al. adapt queries and values; GPT-2 has them in one matrix with the keys.
bool is_default(std::string_view layer) {
  for (const std::string_view end : {".c_attn", ".q_proj", ".v_proj", ".query", ".value", ".SelfAttention.q", ".SelfAttention.v",
                                     ".EncDecAttention.q", ".EncDecAttention.v"})
    if (layer.ends_with(end)) return true;
  return false;
}

bool matches(std::string_view layer, std::string_view target) {
  return layer == target || (layer.size() > target.size() && layer.ends_with(target) && layer[layer.size() - target.size() - 1] == '.');
}

}  // namespace

bool is_head_weight(const std::string& name) {
  return name.starts_with("classifier.") || name.starts_with("score.") || name.starts_with("qa_outputs.");
}

Graph add_lora(const Graph& graph, const LoraOptions& options, const std::function<bool(const std::string&)>& trained) {
  std::set<std::string> layers, used;  // linear layers of the blocks; targets that matched
  std::int64_t places = 0;
  const bool all = options.targets.size() == 1 && options.targets[0] == "all";
  const auto wanted = [&](const std::string& layer) {
    if (!in_block(layer)) return false;
    layers.insert(layer);
    if (options.targets.empty()) return is_default(layer);
    if (all) return true;
    bool found = false;
    for (const std::string& target : options.targets)
      if (matches(layer, target)) used.insert(target), found = true;
    return found;
  };
  Rewriter rewriter(graph);
  Graph out = rewriter.run([&](Rewriter& r, std::int32_t i) -> std::vector<Value> {
    const Node& node = graph.node(i);
    if (graph.is_input(i)) {
      if (graph.input_kind(i) != InputKind::param || !trained(graph.input_name(i))) return {};
      return {r.to().input(graph.input_name(i), node.outputs[0], InputKind::state, node.attrs.s("init"))};
    }
    if (node.op->name != "matmul" || !graph.is_input(node.inputs[1].node)) return {};
    const std::string& name = graph.input_name(node.inputs[1].node);
    if (!name.ends_with(kWeight)) return {};
    const std::string layer = name.substr(0, name.size() - kWeight.size());
    if (!wanted(layer)) return {};
    ++places;
    const Value y = r.copy(i)[0];
    Value x = r.map(node.inputs[0]);
    const Dim in = x.shape().dim(-1), rows = y.shape().dim(-1), rank{options.rank, "rank"};
    auto scope = r.to().scope(layer + ".lora");
    if (options.dropout > 0)
      if (const ValueId seed = r.to().find_input("seed"); seed.valid())
        x = dropout(x, r.to().value(seed), options.dropout, kFirstStream + places);
    // PEFT's first values of A, uniform within 1 / sqrt(in), have this deviation.
    const std::string init = fmt::format("normal:{}", 1.0 / std::sqrt(3.0 * static_cast<double>(in.size)));
    const Value a = r.to().input(layer + ".lora_A.weight", {DType::f32, Shape{rank, in}}, InputKind::state, init);
    const Value b = r.to().input(layer + ".lora_B.weight", {DType::f32, Shape{rows, rank}}, InputKind::state, "zeros");
    const Value low = matmul(matmul(x, a, false, true), b, false, true);
    return {add(y, mul(low, options.factor()))};
  });
  const auto unmatched = std::find_if(options.targets.begin(), options.targets.end(),
                                      [&](const std::string& target) { return !all && !used.contains(target); });
  if (unmatched != options.targets.end() || places == 0) {
    std::set<std::string> kinds;  // "attn.c_attn" of all layers once
    for (const std::string& layer : layers) {
      std::size_t at = layer.size();
      while (at > 0 && !(layer[at - 1] >= '0' && layer[at - 1] <= '9' && at < layer.size() && layer[at] == '.')) --at;
      kinds.insert(at < layer.size() ? layer.substr(at + 1) : layer);
    }
    std::string list;
    for (const std::string& kind : kinds) list.append(list.empty() ? "" : ", ").append(kind);
    fail("lora.targets: no linear layer is called '{}'; this model has {}, or give \"all\"",
         unmatched != options.targets.end() ? *unmatched : "query, value", list);
  }
  return out;
}

}  // namespace rhetor
