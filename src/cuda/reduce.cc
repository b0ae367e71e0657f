// reduce_sum, reduce_mean, reduce_max, reduce_min, sum_squares, argmax: refusals and parameters.
#include "cuda/reduce.h"

#include "cpu/kernel_util.h"
#include "cuda/families.h"

namespace rhetor::gpu {
namespace {

unsigned axes_of(const KernelRequest& request) {
  unsigned mask = 0;
  const int rank = request.in[0].shape.rank();
  for (const std::int64_t axis : request.node.attrs.ints("axes")) mask |= 1u << normalize_axis(axis, rank, request.node.op->name);
  return mask;
}
ReduceKind kind_of(const KernelRequest& request) {
  const std::string_view op = request.node.op->name;
  return op == "reduce_max" ? ReduceKind::max : op == "reduce_min" ? ReduceKind::min : ReduceKind::sum;
}
double divisor_of(const KernelRequest& request) {
  if (request.node.op->name != "reduce_mean" || request.out[0].elements() == 0) return 1;
  return static_cast<double>(request.in[0].elements()) / static_cast<double>(request.out[0].elements());
}

// Groups of dims, alternately reduced and kept: [r0, k0, r1, k1]; false if there are more.
bool collapse(const KernelRequest& request, ReduceProblem& p) {
  const Shape& x = request.in[0].shape;
  const unsigned mask = axes_of(request);
  std::int64_t* groups[] = {&p.r0, &p.k0, &p.r1, &p.k1};
  int at = 0;
  for (int d = 0; d < x.rank(); ++d) {
    if (x[d] == 1) continue;
    const bool reduced = (mask >> d & 1u) != 0;
    if (reduced != (at % 2 == 0)) ++at;
    if (at > 3) return false;
    *groups[at] *= x[d];
  }
  if (p.r1 == 1 && p.k1 == 1) {   // [r0, k0] is [1, 1, r1, k1]
    std::swap(p.r0, p.r1);
    std::swap(p.k0, p.k1);
  }
  p.kind = kind_of(request);
  p.dtype = request.in[0].dtype;
  p.divisor = divisor_of(request);
  return true;
}

std::string refuse_dtype(const KernelRequest& request) {
  const DType dtype = request.in[0].dtype;
  return is_float(dtype) && byte_size(dtype) == 1 ? "f8 has no reduction: dequantise first" : "";
}

template <bool rows>
std::string refuse_collapsed(const KernelRequest& request) {
  if (std::string why = refuse_dtype(request); !why.empty()) return why;
  ReduceProblem p;
  if (!collapse(request, p)) return "the reduced dims are in more than two groups";
  if (rows != (p.k1 == 1)) return rows ? "the last dim is kept" : "the last dim is reduced";
  return p.r0 * p.r1 >= (rows ? 32 : 2) ? "" : "too few elements are reduced";
}

void run_rows(const void* params, const KernelArgs& args) {
  reduce_runs(*static_cast<const ReduceProblem*>(params), args.in[0], args.out[0], args.scratch, args.stream);
}
void run_columns(const void* params, const KernelArgs& args) {
  reduce_columns(*static_cast<const ReduceProblem*>(params), args.in[0], args.out[0], args.scratch, args.stream);
}
Kernel prepare_rows(const KernelRequest& request) {
  auto p = std::make_shared<ReduceProblem>();
  collapse(request, *p);
  p->parts = reduce_runs_parts(*p, request.device->processors);
  return {.run = run_rows, .params = p, .scratch_bytes = reduce_scratch(*p)};
}
Kernel prepare_columns(const KernelRequest& request) {
  auto p = std::make_shared<ReduceProblem>();
  collapse(request, *p);
  p->parts = reduce_columns_parts(*p, request.device->processors);
  return {.run = run_columns, .params = p, .scratch_bytes = reduce_scratch(*p)};
}

// Neighbouring dims of the same side become one.
StridedReduce strided_of(const KernelRequest& request) {
  const Shape& x = request.in[0].shape;
  const unsigned mask = axes_of(request);
  StridedReduce p{.kind = kind_of(request), .dtype = request.in[0].dtype, .divisor = divisor_of(request)};
  for (int d = 0; d < x.rank(); ++d) {
    const bool reduced = (mask >> d & 1u) != 0, joins = d > 0 && (mask >> (d - 1) & 1u) == (mask >> d & 1u);
    std::int64_t *size = reduced ? p.reduced_size : p.kept_size, *stride = reduced ? p.reduced_stride : p.kept_stride;
    int& dims = reduced ? p.reduced_dims : p.kept_dims;
    (reduced ? p.reduced : p.kept) *= x[d];
    if (!joins) size[dims++] = 1;
    size[dims - 1] *= x[d];
    stride[dims - 1] = x.elements(d + 1, x.rank());
  }
  return p;
}
void run_strided(const void* params, const KernelArgs& args) {
  reduce_strided(*static_cast<const StridedReduce*>(params), args.in[0], args.out[0], args.stream);
}
Kernel prepare_strided(const KernelRequest& request) {
  return {.run = run_strided, .params = std::make_shared<StridedReduce>(strided_of(request))};
}

std::string refuse_squares(const KernelRequest& request) { return refuse_dtype(request); }
Kernel prepare_squares(const KernelRequest& request) {
  auto p = std::make_shared<ReduceProblem>();
  p->kind = ReduceKind::squares;
  p->dtype = request.in[0].dtype;
  p->r1 = request.in[0].elements();
  p->parts = reduce_runs_parts(*p, request.device->processors);
  return {.run = run_rows, .params = p, .scratch_bytes = reduce_scratch(*p)};
}

void run_argmax(const void* params, const KernelArgs& args) {
  argmax(*static_cast<const ArgmaxProblem*>(params), args.in[0], args.out[0], args.stream);
}
Kernel prepare_argmax(const KernelRequest& request) {
  const Shape& x = request.in[0].shape;
  const int axis = normalize_axis(request.node.attrs.i("axis"), x.rank(), "argmax");
  auto p = std::make_shared<ArgmaxProblem>();
  *p = {.outer = x.elements(0, axis), .size = x[axis], .inner = x.elements(axis + 1, x.rank()), .dtype = request.in[0].dtype};
  return {.run = run_argmax, .params = p};
}

}  // namespace

std::vector<KernelRow> reduce_rows() {
  std::vector<KernelRow> rows;
  for (const std::string_view op : {"reduce_sum", "reduce_mean", "reduce_max", "reduce_min"})
    rows.push_back({op,
                    {{"cuda.reduce.rows", refuse_collapsed<true>, prepare_rows},
                     {"cuda.reduce.columns", refuse_collapsed<false>, prepare_columns},
                     {"cuda.reduce", refuse_dtype, prepare_strided}}});
  rows.push_back({"sum_squares", {{"cuda.sum_squares", refuse_squares, prepare_squares}}});
  rows.push_back({"argmax", {{"cuda.argmax", refuse_dtype, prepare_argmax}}});
  return rows;
}

}  // namespace rhetor::gpu
