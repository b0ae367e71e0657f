// reduce_sum, reduce_mean, reduce_max, reduce_min, argmax, cumsum. Memory-bound: 1 read. The operand is seen as [r0, k0, r1, k1] with
// r0 and r1 summed; f32 accumulation. Every result element is summed in one fixed order, whatever the threads.
#include <cmath>
#include <limits>

#include "cpu/families.h"
#include "cpu/kernel_util.h"
#include "cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/reduce.cc"
#include "hwy/foreach_target.h"

#include "cpu/simd-inl.h"

#ifndef RHETOR_CPU_REDUCE_TYPES_
#define RHETOR_CPU_REDUCE_TYPES_
namespace rhetor {
enum class ReduceKind { sum, mean, max, min };
struct ReduceParams {
  ReduceKind kind = ReduceKind::sum;
  DType dtype = DType::f32;
  std::int64_t r0 = 1, k0 = 1, r1 = 1, k1 = 1;
};
}  // namespace rhetor
#endif

HWY_BEFORE_NAMESPACE();
namespace rhetor {
namespace HWY_NAMESPACE {

template <ReduceKind kind>
HWY_INLINE VF join(VF a, VF b) {
  if constexpr (kind == ReduceKind::max) return hn::IfThenElse(hn::IsNaN(a), a, hn::Max(a, b));
  else if constexpr (kind == ReduceKind::min) return hn::IfThenElse(hn::IsNaN(a), a, hn::Min(a, b));
  else return hn::Add(a, b);
}
template <ReduceKind kind>
constexpr float kNeutral = kind == ReduceKind::max ? -HUGE_VALF : kind == ReduceKind::min ? HUGE_VALF : 0.0f;

template <ReduceKind kind>
HWY_INLINE float join_lanes(VF v) {
  if constexpr (kind == ReduceKind::sum || kind == ReduceKind::mean) return sum_lanes(v);
  if (!hn::AllFalse(F32(), hn::IsNaN(v))) return std::nanf("");
  return kind == ReduceKind::max ? max_lanes(v) : hn::GetLane(hn::MinOfLanes(F32(), v));
}

template <ReduceKind kind, class T>
float reduce_run(const T* p, std::int64_t n) {
  VF a = set(kNeutral<kind>), b = a, c = a, d = a;
  std::int64_t i = 0;
  for (; i + 4 * lanes() <= n; i += 4 * lanes()) {
    a = join<kind>(a, load(p + i));
    b = join<kind>(b, load(p + i + lanes()));
    c = join<kind>(c, load(p + i + 2 * lanes()));
    d = join<kind>(d, load(p + i + 3 * lanes()));
  }
  for (; i + lanes() <= n; i += lanes()) a = join<kind>(a, load(p + i));
  if (i < n) b = join<kind>(b, load_n(p + i, n - i, kNeutral<kind>));
  return join_lanes<kind>(join<kind>(join<kind>(a, b), join<kind>(c, d)));
}

// k1 == 1: rows [begin, end) of k0. Long rows in runs of 4096 summed apart keep the f32 error small.
template <ReduceKind kind, class T>
void reduce_rows_of(const ReduceParams& p, const T* x, T* out, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t kRun = 4096;
  const float scale = kind == ReduceKind::mean ? 1.0f / static_cast<float>(p.r0 * p.r1) : 1.0f;
  for (std::int64_t k = begin; k < end; ++k) {
    float total = kNeutral<kind>;
    for (std::int64_t r = 0; r < p.r0; ++r)
      for (std::int64_t at = 0; at < p.r1; at += kRun) {
        const float part = reduce_run<kind>(x + (r * p.k0 + k) * p.r1 + at, std::min(kRun, p.r1 - at));
        if constexpr (kind == ReduceKind::max) total = part > total || part != part ? part : total;
        else if constexpr (kind == ReduceKind::min) total = part < total || part != part ? part : total;
        else total += part;
      }
    out[k] = from_double<T>(static_cast<double>(total * scale));
  }
}

// k1 > 1: columns [begin, end) of k0 = k, rows added one after the other to sums in the first-level cache, so that memory is read in
// whole rows.
template <ReduceKind kind, class T>
void reduce_columns(const ReduceParams& p, const T* x, T* out, std::int64_t k, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t kColumns = 2048, kAtOnce = 4;
  const VF scale = set(kind == ReduceKind::mean ? 1.0f / static_cast<float>(p.r0 * p.r1) : 1.0f);
  HWY_ALIGN float sums[kColumns];
  for (std::int64_t first = begin; first < end; first += kColumns) {
    const std::int64_t columns = std::min(kColumns, end - first), whole = columns / lanes() * lanes();
    std::fill(sums, sums + (columns + lanes() - 1) / lanes() * lanes(), kNeutral<kind>);
    for (std::int64_t r = 0; r < p.r0; ++r)
      for (std::int64_t s = 0; s < p.r1; s += kAtOnce) {
        const T* rows = x + ((r * p.k0 + k) * p.r1 + s) * p.k1 + first;
        const std::int64_t count = std::min(kAtOnce, p.r1 - s);
        for (std::int64_t c = 0; c < whole; c += lanes()) {
          VF sum = load(sums + c);
          if (count == kAtOnce) {
            for (std::int64_t i = 0; i < kAtOnce; ++i) sum = join<kind>(sum, load(rows + i * p.k1 + c));
          } else {
            for (std::int64_t i = 0; i < count; ++i) sum = join<kind>(sum, load(rows + i * p.k1 + c));
          }
          store(sum, sums + c);
        }
        if (whole == columns) continue;
        VF sum = load(sums + whole);
        for (std::int64_t i = 0; i < count; ++i) sum = join<kind>(sum, load_n(rows + i * p.k1 + whole, columns - whole));
        store(sum, sums + whole);
      }
    for (std::int64_t c = 0; c < columns; c += lanes())
      store_some(hn::Mul(load(sums + c), scale), out + k * p.k1 + first + c, std::min(lanes(), columns - c));
  }
}

template <ReduceKind kind, class T>
void reduce_part(const ReduceParams& p, const T* x, T* out, std::int64_t k, std::int64_t begin, std::int64_t end) {
  if (p.k1 == 1) reduce_rows_of<kind>(p, x, out, begin, end);
  else reduce_columns<kind>(p, x, out, k, begin, end);
}

void reduce(const ReduceParams& p, const void* x, void* out, std::int64_t k, std::int64_t begin, std::int64_t end) {
  with_float(p.dtype, [&](auto z) {
    using T = decltype(z);
    const auto* from = static_cast<const T*>(x);
    auto* to = static_cast<T*>(out);
    switch (p.kind) {
      case ReduceKind::sum: return reduce_part<ReduceKind::sum>(p, from, to, k, begin, end);
      case ReduceKind::mean: return reduce_part<ReduceKind::mean>(p, from, to, k, begin, end);
      case ReduceKind::max: return reduce_part<ReduceKind::max>(p, from, to, k, begin, end);
      case ReduceKind::min: return reduce_part<ReduceKind::min>(p, from, to, k, begin, end);
    }
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace rhetor
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rhetor {
namespace {
HWY_EXPORT(reduce);

// Groups of dims, alternately reduced and kept: [r0, k0, r1, k1]; false if there are more.
bool collapse(const KernelRequest& request, ReduceParams& p) {
  const Shape& x = request.in[0].shape;
  unsigned mask = 0;
  for (const std::int64_t axis : request.node.attrs.ints("axes")) mask |= 1u << normalize_axis(axis, x.rank(), request.node.op->name);
  std::int64_t* groups[] = {&p.r0, &p.k0, &p.r1, &p.k1};
  int at = 0;
  for (int d = 0; d < x.rank(); ++d) {
    if (x[d] == 1) continue;
    const bool reduced = (mask >> d & 1u) != 0;
    if (reduced != (at % 2 == 0)) ++at;
    if (at > 3) return false;
    *groups[at] *= x[d];
  }
  // One kept group at the end and none before: [r0, k0] is better read as [1, 1, r1, k1].
  if (p.r1 == 1 && p.k1 == 1) {
    p.r1 = p.r0;
    p.k1 = p.k0;
    p.r0 = p.k0 = 1;
  }
  return true;
}

std::string refuse_reduce(const KernelRequest& request) {
  ReduceParams p;
  if (!is_fast_float(request.in[0].dtype) && !is_index(request.in[0].dtype)) return "reduces f32, bf16, f16, i32 and i64";
  if (is_index(request.in[0].dtype) && request.node.op->name == "reduce_mean") return "an integer mean is left to the reference";
  if (request.in[0].elements() == 0) return "the operand is empty";
  return collapse(request, p) ? "" : "the reduced dims are in more than two groups";
}

// Integers: sums wrap. Rare and small (counts, masks): one thread, one element at a time.
template <class T>
void reduce_integers(const ReduceParams& p, const T* x, T* out) {
  const std::int64_t n = p.k0 * p.k1;
  const T neutral = p.kind == ReduceKind::max ? std::numeric_limits<T>::min() : p.kind == ReduceKind::min ? std::numeric_limits<T>::max() : T(0);
  std::fill(out, out + n, neutral);
  for (std::int64_t i = 0; i < p.r0 * p.k0 * p.r1 * p.k1; ++i) {
    T& to = out[i / (p.r1 * p.k1) % p.k0 * p.k1 + i % p.k1];
    if (p.kind == ReduceKind::max) to = std::max(to, x[i]);
    else if (p.kind == ReduceKind::min) to = std::min(to, x[i]);
    else to = static_cast<T>(static_cast<std::uint64_t>(to) + static_cast<std::uint64_t>(x[i]));
  }
}

void run_reduce(const void* opaque, const KernelArgs& args) {
  const auto& p = *static_cast<const ReduceParams*>(opaque);
  if (p.dtype == DType::i32) return reduce_integers(p, static_cast<const std::int32_t*>(args.in[0]), static_cast<std::int32_t*>(args.out[0]));
  if (p.dtype == DType::i64) return reduce_integers(p, static_cast<const std::int64_t*>(args.in[0]), static_cast<std::int64_t*>(args.out[0]));
  const auto part = [&](std::int64_t k, std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(reduce)(p, args.in[0], args.out[0], k, begin, end);
  };
  if (p.k1 == 1) {
    const std::int64_t tasks = task_count(args.pool, p.k0, static_cast<double>(p.r0 * p.r1));
    run_tasks(args.pool, tasks, [&](int i) { part(0, part_begin(p.k0, tasks, i), part_begin(p.k0, tasks, i + 1)); });
    return;
  }
  constexpr std::int64_t kColumns = 64;
  const std::int64_t strips = (p.k1 + kColumns - 1) / kColumns, items = p.k0 * strips;
  const std::int64_t tasks = task_count(args.pool, items, static_cast<double>(p.r0 * p.r1 * std::min(p.k1, kColumns)));
  run_tasks(args.pool, tasks, [&](int i) {
    // A task's strips of one k0 are neighbours: taken together, rows are read in longer pieces.
    for (std::int64_t item = part_begin(items, tasks, i); item < part_begin(items, tasks, i + 1);) {
      const std::int64_t k = item / strips, first = item % strips;
      const std::int64_t last = std::min(strips, first + part_begin(items, tasks, i + 1) - item);
      part(k, first * kColumns, std::min(last * kColumns, p.k1));
      item += last - first;
    }
  });
}
Kernel prepare_reduce(const KernelRequest& request) {
  auto p = std::make_shared<ReduceParams>();
  const std::string_view op = request.node.op->name;
  p->kind = op == "reduce_sum" ? ReduceKind::sum : op == "reduce_mean" ? ReduceKind::mean : op == "reduce_max" ? ReduceKind::max : ReduceKind::min;
  p->dtype = request.in[0].dtype;
  collapse(request, *p);
  return {.run = run_reduce, .params = p};
}

// ---- argmax, cumsum: along one dim of [outer, size, inner] -----------------------------------------------------
struct Lines {
  std::int64_t outer = 1, size = 1, inner = 1;
  DType dtype = DType::f32;
  bool reverse = false;
};
std::shared_ptr<Lines> lines_of(const KernelRequest& request) {
  const Shape& x = request.in[0].shape;
  const int axis = normalize_axis(request.node.attrs.i("axis"), x.rank(), request.node.op->name);
  auto p = std::make_shared<Lines>();
  *p = {.outer = x.elements(0, axis), .size = x[axis], .inner = x.elements(axis + 1, x.rank()), .dtype = request.in[0].dtype};
  return p;
}
template <class T>
auto number(T v) {
  if constexpr (requires { v.to_float(); }) return v.to_float();
  else return v;
}

template <class T>
void argmax_lines(const Lines& p, const T* x, std::int32_t* out, std::int64_t begin, std::int64_t end) {
  for (std::int64_t line = begin; line < end; ++line) {
    const T* at = x + line / p.inner * p.size * p.inner + line % p.inner;
    auto best = number(at[0]);
    std::int64_t where = 0;
    for (std::int64_t k = 1; k < p.size; ++k) {
      const auto v = number(at[k * p.inner]);
      if (v > best || (best != best && v == v)) {
        best = v;
        where = k;
      }
    }
    out[line] = static_cast<std::int32_t>(where);
  }
}
void run_argmax(const void* opaque, const KernelArgs& args) {
  const auto& p = *static_cast<const Lines*>(opaque);
  const std::int64_t lines = p.outer * p.inner, tasks = task_count(args.pool, lines, static_cast<double>(p.size));
  run_tasks(args.pool, tasks, [&](int i) {
    dispatch(p.dtype, [&](auto z) {
      argmax_lines(p, static_cast<const decltype(z)*>(args.in[0]), static_cast<std::int32_t*>(args.out[0]), part_begin(lines, tasks, i),
                   part_begin(lines, tasks, i + 1));
    });
  });
}
Kernel prepare_argmax(const KernelRequest& request) { return {.run = run_argmax, .params = lines_of(request)}; }
std::string never(const KernelRequest&) { return ""; }

template <class T>
void cumsum_lines(const Lines& p, const T* x, T* out, std::int64_t begin, std::int64_t end) {
  for (std::int64_t line = begin; line < end; ++line) {
    const std::int64_t base = line / p.inner * p.size * p.inner + line % p.inner;
    if constexpr (std::is_integral_v<T>) {
      std::uint64_t sum = 0;  // wraps
      for (std::int64_t k = 0; k < p.size; ++k) {
        const std::int64_t at = base + (p.reverse ? p.size - 1 - k : k) * p.inner;
        sum += static_cast<std::uint64_t>(x[at]);
        out[at] = static_cast<T>(sum);
      }
    } else {
      double sum = 0;
      for (std::int64_t k = 0; k < p.size; ++k) {
        const std::int64_t at = base + (p.reverse ? p.size - 1 - k : k) * p.inner;
        sum += to_double(x[at]);
        out[at] = from_double<T>(sum);
      }
    }
  }
}
void run_cumsum(const void* opaque, const KernelArgs& args) {
  const auto& p = *static_cast<const Lines*>(opaque);
  const std::int64_t lines = p.outer * p.inner, tasks = task_count(args.pool, lines, static_cast<double>(p.size));
  run_tasks(args.pool, tasks, [&](int i) {
    dispatch(p.dtype, [&](auto z) {
      using T = decltype(z);
      cumsum_lines(p, static_cast<const T*>(args.in[0]), static_cast<T*>(args.out[0]), part_begin(lines, tasks, i), part_begin(lines, tasks, i + 1));
    });
  });
}
std::string refuse_cumsum(const KernelRequest& request) {
  return request.in[0].dtype == DType::i8 || request.in[0].dtype == DType::u8 ? "sums of narrow integers are left to the reference" : "";
}
Kernel prepare_cumsum(const KernelRequest& request) {
  auto p = lines_of(request);
  p->reverse = request.node.attrs.b("reverse");
  return {.run = run_cumsum, .params = p};
}

}  // namespace

std::vector<KernelRow> reduce_rows() {
  std::vector<KernelRow> rows;
  for (const std::string_view op : {"reduce_sum", "reduce_mean", "reduce_max", "reduce_min"})
    rows.push_back({op, {{"cpu.reduce", refuse_reduce, prepare_reduce}}});
  rows.push_back({"argmax", {{"cpu.argmax", never, prepare_argmax}}});
  rows.push_back({"cumsum", {{"cpu.cumsum", refuse_cumsum, prepare_cumsum}}});
  return rows;
}

}  // namespace rhetor
#endif
