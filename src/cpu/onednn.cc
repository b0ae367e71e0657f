#include "cpu/onednn.h"

#include <omp.h>

#include <algorithm>
#include <cstdlib>
#include <new>

#include "base/error.h"
#include "cpu/huge_block.h"
#include "cpu/kernel.h"
#include "cpu/library_scope.h"
#include "cpu/pack_cache.h"

namespace rhetor::onednn {
namespace {

// Everything that defines a blocked layout: two descriptions of one layout give one text.
std::string layout_text(const dnnl::memory::desc& desc) {
  const dnnl_memory_desc_t& d = desc.data;
  const dnnl_blocking_desc_t& blocking = d.format_desc.blocking;
  std::string out = fmt::format("type {} at {}:", static_cast<int>(d.data_type), d.offset0);
  for (int i = 0; i < d.ndims; ++i)
    out += fmt::format(" {}/{}+{}*{}", d.dims[i], d.padded_dims[i], d.padded_offsets[i], blocking.strides[i]);
  for (int i = 0; i < blocking.inner_nblks; ++i) out += fmt::format(" [{} of {}]", blocking.inner_blks[i], blocking.inner_idxs[i]);
  const dnnl_memory_extra_desc_t& extra = d.extra;
  if (extra.flags != dnnl_memory_extra_flag_none)
    out += fmt::format(" extra {} {} {} {}", extra.flags, extra.compensation_mask, extra.scale_adjust, extra.asymm_compensation_mask);
  return out;
}

void succeed(dnnl_status_t status, const char* what) {
  if (status != dnnl_success) fail(ErrorKind::internal, "oneDNN refused to {} (status {})", what, static_cast<int>(status));
}

}  // namespace

const dnnl::engine& engine() {
  static const dnnl::engine* one = [] {
    cpu_isa();  // hands oneDNN its limit before it looks at the processor
    return new dnnl::engine(dnnl::engine::kind::cpu, 0);
  }();
  return *one;
}

dnnl_stream_t stream() {
  thread_local const dnnl::stream mine = [] {
    omp_set_num_threads(1);  // a per-thread setting: the pool's threads are the only parallelism
    return dnnl::stream(engine());
  }();
  return mine.get();
}

std::optional<dnnl::memory::data_type> data_type(DType type) {
  switch (type) {
    case DType::f32:
      return dnnl::memory::data_type::f32;
    case DType::bf16:
      return dnnl::memory::data_type::bf16;
    case DType::i32:
      return dnnl::memory::data_type::s32;
    case DType::i8:
      return dnnl::memory::data_type::s8;
    case DType::u8:
      return dnnl::memory::data_type::u8;
    default:
      return std::nullopt;
  }
}

dnnl::memory::desc strided(const dnnl::memory::dims& dims, dnnl::memory::data_type type, const dnnl::memory::dims& strides) {
  return dnnl::memory::desc(dims, type, strides);
}

bool is_reference(const std::string& implementation) { return implementation.find("ref") != std::string::npos; }

Call::Call(dnnl::primitive primitive, std::vector<Argument> arguments)
    : primitive_(std::move(primitive)), arguments_(std::move(arguments)), storage_(make_storage()) {}

Call::~Call() {
  for (const dnnl_exec_arg_t& argument : storage_) dnnl_memory_destroy(argument.memory);
}

std::vector<dnnl_exec_arg_t> Call::make_storage() const {
  std::vector<dnnl_exec_arg_t> storage;
  for (const Argument& argument : arguments_) {
    dnnl_memory_t memory = nullptr;
    succeed(dnnl_memory_create(&memory, &argument.desc.data, engine().get(),
                               argument.fixed ? argument.fixed.get() : DNNL_MEMORY_NONE),
            "describe an argument");
    storage.push_back({argument.id, memory});
  }
  return storage;
}

void Call::run_with(std::vector<dnnl_exec_arg_t>& storage, void* const* pointers) const {
  dnnl_stream_t where = stream();
  for (std::size_t i = 0; i < storage.size(); ++i)
    if (!arguments_[i].fixed) dnnl_memory_set_data_handle_v2(storage[i].memory, pointers[i], where);
  dnnl_primitive_execute(primitive_.get(), where, static_cast<int>(storage.size()), storage.data());
}

void Call::run(void* const* pointers) const {
  const LibraryScope scope;
  if (!busy_.test_and_set(std::memory_order_acquire)) {
    run_with(storage_, pointers);
    busy_.clear(std::memory_order_release);
    return;
  }
  std::vector<dnnl_exec_arg_t> own = make_storage();
  run_with(own, pointers);
  for (const dnnl_exec_arg_t& argument : own) dnnl_memory_destroy(argument.memory);
}

std::shared_ptr<void> aligned_block(std::size_t bytes) {
  return huge_block(bytes);
}

std::shared_ptr<void> reordered(const dnnl::memory::desc& from, const Tensor& source, const Hash128& content, std::int64_t offset,
                                const dnnl::memory::desc& to) {
  const auto pack = [&](void* block) {
    void* pointers[] = {static_cast<std::byte*>(const_cast<void*>(source.raw())) + offset, block};
    reorder_call(from, to)->run(pointers);
  };
  if (from.data.format_kind == dnnl_blocked && to.data.format_kind == dnnl_blocked)
    return shared_pack(content, fmt::format("oneDNN from {} {}, to {}", offset, layout_text(from), layout_text(to)), to.get_size(), pack);
  std::shared_ptr<void> block = aligned_block(to.get_size());  // a layout private to oneDNN
  pack(block.get());
  return block;
}

std::shared_ptr<const Call> reorder_call(const dnnl::memory::desc& from, const dnnl::memory::desc& to) {
  stream();
  const dnnl::reorder::primitive_desc pd(engine(), from, engine(), to);
  return std::make_shared<const Call>(dnnl::reorder(pd), std::vector<Argument>{{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}});
}

}  // namespace rhetor::onednn
