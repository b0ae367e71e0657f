// attention backward, block by block from o and lse: P and dS of one block of queries and keys exist at a time. Compute-bound: five
// products, 10 D flops a visible pair. One task owns a key head of one batch row, so sums do not depend on the threads.
#include "cpu/attention_internal.h"
#include "cpu/families.h"
#include "cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/attention_grad.cc"
#include "hwy/foreach_target.h"

#include "cpu/attention-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rhetor {
namespace HWY_NAMESPACE {

struct GradPointers {
  AttentionPointers in;
  const void *d_o, *o;
  const float* lse;
  void *dq, *dk, *dv;
};

// s becomes P = exp(s - lse) and t (d_o . v) becomes dS = P (t - delta), both 0 where the query does not see the key.
inline void probabilities(float* s, float* t, const float* lse, const float* delta, std::int64_t rows, std::int64_t columns) {
  for (std::int64_t c = 0; c < columns; c += lanes()) {
    const VF shift = load(lse + c), mean = load(delta + c);
    for (std::int64_t j = 0; j < rows; ++j) {
      const VF score = load(s + j * kQueries + c);
      const auto hidden = hn::Eq(score, hn::Neg(hn::Inf(F32())));
      const VF p = hn::IfThenZeroElse(hidden, vexp(hn::Sub(score, shift)));
      store(p, s + j * kQueries + c);
      store(hn::Mul(p, hn::Sub(load(t + j * kQueries + c), mean)), t + j * kQueries + c);
    }
  }
}

template <class T>
void narrow_rows(const float* from, std::int64_t ld, T* to, std::int64_t stride, std::int64_t rows, std::int64_t d) {
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < d; j += lanes()) {
      const std::int64_t n = std::min(lanes(), d - j);
      store_some(load_some(from + i * ld + j, n), to + i * stride + j, n);
    }
}

// Key head g of batch b. Scratch floats, w = padded d: dk, dv [t,w]; q, d_o rows [64,w]; q, d_o, dq columns [d,64]; s, t [96,64];
// widened keys and values [96,d] each.
template <class T>
void backward_head(const AttentionShape& a, const GradPointers& p, std::int64_t b, std::int64_t g, float* scratch) {
  const std::int64_t d = a.d, w = a.padded_d(), key_stride = a.g * d, query_stride = a.h * d, group = a.h / a.g;
  float *dk = scratch, *dv = dk + a.t * w, *q_rows = dv + a.t * w, *do_rows = q_rows + kQueries * w;
  float *q_columns = do_rows + kQueries * w, *do_columns = q_columns + d * kQueries, *dq_columns = do_columns + d * kQueries;
  float *s = dq_columns + d * kQueries, *t = s + kKeys * kQueries, *wide_k = t + kKeys * kQueries, *wide_v = wide_k + kKeys * d;
  HWY_ALIGN float lse[kQueries], delta[kQueries];
  HWY_ALIGN std::int32_t end[kQueries];
  std::fill(dk, dk + 2 * a.t * w, 0.0f);
  const std::int64_t head = (b * a.t * a.g + g) * d;
  for (std::int64_t h = g * group; h < (g + 1) * group; ++h) {
    for (std::int64_t first = 0; first < a.s; first += kQueries) {
      const std::int64_t rows = std::min(kQueries, a.s - first), columns = (rows + lanes() - 1) / lanes() * lanes();
      const std::int64_t at = ((b * a.s + first) * a.h + h) * d;
      std::int64_t least = 0;
      const std::int64_t most = block_ends(a, p.in, b, first, rows, end, &least);
      widen_rows(static_cast<const T*>(p.in.q) + at, query_stride, q_rows, w, rows, d, a.scale);
      widen_rows(static_cast<const T*>(p.d_o) + at, query_stride, do_rows, w, rows, d, 1.0f);
      to_columns(q_rows, w, q_columns, rows, d);
      to_columns(do_rows, w, do_columns, rows, d);
      std::fill(dq_columns, dq_columns + d * kQueries, 0.0f);
      for (std::int64_t i = 0; i < kQueries; ++i) {
        lse[i] = i < rows ? p.lse[(b * a.h + h) * a.s + first + i] : 0.0f;
        if (lse[i] == -HUGE_VALF) lse[i] = 0;  // sees no key: all of its scores are masked
        delta[i] = 0;
        if (i >= rows) continue;
        const T* o = static_cast<const T*>(p.o) + at + i * query_stride;
        delta[i] = sum_over(d, [&](std::int64_t j, std::int64_t n) { return hn::Mul(load_some(o + j, n), load_some(do_rows + i * w + j, n)); });
      }
      for (std::int64_t key = 0; key < most; key += kKeys) {
        const std::int64_t keys = std::min(kKeys, most - key);
        std::int64_t ld = 0;
        const float* k = f32_rows(static_cast<const T*>(p.in.k) + head + key * key_stride, key_stride, keys, d, wide_k, &ld);
        const float* v = f32_rows(static_cast<const T*>(p.in.v) + head + key * key_stride, key_stride, keys, d, wide_v, &ld);
        product(k, ld, 1, q_columns, kQueries, s, kQueries, keys, columns, d, false);
        product(v, ld, 1, do_columns, kQueries, t, kQueries, keys, columns, d, false);
        if (key + keys > least || rows < columns) mask_scores(s, end, key, keys, columns);
        probabilities(s, t, lse, delta, keys, columns);
        product(k, 1, ld, t, kQueries, dq_columns, kQueries, d, columns, keys, true);
        product(s, kQueries, 1, do_rows, w, dv + key * w, w, keys, w, rows, true);
        product(t, kQueries, 1, q_rows, w, dk + key * w, w, keys, w, rows, true);  // q_rows carry the scale
      }
      float* dq_rows = q_rows;
      for (std::int64_t i = 0; i < rows; ++i)
        for (std::int64_t j = 0; j < d; ++j) dq_rows[i * w + j] = dq_columns[j * kQueries + i] * a.scale;
      narrow_rows(dq_rows, w, static_cast<T*>(p.dq) + at, query_stride, rows, d);
    }
  }
  narrow_rows(dk, w, static_cast<T*>(p.dk) + head, key_stride, a.t, d);
  narrow_rows(dv, w, static_cast<T*>(p.dv) + head, key_stride, a.t, d);
}

