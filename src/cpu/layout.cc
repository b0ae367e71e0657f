// Ops that move elements: reshape, transpose, slice, concat, pad, iota; collectives over a group of one rank.
// Memory-bound: 1 read, 1 write.
#include <cstring>

#include "cpu/families.h"
#include "cpu/kernel_util.h"

namespace rhetor {
namespace {

std::string never(const KernelRequest&) { return ""; }

// ---- copies: reshape (an alias: nothing to do in place), collectives of one rank ---------------------------------
struct Bytes {
  std::int64_t bytes = 0;
};
void run_copy(const void* opaque, const KernelArgs& args) {
  if (args.in[0] == args.out[0]) return;
  const auto* from = static_cast<const char*>(args.in[0]);
  auto* to = static_cast<char*>(args.out[0]);
  args.pool.parallel_for(static_cast<const Bytes*>(opaque)->bytes, 65536, [&](std::int64_t begin, std::int64_t end) {
    std::memcpy(to + begin, from + begin, static_cast<std::size_t>(end - begin));
  });
}
Kernel prepare_copy(const KernelRequest& request) {
  auto p = std::make_shared<Bytes>();
  p->bytes = static_cast<std::int64_t>(request.out[0].bytes());
  return {.run = run_copy, .params = p};
}
std::string refuse_group(const KernelRequest& request) {
  return request.node.attrs.i("group") == 1 ? "" : "this process is the only rank";
}

// ---- transpose --------------------------------------------------------------------------------------------------------
struct Transpose {
  int rank = 0;                                             // collapsed
  std::int64_t size[Shape::kMaxRank], from[Shape::kMaxRank], to[Shape::kMaxRank];  // per result dim: size, strides in and out
  int unit = -1;                                            // result dim along which the operand is contiguous
  std::int64_t rows = 1;                                    // product of the dims but `unit` and the last
  int bytes = 4;
};

// Dims that stay neighbours in order become one; dims of size 1 vanish.
std::shared_ptr<Transpose> collapse(const KernelRequest& request) {
  const auto& perm = request.node.attrs.ints("perm");
  const Shape& x = request.in[0].shape;
  const auto strides = x.strides();
  auto t = std::make_shared<Transpose>();
  t->bytes = static_cast<int>(byte_size(request.in[0].dtype));
  for (const std::int64_t axis : perm) {
    const std::int64_t size = x[static_cast<int>(axis)], stride = strides[static_cast<std::size_t>(axis)];
    if (size == 1) continue;
    if (t->rank && t->from[t->rank - 1] == stride * size) {
      t->size[t->rank - 1] *= size;
      t->from[t->rank - 1] = stride;
    } else {
      t->size[t->rank] = size;
      t->from[t->rank++] = stride;
    }
  }
  if (t->rank == 0) {
    t->size[0] = x.elements();
    t->from[0] = 1;
    t->rank = 1;
  }
  std::int64_t stride = 1;
  for (int d = t->rank - 1; d >= 0; --d) {
    t->to[d] = stride;
    stride *= t->size[d];
    if (t->from[d] == 1) t->unit = d;
  }
  for (int d = 0; d < t->rank - 1; ++d)
    if (d != t->unit) t->rows *= t->size[d];
  return t;
}

constexpr std::int64_t kTile = 32;  // elements; a tile of both sides stays in the first-level cache

// out[i * out_stride + j] = in[i + j * in_stride], i in [0, rows), j in [0, columns).
template <class T>
void transpose_tile(const T* in, std::int64_t in_stride, T* out, std::int64_t out_stride, std::int64_t rows, std::int64_t columns) {
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < columns; ++j) out[i * out_stride + j] = in[i + j * in_stride];
}

// 32-bit elements by blocks of 4 x 4 in registers (128-bit vectors: every x86-64 has them). One element at a time would read a line of
// cache 16 times, and lose it in between when the strides are powers of two.
void transpose_tile(const std::uint32_t* in, std::int64_t in_stride, std::uint32_t* out, std::int64_t out_stride, std::int64_t rows,
                    std::int64_t columns) {
  using V = std::uint32_t __attribute__((vector_size(16)));
  const auto load = [](const std::uint32_t* p) {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
  };
  const std::int64_t whole_rows = rows / 4 * 4, whole_columns = columns / 4 * 4;
  for (std::int64_t j = 0; j < whole_columns; j += 4)
    for (std::int64_t i = 0; i < whole_rows; i += 4) {
      const std::uint32_t* from = in + i + j * in_stride;
      const V a = load(from), b = load(from + in_stride), c = load(from + 2 * in_stride), d = load(from + 3 * in_stride);
      const V ab = __builtin_shuffle(a, b, V{0, 4, 1, 5}), ab2 = __builtin_shuffle(a, b, V{2, 6, 3, 7});
      const V cd = __builtin_shuffle(c, d, V{0, 4, 1, 5}), cd2 = __builtin_shuffle(c, d, V{2, 6, 3, 7});
      const V lines[4] = {__builtin_shuffle(ab, cd, V{0, 1, 4, 5}), __builtin_shuffle(ab, cd, V{2, 3, 6, 7}),
                          __builtin_shuffle(ab2, cd2, V{0, 1, 4, 5}), __builtin_shuffle(ab2, cd2, V{2, 3, 6, 7})};
      for (std::int64_t k = 0; k < 4; ++k) std::memcpy(out + (i + k) * out_stride + j, &lines[k], sizeof(V));
    }
  if (whole_columns < columns)
    transpose_tile<std::uint32_t>(in + whole_columns * in_stride, in_stride, out + whole_columns, out_stride, whole_rows,
                                  columns - whole_columns);
  if (whole_rows < rows)
    transpose_tile<std::uint32_t>(in + whole_rows, in_stride, out + whole_rows * out_stride, out_stride, rows - whole_rows, columns);
}

// Row `row` of the dims that are neither `unit` nor last; elements [first, last) of the unit dim.
template <class T>
void transpose_row(const Transpose& t, const T* in, T* out, std::int64_t row, std::int64_t first, std::int64_t last) {
  const int end = t.rank - 1;
  for (int d = end - 1; d >= 0; --d) {
    if (d == t.unit) continue;
    const std::int64_t i = row % t.size[d];
    row /= t.size[d];
    in += i * t.from[d];
    out += i * t.to[d];
  }
  if (t.unit == end) {
    std::memcpy(out, in, static_cast<std::size_t>(t.size[end]) * sizeof(T));
    return;
  }
  const std::int64_t out_stride = t.to[t.unit], in_stride = t.from[end], columns = t.size[end];
  for (std::int64_t a = first; a < last; a += kTile)
    for (std::int64_t b = 0; b < columns; b += kTile) {
      const std::int64_t a_end = std::min(a + kTile, last), b_end = std::min(b + kTile, columns);
      transpose_tile(in + a + b * in_stride, in_stride, out + a * out_stride + b, out_stride, a_end - a, b_end - b);
    }
}

template <class T>
void transpose_all(const Transpose& t, const KernelArgs& args) {
  const auto* in = static_cast<const T*>(args.in[0]);
  auto* out = static_cast<T*>(args.out[0]);
  const bool copies = t.unit == t.rank - 1;
  const std::int64_t width = copies ? 1 : t.size[t.unit], strips = (width + kTile - 1) / kTile, items = t.rows * strips;
  const std::int64_t tasks = task_count(args.pool, items, static_cast<double>(t.size[t.rank - 1] * std::min(width, kTile)));
  run_tasks(args.pool, tasks, [&](int task) {
    for (std::int64_t i = part_begin(items, tasks, task); i < part_begin(items, tasks, task + 1); ++i) {
      const std::int64_t first = i % strips * kTile;
      transpose_row(t, in, out, i / strips, first, std::min(first + kTile, width));
    }
  });
}

void run_transpose(const void* opaque, const KernelArgs& args) {
  const auto& t = *static_cast<const Transpose*>(opaque);
  switch (t.bytes) {
    case 1: return transpose_all<std::uint8_t>(t, args);
    case 2: return transpose_all<std::uint16_t>(t, args);
    case 4: return transpose_all<std::uint32_t>(t, args);
    default: return transpose_all<std::uint64_t>(t, args);
  }
}
std::string refuse_transpose(const KernelRequest& request) { return request.in[0].elements() == 0 ? "the operand is empty" : ""; }
Kernel prepare_transpose(const KernelRequest& request) { return {.run = run_transpose, .params = collapse(request)}; }

// ---- slice ---------------------------------------------------------------------------------------------------------------
struct Slice {
  std::int64_t outer = 1, inner = 1, size = 1, begin = 0, count = 0, step = 1;  // inner in bytes
};
void run_slice(const void* opaque, const KernelArgs& args) {
  const auto& s = *static_cast<const Slice*>(opaque);
  const auto* in = static_cast<const char*>(args.in[0]);
  auto* out = static_cast<char*>(args.out[0]);
  const std::int64_t run = s.step == 1 ? s.count : 1, pieces = s.step == 1 ? 1 : s.count;  // rows a copy, copies an outer index
  const std::int64_t items = s.outer * pieces, tasks = task_count(args.pool, items, static_cast<double>(run * s.inner), 65536);
  run_tasks(args.pool, tasks, [&](int task) {
    for (std::int64_t i = part_begin(items, tasks, task); i < part_begin(items, tasks, task + 1); ++i) {
      const std::int64_t row = s.begin + i % pieces * s.step;
      std::memcpy(out + i * run * s.inner, in + (i / pieces * s.size + row) * s.inner, static_cast<std::size_t>(run * s.inner));
    }
  });
}
Kernel prepare_slice(const KernelRequest& request) {
  const Shape& x = request.in[0].shape;
  const int axis = normalize_axis(request.node.attrs.i("axis"), x.rank(), "slice");
  auto s = std::make_shared<Slice>();
  *s = {.outer = x.elements(0, axis), .inner = x.elements(axis + 1, x.rank()) * static_cast<std::int64_t>(byte_size(request.in[0].dtype)),
        .size = x[axis], .begin = request.node.attrs.i("begin"), .count = request.out[0].shape[axis], .step = request.node.attrs.i("step")};
  return {.run = run_slice, .params = s};
}

// ---- concat ---------------------------------------------------------------------------------------------------------------
struct Concat {
  std::int64_t outer = 1, row = 0;   // bytes of an outer row of the result
  std::vector<std::int64_t> parts;   // bytes of an outer row of each operand
};
void run_concat(const void* opaque, const KernelArgs& args) {
  const auto& c = *static_cast<const Concat*>(opaque);
  auto* out = static_cast<char*>(args.out[0]);
  const std::int64_t tasks = task_count(args.pool, c.outer, static_cast<double>(c.row), 65536);
  run_tasks(args.pool, tasks, [&](int task) {
    for (std::int64_t i = part_begin(c.outer, tasks, task); i < part_begin(c.outer, tasks, task + 1); ++i) {
      char* to = out + i * c.row;
      for (std::size_t k = 0; k < c.parts.size(); ++k) {
        std::memcpy(to, static_cast<const char*>(args.in[k]) + i * c.parts[k], static_cast<std::size_t>(c.parts[k]));
        to += c.parts[k];
      }
    }
  });
}
Kernel prepare_concat(const KernelRequest& request) {
  const int axis = normalize_axis(request.node.attrs.i("axis"), request.out[0].shape.rank(), "concat");
  auto c = std::make_shared<Concat>();
  c->outer = request.out[0].shape.elements(0, axis);
  const auto bytes = static_cast<std::int64_t>(byte_size(request.out[0].dtype));
  c->row = request.out[0].shape.elements(axis, request.out[0].shape.rank()) * bytes;
  for (const Type& part : request.in) c->parts.push_back(part.shape.elements(axis, part.shape.rank()) * bytes);
  return {.run = run_concat, .params = c};
}

// ---- pad ------------------------------------------------------------------------------------------------------------------
struct Pad {
  Shape in, out;
  std::vector<std::int64_t> before, to;  // `to`: strides of the result
  int bytes = 4;
  std::uint64_t value = 0;               // the element's bits
};
void run_pad(const void* opaque, const KernelArgs& args) {
  const auto& p = *static_cast<const Pad*>(opaque);
  auto* out = static_cast<char*>(args.out[0]);
  const auto* in = static_cast<const char*>(args.in[0]);
  args.pool.parallel_for(p.out.elements(), 16384, [&](std::int64_t begin, std::int64_t end) {
    if (p.value == 0) std::memset(out + begin * p.bytes, 0, static_cast<std::size_t>((end - begin) * p.bytes));
    else for (std::int64_t i = begin; i < end; ++i) std::memcpy(out + i * p.bytes, &p.value, static_cast<std::size_t>(p.bytes));
  });
  const int last = p.in.rank() - 1;
  if (p.in.elements() == 0) return;
  if (last < 0) {
    std::memcpy(out, in, static_cast<std::size_t>(p.bytes));
    return;
  }
  const std::int64_t width = p.in[last] * p.bytes, rows = p.in.elements() / p.in[last];
  const std::int64_t tasks = task_count(args.pool, rows, static_cast<double>(width), 65536);
  run_tasks(args.pool, tasks, [&](int task) {
    for (std::int64_t r = part_begin(rows, tasks, task); r < part_begin(rows, tasks, task + 1); ++r) {
      std::int64_t at = p.before[static_cast<std::size_t>(last)], rest = r;
      for (int d = last - 1; d >= 0; --d) {
        at += (rest % p.in[d] + p.before[static_cast<std::size_t>(d)]) * p.to[static_cast<std::size_t>(d)];
        rest /= p.in[d];
      }
      std::memcpy(out + at * p.bytes, in + r * width, static_cast<std::size_t>(width));
    }
  });
}
Kernel prepare_pad(const KernelRequest& request) {
  auto p = std::make_shared<Pad>();
  p->in = request.in[0].shape;
  p->out = request.out[0].shape;
  p->before = request.node.attrs.ints("before");
  p->to = p->out.strides();
  p->bytes = static_cast<int>(byte_size(request.in[0].dtype));
  dispatch(request.in[0].dtype, [&](auto z) {
    const auto value = from_double<decltype(z)>(request.node.attrs.f("value"));
    std::memcpy(&p->value, &value, sizeof value);
  });
  return {.run = run_pad, .params = p};
}

// ---- iota ------------------------------------------------------------------------------------------------------------------
struct Iota {
  std::int64_t elements = 0, inner = 1, size = 1;
  DType dtype = DType::i32;
};
void run_iota(const void* opaque, const KernelArgs& args) {
  const auto& p = *static_cast<const Iota*>(opaque);
  dispatch(p.dtype, [&](auto z) {
    using T = decltype(z);
    auto* out = static_cast<T*>(args.out[0]);
    args.pool.parallel_for(p.elements, 16384, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t value = i / p.inner % p.size;
        if constexpr (std::is_integral_v<T>) out[i] = static_cast<T>(value);
        else out[i] = from_double<T>(static_cast<double>(value));
      }
    });
  });
}
Kernel prepare_iota(const KernelRequest& request) {
  const Shape& shape = request.out[0].shape;
  const int axis = normalize_axis(request.node.attrs.i("axis"), shape.rank(), "iota");
  auto p = std::make_shared<Iota>();
  *p = {.elements = shape.elements(), .inner = shape.elements(axis + 1, shape.rank()), .size = shape[axis], .dtype = request.out[0].dtype};
  return {.run = run_iota, .params = p};
}

}  // namespace

std::vector<KernelRow> layout_rows() {
  std::vector<KernelRow> rows{{"reshape", {{"cpu.reshape", never, prepare_copy}}},
                              {"transpose", {{"cpu.transpose", refuse_transpose, prepare_transpose}}},
                              {"slice", {{"cpu.slice", never, prepare_slice}}},
                              {"concat", {{"cpu.concat", never, prepare_concat}}},
                              {"pad", {{"cpu.pad", never, prepare_pad}}},
                              {"iota", {{"cpu.iota", never, prepare_iota}}}};
  for (const std::string_view op : {"all_reduce", "all_gather", "reduce_scatter", "all_to_all"})
    rows.push_back({op, {{"cpu.one_rank", refuse_group, prepare_copy}}});
  return rows;
}

}  // namespace rhetor
