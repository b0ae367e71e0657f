#include <chrono>
#include <cstring>

#include "runtime/device_memory.h"
#include "runtime/device_run.h"
#include "runtime/impl.h"

namespace rhetor {

struct Session::Impl {
  // An input or state whose buffer the owner may exchange between runs, by assigning another tensor to its handle.
  struct Binding {
    const std::string* name;
    Type type;
    Tensor* tensor;                       // the caller's handle
    const void* bound = nullptr;
    std::vector<std::uint32_t> entries;   // places in `table` that hold its address
    Tensor staging = {};                  // inputs on a device: the pinned tensor that is copied there, and where to
    std::shared_ptr<void> there = nullptr;
    StateStore::State* state = nullptr;   // states
  };
  struct Copy {                           // entries of `table`; bytes
    std::uint32_t from, to;
    std::size_t bytes;
  };

  ExecutablePtr executable;
  std::shared_ptr<StateStore> states;
  Tensor arena;
  std::map<std::string, Tensor> inputs;
  std::vector<Tensor> outputs;            // by index in graph.outputs()
  std::vector<Binding> bindings;
  std::vector<void*> table;
  std::vector<Copy> copies;               // after the last instruction, in order
  std::unique_ptr<DeviceRun> device;      // null: the CPU
  std::vector<std::shared_ptr<void>> outputs_there;   // on a device, by slot

  Impl(ExecutablePtr e, std::shared_ptr<StateStore> s) : executable(std::move(e)), states(std::move(s)) {
    if (!executable) fail("a session needs an executable");
    if (!states) states = std::make_shared<StateStore>();
    const Executable::Impl& x = executable->impl();
    const Type arena_type{DType::u8, Shape{static_cast<std::int64_t>(x.memory.arena_bytes)}};
    if (x.device) {
      device = std::make_unique<DeviceRun>(*x.device);
      std::shared_ptr<void> memory = cuda_allocate(*x.device, CudaMemory::device, x.memory.arena_bytes);
      void* address = memory.get();
      arena = Tensor::view(arena_type, address, std::move(memory));
    } else {
      arena = Tensor::uninitialized(arena_type);
    }
    std::vector<std::int32_t> binding_of(static_cast<std::size_t>(x.graph.size()), -1);
    for (const std::int32_t i : x.graph.input_nodes()) {
      const InputKind kind = x.graph.input_kind(i);
      if (kind == InputKind::param) continue;
      const std::string& name = x.graph.input_name(i);
      const Type& type = x.graph.node(i).outputs[0];
      binding_of[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(bindings.size());
      if (kind == InputKind::state) {
        StateStore::State& state = states->declare(name, type);
        bindings.push_back({.name = &name, .type = type, .tensor = &state.host, .entries = {}, .state = &state});
        continue;
      }
      Tensor& tensor = inputs.emplace(name, host_tensor(type)).first->second;
      bindings.push_back({.name = &name, .type = type, .tensor = &tensor, .entries = {}});
      if (device) {
        bindings.back().staging = tensor;
        bindings.back().there = cuda_allocate(*x.device, CudaMemory::device, type.bytes());
      }
    }
    make_outputs();
    for (const ValueId v : x.operands) append(v, binding_of);
    plan_copies(binding_of);
    bind();
  }

  // Memory that the caller fills or reads: on a device run, such that it can be copied without waiting.
  Tensor host_tensor(const Type& type) const {
    return device ? pinned_tensor(device->stream().device(), type) : Tensor(type);
  }

  const ValuePlace& place(ValueId v) const {
    return executable->memory().places[static_cast<std::size_t>(v.node)][static_cast<std::size_t>(v.output)];
  }

  // An output has its own buffer (place `output`), or shares another output's, or gets a copy at the end.
  void make_outputs() {
    const Graph& graph = executable->graph();
    for (std::size_t i = 0; i < graph.outputs().size(); ++i) outputs.push_back(host_tensor(graph.type(graph.outputs()[i].value)));
    if (device)
      for (const Tensor& output : outputs) outputs_there.push_back(cuda_allocate(device->stream().device(), CudaMemory::device, output.bytes()));
    for (std::size_t i = 0; i < graph.outputs().size(); ++i) {
      const ValuePlace& p = place(graph.outputs()[i].value);
      if (p.place != Place::output || p.slot == static_cast<std::int32_t>(i)) continue;
      const auto holder = std::make_shared<Tensor>(outputs[static_cast<std::size_t>(p.slot)]);
      outputs[i] = Tensor::view(outputs[i].type(), holder->raw(), holder);
    }
  }

  void append(ValueId v, const std::vector<std::int32_t>& binding_of) {
    const Executable::Impl& x = executable->impl();
    void* address = nullptr;
    if (v.valid()) {
      const ValuePlace& p = place(v);
      const auto slot = static_cast<std::size_t>(p.slot);
      switch (p.place) {
        case Place::none: break;
        case Place::arena: address = static_cast<char*>(arena.raw()) + p.offset; break;
        case Place::param:
        case Place::constant: address = const_cast<void*>(x.fixed_address(p)); break;
        case Place::output: address = device ? outputs_there[slot].get() : outputs[slot].raw(); break;
        case Place::input:
        case Place::state:
          check(binding_of[slot] >= 0, "a value lives in an input that is none");
          bindings[static_cast<std::size_t>(binding_of[slot])].entries.push_back(static_cast<std::uint32_t>(table.size()));
          break;
      }
    }
    table.push_back(address);
  }

  void plan_copies(const std::vector<std::int32_t>& binding_of) {
    const Executable::Impl& x = executable->impl();
    const auto entry = [&](ValueId v) {
      append(v, binding_of);
      return static_cast<std::uint32_t>(table.size() - 1);
    };
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      const ValueId v = x.graph.outputs()[i].value;
      const ValuePlace& p = place(v);
      const bool own_slot = p.place == Place::output && p.slot == static_cast<std::int32_t>(i);
      if (p.place == Place::output && !(device && own_slot)) continue;   // on the CPU it is there already
      const std::uint32_t from = entry(v);
      table.push_back(outputs[i].raw());
      copies.push_back({from, static_cast<std::uint32_t>(table.size() - 1), outputs[i].bytes()});
    }
    // state_copies() orders them so that memory is read before it is overwritten.
    for (const StateUpdate& update : state_copies(x.graph, x.memory)) {
      const std::uint32_t from = entry(update.value);
      const std::uint32_t to = entry({update.state, 0});
      copies.push_back({from, to, x.graph.type(update.value).bytes()});
    }
  }

