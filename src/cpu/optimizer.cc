// Optimiser updates, one fused pass over the parameters.
//   adamw: m = b1 m + (1-b1) d, v = b2 v + (1-b2) d d, d = g g_scale; p -= lr (m / c1 / (sqrt(v / c2) + eps) + decay p)
//          (nothing changes if `apply` is false); memory-bound: 4 reads, 3 writes.     sgd: p -= lr g_scale g; 2 reads, 1 write.
// sum_squares: memory-bound, 1 read; summed in a fixed number of parts, so that it does not depend on the threads.
#include <cmath>
#include <cstring>

#include "cpu/families.h"
#include "cpu/kernel_util.h"
#include "cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/optimizer.cc"
#include "hwy/foreach_target.h"

#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rhetor {
namespace HWY_NAMESPACE {

struct AdamwStep {
  float b1, b2, one_b1, one_b2, eps, decay, lr, inverse_c1, inverse_c2, g_scale;
};

template <class G>
void adamw_range(const AdamwStep& s, const float* p, const G* g, const float* m, const float* v, float* new_p, float* new_m, float* new_v,
                 std::int64_t begin, std::int64_t end) {
  const VF b1 = set(s.b1), b2 = set(s.b2), one_b1 = set(s.one_b1), one_b2 = set(s.one_b2), eps = set(s.eps), decay = set(s.decay);
  const VF lr = set(s.lr), c1 = set(s.inverse_c1), c2 = set(s.inverse_c2), scale = set(s.g_scale);
  for (std::int64_t i = begin; i < end; i += lanes()) {
    const std::int64_t n = std::min(lanes(), end - i);
    const VF d = hn::Mul(load_some(g + i, n), scale), old = load_some(p + i, n);
    const VF first = hn::MulAdd(b1, load_some(m + i, n), hn::Mul(one_b1, d));
    const VF second = hn::MulAdd(b2, load_some(v + i, n), hn::Mul(one_b2, hn::Mul(d, d)));
    const VF direction = hn::Div(hn::Mul(first, c1), hn::Add(hn::Sqrt(hn::Mul(second, c2)), eps));
    store_some(first, new_m + i, n);
    store_some(second, new_v + i, n);
    store_some(hn::NegMulAdd(lr, hn::MulAdd(decay, old, direction), old), new_p + i, n);
  }
}

void adamw(const void* step, DType dtype, const KernelArgs& args, std::int64_t begin, std::int64_t end) {
  const auto in = [&](int k) { return static_cast<const float*>(args.in[k]); };
  const auto out = [&](int k) { return static_cast<float*>(args.out[k]); };
  with_float(dtype, [&](auto z) {
    adamw_range(*static_cast<const AdamwStep*>(step), in(0), static_cast<const decltype(z)*>(args.in[1]), in(2), in(3), out(0), out(1),
                out(2), begin, end);
  });
}

void sgd(float rate, DType dtype, const KernelArgs& args, std::int64_t begin, std::int64_t end) {
  const auto* p = static_cast<const float*>(args.in[0]);
  auto* to = static_cast<float*>(args.out[0]);
  with_float(dtype, [&](auto z) {
    const auto* g = static_cast<const decltype(z)*>(args.in[1]);
    for (std::int64_t i = begin; i < end; i += lanes()) {
      const std::int64_t n = std::min(lanes(), end - i);
      store_some(hn::NegMulAdd(set(rate), load_some(g + i, n), load_some(p + i, n)), to + i, n);
    }
  });
}

float squares(DType dtype, const void* x, std::int64_t begin, std::int64_t end) {
  float sum = 0;
  with_float(dtype, [&](auto z) {
    const auto* p = static_cast<const decltype(z)*>(x) + begin;
    constexpr std::int64_t kRun = 4096;  // short f32 sums keep their error small
    double total = 0;
    for (std::int64_t at = 0; at < end - begin; at += kRun)
      total += static_cast<double>(sum_over(std::min(kRun, end - begin - at), [&](std::int64_t i, std::int64_t n) {
        const VF v = load_some(p + at + i, n);
        return hn::Mul(v, v);
      }));
    sum = static_cast<float>(total);
  });
  return sum;
}

void prepare_step(const double* a, float lr, float step, float g_scale, void* out) {
  auto& s = *static_cast<AdamwStep*>(out);
  const double c1 = 1 - std::pow(a[0], static_cast<double>(step)), c2 = 1 - std::pow(a[1], static_cast<double>(step));
  s = {static_cast<float>(a[0]), static_cast<float>(a[1]), static_cast<float>(1 - a[0]), static_cast<float>(1 - a[1]),
       static_cast<float>(a[2]), static_cast<float>(a[3]), lr, static_cast<float>(1 / c1), static_cast<float>(1 / c2), g_scale};
}

void run_adamw_all(const double* options, DType g, std::int64_t elements, const KernelArgs& args) {
  AdamwStep step{};
  const auto scalar = [&](int k) { return *static_cast<const float*>(args.in[k]); };
  prepare_step(options, scalar(4), scalar(5), scalar(6), &step);
  args.pool.parallel_for(elements, 16384, [&](std::int64_t begin, std::int64_t end) { adamw(&step, g, args, begin, end); });
}

}  // namespace HWY_NAMESPACE
}  // namespace rhetor
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rhetor {
namespace {
HWY_EXPORT(run_adamw_all);
HWY_EXPORT(sgd);
HWY_EXPORT(squares);

constexpr std::int64_t kParts = 64;

struct Params {
  std::int64_t elements = 0;
  DType dtype = DType::f32;   // of g (adamw, sgd) or x
  double options[4] = {};     // beta1, beta2, eps, weight_decay
  bool has_apply = false;
};

void run_adamw(const void* opaque, const KernelArgs& args) {
  const auto& p = *static_cast<const Params*>(opaque);
  if (p.has_apply && !*static_cast<const std::uint8_t*>(args.in[7])) {
    constexpr int from[] = {0, 2, 3};
    for (int k = 0; k < 3; ++k)
      if (args.out[k] != args.in[from[k]]) std::memcpy(args.out[k], args.in[from[k]], static_cast<std::size_t>(p.elements) * 4);
    return;
  }
  HWY_DYNAMIC_DISPATCH(run_adamw_all)(p.options, p.dtype, p.elements, args);
}
void run_sgd(const void* opaque, const KernelArgs& args) {
  const auto& p = *static_cast<const Params*>(opaque);
  const float rate = *static_cast<const float*>(args.in[2]) * *static_cast<const float*>(args.in[3]);
  args.pool.parallel_for(p.elements, 16384, [&](std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(sgd)(rate, p.dtype, args, begin, end);
  });
}
void run_squares(const void* opaque, const KernelArgs& args) {
  const auto& p = *static_cast<const Params*>(opaque);
  auto* parts = static_cast<float*>(args.scratch);
  const std::int64_t count = std::clamp<std::int64_t>(p.elements / 4096, 1, kParts);
  run_tasks(args.pool, count, [&](int i) {
    parts[i] = HWY_DYNAMIC_DISPATCH(squares)(p.dtype, args.in[0], part_begin(p.elements, count, i), part_begin(p.elements, count, i + 1));
  });
  double sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += static_cast<double>(parts[i]);
  *static_cast<float*>(args.out[0]) = static_cast<float>(sum);
}

std::shared_ptr<Params> params_of(const KernelRequest& request, std::size_t operand) {
  auto p = std::make_shared<Params>();
  p->elements = request.in[0].elements();
  p->dtype = request.in[operand].dtype;
  return p;
}
Kernel prepare_adamw(const KernelRequest& request) {
  auto p = params_of(request, 1);
  const Attrs& a = request.node.attrs;
  const double options[4] = {a.f("beta1"), a.f("beta2"), a.f("eps"), a.f("weight_decay")};
  std::copy(options, options + 4, p->options);
  p->has_apply = present(request, 7);
  return {.run = run_adamw, .params = p};
}
Kernel prepare_sgd(const KernelRequest& request) { return {.run = run_sgd, .params = params_of(request, 1)}; }
Kernel prepare_squares(const KernelRequest& request) {
  return {.run = run_squares, .params = params_of(request, 0), .scratch_bytes = kParts * 4};
}

}  // namespace

std::vector<KernelRow> optimizer_rows() {
  return {{"adamw", {{"cpu.adamw", refuse_wide_floats, prepare_adamw}}},
          {"sgd", {{"cpu.sgd", refuse_wide_floats, prepare_sgd}}},
          {"sum_squares", {{"cpu.sum_squares", refuse_wide_floats, prepare_squares}}}};
}

}  // namespace rhetor
#endif
