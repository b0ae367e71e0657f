// For tests of CUDA kernels: one node's buffers on a device, guarded and poisoned, and what watches over running it. The node,
// its oracle and its tolerances are cpu/kernel_testing.h's.
#pragma once

#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "cpu/kernel_testing.h"
#include "cuda/cuda.h"

namespace rhetor {

// passes/liveness.h, whose Buffer is another one than that of cpu/kernel_testing.h.
std::vector<std::pair<int, int>> in_place_pairs(const Node& node);

// A stream, and memory that grows to the largest node seen: allocating for every run would take longer than the runs.
class DeviceRoom {
 public:
  explicit DeviceRoom(const CudaDevice& device) : device_(device), stream_(std::make_unique<CudaStream>(device)) {}
  const CudaDevice& device() const { return device_; }
  CudaStream& stream() { return *stream_; }
  char* host() { return static_cast<char*>(host_.get()); }
  char* memory() { return static_cast<char*>(memory_.get()); }
  void reserve(std::uint64_t host_bytes, std::uint64_t device_bytes) {
    grow(CudaMemory::pinned, host_bytes, host_, host_size_);
    grow(CudaMemory::device, device_bytes, memory_, memory_size_);
  }
  // A stream whose recording was cut short cannot be used again.
  void renew() { stream_ = std::make_unique<CudaStream>(device_); }

 private:
  void grow(CudaMemory kind, std::uint64_t bytes, std::shared_ptr<void>& memory, std::uint64_t& size) {
    if (bytes <= size) return;
    memory.reset();
    size = std::max<std::uint64_t>(2 * bytes, 1 << 20);
    memory = cuda_allocate(device_, kind, size);
  }
  const CudaDevice& device_;
  std::unique_ptr<CudaStream> stream_;
  std::shared_ptr<void> host_, memory_;
  std::uint64_t host_size_ = 0, memory_size_ = 0;
};

// The room on the first device, made when first asked for and never taken down: at exit the driver may be gone first.
inline DeviceRoom& device_room() {
  static auto* room = new DeviceRoom(cuda_devices().at(0));
  return *room;
}

// Names what runs now, and ends the process if that takes longer than `seconds`: a kernel that hangs would use up the device's
// time.
class Deadline {
 public:
  explicit Deadline(const std::string& doing, unsigned seconds = 60) {
    std::snprintf(text(), 512, "FATAL %s: hangs\n", doing.c_str());
    signal(SIGALRM, [](int) {
      [[maybe_unused]] const auto written = write(1, text(), std::strlen(text()));
      _exit(3);
    });
    alarm(seconds);
  }
  Deadline(const Deadline&) = delete;
  Deadline& operator=(const Deadline&) = delete;
  ~Deadline() { alarm(0); }

 private:
  static char* text() {
    static char doing[512];
    return doing;
  }
};

// After an Error of a run. Most errors of the device (an illegal address) make everything after them fail: then the process ends
// here.
inline void survive(const std::string& doing, const Error& error) {
  try {
    device_room().renew();
    cuda_free_bytes(device_room().device());
  } catch (const Error&) {
    fmt::print("FATAL {}: {}\n", doing, error.what());
    std::fflush(nullptr);
    _exit(3);
  }
}

// The buffers of one node for one kernel, 64-byte aligned, a guard in front of and behind each, scratch last; all poisoned,
// operands filled. The host has an image of all but the scratch.
class DeviceBuffers {
 public:
  DeviceBuffers(DeviceRoom& room, const Prepared& p, const Kernel& kernel, bool in_place) : room_(room), p_(p), kernel_(kernel) {
    std::uint64_t at = kGuard;
    const auto place = [&](std::uint64_t bytes) {
      slots_.push_back({at, bytes});
      at = (at + bytes + kGuard + 63) / 64 * 64;
    };
    for (const Tensor& t : p.operands) place(t.defined() ? t.bytes() : 0);
    for (const Type& type : p.node.outputs) place(type.bytes());
    scratch_ = at;
    end_ = at + kernel.scratch_bytes;
    room.reserve(scratch_ + kGuard, end_ + kGuard);
    for (std::size_t k = 0; k < p.operands.size(); ++k) {
      const bool null = !p.operands[k].defined() || (k < kernel.absorbed.size() && kernel.absorbed[k]);
      in_.push_back(null ? nullptr : room.memory() + slots_[k].at);
      overwritten_.push_back(false);
    }
    for (std::size_t k = 0; k < p.node.outputs.size(); ++k) out_.push_back(room.memory() + slots_[p.operands.size() + k].at);
    if (!in_place) return;
    std::vector<std::pair<int, int>> pairs = p.node.op->traits.inplace_pairs;
    if (p.node.op->traits.inplace >= 0) pairs.emplace_back(0, p.node.op->traits.inplace);
    if (p.node.attrs.has("anchor") && !p.node.attrs.s("anchor").empty()) pairs = in_place_pairs(p.node);   // caches
    for (const auto& [result, operand] : pairs) {
      const auto r = static_cast<std::size_t>(result), o = static_cast<std::size_t>(operand);
      if (o >= in_.size() || !in_[o] || slots_[o].bytes != p.node.outputs[r].bytes()) continue;
      out_[r] = room.memory() + slots_[o].at;
      overwritten_[o] = any_ = true;
    }
  }
  // In place: is there any operand that a result may overwrite?
  bool any_in_place() const { return any_; }