  // The addresses of this run. Other memory than last time: a recording no longer fits.
  void bind() {
    for (Binding& b : bindings) {
      void* address = device ? address_on_device(b) : address_on_host(b);
      if (address == b.bound) [[likely]] continue;
      for (const std::uint32_t entry : b.entries) table[entry] = address;
      b.bound = address;
      if (device) device->forget_recording();
    }
  }

  static void check_type(const Binding& b) {
    if (b.tensor->type() != b.type || !b.tensor->defined())
      fail("'{}' was given as {}, but the graph expects {}", *b.name, b.tensor->defined() ? b.tensor->type().str() : "nothing",
           b.type.str());
  }

  static void* address_on_host(Binding& b) {
    if (b.state) StateStore::on_host(*b.state, true);
    void* address = b.tensor->raw();
    if (address == b.bound) [[likely]] return address;
    check_type(b);
    if (reinterpret_cast<std::uintptr_t>(address) % 64 != 0) *b.tensor = b.tensor->clone();
    return b.tensor->raw();
  }

  void* address_on_device(Binding& b) const {
    if (b.state) {
      if (b.tensor->defined()) check_type(b);
      return StateStore::on_device(*b.state, device->stream().device());
    }
    if (b.tensor->raw() != b.staging.raw()) {
      check_type(b);
      if (b.type.bytes()) std::memcpy(b.staging.raw(), b.tensor->raw(), b.type.bytes());
    }
    return b.there.get();
  }

  void finish() {
    for (const Copy& copy : copies)
      if (copy.bytes) std::memcpy(table[copy.to], table[copy.from], copy.bytes);
  }

