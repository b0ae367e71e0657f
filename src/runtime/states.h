// State tensors by name, shared by sessions that work on the same state (train/eval steps; prefill/decode). They live where they were last
// written, on the host or on a device, and are copied when the other side asks. Not thread-safe.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cuda/cuda.h"
#include "tensor/tensor.h"

namespace rhetor {

class StateStore {
 public:
  // The tensor called `name` on the host, up to date, zero-filled at first use; fails if it exists with another type. It counts as
  // written: a device gets it anew for its next run. The reference is good for the store's life, its content until the next run on a device.
  Tensor& get(const std::string& name, const Type& type);
  // As above for reading; fails if there is none.
  const Tensor& read(const std::string& name) const;
  bool has(const std::string& name) const { return states_.contains(name); }
  std::vector<std::string> names() const;
  const Type& type(const std::string& name) const;
  void set(const std::string& name, Tensor tensor);
  void zero(const std::string& name);
  // `name` becomes rows [begin, end) of `from`'s tensor of that name: the same memory, wherever it is.
  void share_rows(const std::string& name, const StateStore& from, std::int64_t begin, std::int64_t end);
  // Bytes of one state into another (or elsewhere in the same), on the device if both were last written there.
  static void copy(const StateStore& from, const std::string& from_name, std::uint64_t from_byte, StateStore& to, const std::string& to_name,
                   std::uint64_t to_byte, std::uint64_t bytes);

  // ---- for sessions ------------------------------------------------------------------------------
  struct Block;
  struct State {
    Type type;
    Tensor host;                       // the handle; may be exchanged by assignment. Undefined until the host asks
    std::shared_ptr<Block> block;
    std::uint64_t offset = 0;          // bytes into the block
  };
  // Exists from now on, zeros at first, without host memory; fails if it exists with another type.
  State& declare(const std::string& name, const Type& type);
  static Tensor& on_host(State& state, bool written);
  static void* on_device(State& state, const CudaDevice& device);
  static void written_on_device(State& state);

 private:
  static void follow_handle(State& state);
  State& find(const std::string& name) const;
  mutable std::map<std::string, State> states_;
};

}  // namespace rhetor