  void upload() {
    std::memset(room_.host(), kPoison, scratch_);
    for (std::size_t k = 0; k < p_.operands.size(); ++k)
      if (p_.operands[k].defined()) std::memcpy(room_.host() + slots_[k].at, p_.operands[k].raw(), p_.operands[k].bytes());
    room_.stream().copy(room_.memory(), room_.host(), scratch_);
    room_.stream().fill(room_.memory() + scratch_, kPoison, kernel_.scratch_bytes + kGuard);
    room_.stream().synchronize();
  }
  void launch() {
    kernel_.run(kernel_.params.get(), {.in = in_.data(),
                                       .out = out_.data(),
                                       .scratch = room_.memory() + scratch_,
                                       .pool = test_pool(1),
                                       .stream = room_.stream().handle()});
  }
  // Waits, takes the results and says what was written that may not be: "" or a clause.
  std::string download(std::vector<Tensor>& results) {
    room_.stream().synchronize();
    room_.stream().copy(room_.host(), room_.memory(), scratch_);
    room_.stream().copy(room_.host() + scratch_, room_.memory() + end_, kGuard);
    room_.stream().synchronize();
    results.clear();
    for (std::size_t k = 0; k < out_.size(); ++k) {
      Tensor t = Tensor::uninitialized(p_.node.outputs[k]);
      std::memcpy(t.raw(), room_.host() + (static_cast<char*>(out_[k]) - room_.memory()), t.bytes());
      results.push_back(std::move(t));
    }
    return damage();
  }

 private:
  struct Slot {
    std::uint64_t at, bytes;
  };
  bool poisoned(std::uint64_t from, std::uint64_t to) const {
    for (std::uint64_t i = from; i < to; ++i)
      if (static_cast<unsigned char>(room_.host()[i]) != kPoison) return false;
    return true;
  }
  std::string damage() const {
    std::uint64_t at = 0;
    const std::size_t operands = p_.operands.size();
    for (std::size_t k = 0; k < slots_.size(); ++k) {
      if (!poisoned(at, slots_[k].at))
        return fmt::format("wrote in front of buffer {} of {} operands and {} results", k, operands, out_.size());
      at = slots_[k].at + slots_[k].bytes;
      if (k >= operands || overwritten_[k] || !p_.operands[k].defined()) continue;
      if (std::memcmp(room_.host() + slots_[k].at, p_.operands[k].raw(), p_.operands[k].bytes()) != 0)
        return fmt::format("changed operand {}", k);
    }
    if (!poisoned(at, scratch_)) return "wrote past the last result";
    if (!poisoned(scratch_, scratch_ + kGuard)) return fmt::format("wrote past its scratch of {} bytes", kernel_.scratch_bytes);
    return "";
  }

  DeviceRoom& room_;
  const Prepared& p_;
  const Kernel& kernel_;
  std::vector<Slot> slots_;
  std::uint64_t scratch_ = 0, end_ = 0;
  std::vector<const void*> in_;
  std::vector<void*> out_;
  std::vector<bool> overwritten_;
  bool any_ = false;
};

}  // namespace rhetor
