// cross_entropy: loss = lse - logits[target], lse = log sum exp(logits); and its gradient dlogits = dloss (exp(logits - lse) - onehot).
// Memory-bound: forward reads the logits once (blocks of a row are reduced while in the first-level cache), backward 1 read, 1 write.
// Sums in f32.
#include <cmath>

#include "cpu/families.h"
#include "cpu/kernel_util.h"
#include "cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/loss.cc"
#include "hwy/foreach_target.h"

#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rhetor {
namespace HWY_NAMESPACE {

constexpr std::int64_t kBlock = 2048;  // logits: 8 KiB of f32

// Running (max, sum) over blocks; the sum is rescaled when the maximum grows.
template <class T>
float log_sum_exp(const T* x, std::int64_t n) {
  float top = -HUGE_VALF, sum = 0;
  for (std::int64_t at = 0; at < n; at += kBlock) {
    const std::int64_t size = std::min(kBlock, n - at);
    const float block_top = max_over(x + at, size);
    if (block_top > top) {
      sum *= top == -HUGE_VALF ? 0.0f : std::exp(top - block_top);
      top = block_top;
    }
    const VF shift = set(top);
    sum += sum_over(size, [&](std::int64_t i, std::int64_t k) { return vexp_negative(hn::Sub(load_some(x + at + i, k), shift)); });
  }
  return top + std::log(sum);
}

template <class T>
void forward_rows(const T* x, const void* targets, DType index, std::int64_t ignore, float* loss, float* lse, std::int64_t n,
                  std::int64_t begin, std::int64_t end) {
  for (std::int64_t r = begin; r < end; ++r) {
    const std::int64_t target = read_index(targets, index, r);
    const float value = log_sum_exp(x + r * n, n);
    if (lse) lse[r] = value;
    if (!loss) continue;
    if (target == ignore) loss[r] = 0;
    else if (target < 0 || target >= n) loss[r] = std::nanf("");  // a bad target must show
    else loss[r] = value - static_cast<float>(to_double(x[r * n + target]));
  }
}

void forward(DType dtype, const void* x, const void* targets, DType index, std::int64_t ignore, float* loss, float* lse, std::int64_t n,
             std::int64_t begin, std::int64_t end) {
  with_float(dtype, [&](auto z) {
    forward_rows(static_cast<const decltype(z)*>(x), targets, index, ignore, loss, lse, n, begin, end);
  });
}

template <class T>
void backward_rows(const float* dloss, const T* x, const void* targets, DType index, std::int64_t ignore, const float* lse, T* dx,
                   std::int64_t n, std::int64_t begin, std::int64_t end) {
  for (std::int64_t r = begin; r < end; ++r) {
    const std::int64_t target = read_index(targets, index, r);
    T* out = dx + r * n;
    if (target == ignore) {
      std::memset(static_cast<void*>(out), 0, static_cast<std::size_t>(n) * sizeof(T));
      continue;
    }
    const T* in = x + r * n;
    const bool valid = target >= 0 && target < n;
    const float at_target = valid ? static_cast<float>(to_double(in[target])) : 0.0f;  // before an in-place write
    const VF scale = set(dloss[r]), shift = set(lse[r]);
    for (std::int64_t i = 0; i < n; i += lanes()) {
      const std::int64_t k = std::min(lanes(), n - i);
      store_some(hn::Mul(scale, vexp(hn::Sub(load_some(in + i, k), shift))), out + i, k);
    }
    if (valid) out[target] = from_double<T>(dloss[r] * std::expm1(at_target - lse[r]));  // p - 1 without cancellation
  }
}

void backward(DType dtype, const float* dloss, const void* x, const void* targets, DType index, std::int64_t ignore, const float* lse,
              void* dx, std::int64_t n, std::int64_t begin, std::int64_t end) {
  with_float(dtype, [&](auto z) {
    using T = decltype(z);
    backward_rows(dloss, static_cast<const T*>(x), targets, index, ignore, lse, static_cast<T*>(dx), n, begin, end);
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
  DType logits = DType::f32, index = DType::i32;
  std::int64_t ignore = -100, rows = 0, cols = 0;
};

std::shared_ptr<Params> params_of(const KernelRequest& request, std::size_t logits) {
  auto p = std::make_shared<Params>();
  p->logits = request.in[logits].dtype;
  p->index = request.in[logits + 1].dtype;
  p->ignore = request.node.attrs.i("ignore_index");
  p->cols = request.in[logits].shape.last();
  p->rows = p->cols ? request.in[logits].elements() / p->cols : 0;
  return p;
}

void run_forward(const void* opaque, const KernelArgs& args) {
  const auto& p = *static_cast<const Params*>(opaque);
  const std::int64_t tasks = task_count(args.pool, p.rows, static_cast<double>(p.cols), 4096);
  run_tasks(args.pool, tasks, [&](int i) {
    HWY_DYNAMIC_DISPATCH(forward)(p.logits, args.in[0], args.in[1], p.index, p.ignore, static_cast<float*>(args.out[0]),
                                  static_cast<float*>(args.out[1]), p.cols, part_begin(p.rows, tasks, i), part_begin(p.rows, tasks, i + 1));
  });
}

void run_backward(const void* opaque, const KernelArgs& args) {
  const auto& p = *static_cast<const Params*>(opaque);
  const std::int64_t tasks = task_count(args.pool, p.rows, static_cast<double>(p.cols), 4096);
  run_tasks(args.pool, tasks, [&](int i) {
    HWY_DYNAMIC_DISPATCH(backward)(p.logits, static_cast<const float*>(args.in[0]), args.in[1], args.in[2], p.index, p.ignore,
                                   static_cast<const float*>(args.in[3]), args.out[0], p.cols, part_begin(p.rows, tasks, i),
                                   part_begin(p.rows, tasks, i + 1));
  });
}

Kernel prepare_forward(const KernelRequest& request) { return {.run = run_forward, .params = params_of(request, 0)}; }
Kernel prepare_backward(const KernelRequest& request) { return {.run = run_backward, .params = params_of(request, 1)}; }

}  // namespace

std::vector<KernelRow> loss_rows() {
  return {{"cross_entropy", {{"cpu.cross_entropy", refuse_wide_floats, prepare_forward}}},
          {"cross_entropy_grad", {{"cpu.cross_entropy_grad", refuse_wide_floats, prepare_backward}}}};
}

}  // namespace rhetor
#endif
