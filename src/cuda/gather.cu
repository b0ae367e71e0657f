// Rows read by index. Memory-bound: the rows asked for, once read and once written, 16 bytes a thread where rows are so aligned.
#include "cuda/gather.h"

#include "cuda/launch.h"

namespace rhetor::gpu {
namespace {

constexpr int kThreads = 256;

template <class T, class Index, class Position>
__global__ void __launch_bounds__(kThreads) gather_kernel(GatherRows g, const T* __restrict__ x, const Index* __restrict__ indices, T* __restrict__ out) {
  const RowsProblem& p = g.rows;
  const std::int64_t all = p.outer * p.count * g.units, step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t u = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; u < all; u += step) {
    Position unit = static_cast<Position>(u);
    Position k = split_off(unit, g.by_units, g.units);
    const Position o = split_off(k, g.by_count, p.count);
    const auto given = static_cast<std::int64_t>(indices[k]);
    const std::int64_t row = given < 0 || given >= p.size ? 0 : given;
    out[u] = x[(static_cast<std::int64_t>(o) * p.size + row) * g.units + static_cast<std::int64_t>(unit)];
  }
}

template <class T, class Index>
__global__ void __launch_bounds__(kThreads) take_kernel(RowsProblem p, const T* __restrict__ x, const Index* __restrict__ indices, T* __restrict__ out) {
  const std::int64_t all = p.outer * p.count * p.inner, step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t u = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; u < all; u += step) {
    const auto given = static_cast<std::int64_t>(indices[u]);
    const std::int64_t row = given < 0 || given >= p.size ? 0 : given;
    out[u] = x[(u / (p.count * p.inner) * p.size + row) * p.inner + u % p.inner];
  }
}

}  // namespace

void gather_rows(const GatherRows& g, const void* x, const void* indices, void* out, void* s) {
  const std::int64_t all = g.rows.outer * g.rows.count * g.units;
  if (all == 0) return;
  const auto launch = [&](auto unit) {
    with_index(g.rows.index, [&](auto index) {
      using T = decltype(unit);
      using Index = decltype(index);
      const auto* from = static_cast<const T*>(x);
      const auto* ids = static_cast<const Index*>(indices);
      if (all < kDividerLimit) gather_kernel<T, Index, std::uint32_t><<<blocks(all, kThreads), kThreads, 0, stream(s)>>>(g, from, ids, static_cast<T*>(out));
      else gather_kernel<T, Index, std::uint64_t><<<blocks(all, kThreads), kThreads, 0, stream(s)>>>(g, from, ids, static_cast<T*>(out));
    });
  };
  if (g.bytes == 16) launch(uint4{});
  else with_bytes(static_cast<std::size_t>(g.bytes), launch);
  launched("gather");
}

void take_along(const RowsProblem& p, const void* x, const void* indices, void* out, void* s) {
  const std::int64_t all = p.outer * p.count * p.inner;
  if (all == 0) return;
  with_bytes(byte_size(p.dtype), [&](auto unit) {
    with_index(p.index, [&](auto index) {
      using T = decltype(unit);
      using Index = decltype(index);
      take_kernel<<<blocks(all, kThreads), kThreads, 0, stream(s)>>>(p, static_cast<const T*>(x), static_cast<const Index*>(indices), static_cast<T*>(out));
    });
  });
  launched("take_along");
}

}  // namespace rhetor::gpu
