#include "runtime/states.h"

#include <cstring>

#include "base/error.h"

namespace rhetor {

// The memory behind one or several states (rows of one tensor).
struct StateStore::Block {
  enum class Newest { zeros, host, device, both };
  std::uint64_t bytes = 0;
  Tensor host;  // undefined until somebody needs it
  const CudaDevice* device = nullptr;
  std::shared_ptr<void> there;  // on `device`; null until a session there needs it
  Newest newest = Newest::zeros;

  void to_host() {
    if (newest == Newest::zeros) {
      if (!host.defined())
        host = Tensor(DType::u8, Shape{static_cast<std::int64_t>(bytes)});
      else if (bytes)
        std::memset(host.raw(), 0, bytes);
      newest = Newest::host;
    } else if (newest == Newest::device) {
      if (!host.defined()) host = Tensor::uninitialized({DType::u8, Shape{static_cast<std::int64_t>(bytes)}});
      cuda_copy(host.raw(), there.get(), bytes);
      newest = Newest::both;
    }
  }
  void* to_device(const CudaDevice& wanted) {
    if (there && device != &wanted) {
      to_host();
      newest = Newest::host;
      there.reset();
    }
    if (!there) {
      there = cuda_allocate(wanted, CudaMemory::device, bytes);
      device = &wanted;
      if (newest != Newest::zeros) newest = Newest::host;
    }
    if (newest == Newest::zeros) {
      cuda_zero(wanted, there.get(), bytes);
      newest = Newest::device;
    } else if (newest == Newest::host) {
      cuda_copy(there.get(), host.raw(), bytes);
      newest = Newest::both;
    }
    return there.get();
  }
};

StateStore::State& StateStore::find(const std::string& name) const {
  const auto found = states_.find(name);
  if (found == states_.end()) fail("there is no state '{}'", name);
  return found->second;
}

StateStore::State& StateStore::declare(const std::string& name, const Type& type) {
  State& state = states_[name];
  if (!state.block) {
    state.type = type;
    state.block = std::make_shared<Block>();
    state.block->bytes = type.bytes();
  } else if (state.type != type) {
    fail("the state '{}' is {}, but the graph expects {}", name, state.type.str(), type.str());
  }
  return state;
}

// Somebody may have assigned another tensor to the handle: that is the state then.
void StateStore::follow_handle(State& state) {
  if (!state.host.defined()) return;
  Block& block = *state.block;
  if (block.host.defined() && state.host.raw() == static_cast<char*>(block.host.raw()) + state.offset) return;
  state.block = std::make_shared<Block>();
  state.block->bytes = state.type.bytes();
  state.block->host = state.host;
  state.block->newest = Block::Newest::host;
  state.offset = 0;
}

Tensor& StateStore::on_host(State& state, bool written) {
  follow_handle(state);
  Block& block = *state.block;
  block.to_host();
  if (written) block.newest = Block::Newest::host;
  if (!state.host.defined())
    state.host =
        Tensor::view(state.type, static_cast<char*>(block.host.raw()) + state.offset, std::make_shared<Tensor>(block.host));
  return state.host;
}

void* StateStore::on_device(State& state, const CudaDevice& device) {
  follow_handle(state);
  return static_cast<char*>(state.block->to_device(device)) + state.offset;
}

void StateStore::written_on_device(State& state) { state.block->newest = Block::Newest::device; }

Tensor& StateStore::get(const std::string& name, const Type& type) { return on_host(declare(name, type), true); }
const Tensor& StateStore::read(const std::string& name) const { return on_host(find(name), false); }
const Type& StateStore::type(const std::string& name) const { return find(name).type; }

std::vector<std::string> StateStore::names() const {
  std::vector<std::string> out;
  for (const auto& [name, state] : states_) out.push_back(name);
  return out;
}

void StateStore::set(const std::string& name, Tensor tensor) {
  State& state = states_[name];
  const Type type = tensor.type();
  state = State{.type = type, .host = std::move(tensor), .block = std::make_shared<Block>()};
  state.block->bytes = type.bytes();
  state.block->host = state.host;
  state.block->newest = Block::Newest::host;
}

void StateStore::zero(const std::string& name) {
  State& state = find(name);
  Block& block = *state.block;
  if (block.newest == Block::Newest::device && block.there) {
    cuda_zero(*block.device, static_cast<char*>(block.there.get()) + state.offset, state.type.bytes());
  } else {
    Tensor& tensor = on_host(state, true);
    if (tensor.bytes()) std::memset(tensor.raw(), 0, tensor.bytes());
  }
}

void StateStore::share_rows(const std::string& name, const StateStore& from, std::int64_t begin, std::int64_t end) {
  State& whole = from.find(name);
  check(whole.type.shape.rank() > 0 && begin <= end && end <= whole.type.shape[0], "shared rows are rows of the state");
  follow_handle(whole);
  State& part = states_[name];
  part = State{.type = whole.type, .host = {}, .block = whole.block, .offset = whole.offset};
  part.type.shape.set_dim(0, Dim{end - begin, whole.type.shape.dim(0).name});
  if (whole.type.shape[0] > 0)
    part.offset += whole.type.bytes() / static_cast<std::uint64_t>(whole.type.shape[0]) * static_cast<std::uint64_t>(begin);
}

void StateStore::copy(const StateStore& from, const std::string& from_name, std::uint64_t from_byte, StateStore& to,
                      const std::string& to_name, std::uint64_t to_byte, std::uint64_t bytes) {
  State &source = from.find(from_name), &target = to.find(to_name);
  check(from_byte + bytes <= source.type.bytes() && to_byte + bytes <= target.type.bytes(), "copied bytes are the states'");
  if (bytes == 0) return;
  if (source.block->newest == Block::Newest::device) {
    const CudaDevice& device = *source.block->device;
    const char* base = static_cast<char*>(source.block->there.get()) + source.offset;
    void* into = on_device(target, device);
    cuda_copy(static_cast<char*>(into) + to_byte, base + from_byte, bytes);
    target.block->newest = Block::Newest::device;
    return;
  }
  const Tensor& a = on_host(source, false);
  Tensor& b = on_host(target, true);
  std::memcpy(static_cast<char*>(b.raw()) + to_byte, static_cast<const char*>(a.raw()) + from_byte, bytes);
}

}  // namespace rhetor