void backward(const AttentionShape& a, const void* pointers, std::int64_t b, std::int64_t g, float* scratch) {
  with_float(a.dtype, [&](auto z) { backward_head<decltype(z)>(a, *static_cast<const GradPointers*>(pointers), b, g, scratch); });
}

void run_all(const AttentionShape& a, const KernelArgs& args, std::uint64_t scratch_each) {
  const GradPointers p{
      .in = {args.in[1], args.in[2], args.in[3], a.lengths ? static_cast<const std::int32_t*>(args.in[6]) : nullptr,
             a.offsets ? static_cast<const std::int32_t*>(args.in[7]) : nullptr},
      .d_o = args.in[0], .o = args.in[4], .lse = static_cast<const float*>(args.in[5]),
      .dq = args.out[0], .dk = args.out[1], .dv = args.out[2]};
  const std::int64_t items = a.b * a.g, tasks = std::min<std::int64_t>(items, args.pool.threads());
  run_tasks(args.pool, tasks, [&](int task) {
    auto* scratch = reinterpret_cast<float*>(static_cast<char*>(args.scratch) + static_cast<std::uint64_t>(task) * scratch_each);
    for (std::int64_t i = task; i < items; i += tasks) backward(a, &p, i / a.g, i % a.g, scratch);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace rhetor
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rhetor {
namespace {
HWY_EXPORT(run_all);

std::uint64_t scratch_each(const AttentionShape& a) {
  const std::int64_t w = a.padded_d();
  return round_up(static_cast<std::uint64_t>(2 * a.t * w + 2 * kQueries * w + 3 * a.d * kQueries + 2 * kKeys * kQueries + 2 * kKeys * a.d + 64) * 4);
}

void run(const void* opaque, const KernelArgs& args) {
  const auto& a = *static_cast<const AttentionShape*>(opaque);
  HWY_DYNAMIC_DISPATCH(run_all)(a, args, scratch_each(a));
}

Kernel prepare(const KernelRequest& request) {
  auto a = std::make_shared<AttentionShape>(attention_shape(request, 1, 6));
  return {.run = run, .params = a, .scratch_bytes = scratch_each(*a) * static_cast<std::uint64_t>(request.threads),
          .detail = fmt::format("blocks of {} queries by {} keys", kQueries, kKeys)};
}

}  // namespace

Candidate attention_grad_amx_candidate();  // attention_grad_amx.cc

KernelRow attention_grad_row() {
  return {"attention_grad", {attention_grad_amx_candidate(), {"cpu.attention_grad", refuse_wide_floats, prepare}}};
}

}  // namespace rhetor
#endif
