#include <chrono>
#include <cstring>

#include "runtime/impl.h"

namespace rhetor {

Tensor& StateStore::get(const std::string& name, const Type& type) {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) return tensors_.emplace(name, Tensor(type)).first->second;
  if (found->second.type() != type)
    fail("the state '{}' is {}, but the graph expects {}", name, found->second.type().str(), type.str());
  return found->second;
}

struct Session::Impl {
  // An input or state whose buffer the owner may exchange between runs, by assigning another tensor to its handle.
  struct Binding {
    const std::string* name;
    Type type;
    Tensor* tensor;
    const void* bound = nullptr;
    std::vector<std::uint32_t> entries;   // places in `table` that hold its address
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

  Impl(ExecutablePtr e, std::shared_ptr<StateStore> s) : executable(std::move(e)), states(std::move(s)) {
    if (!executable) fail("a session needs an executable");
    if (!states) states = std::make_shared<StateStore>();
    const Executable::Impl& x = executable->impl();
    arena = Tensor::uninitialized({DType::u8, Shape{static_cast<std::int64_t>(x.memory.arena_bytes)}});
    std::vector<std::int32_t> binding_of(static_cast<std::size_t>(x.graph.size()), -1);
    for (const std::int32_t i : x.graph.input_nodes()) {
      const InputKind kind = x.graph.input_kind(i);
      if (kind == InputKind::param) continue;
      const std::string& name = x.graph.input_name(i);
      const Type& type = x.graph.node(i).outputs[0];
      Tensor& tensor = kind == InputKind::state ? states->get(name, type) : inputs.emplace(name, Tensor(type)).first->second;
      binding_of[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(bindings.size());
      bindings.push_back({&name, type, &tensor});
    }
    make_outputs();
    for (const ValueId v : x.operands) append(v, binding_of);
    plan_copies(binding_of);
    bind();
  }

  const ValuePlace& place(ValueId v) const {
    return executable->memory().places[static_cast<std::size_t>(v.node)][static_cast<std::size_t>(v.output)];
  }

  // An output has its own buffer (place `output`), or shares another output's, or gets a copy at the end.
  void make_outputs() {
    const Graph& graph = executable->graph();
    for (std::size_t i = 0; i < graph.outputs().size(); ++i) outputs.emplace_back(graph.type(graph.outputs()[i].value));
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
        case Place::param: address = const_cast<Tensor&>(x.params[slot]).raw(); break;
        case Place::constant: address = const_cast<Tensor&>(x.graph.node(p.slot).attrs.tensor("value")).raw(); break;
        case Place::output: address = outputs[slot].raw(); break;
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
      if (place(v).place == Place::output) continue;
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

  void bind() {
    for (Binding& b : bindings) {
      void* address = b.tensor->raw();
      if (address == b.bound) [[likely]] continue;
      if (b.tensor->type() != b.type || !b.tensor->defined())
        fail("'{}' was given as {}, but the graph expects {}", *b.name, b.tensor->defined() ? b.tensor->type().str() : "nothing",
             b.type.str());
      if (reinterpret_cast<std::uintptr_t>(address) % 64 != 0) {
        *b.tensor = b.tensor->clone();
        address = b.tensor->raw();
      }
      for (const std::uint32_t entry : b.entries) table[entry] = address;
      b.bound = address;
    }
  }

  void finish() {
    for (const Copy& copy : copies)
      if (copy.bytes) std::memcpy(table[copy.to], table[copy.from], copy.bytes);
  }

  KernelArgs args(const Instruction& instruction, ThreadPool& pool) {
    return {table.data() + instruction.in, table.data() + instruction.out,
            static_cast<char*>(arena.raw()) + instruction.scratch, pool};
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
  const Executable::Impl& x = s.executable->impl();
  for (const Instruction& instruction : x.instructions) instruction.run(instruction.params, s.args(instruction, *x.pool));
  s.finish();
}

void Session::run_profiled(const std::function<void(int, double)>& watch) {
  Impl& s = *impl_;
  s.bind();
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
