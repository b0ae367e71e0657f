// softmax and log_softmax along the last dim, and their gradients.
//   y = exp(x - max) / sum;  dx = y (dy - sum dy y);  log: y = x - max - log sum;  dx = dy - exp(y) sum dy
// Memory-bound: 1 read and 1 write forward, 2 reads and 1 write backward (a row stays in cache between its passes).
#include <cmath>

#include "cpu/families.h"
#include "cpu/kernel_util.h"
#include "cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/softmax.cc"
#include "hwy/foreach_target.h"

#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rhetor {
namespace HWY_NAMESPACE {

// `row`: f32 scratch for one row, used when y is narrower than f32.
template <class T>
void softmax_row(const T* x, T* y, std::int64_t n, float* row) {
  const VF top = set(max_over(x, n));
  float* e = row;
  if constexpr (std::is_same_v<T, float>) e = y;
  const float sum = sum_over(n, [&](std::int64_t i, std::int64_t k) {
    const VF v = vexp_negative(hn::Sub(load_some(x + i, k), top));
    store_some(v, e + i, k);
    return v;
  });
  const VF total = set(sum);
  for (std::int64_t i = 0; i < n; i += lanes()) {
    const std::int64_t k = std::min(lanes(), n - i);
    store_some(hn::Div(load_some(e + i, k), total), y + i, k);
  }
}

template <class T>
void log_softmax_row(const T* x, T* y, std::int64_t n) {
  const VF top = set(max_over(x, n));
  const float sum = sum_over(n, [&](std::int64_t i, std::int64_t k) { return vexp_negative(hn::Sub(load_some(x + i, k), top)); });
  const VF shift = set(std::log(sum));
  for (std::int64_t i = 0; i < n; i += lanes()) {
    const std::int64_t k = std::min(lanes(), n - i);
    store_some(hn::Sub(hn::Sub(load_some(x + i, k), top), shift), y + i, k);
  }
}

template <class T, bool logarithm>
void grad_row(const T* y, const T* dy, T* dx, std::int64_t n) {
  const VF sum = set(sum_over(n, [&](std::int64_t i, std::int64_t k) {
    const VF g = load_some(dy + i, k);
    return logarithm ? g : hn::Mul(g, load_some(y + i, k));
  }));
  for (std::int64_t i = 0; i < n; i += lanes()) {
    const std::int64_t k = std::min(lanes(), n - i);
    const VF g = load_some(dy + i, k), v = load_some(y + i, k);
    store_some(logarithm ? hn::NegMulAdd(vexp(v), sum, g) : hn::Mul(v, hn::Sub(g, sum)), dx + i, k);
  }
}

void forward(DType dtype, bool logarithm, const void* x, void* y, std::int64_t n, std::int64_t begin, std::int64_t end, float* row) {
  with_float(dtype, [&](auto z) {
    using T = decltype(z);
    const auto* from = static_cast<const T*>(x);
    auto* to = static_cast<T*>(y);
    for (std::int64_t r = begin; r < end; ++r) {
      if (logarithm) log_softmax_row(from + r * n, to + r * n, n);
      else softmax_row(from + r * n, to + r * n, n, row);
    }
  });
}

void backward(DType dtype, bool logarithm, const void* y, const void* dy, void* dx, std::int64_t n, std::int64_t begin, std::int64_t end) {
  with_float(dtype, [&](auto z) {
    using T = decltype(z);
    for (std::int64_t at = begin * n; at < end * n; at += n) {
      const T *v = static_cast<const T*>(y) + at, *g = static_cast<const T*>(dy) + at;
      if (logarithm) grad_row<T, true>(v, g, static_cast<T*>(dx) + at, n);
      else grad_row<T, false>(v, g, static_cast<T*>(dx) + at, n);
    }
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace rhetor
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rhetor {
namespace {
HWY_EXPORT(forward);
HWY_EXPORT(backward);

struct Params {
  DType dtype = DType::f32;
  bool logarithm = false;
  std::int64_t rows = 0, cols = 0;
};

std::shared_ptr<Params> params_of(const KernelRequest& request) {
  auto p = std::make_shared<Params>();
  p->dtype = request.in[0].dtype;
  p->logarithm = request.node.op->name.starts_with("log_");
  p->cols = request.in[0].shape.last();
  p->rows = p->cols ? request.in[0].elements() / p->cols : 0;
  return p;
}

void run_forward(const void* opaque, const KernelArgs& args) {
  const auto& p = *static_cast<const Params*>(opaque);
  const auto stride = round_up(static_cast<std::uint64_t>(p.cols) * 4) / 4;
  const std::int64_t tasks = task_count(args.pool, p.rows, static_cast<double>(p.cols), 4096);
  run_tasks(args.pool, tasks, [&](int i) {
    HWY_DYNAMIC_DISPATCH(forward)(p.dtype, p.logarithm, args.in[0], args.out[0], p.cols, part_begin(p.rows, tasks, i),
                                  part_begin(p.rows, tasks, i + 1), static_cast<float*>(args.scratch) + static_cast<std::uint64_t>(i) * stride);
  });
}

void run_backward(const void* opaque, const KernelArgs& args) {
  const auto& p = *static_cast<const Params*>(opaque);
  const std::int64_t tasks = task_count(args.pool, p.rows, static_cast<double>(p.cols));
  run_tasks(args.pool, tasks, [&](int i) {
    HWY_DYNAMIC_DISPATCH(backward)(p.dtype, p.logarithm, args.in[0], args.in[1], args.out[0], p.cols, part_begin(p.rows, tasks, i),
                                   part_begin(p.rows, tasks, i + 1));
  });
}

Kernel prepare_forward(const KernelRequest& request) {
  auto p = params_of(request);
  return {.run = run_forward, .params = p,
          .scratch_bytes = p->dtype == DType::f32 ? 0 : round_up(static_cast<std::uint64_t>(p->cols) * 4) * static_cast<std::uint64_t>(request.threads)};
}
Kernel prepare_backward(const KernelRequest& request) { return {.run = run_backward, .params = params_of(request)}; }

}  // namespace

std::vector<KernelRow> softmax_rows() {
  std::vector<KernelRow> rows;
  for (const std::string_view op : {"softmax", "log_softmax"}) rows.push_back({op, {{"cpu.softmax", refuse_wide_floats, prepare_forward}}});
  for (const std::string_view op : {"softmax_grad", "log_softmax_grad"})
    rows.push_back({op, {{"cpu.softmax_grad", refuse_wide_floats, prepare_backward}}});
  return rows;
}

}  // namespace rhetor
#endif