  void copy_inputs() {
    for (Binding& b : bindings)
      if (b.there) device->stream().copy(b.there.get(), b.staging.raw(), b.type.bytes());
  }
  void copy_results() {
    for (const Copy& copy : copies) device->stream().copy(table[copy.to], table[copy.from], copy.bytes);
  }

  KernelArgs args(const Instruction& instruction, ThreadPool& pool) {
    return {table.data() + instruction.in, table.data() + instruction.out,
            static_cast<char*>(arena.raw()) + instruction.scratch, pool, device ? device->stream().handle() : nullptr};
  }

  void run_on_device() {
    const Executable::Impl& x = executable->impl();
    device->stream().activate();
    copy_inputs();
    device->run([&] {
      for (const Instruction& instruction : x.instructions) instruction.run(instruction.params, args(instruction, *x.pool));
    });
    copy_results();
    device->stream().synchronize();
    mark_states();
  }

  void mark_states() {
    for (const Binding& b : bindings)
      if (b.state) StateStore::written_on_device(*b.state);
  }

  void profile_on_device(const std::function<void(int, double)>& watch) {
    const Executable::Impl& x = executable->impl();
    CudaStream& stream = device->stream();
    const int count = static_cast<int>(x.instructions.size());
    stream.activate();
    stream.make_marks(count + 1);
    copy_inputs();
    stream.mark(0);
    for (int i = 0; i < count; ++i) {
      const Instruction& instruction = x.instructions[static_cast<std::size_t>(i)];
      instruction.run(instruction.params, args(instruction, *x.pool));
      stream.mark(i + 1);
    }
    copy_results();
    stream.synchronize();
    mark_states();
    for (int i = 0; i < count; ++i) watch(i, stream.seconds(i, i + 1));
  }
};

Session::Session(ExecutablePtr executable, std::shared_ptr<StateStore> states)
    : impl_(std::make_unique<Impl>(std::move(executable), std::move(states))) {}
Session::~Session() = default;
Session::Session(Session&&) noexcept = default;

Tensor& Session::input(const std::string& name) {
  const auto found = impl_->inputs.find(name);
  if (found != impl_->inputs.end()) return found->second;
  std::string known;
  for (const auto& [input, tensor] : impl_->inputs) known += (known.empty() ? "" : ", ") + input;
  fail("the executable has no input '{}'; its inputs are: {}", name, known);
}

const Tensor& Session::output(const std::string& name) const {
  const auto& outputs = impl_->executable->graph().outputs();
  std::string known;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (outputs[i].name == name) return impl_->outputs[i];
    known += (known.empty() ? "" : ", ") + outputs[i].name;
  }
  fail("the executable has no output '{}'; its outputs are: {}", name, known);
}

Tensor& Session::state(const std::string& name) {
  const Graph& graph = impl_->executable->graph();
  const ValueId id = graph.find_input(name);
  if (!id.valid() || graph.input_kind(id.node) != InputKind::state) fail("the executable has no state '{}'", name);
  return impl_->states->get(name, graph.type(id));
}

StateStore& Session::states() { return *impl_->states; }
const Executable& Session::executable() const { return *impl_->executable; }

void Session::run() {
  Impl& s = *impl_;
  s.bind();
  if (s.device) return s.run_on_device();
  const Executable::Impl& x = s.executable->impl();
  for (const Instruction& instruction : x.instructions) instruction.run(instruction.params, s.args(instruction, *x.pool));
  s.finish();
}

double Session::run_timed() {
  const auto start = std::chrono::steady_clock::now();
  run();
  if (impl_->device) return impl_->device->stream().seconds(0, 1);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void Session::run_profiled(const std::function<void(int, double)>& watch) {
  Impl& s = *impl_;
  s.bind();
  if (s.device) return s.profile_on_device(watch);
  const Executable::Impl& x = s.executable->impl();
  int index = 0;
  for (const Instruction& instruction : x.instructions) {
    const auto start = std::chrono::steady_clock::now();
    instruction.run(instruction.params, s.args(instruction, *x.pool));
    watch(index++, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  s.finish();
}

}  // namespace rhetor
