// Rows of embedding, gather, take_along and of their gradients embedding_grad, scatter_add, put_along_add.
#include "cuda/gather.h"

#include <fmt/format.h>

#include <algorithm>

#include "cuda/families.h"

namespace rhetor::gpu {

KernelRow top_k_row();  // top_k.cc

namespace {

int axis_of(const KernelRequest& r) { return normalize_axis(r.node.attrs.i("axis"), r.in[0].shape.rank(), r.node.op->name); }

RowsProblem around(const KernelRequest& r, int axis) {
  const Shape& x = r.in[0].shape;
  return {.outer = x.elements(0, axis), .size = x[axis], .inner = x.elements(axis + 1, x.rank()), .count = r.in[1].elements(),
          .index = r.in[1].dtype, .dtype = r.in[0].dtype};
}
RowsProblem along(const KernelRequest& r) {
  const int axis = axis_of(r);
  RowsProblem p = around(r, axis);
  p.count = r.in[1].shape[axis];
  return p;
}

template <class P>
Kernel kernel_of(KernelFn run, P params) {
  Kernel kernel;
  kernel.run = run;
  kernel.params = std::make_shared<const P>(params);
  return kernel;
}
const RowsProblem& rows_of(const void* params) { return *static_cast<const RowsProblem*>(params); }

// A table with no rows has nothing to stand in for a bad index.
std::string refuse_empty(const KernelRequest& r) {
  return r.in[0].elements() == 0 && r.out[0].elements() > 0 ? "the table is empty" : "";
}
// The launch grid numbers the rows that are added to, and the list of a block the indices.
std::string refuse_sums(const KernelRequest& r, DType dtype, std::int64_t outer) {
  if (dtype == DType::boolean || (is_float(dtype) && byte_size(dtype) == 1)) return fmt::format("adds no {}", name(dtype));
  if (r.in[1].elements() >= std::int64_t{1} << 31) return "has more than 2^31 indices";
  return outer < 65536 ? "" : "has more than 65,535 rows in front of the axis";
}

Kernel gather_of(RowsProblem p) {
  GatherRows g{.rows = p, .units = p.inner, .bytes = static_cast<int>(byte_size(p.dtype))};
  while (g.bytes < 16 && g.units % 2 == 0 && g.units > 0) {
    g.units /= 2;
    g.bytes *= 2;
  }
  if (p.outer * p.count * g.units < kDividerLimit) {
    g.by_units = Divider(g.units);
    g.by_count = Divider(p.count);
  }
  return kernel_of(
      [](const void* params, const KernelArgs& a) { gather_rows(*static_cast<const GatherRows*>(params), a.in[0], a.in[1], a.out[0], a.stream); },
      g);
}

// ---- embedding_grad ----------------------------------------------------------------------------------
RowsProblem table_of(const KernelRequest& r) {
  const Shape& table = r.out[0].shape;
  return {.outer = 1, .size = table[0], .inner = table[1], .count = r.in[1].elements(), .index = r.in[1].dtype, .dtype = r.in[0].dtype};
}
std::string refuse_table(const KernelRequest& r) { return refuse_sums(r, r.in[0].dtype, 1); }
Kernel prepare_table(const KernelRequest& r) {
  return kernel_of(
      [](const void* params, const KernelArgs& a) { add_rows(rows_of(params), true, nullptr, a.in[1], a.in[0], a.out[0], a.stream); },
      table_of(r));
}

std::string refuse_fast(const KernelRequest& r, const RowsProblem& p) {
  if (p.dtype != DType::f32 && p.dtype != DType::bf16 && p.dtype != DType::f16) return "sums f32, bf16 and f16";
  if (p.inner % 4 != 0) return "rows are not a multiple of 4 elements";
  return refuse_sums(r, p.dtype, p.outer);
}
Kernel prepare_fast_table(const KernelRequest& r) {
  return kernel_of(
      [](const void* params, const KernelArgs& a) { sum_rows(rows_of(params), true, nullptr, a.in[1], a.in[0], a.out[0], a.stream); },
      table_of(r));
}

// A table of few rows (token types) and many tokens: each chunk of the tokens sums a table of its own in scratch, then those are summed.
constexpr std::int64_t kFewRows = 64, kManyTokens = 2048, kChunk = 256, kMostTables = 4096;
std::string refuse_chunks(const KernelRequest& r) {
  const RowsProblem p = table_of(r);
  if (p.size > kFewRows) return "the table has more than 64 rows";
  if (p.count < kManyTokens) return "there are fewer than 2,048 indices";
  return refuse_fast(r, p);
}
Kernel prepare_chunks(const KernelRequest& r) {
  RowsProblem p = table_of(r);
  const std::int64_t parts = std::max<std::int64_t>(1, std::min((p.count + kChunk - 1) / kChunk, kMostTables / p.size));
  p.chunk = (p.count + parts - 1) / parts;
  p.outer = (p.count + p.chunk - 1) / p.chunk;
  Kernel kernel = kernel_of(
      [](const void* params, const KernelArgs& a) {
        const RowsProblem& q = rows_of(params);
        sum_rows(q, true, nullptr, a.in[1], a.in[0], a.scratch, a.stream);
        sum_parts(q.outer, q.size * q.inner, a.scratch, a.out[0], a.stream);
      },
      p);
  kernel.scratch_bytes = static_cast<std::uint64_t>(p.outer * p.size * p.inner) * sizeof(float);
  return kernel;
}

// ---- the others --------------------------------------------------------------------------------------
std::string refuse_fast_scatter(const KernelRequest& r) { return refuse_fast(r, around(r, axis_of(r))); }
Kernel prepare_fast_scatter(const KernelRequest& r) {
  return kernel_of([](const void* params,
                      const KernelArgs& a) { sum_rows(rows_of(params), false, a.in[0], a.in[1], a.in[2], a.out[0], a.stream); },
                   around(r, axis_of(r)));
}
Kernel prepare_scatter_add(const KernelRequest& r) {
  return kernel_of([](const void* params,
                      const KernelArgs& a) { add_rows(rows_of(params), false, a.in[0], a.in[1], a.in[2], a.out[0], a.stream); },
                   around(r, axis_of(r)));
}
Kernel prepare_take(const KernelRequest& r) {
  return kernel_of([](const void* params, const KernelArgs& a) { take_along(rows_of(params), a.in[0], a.in[1], a.out[0], a.stream); },
                   along(r));
}
Kernel prepare_put(const KernelRequest& r) {
  return kernel_of([](const void* params,
                      const KernelArgs& a) { put_along_add(rows_of(params), a.in[0], a.in[1], a.in[2], a.out[0], a.stream); },
                   along(r));
}

}  // namespace

std::vector<KernelRow> embedding_rows() {
  return {{"embedding", {{"cuda.embedding", refuse_empty, [](const KernelRequest& r) { return gather_of(around(r, 0)); }}}},
          {"gather", {{"cuda.gather", refuse_empty, [](const KernelRequest& r) { return gather_of(around(r, axis_of(r))); }}}},
          {"take_along", {{"cuda.take_along", refuse_empty, prepare_take}}},
          {"embedding_grad",
           {{"cuda.embedding_grad.chunks", refuse_chunks, prepare_chunks},
            {"cuda.embedding_grad.wide", [](const KernelRequest& r) { return refuse_fast(r, table_of(r)); }, prepare_fast_table},
            {"cuda.embedding_grad", refuse_table, prepare_table}}},
          {"scatter_add",
           {{"cuda.scatter_add.wide", refuse_fast_scatter, prepare_fast_scatter},
            {"cuda.scatter_add", [](const KernelRequest& r) { return refuse_sums(r, r.in[0].dtype, around(r, axis_of(r)).outer); },
             prepare_scatter_add}}},
          {"put_along_add",
           {{"cuda.put_along_add", [](const KernelRequest& r) { return refuse_sums(r, r.in[0].dtype, 1); }, prepare_put}}},
          top_k_row()};
}

}  // namespace rhetor::gpu
