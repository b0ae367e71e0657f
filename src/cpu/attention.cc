// attention forward: o = softmax(scale q k^T) v over the visible keys, block by block with a running maximum and sum (Milakov &
// Gimelshein 2018; Dao et al. 2022): no S x T matrix exists. Compute-bound: 4 D flops a visible pair.
// Few queries (decoding): one pass over the valid keys and values, memory-bound on them.
#include "cpu/families.h"
#include "cpu/attention_internal.h"
#include "cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/attention.cc"
#include "hwy/foreach_target.h"

#include "cpu/attention-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rhetor {
namespace HWY_NAMESPACE {

// One block of scores [rows, kQueries] (rows = keys) to probabilities relative to the running maximum; rescales the running sum and
// the output columns [d, kQueries].
void online_softmax(float* s, std::int64_t rows, std::int64_t columns, float* top, float* sum, float* out, std::int64_t d) {
  for (std::int64_t c = 0; c < columns; c += lanes()) {
    const VF old_top = load(top + c);
    VF new_top = old_top, second = old_top;
    std::int64_t j = 0;
    for (; j + 2 <= rows; j += 2) {
      new_top = hn::Max(new_top, load(s + j * kQueries + c));
      second = hn::Max(second, load(s + (j + 1) * kQueries + c));
    }
    if (j < rows) new_top = hn::Max(new_top, load(s + j * kQueries + c));
    new_top = hn::Max(new_top, second);
    // A query that has seen no key yet: subtract 0, so that exp(-inf) = 0 and not NaN.
    const VF shift = hn::IfThenZeroElse(hn::Eq(new_top, hn::Neg(hn::Inf(F32()))), new_top);
    VF total = zero(), other = zero();
    for (j = 0; j + 2 <= rows; j += 2) {
      const VF e = vexp_negative(hn::Sub(load(s + j * kQueries + c), shift));
      const VF f = vexp_negative(hn::Sub(load(s + (j + 1) * kQueries + c), shift));
      store(e, s + j * kQueries + c);
      store(f, s + (j + 1) * kQueries + c);
      total = hn::Add(total, e);
      other = hn::Add(other, f);
    }
    if (j < rows) {
      const VF e = vexp_negative(hn::Sub(load(s + j * kQueries + c), shift));
      store(e, s + j * kQueries + c);
      total = hn::Add(total, e);
    }
    total = hn::Add(total, other);
    store(new_top, top + c);
    if (hn::AllTrue(F32(), hn::Eq(old_top, new_top))) {
      store(hn::Add(load(sum + c), total), sum + c);
      continue;
    }
    const VF rescale = vexp_negative(hn::Sub(old_top, shift));
    store(hn::MulAdd(load(sum + c), rescale, total), sum + c);
    for (std::int64_t i = 0; i < d; ++i) store(hn::Mul(load(out + i * kQueries + c), rescale), out + i * kQueries + c);
  }
}

// Queries [first, first + rows) of head h of batch b.
// Scratch floats: q columns [d,64], out columns [d,64], scores [96,64], widened rows [96, d].
template <class T>
void forward_block(const AttentionShape& a, const AttentionPointers& p, std::int64_t b, std::int64_t h, std::int64_t first,
                   std::int64_t rows, T* o, float* lse, float* scratch) {
  const std::int64_t d = a.d, key_stride = a.g * d, columns = (rows + lanes() - 1) / lanes() * lanes();
  float *q_columns = scratch, *out = q_columns + d * kQueries, *scores = out + d * kQueries, *wide = scores + kKeys * kQueries;
  HWY_ALIGN float top[kQueries], sum[kQueries];
  HWY_ALIGN std::int32_t end[kQueries];
  const T* q = static_cast<const T*>(p.q) + ((b * a.s + first) * a.h + h) * d;
  widen_rows(q, a.h * d, out, d, rows, d, a.scale);  // `out` is free until it is cleared
  to_columns(out, d, q_columns, rows, d);
  std::fill(out, out + d * kQueries, 0.0f);
  std::fill(top, top + kQueries, -HUGE_VALF);
  std::fill(sum, sum + kQueries, 0.0f);
  std::int64_t least = 0;
  const std::int64_t most = block_ends(a, p, b, first, rows, end, &least);
  const std::int64_t head = (b * a.t * a.g + h / (a.h / a.g)) * d;
  for (std::int64_t key = 0; key < most; key += kKeys) {
    const std::int64_t keys = std::min(kKeys, most - key);
    std::int64_t ld = 0;
    const float* k = f32_rows(static_cast<const T*>(p.k) + head + key * key_stride, key_stride, keys, d, wide, &ld);
    product(k, ld, 1, q_columns, kQueries, scores, kQueries, keys, columns, d, false);
    if (key + keys > least || rows < columns) mask_scores(scores, end, key, keys, columns);
    online_softmax(scores, keys, columns, top, sum, out, d);
    const float* v = f32_rows(static_cast<const T*>(p.v) + head + key * key_stride, key_stride, keys, d, wide, &ld);
    product(v, 1, ld, scores, kQueries, out, kQueries, d, columns, keys, true);
  }
  for (std::int64_t i = 0; i < rows; ++i) {
    const float inverse = sum[i] > 0 || sum[i] != sum[i] ? 1.0f / sum[i] : 0.0f;
    T* to = o + ((b * a.s + first + i) * a.h + h) * d;
    float* row = q_columns;  // free now
    for (std::int64_t j = 0; j < d; ++j) row[j] = out[j * kQueries + i] * inverse;
    for (std::int64_t j = 0; j < d; j += lanes()) store_some(load_some(row + j, std::min(lanes(), d - j)), to + j, std::min(lanes(), d - j));
    if (lse) lse[(b * a.h + h) * a.s + first + i] = end[i] > 0 ? top[i] + std::log(sum[i]) : -HUGE_VALF;
  }
}

void forward(const AttentionShape& a, const AttentionPointers& p, std::int64_t b, std::int64_t h, std::int64_t first, std::int64_t rows,
             void* o, float* lse, float* scratch) {
  with_float(a.dtype, [&](auto z) { forward_block(a, p, b, h, first, rows, static_cast<decltype(z)*>(o), lse, scratch); });
}

// ---- decoding: the few queries that share a key head go over its keys together --------------------------------------------
// scores[0, keys) = q . k_j. q: one f32 row.
template <class T>
void score_row(const float* q, const T* k, std::int64_t stride, std::int64_t keys, std::int64_t d, float* scores) {
  std::int64_t j = 0;
  for (; j + 4 <= keys; j += 4) {
    const T* row = k + j * stride;
    VF s0 = zero(), s1 = zero(), s2 = zero(), s3 = zero();
    std::int64_t i = 0;
    for (; i + lanes() <= d; i += lanes()) {
      const VF x = load(q + i);
      s0 = hn::MulAdd(x, load(row + i), s0);
      s1 = hn::MulAdd(x, load(row + stride + i), s1);
      s2 = hn::MulAdd(x, load(row + 2 * stride + i), s2);
      s3 = hn::MulAdd(x, load(row + 3 * stride + i), s3);
    }
    if (i < d) {
      const VF x = load_n(q + i, d - i);
      s0 = hn::MulAdd(x, load_n(row + i, d - i), s0);
      s1 = hn::MulAdd(x, load_n(row + stride + i, d - i), s1);
      s2 = hn::MulAdd(x, load_n(row + 2 * stride + i, d - i), s2);
      s3 = hn::MulAdd(x, load_n(row + 3 * stride + i, d - i), s3);
    }
    scores[j] = sum_lanes(s0);
    scores[j + 1] = sum_lanes(s1);
    scores[j + 2] = sum_lanes(s2);
    scores[j + 3] = sum_lanes(s3);
  }
  for (; j < keys; ++j)
    scores[j] = sum_over(d, [&](std::int64_t i, std::int64_t n) { return hn::Mul(load_some(q + i, n), load_some(k + j * stride + i, n)); });
}

// out[0, d) += sum_j p_j v_j, four vectors of the row at a time.
template <class T>
void weigh_values(const float* p, const T* v, std::int64_t stride, std::int64_t keys, std::int64_t d, float* out) {
  std::int64_t i = 0;
  for (; i + 4 * lanes() <= d; i += 4 * lanes()) {
    VF s0 = load(out + i), s1 = load(out + i + lanes()), s2 = load(out + i + 2 * lanes()), s3 = load(out + i + 3 * lanes());
    for (std::int64_t j = 0; j < keys; ++j) {
      const VF x = set(p[j]);
      const T* row = v + j * stride + i;
      s0 = hn::MulAdd(x, load(row), s0);
      s1 = hn::MulAdd(x, load(row + lanes()), s1);
      s2 = hn::MulAdd(x, load(row + 2 * lanes()), s2);
      s3 = hn::MulAdd(x, load(row + 3 * lanes()), s3);
    }
    store(s0, out + i);
    store(s1, out + i + lanes());
    store(s2, out + i + 2 * lanes());
    store(s3, out + i + 3 * lanes());
  }
  for (; i < d; i += lanes()) {
    const std::int64_t n = std::min(lanes(), d - i);
    VF s = load_some(out + i, n);
    for (std::int64_t j = 0; j < keys; ++j) s = hn::MulAdd(set(p[j]), load_some(v + j * stride + i, n), s);
    store_some(s, out + i, n);
  }
}

// All queries of batch b that read key head g go over its keys together, 32 keys at a time: each key and value is fetched once.
// Scratch floats, r = queries: q rows and output rows [r, padded d], scores [r, t].
template <class T>
void decode_head(const AttentionShape& a, const AttentionPointers& p, std::int64_t b, std::int64_t g, T* o, float* lse, float* scratch) {
  constexpr std::int64_t kRun = 32;
  const std::int64_t d = a.d, w = a.padded_d(), stride = a.g * d, group = a.h / a.g, queries = a.s * group;
  float *query = scratch, *out = query + queries * w, *scores = out + queries * w;
  const T* k = static_cast<const T*>(p.k) + (b * a.t * a.g + g) * d;
  const T* v = static_cast<const T*>(p.v) + (b * a.t * a.g + g) * d;
  const auto offset = [&](std::int64_t r) { return ((b * a.s + r / group) * a.h + g * group + r % group) * d; };
  std::int64_t most = 0;
  for (std::int64_t i = 0; i < a.s; ++i) most = std::max(most, visible_end(a, p, b, i));
  for (std::int64_t r = 0; r < queries; ++r) widen_rows(static_cast<const T*>(p.q) + offset(r), d, query + r * w, w, 1, d, a.scale);
  std::fill(out, out + queries * w, 0.0f);
  for (std::int64_t key = 0; key < most; key += kRun)
    for (std::int64_t r = 0; r < queries; ++r)
      score_row(query + r * w, k + key * stride, stride, std::min(kRun, most - key), d, scores + r * a.t + key);
  for (std::int64_t r = 0; r < queries; ++r) {
    const std::int64_t end = visible_end(a, p, b, r / group);
    float* s = scores + r * a.t;
    float total = 0, top = -HUGE_VALF;
    if (end > 0) {
      top = max_over(s, end);
      const VF shift = set(top);
      total = sum_over(end, [&](std::int64_t j, std::int64_t n) {
        const VF e = vexp_negative(hn::Sub(load_some(s + j, n), shift));
        store_some(e, s + j, n);
        return e;
      });
    }
    std::fill(s + end, s + most, 0.0f);  // keys that other queries of the group see
    query[r * w] = end > 0 ? 1.0f / total : 0.0f;  // the query is not read again
    const std::int64_t head = g * group + r % group;
    if (lse) lse[(b * a.h + head) * a.s + r / group] = end > 0 ? top + std::log(total) : top;
  }
  for (std::int64_t key = 0; key < most; key += kRun)
    for (std::int64_t r = 0; r < queries; ++r)
      weigh_values(scores + r * a.t + key, v + key * stride, stride, std::min(kRun, most - key), d, out + r * w);
  for (std::int64_t r = 0; r < queries; ++r) {
    const VF inverse = set(query[r * w]);
    for (std::int64_t j = 0; j < d; j += lanes()) {
      const std::int64_t n = std::min(lanes(), d - j);
      store_some(hn::Mul(load_some(out + r * w + j, n), inverse), o + offset(r) + j, n);
    }
  }
}

void decode(const AttentionShape& a, const AttentionPointers& p, std::int64_t b, std::int64_t g, void* o, float* lse, float* scratch) {
  with_float(a.dtype, [&](auto z) { decode_head(a, p, b, g, static_cast<decltype(z)*>(o), lse, scratch); });
}

}  // namespace HWY_NAMESPACE
}  // namespace rhetor
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rhetor {
namespace {
HWY_EXPORT(forward);
HWY_EXPORT(decode);

// Up to this many queries of a head the keys are not worth a block product.
constexpr std::int64_t kDecodeQueries = 4;

AttentionPointers pointers(const AttentionShape& a, const KernelArgs& args) {
  return {args.in[0], args.in[1], args.in[2], a.lengths ? static_cast<const std::int32_t*>(args.in[3]) : nullptr,
          a.offsets ? static_cast<const std::int32_t*>(args.in[4]) : nullptr};
}

std::uint64_t block_scratch(const AttentionShape& a) {
  return static_cast<std::uint64_t>(2 * a.d * kQueries + kKeys * kQueries + kKeys * a.d + 64) * 4;
}
std::uint64_t decode_scratch(const AttentionShape& a) {
  return round_up(static_cast<std::uint64_t>(a.s * (a.h / a.g) * (2 * a.padded_d() + a.t) + 16) * 4);
}

// Tasks take contiguous shares of the list of (batch, head, query block); a later causal block costs more, so the list is dealt
// out in small pieces.
void run_blocks(const void* opaque, const KernelArgs& args) {
  const auto& a = *static_cast<const AttentionShape*>(opaque);
  const AttentionPointers p = pointers(a, args);
  const std::int64_t blocks = (a.s + kQueries - 1) / kQueries, items = a.b * a.h * blocks;
  const std::int64_t tasks = std::min<std::int64_t>(items, args.pool.threads());
  run_tasks(args.pool, tasks, [&](int task) {
    auto* scratch = reinterpret_cast<float*>(static_cast<char*>(args.scratch) + static_cast<std::uint64_t>(task) * round_up(block_scratch(a)));
    for (std::int64_t item = task; item < items; item += tasks) {
      // With an even number of blocks a fixed stride would give one task all the long ones: alternate direction by head.
      const std::int64_t head = item / blocks, position = item % blocks;
      const std::int64_t block = head % 2 ? blocks - 1 - position : position;
      const std::int64_t first = block * kQueries;
      HWY_DYNAMIC_DISPATCH(forward)(a, p, head / a.h, head % a.h, first, std::min(kQueries, a.s - first), args.out[0],
                                    static_cast<float*>(args.out[1]), scratch);
    }
  });
}

void run_decode(const void* opaque, const KernelArgs& args) {
  const auto& a = *static_cast<const AttentionShape*>(opaque);
  const AttentionPointers p = pointers(a, args);
  const std::int64_t items = a.b * a.g;
  const std::int64_t tasks = task_count(args.pool, items, static_cast<double>(a.t * a.d * a.s * (a.h / a.g)));
  run_tasks(args.pool, tasks, [&](int task) {
    auto* scratch = reinterpret_cast<float*>(static_cast<char*>(args.scratch) + static_cast<std::uint64_t>(task) * decode_scratch(a));
    for (std::int64_t i = part_begin(items, tasks, task); i < part_begin(items, tasks, task + 1); ++i)
      HWY_DYNAMIC_DISPATCH(decode)(a, p, i / a.g, i % a.g, args.out[0], static_cast<float*>(args.out[1]), scratch);
  });
}

std::string refuse_many_queries(const KernelRequest& request) {
  if (std::string why = refuse_wide_floats(request); !why.empty()) return why;
  return request.in[0].shape[1] <= kDecodeQueries ? "" : "more than 4 queries a head";
}

Kernel prepare_blocks(const KernelRequest& request) {
  auto a = std::make_shared<AttentionShape>(attention_shape(request, 0, 3));
  return {.run = run_blocks, .params = a, .scratch_bytes = round_up(block_scratch(*a)) * static_cast<std::uint64_t>(request.threads),
          .detail = fmt::format("blocks of {} queries by {} keys", kQueries, kKeys)};
}
Kernel prepare_decode(const KernelRequest& request) {
  auto a = std::make_shared<AttentionShape>(attention_shape(request, 0, 3));
  return {.run = run_decode, .params = a, .scratch_bytes = decode_scratch(*a) * static_cast<std::uint64_t>(request.threads),
          .detail = "one pass over the valid keys"};
}

}  // namespace

KernelRow attention_grad_row();  // attention_grad.cc
std::vector<Candidate> attention_amx_candidates();  // attention_amx.cc
std::vector<KernelRow> attention_cache_rows();  // attention_cache.cc

std::vector<KernelRow> attention_rows() {
  std::vector<KernelRow> rows = attention_cache_rows();
  KernelRow forward{"attention", {{"cpu.attention.decode", refuse_many_queries, prepare_decode}}};
  for (const Candidate& candidate : attention_amx_candidates()) forward.candidates.push_back(candidate);
  forward.candidates.push_back({"cpu.attention.blocked", refuse_wide_floats, prepare_blocks});
  rows.push_back(std::move(forward));
  rows.push_back(attention_grad_row());
  return rows;
}

}  // namespace rhetor
#endif
