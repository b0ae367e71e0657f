// Rows by index: embedding, gather, take_along (memory-bound: the rows moved, once read and once written), and their gradients
// embedding_grad, scatter_add, put_along_add. Gradients are split over the rows written, each summed in the order of the indices: the
// result does not depend on the threads. An index out of range reads row 0, and adds nothing.
#include <cstring>

#include "cpu/families.h"
#include "cpu/kernel_util.h"

namespace rhetor {
namespace {

// x seen as [outer, size, inner] around the indexed dim.
struct Rows {
  std::int64_t outer = 1, size = 1, inner = 1, count = 1;  // count: indices
  DType dtype = DType::f32, index = DType::i32;
};

Rows around(const KernelRequest& request, int axis) {
  const Shape& x = request.in[0].shape;
  return {.outer = x.elements(0, axis), .size = x[axis], .inner = x.elements(axis + 1, x.rank()),
          .count = request.in[1].elements(), .dtype = request.in[0].dtype, .index = request.in[1].dtype};
}
int axis_of(const KernelRequest& request) {
  return normalize_axis(request.node.attrs.i("axis"), request.in[0].shape.rank(), request.node.op->name);
}

// ---- embedding, gather ---------------------------------------------------------------------------------------
void run_gather(const void* opaque, const KernelArgs& args) {
  const auto& r = *static_cast<const Rows*>(opaque);
  const auto row = static_cast<std::int64_t>(byte_size(r.dtype)) * r.inner;
  const auto* x = static_cast<const char*>(args.in[0]);
  auto* out = static_cast<char*>(args.out[0]);
  const std::int64_t rows = r.outer * r.count, tasks = task_count(args.pool, rows, static_cast<double>(row));
  run_tasks(args.pool, tasks, [&](int task) {
    for (std::int64_t i = part_begin(rows, tasks, task); i < part_begin(rows, tasks, task + 1); ++i) {
      std::int64_t index = read_index(args.in[1], r.index, i % r.count);
      if (index < 0 || index >= r.size) index = 0;
      std::memcpy(out + i * row, x + (i / r.count * r.size + index) * row, static_cast<std::size_t>(row));
    }
  });
}
Kernel prepare_embedding(const KernelRequest& request) { return {.run = run_gather, .params = std::make_shared<Rows>(around(request, 0))}; }
Kernel prepare_gather(const KernelRequest& request) {
  return {.run = run_gather, .params = std::make_shared<Rows>(around(request, axis_of(request)))};
}
// A table with no rows has nothing to stand in for a bad index.
std::string refuse_empty(const KernelRequest& request) { return request.in[0].elements() == 0 ? "the table is empty" : ""; }

// ---- sums into rows ---------------------------------------------------------------------------------------------
inline float as_float(float v) { return v; }
inline float as_float(bf16 v) { return v.to_float(); }
inline float as_float(f16 v) { return v.to_float(); }

template <class From>
void add_row(float* to, const From* from, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) to[i] += as_float(from[i]);
}

// Adds updates [outer, count, inner] into the rows [low, high) of out [outer, size, inner].
template <class From>
void add_rows(const Rows& r, const From* updates, const void* indices, float* out, std::int64_t low, std::int64_t high) {
  for (std::int64_t k = 0; k < r.count; ++k) {
    const std::int64_t index = read_index(indices, r.index, k);
    if (index < low || index >= high) continue;
    for (std::int64_t o = 0; o < r.outer; ++o)
      add_row(out + (o * r.size + index) * r.inner, updates + (o * r.count + k) * r.inner, r.inner);
  }
}

// dy [count, inner] summed into rows of a zeroed f32 table [size, inner].
void run_embedding_grad(const void* opaque, const KernelArgs& args) {
  const auto& r = *static_cast<const Rows*>(opaque);
  auto* out = static_cast<float*>(args.out[0]);
  const std::int64_t tasks = task_count(args.pool, r.size, static_cast<double>(r.inner));
  run_tasks(args.pool, tasks, [&](int task) {
    const std::int64_t low = part_begin(r.size, tasks, task), high = part_begin(r.size, tasks, task + 1);
    std::memset(out + low * r.inner, 0, static_cast<std::size_t>((high - low) * r.inner) * 4);
    with_float(r.dtype, [&](auto z) { add_rows(r, static_cast<const decltype(z)*>(args.in[0]), args.in[1], out, low, high); });
  });
}
Kernel prepare_embedding_grad(const KernelRequest& request) {
  auto r = std::make_shared<Rows>();
  *r = {.outer = 1, .size = request.out[0].shape[0], .inner = request.out[0].shape[1], .count = request.in[1].elements(),
        .dtype = request.in[0].dtype, .index = request.in[1].dtype};
  return {.run = run_embedding_grad, .params = r};
}

// The operand as f32 sums to add into: the result itself if it is f32 (copied there unless it is in place), else f32 scratch, since
// a narrow float would round after every addition.
float* begin_sums(const Rows& r, const KernelArgs& args) {
  const std::int64_t n = r.outer * r.size * r.inner;
  float* sums = static_cast<float*>(r.dtype == DType::f32 ? args.out[0] : args.scratch);
  if (sums == args.in[0]) return sums;
  with_float(r.dtype, [&](auto z) {
    const auto* x = static_cast<const decltype(z)*>(args.in[0]);
    args.pool.parallel_for(n, 16384, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) sums[i] = as_float(x[i]);
    });
  });
  return sums;
}
void end_sums(const Rows& r, const KernelArgs& args, const float* sums) {
  if (r.dtype == DType::f32) return;
  with_float(r.dtype, [&](auto z) {
    using T = decltype(z);
    auto* out = static_cast<T*>(args.out[0]);
    args.pool.parallel_for(r.outer * r.size * r.inner, 16384, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) out[i] = from_double<T>(static_cast<double>(sums[i]));
    });
  });
}
std::uint64_t sums_scratch(const Rows& r) {
  return r.dtype == DType::f32 ? 0 : static_cast<std::uint64_t>(r.outer * r.size * r.inner) * 4;
}
std::string refuse_not_float(const KernelRequest& request) {
  return is_fast_float(request.in[0].dtype) ? "" : "sums f32, bf16 and f16";
}

