#include "graph/interpreter.h"

#include <algorithm>

namespace rhetor {
namespace {

// ---- between tensors and reference tensors ---------------------------------------------------------

// Naive evaluation rounds every result to its declared dtype; the float64 oracle never rounds. Integers wrap to their width
// in both.
template <class T>
void settle(RefTensor<T>& value) {
  dispatch(value.type.dtype, [&](auto zero) {
    using S = decltype(zero);
    if constexpr (std::is_same_v<S, bool>) {
      for (auto& v : value.i) v = v != 0;
    } else if constexpr (std::is_integral_v<S>) {
      if constexpr (sizeof(S) < 8)
        for (auto& v : value.i) v = static_cast<S>(v);
    } else if constexpr (std::is_same_v<T, float> && sizeof(S) < 4) {
      for (auto& v : value.f) v = S::from_float(v).to_float();
    }
  });
}

template <class T>
RefTensor<T> zeros(const Type& type) {
  RefTensor<T> out;
  out.type = type;
  const auto n = static_cast<std::size_t>(type.elements());
  if (is_float(type.dtype)) out.f.assign(n, T(0));
  else out.i.assign(n, 0);
  return out;
}

template <class T>
RefTensor<T> from_tensor(const Tensor& tensor, const Type& declared) {
  RefTensor<T> out = zeros<T>(declared);
  dispatch(tensor.dtype(), [&](auto zero) {
    using S = decltype(zero);
    const auto data = tensor.data<S>();
    if (is_float(declared.dtype)) std::transform(data.begin(), data.end(), out.f.begin(), [](S v) { return static_cast<T>(to_double(v)); });
    else if constexpr (std::is_integral_v<S>) std::copy(data.begin(), data.end(), out.i.begin());
  });
  settle(out);
  return out;
}

// f64 mode keeps doubles; naive mode gives the declared dtype, exactly.
template <class T>
Tensor to_tensor(const RefTensor<T>& value) {
  const bool real = is_float(value.type.dtype);
  const DType dtype = real && std::is_same_v<T, double> ? DType::f64 : value.type.dtype;
  Tensor out = Tensor::uninitialized({dtype, value.type.shape});
  dispatch(dtype, [&](auto zero) {
    using S = decltype(zero);
    auto data = out.data<S>();
    for (std::size_t k = 0; k < data.size(); ++k) {
      if constexpr (std::is_integral_v<S>) data[k] = static_cast<S>(value.i[k]);
      else data[k] = from_double<S>(static_cast<double>(value.f[k]));
    }
  });
  return out;
}

// ---- one rank --------------------------------------------------------------------------------------

// Walks the nodes of one graph in order; a value is dropped after its last reader.
template <class T>
class Run {
 public:
  explicit Run(const Graph& graph) : graph_(graph), left_(graph.uses()), values_(static_cast<std::size_t>(graph.size())) {}

  void give(std::int32_t input, RefTensor<T> value) { values_[static_cast<std::size_t>(input)] = {std::move(value)}; }

  bool done() const { return at_ == graph_.size(); }
  const Graph& graph() const { return graph_; }
  const Node& node() const { return graph_.node(at_); }

  // Evaluates nodes up to the end, or up to a collective if `stop`.
  void advance(bool stop, const Watch& watch) {
    for (; at_ < graph_.size(); finish(watch)) {
      if (graph_.is_input(at_)) continue;
      if (stop && node().op->traits.kind == OpKind::collective) return;
      auto call = make_call();
      invoke(node(), call);
      accept(std::move(call.out));
    }
  }

  RefCall<T> make_call() const {
    RefCall<T> call{{}, {}, node().attrs};
    for (const ValueId v : node().inputs) call.in.push_back(v.valid() ? &at(v) : nullptr);
    for (const Type& type : node().outputs) call.out.push_back(zeros<T>(type));
    return call;
  }
  static void invoke(const Node& node, RefCall<T>& call) {
    if (!node.op->reference) fail(ErrorKind::internal, "{} has no reference", node.op->name);
    if constexpr (std::is_same_v<T, double>) node.op->reference.f64(call);
    else node.op->reference.f32(call);
  }
  // The results of the node at hand.
  void accept(std::vector<RefTensor<T>> results) {
    for (std::size_t k = 0; k < results.size(); ++k) {
      const auto n = static_cast<std::size_t>(results[k].elements());
      const bool real = is_float(results[k].type.dtype);
      if ((real ? results[k].f.size() : results[k].i.size()) != n)
        fail(ErrorKind::internal, "the reference of {} changed the size of its result {}", node().op->name, k);
      settle(results[k]);
    }
    values_[static_cast<std::size_t>(at_)] = std::move(results);
  }
  void finish(const Watch& watch) {
    if (watch) {
      std::vector<Tensor> results;
      for (const auto& value : values_[static_cast<std::size_t>(at_)]) results.push_back(to_tensor(value));
      watch(at_, results);
    }
    for (const ValueId v : node().inputs)
      if (v.valid() && --left_[static_cast<std::size_t>(v.node)][static_cast<std::size_t>(v.output)] == 0)
        values_[static_cast<std::size_t>(v.node)][static_cast<std::size_t>(v.output)] = {};
    ++at_;
  }

