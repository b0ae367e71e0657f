// How Rhetor calls oneDNN: single-threaded primitives, one per slice of the work, inside our own thread pool. The split is ours,
// so results depend on the number of threads only through the slices, never on timing, and concurrent requests do not
// oversubscribe.
#pragma once

#include <oneapi/dnnl/dnnl.hpp>

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "tensor/tensor.h"

namespace rhetor::onednn {

// The CPU engine; never destroyed, so that static objects may hold memory of it.
const dnnl::engine& engine();
// The calling thread's stream. First use on a thread limits OpenMP to that one thread.
dnnl_stream_t stream();

// The oneDNN name of a dtype; nothing for those it lacks on CPUs.
std::optional<dnnl::memory::data_type> data_type(DType type);

// Plain strided memory. REQUIRES: equal lengths.
dnnl::memory::desc strided(const dnnl::memory::dims& dims, dnnl::memory::data_type type, const dnnl::memory::dims& strides);

// A scalar loop inside oneDNN: correct, a hundred times too slow.
bool is_reference(const std::string& implementation);

// One argument of a primitive: given at each run, or fixed at preparation (packed weights, kept alive by `fixed`).
struct Argument {
  int id;  // DNNL_ARG_SRC, ...
  dnnl::memory::desc desc;
  std::shared_ptr<void> fixed = nullptr;
};

// A primitive with preallocated argument storage. Thread-safe: concurrent callers that find the storage taken make their own.
class Call {
 public:
  Call(dnnl::primitive primitive, std::vector<Argument> arguments);
  ~Call();
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  // pointers[i] belongs to arguments[i]; ignored for fixed ones.
  void run(void* const* pointers) const;

 private:
  std::vector<dnnl_exec_arg_t> make_storage() const;
  void run_with(std::vector<dnnl_exec_arg_t>& storage, void* const* pointers) const;

  dnnl::primitive primitive_;
  std::vector<Argument> arguments_;
  mutable std::vector<dnnl_exec_arg_t> storage_;
  mutable std::atomic_flag busy_ = ATOMIC_FLAG_INIT;
};

// 64-byte-aligned memory that frees itself.
std::shared_ptr<void> aligned_block(std::size_t bytes);
// The part of `source` that starts `offset` bytes in and has layout `from`, rewritten in layout `to`; `content` is its content_of().
// Shared with every other caller that wants the same of an equal weight (cpu/pack_cache.h).
std::shared_ptr<void> reordered(const dnnl::memory::desc& from, const Tensor& source, const Hash128& content, std::int64_t offset,
                                const dnnl::memory::desc& to);

// The same as a call with arguments {from, to}, for data known only at run time. REQUIRES: no scratch, which plain reorders need
// none of.
std::shared_ptr<const Call> reorder_call(const dnnl::memory::desc& from, const dnnl::memory::desc& to);

}  // namespace rhetor::onednn
