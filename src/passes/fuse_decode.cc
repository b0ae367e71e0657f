#include "passes/fuse_decode.h"

#include <algorithm>
#include <set>

#include "graph/op.h"
#include "passes/index.h"

namespace rhetor {
namespace {

class DecodeGroups {
 public:
  DecodeGroups(const Graph& graph, const Target& target, const FuseGrouper& grouper)
      : graph_(graph), target_(target), grouper_(grouper), fixed_(at(graph.size()), 0) {
    for (std::int32_t i = 0; i < graph.size(); ++i) {
      const Node& node = graph.node(i);
      bool all = !graph.is_input(i) || graph.input_kind(i) == InputKind::param;
      for (const ValueId v : node.inputs) all = all && (!v.valid() || fixed_[at(v.node)]);
      fixed_[at(i)] = all;
    }
  }

  std::vector<FuseGroup> run() {
    find_products();
    for (std::int32_t i = 0; i < graph_.size(); ++i)
      if (op(i) == "attention") find_step(i);
    return std::move(groups_);
  }

 private:
  std::string_view op(std::int32_t i) const { return graph_.node(i).op->name; }
  bool fixed(ValueId v) const { return v.valid() && fixed_[at(v.node)]; }
  // The only reader of a node, or -1.
  std::int32_t reader(std::int32_t i) const { return grouper_.readers(i).size() == 1 ? grouper_.readers(i)[0] : -1; }
  void add(std::string_view name, std::int32_t anchor, const std::set<std::int32_t>& members) {
    groups_.push_back({.pattern = FusePattern::decode, .anchor = anchor, .members = {members.begin(), members.end()}, .name = std::string(name)});
  }

  // ---- products ----------------------------------------------------------------------------------
  bool takes_part(std::int32_t i) const {
    const Node& node = graph_.node(i);
    if (op(i) != "matmul" || node.attrs.b("transpose_a") || !node.attrs.b("transpose_b") || !fixed(node.inputs[1]) || fixed(node.inputs[0]))
      return false;
    const Type &x = graph_.type(node.inputs[0]), &w = graph_.type(node.inputs[1]);
    const std::int64_t k = x.shape.last();
    return (x.dtype == DType::bf16 || x.dtype == DType::f16) && w.shape.rank() == 2 && k > 0 && x.elements() / k <= target_.few_rows;
  }

  void find_products() {
    std::map<std::pair<ValueId, DType>, std::vector<std::int32_t>> found;   // by the rows and the result's dtype
    for (std::int32_t i = 0; i < graph_.size(); ++i)
      if (takes_part(i)) found[{graph_.node(i).inputs[0], graph_.node(i).outputs[0].dtype}].push_back(i);
    for (const auto& [key, products] : found) {
      if (products.size() > 3) continue;
      std::set<std::int32_t> members(products.begin(), products.end());
      const std::int32_t norm = key.first.node;
      const bool with_norm = op(norm) == "rms_norm" && key.first.output == 0 && fixed(graph_.node(norm).inputs[1]) &&
                             grouper_.readers(norm) == products;
      if (products.size() == 1 && !with_norm) continue;
      if (products.size() == 2) take_gate(products[0], products[1], members) || take_gate(products[1], products[0], members);
      if (with_norm) members.insert(norm);
      add(kProductsAnchor, products[0], members);
    }
  }

  // activation(gate) * up
  bool take_gate(std::int32_t gate, std::int32_t up, std::set<std::int32_t>& members) const {
    static const std::set<std::string_view> kActivations = {"silu", "gelu", "gelu_tanh", "relu"};
    const std::int32_t activation = reader(gate), product = reader(up);
    if (activation < 0 || product < 0 || !kActivations.contains(op(activation)) || reader(activation) != product || op(product) != "mul")
      return false;
    if (graph_.node(gate).outputs != graph_.node(up).outputs || graph_.node(product).outputs != graph_.node(up).outputs) return false;
    members.insert({activation, product});
    return true;
  }

  // ---- attention over a cache --------------------------------------------------------------------
  // Upwards from `v`: reshapes, one rope and a slice of columns, as long as nothing else reads them.
  void take_rows(ValueId v, std::set<std::int32_t>& members) const {
    for (bool turned = false; v.valid() && grouper_.readers(v.node).size() == 1;) {
      const Node& node = graph_.node(v);
      const bool rope = op(v.node) == "rope", columns = cuts_columns(node);
      if (!(node.op->traits.alias || columns || (rope && !turned))) break;
      members.insert(v.node);
      turned = turned || rope;
      v = node.inputs[0];
      if (columns) break;
    }
  }
  // A cache that is only written here and read by `attention`: its old state is no longer wanted.
  bool is_cache(ValueId v, std::int32_t attention) const {
    if (op(v.node) != "cache_write") return false;
    const Node& write = graph_.node(v);
    const ValueId old = write.inputs[0];
    if (!graph_.is_input(old.node) || reader(old.node) != v.node) return false;
    if (write.inputs[2] != graph_.node(attention).inputs[4]) return false;
    for (const std::int32_t r : grouper_.readers(v.node))
      if (r != attention && r != -1) return false;
    return true;
  }
  void find_step(std::int32_t i) {
    const Node& node = graph_.node(i);
    if (target_.few_rows == 0 || node.inputs.size() < 5 || node.inputs[3].valid() || !node.inputs[4].valid()) return;
    const Type& q = graph_.type(node.inputs[0]);
    if (q.shape[1] != 1 || (q.dtype != DType::bf16 && q.dtype != DType::f16)) return;
    if (node.inputs[1] == node.inputs[2] || !is_cache(node.inputs[1], i) || !is_cache(node.inputs[2], i)) return;
    std::set<std::int32_t> members{i, node.inputs[1].node, node.inputs[2].node};
    take_rows(node.inputs[0], members);
    for (const std::size_t k : {1u, 2u}) take_rows(graph_.node(node.inputs[k]).inputs[1], members);
    add(kStepAnchor, i, members);
  }

  const Graph& graph_;
  const Target& target_;
  const FuseGrouper& grouper_;
  std::vector<char> fixed_;   // depends on parameters and constants alone
  std::vector<FuseGroup> groups_;
};

}  // namespace

std::vector<FuseGroup> decode_groups(const Graph& graph, const Target& target, const FuseGrouper& grouper) {
  return DecodeGroups(graph, target, grouper).run();
}

}  // namespace rhetor
