// layer_norm, rms_norm and their gradients, along the last dim.
//   y = (x - mean) rstd gamma + beta;  rstd = 1/sqrt(var + eps)       memory-bound: 1 read, 1 write (a row stays in cache for 3 passes)
//   dx = rstd (d - avg d - n avg(d n)), d = dy gamma, n = (x - mean) rstd;  dgamma = sum dy n, dbeta = sum dy
//                                                                      memory-bound: 2 reads, 1 write
#include <cmath>

#include "cpu/families.h"
#include "cpu/kernel_util.h"
#include "cpu/norm_internal.h"
#include "cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/norm.cc"
#include "hwy/foreach_target.h"

#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rhetor {
namespace HWY_NAMESPACE {

void widen(DType dtype, const void* from, float* to, std::int64_t n) {
  with_float(dtype, [&](auto zero_value) {
    const auto* p = static_cast<const decltype(zero_value)*>(from);
    std::int64_t i = 0;
    for (; i + lanes() <= n; i += lanes()) store(load(p + i), to + i);
    if (i < n) store_n(load_n(p + i, n - i), to + i, n - i);
  });
}

template <class X, class Y>
void forward_rows(const NormParams& p, const X* x, const float* gamma, const float* beta, Y* y, float* mean_out, float* rstd_out,
                  std::int64_t begin, std::int64_t end, float* row) {
  const std::int64_t n = p.cols;
  for (std::int64_t r = begin; r < end; ++r) {
    const float* v = row;
    if constexpr (std::is_same_v<X, float>) v = x + r * n;
    else widen(p.x, x + r * n, row, n);
    float mean = 0;
    if (p.centered) mean = sum_over(n, [&](std::int64_t i, std::int64_t k) { return load_some(v + i, k); }) / static_cast<float>(n);
    const VF center = set(mean);
    const float squares = sum_over(n, [&](std::int64_t i, std::int64_t k) {
      const VF d = hn::Sub(load_some(v + i, k), center);
      return hn::Mul(d, d);
    });
    const float rstd = 1.0f / std::sqrt(squares / static_cast<float>(n) + p.eps);
    const VF scale = set(rstd);
    Y* out = y + r * n;
    for (std::int64_t i = 0; i < n; i += lanes()) {
      const std::int64_t k = std::min(lanes(), n - i);
      const VF normal = hn::Mul(hn::Sub(load_some(v + i, k), center), scale);
      VF value = hn::Mul(normal, load_some(gamma + i, k));
      if (beta) value = hn::Add(value, load_some(beta + i, k));
      store_some(value, out + i, k);
    }
    if (mean_out) mean_out[r] = mean;
    if (rstd_out) rstd_out[r] = rstd;
  }
}

void forward(const NormParams& p, const void* x, const float* gamma, const float* beta, void* y, float* mean, float* rstd,
             std::int64_t begin, std::int64_t end, float* row) {
  with_float(p.x, [&](auto a) {
    with_float(p.y, [&](auto b) {
      forward_rows(p, static_cast<const decltype(a)*>(x), gamma, beta, static_cast<decltype(b)*>(y), mean, rstd, begin, end, row);
    });
  });
}

// dx of rows [begin, end); their share of dgamma and dbeta is added to f32 sums (dbeta null: RMS norm).
template <class T>
void backward_rows(const NormParams& p, const T* dy, const T* x, const float* gamma, const float* mean, const float* rstd, T* dx,
                   float* dgamma, float* dbeta, std::int64_t begin, std::int64_t end) {
  const std::int64_t n = p.cols;
  for (std::int64_t r = begin; r < end; ++r) {
    const T *g = dy + r * n, *v = x + r * n;
    const VF center = set(p.centered ? mean[r] : 0.0f), scale = set(rstd[r]);
    VF sum_d = zero(), sum_dn = zero();
    for (std::int64_t i = 0; i < n; i += lanes()) {
      const std::int64_t k = std::min(lanes(), n - i);
      const VF grad = load_some(g + i, k);  // 0 past the end, so are its products
      const VF normal = hn::Mul(hn::Sub(load_some(v + i, k), center), scale);
      const VF d = hn::Mul(grad, load_some(gamma + i, k));
      sum_d = hn::Add(sum_d, d);
      sum_dn = hn::MulAdd(d, normal, sum_dn);
      store_some(hn::MulAdd(grad, normal, load_some(dgamma + i, k)), dgamma + i, k);
      if (dbeta) store_some(hn::Add(grad, load_some(dbeta + i, k)), dbeta + i, k);
    }
    const float inverse = 1.0f / static_cast<float>(n);
    const VF average = set(p.centered ? sum_lanes(sum_d) * inverse : 0.0f), correlation = set(sum_lanes(sum_dn) * inverse);
    for (std::int64_t i = 0; i < n; i += lanes()) {
      const std::int64_t k = std::min(lanes(), n - i);
      const VF normal = hn::Mul(hn::Sub(load_some(v + i, k), center), scale);
      const VF d = hn::Mul(load_some(g + i, k), load_some(gamma + i, k));
      store_some(hn::Mul(scale, hn::Sub(hn::Sub(d, average), hn::Mul(normal, correlation))), dx + r * n + i, k);
    }
  }
}

void backward(const NormParams& p, const void* dy, const void* x, const float* gamma, const float* mean, const float* rstd, void* dx,
              float* dgamma, float* dbeta, std::int64_t begin, std::int64_t end) {
  with_float(p.x, [&](auto a) {
    using T = decltype(a);
    backward_rows(p, static_cast<const T*>(dy), static_cast<const T*>(x), gamma, mean, rstd, static_cast<T*>(dx), dgamma, dbeta, begin,
                  end);
  });
}

// out = sum of `parts` rows of n floats, in order, rounded to dtype.
void add_parts(const float* parts, std::int64_t stride, std::int64_t count, DType dtype, void* out, std::int64_t n) {
  with_float(dtype, [&](auto a) {
    auto* to = static_cast<decltype(a)*>(out);
    for (std::int64_t i = 0; i < n; i += lanes()) {
      const std::int64_t k = std::min(lanes(), n - i);
      VF sum = zero();
      for (std::int64_t b = 0; b < count; ++b) sum = hn::Add(sum, load_some(parts + b * stride + i, k));
      store_some(sum, to + i, k);
    }
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace rhetor
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rhetor {
HWY_EXPORT(widen);
HWY_EXPORT(forward);
HWY_EXPORT(backward);
HWY_EXPORT(add_parts);

void widen_to_f32(DType dtype, const void* from, float* to, std::int64_t n) { HWY_DYNAMIC_DISPATCH(widen)(dtype, from, to, n); }
void norm_rows(const NormParams& p, const void* x, const float* gamma, const float* beta, void* y, float* mean, float* rstd,
               std::int64_t begin, std::int64_t end, float* row) {
  HWY_DYNAMIC_DISPATCH(forward)(p, x, gamma, beta, y, mean, rstd, begin, end, row);
}

namespace {

// Blocks of rows whose parameter gradients are summed apart: a fixed number, so that the sum does not depend on the threads.
constexpr std::int64_t kBlocks = 16;

std::shared_ptr<NormParams> params_of(const KernelRequest& request, std::size_t x, std::size_t gamma) {
  auto p = std::make_shared<NormParams>();
  p->cols = request.in[x].shape.last();
  p->rows = p->cols ? request.in[x].elements() / p->cols : 0;
  p->x = p->y = request.in[x].dtype;
  p->gamma = request.in[gamma].dtype;
  return p;
}

// Scratch: gamma, beta [cols], then a row a thread.
void run_forward(const void* opaque, const KernelArgs& args) {
  const auto& p = *static_cast<const NormParams*>(opaque);
  const std::int64_t stride = static_cast<std::int64_t>(round_up(static_cast<std::uint64_t>(p.cols) * 4)) / 4;
  auto* gamma = static_cast<float*>(args.scratch);
  float* beta = p.centered ? gamma + stride : nullptr;
  float* row = gamma + 2 * stride;
  widen_to_f32(p.gamma, args.in[1], gamma, p.cols);
  if (beta) widen_to_f32(p.gamma, args.in[2], beta, p.cols);
  auto* mean = p.centered ? static_cast<float*>(args.out[1]) : nullptr;
  auto* rstd = static_cast<float*>(args.out[p.centered ? 2 : 1]);
  const std::int64_t tasks = task_count(args.pool, p.rows, static_cast<double>(p.cols));
  run_tasks(args.pool, tasks, [&](int i) {
    norm_rows(p, args.in[0], gamma, beta, args.out[0], mean, rstd, part_begin(p.rows, tasks, i), part_begin(p.rows, tasks, i + 1),
              row + i * stride);
  });
}

Kernel prepare_forward(const KernelRequest& request) {
  auto p = params_of(request, 0, 1);
  p->centered = request.node.op->name == "layer_norm";
  p->eps = static_cast<float>(request.node.attrs.f("eps"));
  return {.run = run_forward, .params = p,
          .scratch_bytes = round_up(static_cast<std::uint64_t>(p->cols) * 4) * static_cast<std::uint64_t>(2 + request.threads)};
}

// Scratch: gamma [cols], then dgamma and dbeta [blocks, cols].
void run_backward(const void* opaque, const KernelArgs& args) {
  const auto& p = *static_cast<const NormParams*>(opaque);
  const std::int64_t stride = static_cast<std::int64_t>(round_up(static_cast<std::uint64_t>(p.cols) * 4)) / 4;
  auto* gamma = static_cast<float*>(args.scratch);
  float* sums = gamma + stride;
  widen_to_f32(p.gamma, args.in[2], gamma, p.cols);
  const std::int64_t blocks = std::max<std::int64_t>(1, std::min(kBlocks, p.rows));
  const auto* mean = p.centered ? static_cast<const float*>(args.in[3]) : nullptr;
  const auto* rstd = static_cast<const float*>(args.in[p.centered ? 4 : 3]);
  run_tasks(args.pool, blocks, [&](int b) {
    float* dgamma = sums + 2 * b * stride;
    float* dbeta = p.centered ? dgamma + stride : nullptr;
    std::fill(dgamma, dgamma + 2 * stride, 0.0f);
    HWY_DYNAMIC_DISPATCH(backward)(p, args.in[0], args.in[1], gamma, mean, rstd, args.out[0], dgamma, dbeta,
                                   part_begin(p.rows, blocks, b), part_begin(p.rows, blocks, b + 1));
  });
  HWY_DYNAMIC_DISPATCH(add_parts)(sums, 2 * stride, blocks, p.gamma, args.out[1], p.cols);
  if (p.centered) HWY_DYNAMIC_DISPATCH(add_parts)(sums + stride, 2 * stride, blocks, p.gamma, args.out[2], p.cols);
}

Kernel prepare_backward(const KernelRequest& request) {
  auto p = params_of(request, 1, 2);
  p->centered = request.node.op->name == "layer_norm_grad";
  return {.run = run_backward, .params = p,
          .scratch_bytes = round_up(static_cast<std::uint64_t>(p->cols) * 4) * static_cast<std::uint64_t>(1 + 2 * kBlocks)};
}

}  // namespace

KernelRow fused_norm_row();  // norm_fused.cc

std::vector<KernelRow> norm_rows() {
  std::vector<KernelRow> rows;
  for (const std::string_view op : {"layer_norm", "rms_norm"}) rows.push_back({op, {{"cpu.norm", refuse_wide_floats, prepare_forward}}});
  for (const std::string_view op : {"layer_norm_grad", "rms_norm_grad"})
    rows.push_back({op, {{"cpu.norm_grad", refuse_wide_floats, prepare_backward}}});
  rows.push_back(fused_norm_row());
  return rows;
}

}  // namespace rhetor
#endif