void run_scatter_add(const void* opaque, const KernelArgs& args) {
  const auto& r = *static_cast<const Rows*>(opaque);
  float* out = begin_sums(r, args);
  const double updates_per_row = static_cast<double>(r.outer * r.count * r.inner) / static_cast<double>(std::max<std::int64_t>(r.size, 1));
  const std::int64_t tasks = task_count(args.pool, r.size, updates_per_row);
  run_tasks(args.pool, tasks, [&](int task) {
    with_float(r.dtype, [&](auto z) {
      add_rows(r, static_cast<const decltype(z)*>(args.in[2]), args.in[1], out, part_begin(r.size, tasks, task),
               part_begin(r.size, tasks, task + 1));
    });
  });
  end_sums(r, args, out);
}
Kernel prepare_scatter_add(const KernelRequest& request) {
  auto r = std::make_shared<Rows>(around(request, axis_of(request)));
  return {.run = run_scatter_add, .params = r, .scratch_bytes = sums_scratch(*r)};
}

// ---- along an axis: one index an element ------------------------------------------------------------------------
template <class T>
void take(const Rows& r, const T* x, const void* indices, T* out, std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {  // row = outer * count + k
    const std::int64_t o = row / r.count;
    for (std::int64_t i = 0; i < r.inner; ++i) {
      std::int64_t index = read_index(indices, r.index, row * r.inner + i);
      if (index < 0 || index >= r.size) index = 0;
      out[row * r.inner + i] = x[(o * r.size + index) * r.inner + i];
    }
  }
}
void run_take_along(const void* opaque, const KernelArgs& args) {
  const auto& r = *static_cast<const Rows*>(opaque);
  const std::int64_t rows = r.outer * r.count, tasks = task_count(args.pool, rows, 4 * static_cast<double>(r.inner));
  run_tasks(args.pool, tasks, [&](int task) {
    const std::int64_t begin = part_begin(rows, tasks, task), end = part_begin(rows, tasks, task + 1);
    const auto as = [&](auto z) {
      using T = decltype(z);
      take(r, static_cast<const T*>(args.in[0]), args.in[1], static_cast<T*>(args.out[0]), begin, end);
    };
    switch (byte_size(r.dtype)) {
      case 1: return as(std::uint8_t{});
      case 2: return as(std::uint16_t{});
      case 4: return as(std::uint32_t{});
      default: return as(std::uint64_t{});
    }
  });
}
void run_put_along_add(const void* opaque, const KernelArgs& args) {
  const auto& r = *static_cast<const Rows*>(opaque);
  float* out = begin_sums(r, args);
  const std::int64_t tasks = task_count(args.pool, r.outer, 4 * static_cast<double>(r.count * r.inner));
  run_tasks(args.pool, tasks, [&](int task) {
    with_float(r.dtype, [&](auto z) {
      const auto* updates = static_cast<const decltype(z)*>(args.in[2]);
      for (std::int64_t o = part_begin(r.outer, tasks, task); o < part_begin(r.outer, tasks, task + 1); ++o)
        for (std::int64_t at = o * r.count * r.inner; at < (o + 1) * r.count * r.inner; ++at) {
          const std::int64_t index = read_index(args.in[1], r.index, at);
          if (index >= 0 && index < r.size) out[(o * r.size + index) * r.inner + at % r.inner] += as_float(updates[at]);
        }
    });
  });
  end_sums(r, args, out);
}
std::shared_ptr<Rows> along(const KernelRequest& request) {
  const int axis = axis_of(request);
  auto r = std::make_shared<Rows>(around(request, axis));
  r->count = request.in[1].shape[axis];
  return r;
}
// The other dims of indices must be x's.
std::string refuse_along(const KernelRequest& request) {
  if (request.in[0].elements() == 0) return "the operand is empty";
  const int axis = axis_of(request);
  for (int d = 0; d < request.in[0].shape.rank(); ++d)
    if (d != axis && request.in[0].shape[d] != request.in[1].shape[d]) return "the indices have other dims than the operand";
  return "";
}
std::string refuse_put(const KernelRequest& request) {
  const std::string why = refuse_not_float(request);
  return why.empty() ? refuse_along(request) : why;
}
Kernel prepare_take_along(const KernelRequest& request) { return {.run = run_take_along, .params = along(request)}; }
Kernel prepare_put_along_add(const KernelRequest& request) {
  auto r = along(request);
  return {.run = run_put_along_add, .params = r, .scratch_bytes = sums_scratch(*r)};
}

}  // namespace

KernelRow top_k_row();  // top_k.cc

std::vector<KernelRow> embedding_rows() {
  return {{"embedding", {{"cpu.embedding", refuse_empty, prepare_embedding}}},
          {"embedding_grad", {{"cpu.embedding_grad", refuse_wide_floats, prepare_embedding_grad}}},
          {"gather", {{"cpu.gather", refuse_empty, prepare_gather}}},
          {"scatter_add", {{"cpu.scatter_add", refuse_not_float, prepare_scatter_add}}},
          {"take_along", {{"cpu.take_along", refuse_along, prepare_take_along}}},
          {"put_along_add", {{"cpu.put_along_add", refuse_put, prepare_put_along_add}}},
          top_k_row()};
}

}  // namespace rhetor
