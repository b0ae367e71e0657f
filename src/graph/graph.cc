#include "graph/graph.h"

#include "graph/op.h"

namespace rhetor {
namespace {

std::string_view bare(std::string_view operand) {
  while (!operand.empty() && (operand.back() == '?' || operand.back() == '*')) operand.remove_suffix(1);
  return operand;
}

// Fills in defaults and rejects unknown, missing or mistyped attributes.
void complete_attrs(const OpDef& op, Attrs& attrs) {
  for (const auto& [name, value] : attrs) {
    const AttrSpec* spec = nullptr;
    for (const AttrSpec& s : op.attrs)
      if (s.name == name) spec = &s;
    if (!spec) fail("{}: there is no attribute '{}'", op.name, name);
    if (spec->kind != kind_of(value)) fail("{}: attribute '{}' has the wrong kind", op.name, name);
  }
  for (const AttrSpec& spec : op.attrs) {
    if (attrs.has(spec.name)) continue;
    if (spec.required) fail("{}: the attribute '{}' ({}) is required", op.name, spec.name, spec.doc);
    attrs.set(spec.name, spec.fallback);
  }
}

void check_operands(const OpDef& op, const std::vector<ValueId>& inputs) {
  const bool variadic = !op.operands.empty() && op.operands.back().ends_with('*');
  if (inputs.size() > op.operands.size() && !variadic)
    fail("{}: {} operands given, at most {} expected", op.name, inputs.size(), op.operands.size());
  for (std::size_t i = 0; i < op.operands.size(); ++i) {
    const bool optional = op.operands[i].ends_with('?') || op.operands[i].ends_with('*');
    if (!optional && (i >= inputs.size() || !inputs[i].valid()))
      fail("{}: operand {} ('{}') is missing", op.name, i, bare(op.operands[i]));
  }
}

}  // namespace

std::string_view name(InputKind kind) {
  switch (kind) {
    case InputKind::input: return "input";
    case InputKind::param: return "param";
    case InputKind::state: return "state";
  }
  return "?";
}

const Type& Value::type() const {
  check(graph_ != nullptr, "type() of a value that does not exist");
  return graph_->type(id_);
}

Value Graph::add(const OpDef& op, std::vector<Value> inputs, Attrs attrs) {
  std::vector<ValueId> ids;
  ids.reserve(inputs.size());
  for (const Value& v : inputs) {
    check(!v || &v.graph() == this, "operand belongs to another graph");
    ids.push_back(v ? v.id() : ValueId{});
  }
  return add_ids(op, std::move(ids), std::move(attrs));
}

Value Graph::add_ids(const OpDef& op, std::vector<ValueId> inputs, Attrs attrs) {
  while (!inputs.empty() && !inputs.back().valid()) inputs.pop_back();
  check_operands(op, inputs);
  complete_attrs(op, attrs);
  std::vector<Type> types;
  types.reserve(inputs.size());
  for (const ValueId id : inputs) {
    check(!id.valid() || (id.node < size() && id.output < static_cast<int>(node(id).outputs.size())),
          "operand names a value that does not exist");
    types.push_back(id.valid() ? type(id) : Type{DType::boolean, Shape{}});
  }
  Node node;
  node.op = &op;
  node.outputs = op.infer(types, attrs);
  node.inputs = std::move(inputs);
  node.attrs = std::move(attrs);
  node.scope = scope_;
  nodes_.push_back(std::move(node));
  return Value(this, {size() - 1, 0});
}

Value Graph::input(std::string name, Type type, InputKind kind, std::string init) {
  if (name.empty()) fail("a graph input needs a name");
  if (input_by_name_.contains(name)) fail("the graph has two inputs called '{}'", name);
  Attrs attrs;
  attrs.set("name", name);
  attrs.set("kind", std::string(rhetor::name(kind)));
  attrs.set("init", std::move(init));
  Node node;
  node.op = &input_op();
  node.outputs = {type};
  node.attrs = std::move(attrs);
  node.scope = scope_;
  nodes_.push_back(std::move(node));
  input_by_name_.emplace(std::move(name), size() - 1);
  return Value(this, {size() - 1, 0});
}

Value Graph::constant(Tensor value) { return add(constant_op(), {}, {{"value", std::move(value)}}); }

void Graph::output(std::string name, Value value) {
  check(value && &value.graph() == this, "graph output belongs to another graph");
  if (find_output(name).valid()) fail("the graph has two outputs called '{}'", name);
  outputs_.push_back({std::move(name), value.id()});
}

void Graph::set_update(Value state, Value next) {
  check(state && next && &state.graph() == this && &next.graph() == this, "update of another graph's value");
  check(is_input(state.id().node) && input_kind(state.id().node) == InputKind::state, "only a state can be updated");
  if (state.type() != next.type())
    fail("the state '{}' is {} but its update is {}", input_name(state.id().node), state.type().str(), next.type().str());
  for (const auto& update : updates_) check(update.state != state.id().node, "a state is updated twice");
  updates_.push_back({state.id().node, next.id()});
}

Graph::Scope::Scope(Graph& g, std::string_view label) : graph_(g), length_(g.scope_.size()) {
  if (!g.scope_.empty()) g.scope_ += '.';
  g.scope_ += label;
}
Graph::Scope::~Scope() { graph_.scope_.resize(length_); }

bool Graph::is_input(std::int32_t i) const { return node(i).op == &input_op(); }
bool Graph::is_constant(std::int32_t i) const { return node(i).op == &constant_op(); }
const std::string& Graph::input_name(std::int32_t i) const { return node(i).attrs.s("name"); }

InputKind Graph::input_kind(std::int32_t i) const {
  const std::string& kind = node(i).attrs.s("kind");
  return kind == "param" ? InputKind::param : kind == "state" ? InputKind::state : InputKind::input;
}

std::vector<std::int32_t> Graph::input_nodes() const {
  std::vector<std::int32_t> out;
  for (std::int32_t i = 0; i < size(); ++i)
    if (is_input(i)) out.push_back(i);
  return out;
}

ValueId Graph::find_input(std::string_view name) const {
  const auto found = input_by_name_.find(std::string(name));
  return found == input_by_name_.end() ? ValueId{} : ValueId{found->second, 0};
}

ValueId Graph::find_output(std::string_view name) const {
  for (const auto& output : outputs_)
    if (output.name == name) return output.value;
  return {};
}

std::vector<std::vector<int>> Graph::uses() const {
  std::vector<std::vector<int>> out(nodes_.size());
  for (std::size_t i = 0; i < nodes_.size(); ++i) out[i].assign(nodes_[i].outputs.size(), 0);
  auto count = [&](ValueId v) {
    if (v.valid()) ++out[static_cast<std::size_t>(v.node)][static_cast<std::size_t>(v.output)];
  };
  for (const Node& node : nodes_)
    for (ValueId v : node.inputs) count(v);
  for (const auto& output : outputs_) count(output.value);
  for (const auto& update : updates_) count(update.value);
  return out;
}

// ---- Rewriter ----------------------------------------------------------------------------------

Value Rewriter::map(ValueId old) const {
  if (!old.valid()) return {};
  const auto& outputs = map_[static_cast<std::size_t>(old.node)];
  check(static_cast<std::size_t>(old.output) < outputs.size() && outputs[static_cast<std::size_t>(old.output)],
        "a rewritten graph reads a value that its pass dropped");
  return outputs[static_cast<std::size_t>(old.output)];
}

bool Rewriter::mapped(ValueId old) const {
  if (!old.valid()) return false;
  const auto& outputs = map_[static_cast<std::size_t>(old.node)];
  return static_cast<std::size_t>(old.output) < outputs.size() && outputs[static_cast<std::size_t>(old.output)];
}

void Rewriter::set(ValueId old, Value replacement) {
  auto& outputs = map_[static_cast<std::size_t>(old.node)];
  outputs.resize(from_.node(old).outputs.size());
  outputs[static_cast<std::size_t>(old.output)] = replacement;
}

std::vector<Value> Rewriter::map_inputs(std::int32_t node) const {
  std::vector<Value> out;
  for (ValueId v : from_.node(node).inputs) out.push_back(map(v));
  return out;
}

std::vector<Value> Rewriter::copy(std::int32_t i) {
  const Node& node = from_.node(i);
  Value first;
  if (from_.is_input(i)) {
    first = to_.input(from_.input_name(i), node.outputs[0], from_.input_kind(i), node.attrs.s("init"));
  } else {
    first = to_.add(*node.op, map_inputs(i), node.attrs);
  }
  std::vector<Value> out;
  for (std::size_t k = 0; k < node.outputs.size(); ++k)
    out.emplace_back(&to_, ValueId{first.id().node, static_cast<std::int32_t>(k)});
  return out;
}

Graph Rewriter::run(const Visit& visit) {
  map_.assign(static_cast<std::size_t>(from_.size()), {});
  for (std::int32_t i = 0; i < from_.size(); ++i) {
    to_.set_current_scope(from_.node(i).scope);
    std::vector<Value> values = visit(*this, i);
    if (values.empty()) {
      if (!map_[static_cast<std::size_t>(i)].empty()) continue;  // the visitor called set() itself
      values = copy(i);
    }
    map_[static_cast<std::size_t>(i)] = std::move(values);
  }
  to_.set_current_scope("");
  for (const auto& output : from_.outputs()) to_.output(output.name, map(output.value));
  for (const auto& update : from_.updates()) to_.set_update(map({update.state, 0}), map(update.value));
  return std::move(to_);
}

Graph remove_dead(const Graph& graph) {
  std::vector<char> live(static_cast<std::size_t>(graph.size()), 0);
  for (const auto& output : graph.outputs()) live[static_cast<std::size_t>(output.value.node)] = 1;
  for (const auto& update : graph.updates()) live[static_cast<std::size_t>(update.value.node)] = 1;
  for (std::int32_t i = graph.size() - 1; i >= 0; --i) {
    if (graph.is_input(i)) live[static_cast<std::size_t>(i)] = 1;
    if (!live[static_cast<std::size_t>(i)]) continue;
    for (ValueId v : graph.node(i).inputs)
      if (v.valid()) live[static_cast<std::size_t>(v.node)] = 1;
  }
  return Rewriter(graph).run([&](Rewriter& r, std::int32_t i) -> std::vector<Value> {
    if (live[static_cast<std::size_t>(i)]) return {};
    // A dropped node: mark it visited with "no value" so that run() does not copy it.
    r.set({i, 0}, Value());
    return {};
  });
}

}  // namespace rhetor
