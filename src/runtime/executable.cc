#include "runtime/executable.h"

#include <chrono>

#include "passes/fuse.h"
#include "runtime/device_memory.h"
#include "runtime/collective.h"
#include "runtime/impl.h"
#include "runtime/device_check.h"
#include "runtime/tune.h"
#include "runtime/tune_device.h"

namespace rhetor {
namespace {

double milliseconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

// The weights that `graph` reads, checked against its declarations.
Weights bind_weights(const Graph& graph, const Weights& weights, bool exact) {
  const auto uses = graph.uses();
  Weights bound;
  std::string missing;
  int missing_count = 0;
  for (const std::int32_t i : graph.input_nodes()) {
    if (graph.input_kind(i) != InputKind::param || uses[static_cast<std::size_t>(i)][0] == 0) continue;
    const std::string& name = graph.input_name(i);
    const Type& type = graph.node(i).outputs[0];
    const auto found = weights.find(name);
    if (found == weights.end() || !found->second.defined()) {
      if (missing_count++ == 0) missing = fmt::format("'{}' ({})", name, type.str());
      continue;
    }
    if (found->second.type() != type)
      fail("the weight '{}' is {}, but the graph expects {}", name, found->second.type().str(), type.str());
    bound.emplace(name, aligned(found->second));
  }
  if (missing_count > 0)
    fail("the weight {} is missing{}; {} weights were given", missing,
         missing_count > 1 ? fmt::format(" (and {} more)", missing_count - 1) : "", weights.size());
  if (exact)
    for (const auto& [name, tensor] : weights)
      if (!graph.find_input(name).valid()) fail("the weight '{}' ({}) belongs to no input of the graph", name, tensor.type().str());
  return bound;
}

// Nodes of `graph` that run on planned buffers: everything but inputs and constants.
bool runs(const Graph& graph, std::int32_t i) { return !graph.is_input(i) && !graph.is_constant(i); }

bool same_buffer(const ValuePlace& a, const ValuePlace& b) {
  return a.place == b.place && a.offset == b.offset && a.slot == b.slot;
}

// Params whose every reader has packed them are not read at run time: their tensors are let go.
std::vector<Tensor> remaining_params(const Executable::Impl& impl, const Weights& params) {
  const Graph& graph = impl.graph;
  std::vector<char> read(static_cast<std::size_t>(graph.size()), 0);
  const auto mark = [&](ValueId v) {
    if (!v.valid()) return;
    const ValueId root = impl.memory.places[static_cast<std::size_t>(v.node)][static_cast<std::size_t>(v.output)].root;
    read[static_cast<std::size_t>(v.node)] = 1;
    if (root.valid()) read[static_cast<std::size_t>(root.node)] = 1;
  };
  for (const Instruction& instruction : impl.instructions) {
    const Node& node = graph.node(instruction.node);
    const auto& absorbed = impl.kernels[static_cast<std::size_t>(instruction.node)].kernel.absorbed;
    for (std::size_t k = 0; k < node.inputs.size(); ++k)
      if (k >= absorbed.size() || !absorbed[k]) mark(node.inputs[k]);
  }
  for (const auto& output : graph.outputs()) mark(output.value);
  for (const auto& update : graph.updates()) mark(update.value);
  std::vector<Tensor> out(static_cast<std::size_t>(graph.size()));
  for (const std::int32_t i : graph.input_nodes()) {
    if (graph.input_kind(i) != InputKind::param || !read[static_cast<std::size_t>(i)]) continue;
    const auto found = params.find(graph.input_name(i));
    if (found != params.end()) out[static_cast<std::size_t>(i)] = found->second;
  }
  return out;
}

// Params and constants that kernels read go to the device; the host's tensors are let go.
void move_to_device(Executable::Impl& impl) {
  impl.there.resize(static_cast<std::size_t>(impl.graph.size()));
  for (std::int32_t i = 0; i < impl.graph.size(); ++i) {
    Tensor& param = impl.params[static_cast<std::size_t>(i)];
    const Tensor* tensor = impl.graph.is_constant(i) ? &impl.graph.node(i).attrs.tensor("value") : param.defined() ? &param : nullptr;
    if (!tensor) continue;
    impl.there[static_cast<std::size_t>(i)] = on_device(*impl.device, *tensor);
    param = Tensor();
  }
}

// A fused node that every kernel but the reference refuses is worth less than its parts: it is put back, with the reasons on record.
Graph inline_refused(const Graph& graph, const Weights& params, int threads, const CudaDevice* device, CompileReport& report) {
  const KernelRow* row = nullptr;
  for (const KernelRow& r : device ? cuda_kernel_table() : kernel_table())
    if (r.op == "fused") row = &r;
  KnownValues known(static_cast<std::size_t>(graph.size()));
  for (const auto& [name, tensor] : params)
    if (const ValueId id = graph.find_input(name); id.valid()) known[static_cast<std::size_t>(id.node)] = {&tensor};
  std::vector<char> refused(static_cast<std::size_t>(graph.size()), 0);
  bool any = false;
  for (std::int32_t i = 0; i < graph.size(); ++i) {
    const Node& node = graph.node(i);
    if (node.op->name != "fused") continue;
    const KernelRequest request = kernel_request(graph, i, known, threads, device);
    std::string reasons;
    bool taken = false;
    for (std::size_t c = 0; row && c < row->candidates.size() && !taken; ++c) {
      const std::string reason = row->candidates[c].refuse(request);
      taken = reason.empty();
      reasons += fmt::format("; {}: {}", row->candidates[c].name, reason);
    }
    if (taken) continue;
    any = true;
    refused[static_cast<std::size_t>(i)] = 1;
    const std::string& anchor = node.attrs.s("anchor");
    for (PassRecord& pass : report.passes)
      if (pass.name == "fuse")
        pass.refusals.push_back({"fuse", fmt::format("fused({}) {} in '{}'", anchor.empty() ? "pointwise" : anchor,
                                                     node.outputs[0].str(), node.scope), "no kernel" + reasons});
  }
  return any ? inline_fused(graph, [&](std::int32_t i) { return refused[static_cast<std::size_t>(i)] != 0; }) : graph;
}

Cost cost_of(const KernelRequest& request) {
  return request.node.op->cost ? request.node.op->cost(request.in, request.out, request.node.attrs) : Cost{};
}

}  // namespace

Tensor aligned(const Tensor& tensor) {
  return reinterpret_cast<std::uintptr_t>(tensor.raw()) % 64 == 0 ? tensor : tensor.clone();
}

// Optional operands at the end that the node was made without.
static std::size_t absent_tail(const Node& node) {
  const auto& operands = node.op->operands;
  if (operands.empty() || operands.back().ends_with('*') || node.inputs.size() >= operands.size()) return 0;
  return operands.size() - node.inputs.size();
}

KernelRequest kernel_request(const Graph& graph, std::int32_t i, const KnownValues& known, int threads, const CudaDevice* device) {
  const Node& node = graph.node(i);
  KernelRequest request{.graph = graph, .node = node, .in = {}, .out = node.outputs, .constants = {}, .threads = threads,
                        .device = device};
  for (const ValueId v : node.inputs) {
    request.in.push_back(v.valid() ? graph.type(v) : Type{DType::boolean, Shape{}});
    const Tensor* value = nullptr;
    if (v.valid()) {
      const auto& of_node = known[static_cast<std::size_t>(v.node)];
      if (static_cast<std::size_t>(v.output) < of_node.size()) value = of_node[static_cast<std::size_t>(v.output)];
    }
    request.constants.push_back(value);
  }
  request.in.resize(request.in.size() + absent_tail(node), Type{DType::boolean, Shape{}});
  request.constants.resize(request.in.size(), nullptr);
  return request;
}

std::unique_ptr<Executable::Impl> assemble(Graph final_graph, Weights params, const CompileOptions& options, CompileReport report,
                                           const std::vector<std::string>* kernel_names) {
  auto impl = std::make_unique<Executable::Impl>();
  impl->graph = std::move(final_graph);
  impl->report = std::move(report);
  impl->pool = options.pool ? options.pool : &default_pool();
  impl->in_place = options.in_place;
  impl->keeps_weights = options.keep_weights;
  impl->device = options.device;
  const Graph& graph = impl->graph;
  const auto n = static_cast<std::size_t>(graph.size());

  KnownValues known(n);
  for (std::int32_t i = 0; i < graph.size(); ++i) {
    if (graph.is_constant(i)) {
      known[static_cast<std::size_t>(i)] = {&graph.node(i).attrs.tensor("value")};
    } else if (graph.is_input(i) && graph.input_kind(i) == InputKind::param) {
      if (const auto found = params.find(graph.input_name(i)); found != params.end()) {
        known[static_cast<std::size_t>(i)] = {&found->second};
        impl->report.weight_bytes += found->second.bytes();
      }
    } else if (graph.is_input(i) && graph.input_kind(i) == InputKind::state) {
      impl->report.state_bytes += graph.node(i).outputs[0].bytes();
    }
  }

  std::vector<std::uint64_t> scratch(n, 0);
  impl->kernels.resize(n);
  for (std::int32_t i = 0; i < graph.size(); ++i) {
    if (!runs(graph, i)) continue;
    const auto at = static_cast<std::size_t>(i);
    const KernelRequest request = kernel_request(graph, i, known, impl->pool->threads(), options.device);
    std::string_view only = kernel_names ? std::string_view((*kernel_names)[at]) : std::string_view();
    if (const auto wish = options.only.find(std::string(graph.node(i).op->name)); wish != options.only.end()) only = wish->second;
    const bool collective = graph.node(i).op->traits.kind == OpKind::collective && options.communicator && !options.device;
    impl->kernels[at] = collective       ? collective_kernel(request, *options.communicator)
                        : options.device ? choose_cuda_kernel(request, only)
                                         : choose_kernel(request, only);
    if (!options.device && !collective && (only.empty() || kernel_names)) impl->kernels[at] = tuned(request, std::move(impl->kernels[at]), *impl->pool, tuning(), TuneCache::instance());
    const ChosenKernel& chosen = impl->kernels[at];
    check(chosen.kernel.run != nullptr, "a chosen kernel has no function");
    scratch[at] = chosen.kernel.scratch_bytes;
    impl->report.packed_bytes += chosen.kernel.packed_bytes;
    impl->report.choices.push_back({i, chosen.name, chosen.kernel.detail, chosen.refused, cost_of(request)});
  }

  impl->memory = plan_memory(graph, scratch, options.in_place);
  impl->report.arena_bytes = impl->memory.arena_bytes;
  impl->report.lower_bound = impl->memory.lower_bound;

  const auto& places = impl->memory.places;
  const auto place_of = [&](ValueId v) -> const ValuePlace& {
    return places[static_cast<std::size_t>(v.node)][static_cast<std::size_t>(v.output)];
  };
  for (auto& choice : impl->report.choices) {
    const std::int32_t i = choice.node;
    const Node& node = graph.node(i);
    // A view of its operand: nothing to do at run time.
    if (node.op->traits.alias && same_buffer(place_of(node.inputs[0]), place_of({i, 0}))) {
      choice.kernel = "view";
      choice.detail.clear();
      choice.refused.clear();
      continue;
    }
    const ChosenKernel& chosen = impl->kernels[static_cast<std::size_t>(i)];
    Instruction instruction{.run = chosen.kernel.run,
                            .params = chosen.kernel.params.get(),
                            .node = i,
                            .in = static_cast<std::uint32_t>(impl->operands.size()),
                            .scratch = impl->memory.scratch_offset[static_cast<std::size_t>(i)]};
    impl->operands.insert(impl->operands.end(), node.inputs.begin(), node.inputs.end());
    impl->operands.resize(impl->operands.size() + absent_tail(node));   // null pointers: kernels look at every operand the op may have
    instruction.out = static_cast<std::uint32_t>(impl->operands.size());
    for (std::size_t k = 0; k < node.outputs.size(); ++k) impl->operands.push_back({i, static_cast<std::int32_t>(k)});
    impl->instructions.push_back(instruction);
  }
  impl->params = remaining_params(*impl, params);
  if (options.device) move_to_device(*impl);
  if (options.keep_weights) impl->kept = std::move(params);
  return impl;
}

ExecutablePtr compile(const Graph& graph, const Weights& weights, const CompileOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  CompileOptions own = options;
  if (!own.pool) own.pool = &default_pool();
  own.passes.target.threads = own.pool->threads();
  // Beside int8 products everything else may be bf16 too, where the processor has a unit for it.
  if (!own.device) own.device = default_device();
  if (own.device) {
    require_supported(*own.device, own.passes.compute);
    install_device_tuner();
    own.passes.target.device = "cuda";
    own.passes.target.strided = {"attention", "attention_grad"};
    own.passes.target.few_rows = own.device->compute >= 80 ? 8 : 0;
  }
  if (!own.device && own.passes.int8 && own.passes.compute == DType::f32 && cpu_isa() >= Isa::amx) own.passes.compute = DType::bf16;
  PipelineResult passed = run_passes(graph, own.passes);
  const Weights bound = bind_weights(passed.graph, weights, own.exact_weights);

  CompileReport report;
  report.passes = std::move(passed.records);
  Folded folded = fold(passed.graph, bound, *own.pool);
  passed.graph = Graph();
  if (!own.only.contains("fused")) {
    const std::int32_t before = folded.graph.size();
    Graph inlined = inline_refused(folded.graph, folded.params, own.pool->threads(), own.device, report);
    if (inlined.size() != before) folded = fold(inlined, folded.params, *own.pool);
  }
  auto impl = assemble(std::move(folded.graph), std::move(folded.params), own, std::move(report));
  impl->report.compile_ms = milliseconds_since(start);
  return std::make_shared<const Executable>(std::move(impl));
}

Executable::Executable(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Executable::~Executable() = default;
const Graph& Executable::graph() const { return impl_->graph; }
const MemoryPlan& Executable::memory() const { return impl_->memory; }
const CompileReport& Executable::report() const { return impl_->report; }
const std::vector<Instruction>& Executable::instructions() const { return impl_->instructions; }

namespace {
std::vector<std::pair<std::string, Type>> inputs_of_kind(const Graph& graph, InputKind kind) {
  std::vector<std::pair<std::string, Type>> out;
  for (const std::int32_t i : graph.input_nodes())
    if (graph.input_kind(i) == kind) out.emplace_back(graph.input_name(i), graph.node(i).outputs[0]);
  return out;
}
}  // namespace

std::vector<std::pair<std::string, Type>> Executable::inputs() const { return inputs_of_kind(impl_->graph, InputKind::input); }
std::vector<std::pair<std::string, Type>> Executable::states() const { return inputs_of_kind(impl_->graph, InputKind::state); }
std::vector<std::pair<std::string, Type>> Executable::outputs() const {
  std::vector<std::pair<std::string, Type>> out;
  for (const auto& output : impl_->graph.outputs()) out.emplace_back(output.name, impl_->graph.type(output.value));
  return out;
}

}  // namespace rhetor
