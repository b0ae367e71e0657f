// top_k along the last dim: one scan with the k best so far in a sorted list; an element is compared with the least of them.
// Memory-bound for small k: 1 read. Order: greater first, NaN before all, ties by lower index.
#include "cpu/families.h"
#include "cpu/kernel_util.h"

namespace rhetor {
namespace {

struct Params {
  std::int64_t rows = 0, cols = 0, k = 0;
  DType dtype = DType::f32;
};

// A key that orders as the op does. Floats: f32 value with NaN above infinity; integers as they are.
template <class T>
auto key_of(T v) {
  if constexpr (requires { v.to_float(); }) return key_of(v.to_float());
  else return v;
}
template <class K>
bool larger(K a, K b) { return a > b || (a != a && b == b); }

template <class T>
void select(const Params& p, const T* x, T* values, std::int32_t* indices, std::int64_t begin, std::int64_t end) {
  for (std::int64_t r = begin; r < end; ++r) {
    const T* row = x + r * p.cols;
    std::int32_t* best = indices + r * p.k;
    std::int64_t held = 0;
    auto least = key_of(row[0]);
    for (std::int64_t i = 0; i < p.cols; ++i) {
      const auto key = key_of(row[i]);
      if (held == p.k && !larger(key, least)) continue;
      std::int64_t at = held < p.k ? held++ : p.k - 1;
      for (; at > 0 && larger(key, key_of(row[best[at - 1]])); --at) best[at] = best[at - 1];
      best[at] = static_cast<std::int32_t>(i);
      least = key_of(row[best[held - 1]]);
    }
    for (std::int64_t i = 0; i < p.k; ++i) values[r * p.k + i] = row[best[i]];
  }
}

void run(const void* opaque, const KernelArgs& args) {
  const auto& p = *static_cast<const Params*>(opaque);
  const std::int64_t tasks = task_count(args.pool, p.rows, static_cast<double>(p.cols));
  run_tasks(args.pool, tasks, [&](int i) {
    dispatch(p.dtype, [&](auto z) {
      using T = decltype(z);
      select(p, static_cast<const T*>(args.in[0]), static_cast<T*>(args.out[0]), static_cast<std::int32_t*>(args.out[1]),
             part_begin(p.rows, tasks, i), part_begin(p.rows, tasks, i + 1));
    });
  });
}

// Both results are written together; a list of more than a few thousand is a sort.
std::string refuse(const KernelRequest& request) {
  return request.out[0].shape.last() > 4096 ? "k above 4096 is a sort" : "";
}

Kernel prepare(const KernelRequest& request) {
  auto p = std::make_shared<Params>();
  p->cols = request.in[0].shape.last();
  p->k = request.out[0].shape.last();
  p->rows = p->cols ? request.in[0].elements() / p->cols : 0;
  p->dtype = request.in[0].dtype;
  return {.run = run, .params = p};
}

}  // namespace

KernelRow top_k_row() { return {"top_k", {{"cpu.top_k", refuse, prepare}}}; }

}  // namespace rhetor