  const RefTensor<T>& at(ValueId v) const {
    return values_[static_cast<std::size_t>(v.node)][static_cast<std::size_t>(v.output)];
  }

  EvalResult result() const {
    EvalResult out;
    for (const auto& output : graph_.outputs()) out.outputs.emplace(output.name, to_tensor(at(output.value)));
    for (const auto& update : graph_.updates()) out.states.emplace(graph_.input_name(update.state), to_tensor(at(update.value)));
    return out;
  }

 private:
  const Graph& graph_;
  std::vector<std::vector<int>> left_;  // readers that have not run yet
  std::vector<std::vector<RefTensor<T>>> values_;
  std::int32_t at_ = 0;
};

template <class T>
void give_inputs(Run<T>& run, const std::map<std::string, Tensor>& inputs) {
  const Graph& graph = run.graph();
  for (const std::int32_t node : graph.input_nodes()) {
    const std::string& name = graph.input_name(node);
    const Type& type = graph.type({node, 0});
    const auto found = inputs.find(name);
    if (found == inputs.end() || !found->second.defined())
      fail("the graph's {} '{}' ({}) is not given", rhetor::name(graph.input_kind(node)), name, type.str());
    const Tensor& tensor = found->second;
    if (tensor.shape() != type.shape || is_float(tensor.dtype()) != is_float(type.dtype))
      fail("the graph's {} '{}' must be {}, found {}", rhetor::name(graph.input_kind(node)), name, type.str(),
           tensor.type().str());
    run.give(node, from_tensor<T>(tensor, type));
  }
}

template <class T>
EvalResult evaluate_as(const Graph& graph, const std::map<std::string, Tensor>& inputs, const Watch& watch) {
  Run<T> run(graph);
  give_inputs(run, inputs);
  run.advance(false, watch);
  return run.result();
}

template <class T>
void evaluate_body_as(const Graph& body, RefCall<T>& call) {
  Run<T> run(body);
  for (const std::int32_t node : body.input_nodes()) {
    const std::string& name = body.input_name(node);
    std::size_t k = 0;
    while (k < call.in.size() && std::to_string(k) != name) ++k;
    if (!call.has(k)) fail(ErrorKind::internal, "a body reads the operand '{}' that the node does not have", name);
    run.give(node, *call.in[k]);
  }
  run.advance(false, {});
  for (std::size_t k = 0; k < call.out.size(); ++k) {
    const ValueId output = body.find_output(std::to_string(k));
    if (!output.valid()) fail(ErrorKind::internal, "a body does not have the output '{}' of its node", k);
    call.out[k] = run.at(output);
  }
}

// ---- several ranks ---------------------------------------------------------------------------------

// The ranks that share a group with `rank` along `axis`, in order along it.
std::vector<std::size_t> group_of(const std::vector<MeshAxis>& mesh, const std::string& axis, std::size_t rank) {
  std::size_t stride = 1;
  for (std::size_t a = mesh.size(); a-- > 0;) {
    const auto size = static_cast<std::size_t>(mesh[a].size);
    if (mesh[a].name == axis) {
      const std::size_t first = rank - rank / stride % size * stride;
      std::vector<std::size_t> out;
      for (std::size_t k = 0; k < size; ++k) out.push_back(first + k * stride);
      return out;
    }
    stride *= size;
  }
  fail("a collective runs over the mesh axis '{}', which the mesh does not have", axis);
}

// Runs the collective that all of `group` wait at.
template <class T>
void meet(std::vector<Run<T>>& runs, const std::vector<std::size_t>& group) {
  const Node& first = runs[group[0]].node();
  if (first.attrs.i("group") != static_cast<std::int64_t>(group.size()))
    fail("{} expects {} ranks along '{}', the mesh has {}", first.op->name, first.attrs.i("group"), first.attrs.s("axis"), group.size());
  RefCall<T> all{{}, {}, first.attrs};
  for (const std::size_t r : group) {
    const Node& node = runs[r].node();
    if (node.op != first.op || !(node.attrs == first.attrs) || node.outputs != first.outputs)
      fail("ranks {} and {} meet at different collectives: {} and {}", group[0], r, first.op->name, node.op->name);
    RefCall<T> one = runs[r].make_call();
    all.in.push_back(one.in.at(0));
    all.out.push_back(std::move(one.out.at(0)));
  }
  Run<T>::invoke(first, all);
  for (std::size_t k = 0; k < group.size(); ++k) {
    runs[group[k]].accept({std::move(all.out[k])});
    runs[group[k]].finish({});
  }
}

template <class T>
std::vector<EvalResult> evaluate_ranks_as(const std::vector<const Graph*>& graphs, const std::vector<MeshAxis>& mesh,
                                          const std::vector<std::map<std::string, Tensor>>& inputs) {
  std::size_t ranks = 1;
  for (const MeshAxis& axis : mesh) {
    if (axis.size < 1 || axis.size > 4096) fail("the mesh axis '{}' cannot have {} ranks", axis.name, axis.size);
    ranks *= static_cast<std::size_t>(axis.size);
  }
  if (inputs.size() != ranks || (graphs.size() != 1 && graphs.size() != ranks))
    fail("a mesh of {} ranks needs inputs for each and one graph or one each, found {} and {}", ranks, inputs.size(), graphs.size());
  std::vector<Run<T>> runs;
  runs.reserve(ranks);
  for (std::size_t r = 0; r < ranks; ++r) {
    runs.emplace_back(*graphs[graphs.size() == 1 ? 0 : r]);
    give_inputs(runs.back(), inputs[r]);
    runs.back().advance(true, {});
  }
  for (bool progress = true; progress;) {
    progress = false;
    for (std::size_t r = 0; r < ranks; ++r) {
      if (runs[r].done()) continue;
      const std::string axis = runs[r].node().attrs.s("axis");
      const auto group = group_of(mesh, axis, r);
      const bool ready = std::all_of(group.begin(), group.end(), [&](std::size_t peer) {
        return !runs[peer].done() && runs[peer].node().attrs.s("axis") == axis;
      });
      if (!ready) continue;
      meet(runs, group);
      for (const std::size_t peer : group) runs[peer].advance(true, {});
      progress = true;
    }
  }
  std::vector<EvalResult> out;
  for (std::size_t r = 0; r < ranks; ++r) {
    if (!runs[r].done())
      fail("rank {} waits for ever at {} over '{}': its group never comes", r, runs[r].node().op->name, runs[r].node().attrs.s("axis"));
    out.push_back(runs[r].result());
  }
  return out;
}

}  // namespace

EvalResult evaluate(const Graph& graph, const std::map<std::string, Tensor>& inputs, RefPrecision precision, const Watch& watch) {
  return precision == RefPrecision::f64 ? evaluate_as<double>(graph, inputs, watch) : evaluate_as<float>(graph, inputs, watch);
}

std::vector<Tensor> evaluate_op(const OpDef& op, const std::vector<Tensor>& inputs, const Attrs& attrs, RefPrecision precision) {
  Graph graph;
  std::map<std::string, Tensor> named;
  std::vector<Value> operands;
  for (const Tensor& tensor : inputs) {
    if (!tensor.defined()) {
      operands.emplace_back();
      continue;
    }
    const std::string name = std::to_string(operands.size());
    operands.push_back(graph.input(name, tensor.type()));
    named.emplace(name, tensor);
  }
  const Value first = graph.add(op, operands, attrs);
  const std::size_t results = graph.node(first.id()).outputs.size();
  for (std::size_t k = 0; k < results; ++k)
    graph.output(std::to_string(k), Value(&graph, {first.id().node, static_cast<std::int32_t>(k)}));
  EvalResult result = evaluate(graph, named, precision);
  std::vector<Tensor> out;
  for (std::size_t k = 0; k < results; ++k) out.push_back(result.outputs.at(std::to_string(k)));
  return out;
}

void evaluate_body(const Graph& body, RefCall<double>& call) { evaluate_body_as(body, call); }
void evaluate_body(const Graph& body, RefCall<float>& call) { evaluate_body_as(body, call); }

std::vector<EvalResult> evaluate_ranks(const std::vector<const Graph*>& graphs, const std::vector<MeshAxis>& mesh,
                                       const std::vector<std::map<std::string, Tensor>>& inputs, RefPrecision precision) {
  return precision == RefPrecision::f64 ? evaluate_ranks_as<double>(graphs, mesh, inputs)
                                        : evaluate_ranks_as<float>(graphs, mesh, inputs);
}

}  // namespace rhetor
