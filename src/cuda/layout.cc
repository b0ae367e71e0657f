// Rows of reshape, transpose, slice, concat, pad, and of collectives within a group of one.
#include "cuda/layout.h"

#include <algorithm>
#include <cstring>

#include "cuda/families.h"
#include "tensor/dtype.h"

namespace rhetor::gpu {

KernelRow cumsum_row();  // cumsum.cc

namespace {

std::string never(const KernelRequest&) { return ""; }

template <class P>
Kernel kernel_of(KernelFn run, P params) {
  Kernel kernel;
  kernel.run = run;
  kernel.params = std::make_shared<const P>(std::move(params));
  return kernel;
}
template <class P>
const P& as(const void* params) {
  return *static_cast<const P*>(params);
}

// ---- one copy --------------------------------------------------------------------------------------
Kernel prepare_copy(const KernelRequest& r) {
  return kernel_of([](const void* params, const KernelArgs& a) { copy_bytes(as<std::int64_t>(params), a.in[0], a.out[0], a.stream); },
                   static_cast<std::int64_t>(r.out[0].bytes()));
}
std::string refuse_group(const KernelRequest& r) { return r.node.attrs.i("group") == 1 ? "" : "is for a group of one rank"; }

// ---- strided copies --------------------------------------------------------------------------------
// Appends a dim of the result behind the others; joined with the one before where both step evenly through the operand.
void append(StridedCopy& c, std::int64_t size, std::int64_t from) {
  c.units *= size;
  if (size == 1) return;
  if (c.rank && c.from[c.rank - 1] == from * size) {
    c.size[c.rank - 1] *= size;
    c.from[c.rank - 1] = from;
    return;
  }
  c.size[c.rank] = size;
  c.from[c.rank++] = from;
}

// Takes units twice as large while all that is contiguous stays whole.
void finish(StridedCopy& c) {
  if (c.rank == 0) {
    c.size[0] = c.from[0] = 1;
    c.rank = 1;
  }
  const int last = c.rank - 1;
  const auto even = [&] {
    bool all = c.from[last] == 1 && c.size[last] % 2 == 0 && c.offset % 2 == 0;
    for (int d = 0; d < last; ++d) all = all && c.from[d] % 2 == 0;
    return all;
  };
  while (c.bytes < 16 && even()) {
    c.bytes *= 2;
    c.units /= 2;
    c.offset /= 2;
    c.size[last] /= 2;
    for (int d = 0; d < last; ++d) c.from[d] /= 2;
  }
  for (int d = 0; d < c.rank; ++d) c.divide[d] = Divider(c.size[d]);
}

void run_strided(const void* params, const KernelArgs& a) { strided_copy(as<StridedCopy>(params), a.in[0], a.out[0], a.stream); }

StridedCopy permuted(const KernelRequest& r) {
  StridedCopy c{.bytes = static_cast<int>(byte_size(r.in[0].dtype))};
  const auto strides = r.in[0].shape.strides();
  for (const std::int64_t d : r.node.attrs.ints("perm")) append(c, r.in[0].shape[static_cast<int>(d)], strides[static_cast<std::size_t>(d)]);
  return c;
}
Kernel prepare_transpose(const KernelRequest& r) {
  StridedCopy c = permuted(r);
  finish(c);
  return kernel_of(run_strided, c);
}

Kernel prepare_slice(const KernelRequest& r) {
  const Shape &x = r.in[0].shape, &y = r.out[0].shape;
  const Attrs& attrs = r.node.attrs;
  const int axis = normalize_axis(attrs.i("axis"), x.rank(), "slice");
  const auto strides = x.strides();
  const std::int64_t stride = strides[static_cast<std::size_t>(axis)];
  StridedCopy c{.bytes = static_cast<int>(byte_size(r.in[0].dtype)), .offset = attrs.i("begin") * stride};
  for (int d = 0; d < y.rank(); ++d) append(c, y[d], d == axis ? stride * attrs.i("step") : strides[static_cast<std::size_t>(d)]);
  finish(c);
  return kernel_of(run_strided, c);
}

// ---- transposes through tiles ----------------------------------------------------------------------
// Where the operand's contiguous dim is not the result's, lines of one are columns of the other.
TileTranspose tiles_of(const StridedCopy& c) {
  TileTranspose t{.bytes = c.bytes};
  std::int64_t to = 1;
  for (int d = c.rank - 1; d >= 0; --d) {
    if (d == c.rank - 1) {
      t.columns = c.size[d];
      t.from = c.from[d];
    } else if (c.from[d] == 1) {
      t.rows = c.size[d];
      t.to = to;
    } else {
      t.size[t.rank] = c.size[d];
      t.batch_from[t.rank] = c.from[d];
      t.batch_to[t.rank++] = to;
      t.batch *= c.size[d];
    }
    to *= c.size[d];
  }
  t.pairs = t.bytes == 2 && (t.rows | t.columns | t.from | t.to) % 2 == 0;
  for (int d = 0; d < t.rank; ++d) t.pairs = t.pairs && (t.batch_from[d] | t.batch_to[d]) % 2 == 0;
  return t;
}
std::string refuse_tiles(const KernelRequest& r) {
  const StridedCopy c = permuted(r);
  if (c.units == 0 || c.rank < 2 || c.from[c.rank - 1] == 1) return "the last dim stays the last";
  const TileTranspose t = tiles_of(c);
  if (t.rows < 8 || t.columns < 8) return "a dim of less than 8 leaves tiles empty";
  return t.batch * ((t.rows + 31) / 32) * ((t.columns + 31) / 32) < kDividerLimit ? "" : "too many tiles for a launch";
}
Kernel prepare_tiles(const KernelRequest& r) {
  return kernel_of([](const void* params, const KernelArgs& a) { tile_transpose(as<TileTranspose>(params), a.in[0], a.out[0], a.stream); },
                   tiles_of(permuted(r)));
}

// ---- pad -------------------------------------------------------------------------------------------
Kernel prepare_pad(const KernelRequest& r) {
  const Shape &x = r.in[0].shape, &y = r.out[0].shape;
  const auto& before = r.node.attrs.ints("before");
  const std::size_t bytes = byte_size(r.in[0].dtype);
  PadCopy p{.bytes = static_cast<int>(bytes), .units = y.elements()};
  std::int64_t from = 1;
  // From the last dim to the first; a dim that is not padded is a part of the one before it.
  std::int64_t joined = 1;
  int rank = 0;
  for (int d = y.rank() - 1; d >= 0; --d) {
    const std::int64_t front = before[static_cast<std::size_t>(d)];
    if (x[d] == y[d] && d > 0) {
      joined *= x[d];
      continue;
    }
    p.size[rank] = y[d] * joined;
    p.inside[rank] = x[d] * joined;
    p.before[rank] = front * joined;
    p.from[rank++] = from;
    from *= x[d] * joined;
    joined = 1;
  }
  if (rank == 0) {
    p.size[0] = p.inside[0] = p.from[0] = 1;
    rank = 1;
  }
  p.rank = rank;
  std::reverse(p.size, p.size + rank);
  std::reverse(p.inside, p.inside + rank);
  std::reverse(p.before, p.before + rank);
  std::reverse(p.from, p.from + rank);
  const int last = rank - 1;
  while (p.bytes < 16 && p.size[last] % 2 == 0 && p.inside[last] % 2 == 0 && p.before[last] % 2 == 0) {
    p.bytes *= 2;
    p.units /= 2;
    p.size[last] /= 2;
    p.inside[last] /= 2;
    p.before[last] /= 2;
    for (int d = 0; d < last; ++d) p.from[d] /= 2;
  }
  for (int d = 0; d < rank; ++d) p.divide[d] = Divider(p.size[d]);
  dispatch(r.in[0].dtype, [&](auto z) {
    const auto value = from_double<decltype(z)>(r.node.attrs.f("value"));
    for (std::size_t i = 0; i < 16; i += bytes) std::memcpy(reinterpret_cast<char*>(p.fill) + i, &value, bytes);
  });
  return kernel_of([](const void* params, const KernelArgs& a) { pad_copy(as<PadCopy>(params), a.in[0], a.out[0], a.stream); }, p);
}

// ---- concat ----------------------------------------------------------------------------------------
struct Concat {
  std::vector<JoinRows> launches;   // of up to kMaxParts operands each, pointers not yet set
};
Kernel prepare_concat(const KernelRequest& r) {
  const Shape& y = r.out[0].shape;
  const int axis = normalize_axis(r.node.attrs.i("axis"), y.rank(), "concat");
  auto bytes = static_cast<std::int64_t>(byte_size(r.out[0].dtype));
  std::vector<std::int64_t> widths;
  for (const Type& part : r.in) widths.push_back(part.shape.elements(axis, part.shape.rank()));
  const auto even = [](std::int64_t width) { return width % 2 == 0; };
  while (bytes < 16 && std::all_of(widths.begin(), widths.end(), even) && y.elements() > 0) {
    for (std::int64_t& width : widths) width /= 2;
    bytes *= 2;
  }
  Concat concat;
  std::int64_t row = 0;
  for (const std::int64_t width : widths) row += width;
  std::int64_t column = 0;
  for (std::size_t k = 0; k < widths.size(); k += kMaxParts) {
    JoinRows j{.bytes = static_cast<int>(bytes), .rows = y.elements(0, axis), .row = row, .column = column};
    for (std::size_t i = k; i < std::min(k + kMaxParts, widths.size()); ++i) {
      j.width += widths[i];
      j.begin[++j.parts] = j.width;
    }
    column += j.width;
    j.divide = Divider(std::min(j.width, kDividerLimit - 1));
    concat.launches.push_back(j);
  }
  return kernel_of(
      [](const void* params, const KernelArgs& a) {
        std::size_t k = 0;
        for (JoinRows j : as<Concat>(params).launches) {
          for (int part = 0; part < j.parts; ++part) j.in[part] = a.in[k++];
          join_rows(j, a.out[0], a.stream);
        }
      },
      concat);
}

}  // namespace

std::vector<KernelRow> layout_rows() {
  std::vector<KernelRow> rows{{"reshape", {{"cuda.reshape", never, prepare_copy}}},
                              {"transpose", {{"cuda.transpose.tiles", refuse_tiles, prepare_tiles}, {"cuda.transpose", never, prepare_transpose}}},
                              {"slice", {{"cuda.slice", never, prepare_slice}}},
                              {"concat", {{"cuda.concat", never, prepare_concat}}},
                              {"pad", {{"cuda.pad", never, prepare_pad}}},
                              cumsum_row()};
  for (const std::string_view op : {"all_reduce", "all_gather", "reduce_scatter", "all_to_all"})
    rows.push_back({op, {{"cuda.one_rank", refuse_group, prepare_copy}}});
  return rows;
}

}  // namespace rhetor::gpu
