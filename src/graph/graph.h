// The graph: a list of nodes in static single assignment form. Everything Rhetor does is a function
// Graph -> Graph; an executable is made from what is left at the end.
//
// Invariants (checked by verify()):
//   1. a node's inputs are outputs of earlier nodes: list order is a topological order;
//   2. node.outputs equals op->infer(input types, attrs); attrs match op->attrs;
//   3. inputs have unique names; so have outputs;
//   4. only inputs of kind `state` have updates, at most one each, of the same type.
// State is explicit: a `state` input is read like any other, and set_update() names the value that
// replaces it when the graph has run. There is no other side effect.
// Thread-safety: a const Graph may be shared between threads; building one is single-threaded.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

#include "graph/attrs.h"
#include "tensor/shape.h"

namespace rhetor {

struct OpDef;
class Graph;

// Names an output of a node inside one graph.
struct ValueId {
  std::int32_t node = -1;
  std::int32_t output = 0;
  bool valid() const { return node >= 0; }
  auto operator<=>(const ValueId&) const = default;
};

// What model code handles: a value of a graph under construction. Cheap to copy. A default-made Value is
// "no value" (an absent optional operand, or "no gradient").
class Value {
 public:
  Value() = default;
  Value(Graph* graph, ValueId id) : graph_(graph), id_(id) {}
  explicit operator bool() const { return graph_ != nullptr; }
  Graph& graph() const { return *graph_; }
  ValueId id() const { return id_; }
  const Type& type() const;
  const Shape& shape() const { return type().shape; }
  DType dtype() const { return type().dtype; }
  std::int64_t dim(int i) const { return shape().dim(i).size; }  // negative counts from the end

 private:
  Graph* graph_ = nullptr;
  ValueId id_;
};

// How an input of a graph gets its data.
//   input:  given for every run (token ids, positions, the learning rate)
//   param:  fixed while the executable lives (weights at inference); compile() may pack or fold it
//   state:  lives in a session across runs and may be updated in place (weights and moments in training, KV cache)
enum class InputKind { input, param, state };
std::string_view name(InputKind kind);

struct Node {
  const OpDef* op = nullptr;
  std::vector<ValueId> inputs;   // an absent optional operand is an invalid ValueId
  Attrs attrs;
  std::vector<Type> outputs;
  std::string scope;             // where in the model it was made: "h.3.attn"; for people only
};

struct GraphOutput {
  std::string name;
  ValueId value;
};
struct StateUpdate {
  std::int32_t state;  // the input node
  ValueId value;
};

class Graph {
 public:
  Graph() = default;
  Graph(const Graph&) = default;
  Graph(Graph&&) noexcept = default;
  Graph& operator=(const Graph&) = default;
  Graph& operator=(Graph&&) noexcept = default;

  // ---- building --------------------------------------------------------------------------------
  // Appends a node after checking its attributes and inferring its types; fails naming op and operand.
  // Returns its first output.
  Value add(const OpDef& op, std::vector<Value> inputs, Attrs attrs = {});
  Value add_ids(const OpDef& op, std::vector<ValueId> inputs, Attrs attrs = {});
  // `init` says how a trainer fills a parameter: "zeros", "ones", "normal:0.02". Names are unique.
  Value input(std::string name, Type type, InputKind kind = InputKind::input, std::string init = "");
  Value constant(Tensor value);
  void output(std::string name, Value value);
  void set_update(Value state, Value next);

  // Scope label for nodes added while the returned object lives: `auto s = g.scope("h.0");` nests with dots.
  class Scope {
   public:
    Scope(Graph& g, std::string_view label);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
   private:
    Graph& graph_;
    std::size_t length_;
  };
  [[nodiscard]] Scope scope(std::string_view label) { return Scope(*this, label); }
  const std::string& current_scope() const { return scope_; }
  void set_current_scope(std::string scope) { scope_ = std::move(scope); }

  // ---- reading ---------------------------------------------------------------------------------
  std::int32_t size() const { return static_cast<std::int32_t>(nodes_.size()); }
  const Node& node(std::int32_t i) const { return nodes_[static_cast<std::size_t>(i)]; }
  const Node& node(ValueId v) const { return node(v.node); }
  const Type& type(ValueId v) const { return node(v).outputs[static_cast<std::size_t>(v.output)]; }
  Value value(ValueId v) { return Value(this, v); }
  const std::vector<GraphOutput>& outputs() const { return outputs_; }
  const std::vector<StateUpdate>& updates() const { return updates_; }
  bool is_input(std::int32_t node) const;
  bool is_constant(std::int32_t node) const;
  const std::string& input_name(std::int32_t node) const;   // REQUIRES: is_input(node)
  InputKind input_kind(std::int32_t node) const;             // REQUIRES: is_input(node)
  std::vector<std::int32_t> input_nodes() const;             // in order of appearance
  // The input called `name`, or an invalid id.
  ValueId find_input(std::string_view name) const;
  ValueId find_output(std::string_view name) const;
  // uses()[node][output] = number of readers among nodes, outputs and updates.
  std::vector<std::vector<int>> uses() const;

 private:
  friend class Scope;
  std::deque<Node> nodes_;  // deque: `const Node&` and `const Type&` stay valid while the graph grows
  std::vector<GraphOutput> outputs_;
  std::vector<StateUpdate> updates_;
  std::unordered_map<std::string, std::int32_t> input_by_name_;
  std::string scope_;
};

// Copies a graph node by node into a new one; the base of every pass. Per node `visit` either returns
// replacement values (one per output, possibly of existing new-graph values) or nothing to copy as is.
// Outputs and updates are re-attached to the mapped values. Inputs are copied in order, kept even if unused.
class Rewriter {
 public:
  using Visit = std::function<std::vector<Value>(Rewriter&, std::int32_t node)>;
  explicit Rewriter(const Graph& from) : from_(from) {}
  Graph run(const Visit& visit);

  const Graph& from() const { return from_; }
  Graph& to() { return to_; }
  // The new value of an old one; no value if the old id is invalid.
  Value map(ValueId old) const;
  bool mapped(ValueId old) const;
  void set(ValueId old, Value replacement);
  std::vector<Value> map_inputs(std::int32_t node) const;
  // Copies the node as it is and returns its outputs.
  std::vector<Value> copy(std::int32_t node);

 private:
  const Graph& from_;
  Graph to_;
  std::vector<std::vector<Value>> map_;
};

// Removes nodes that no output and no update needs (inputs stay).
Graph remove_dead(const Graph& graph);

// The two ops the graph itself needs: "input" and "constant".
const OpDef& input_op();
const OpDef& constant_op();

}  // namespace rhetor
