// The fast way of adding rows by index, for sums of embedding gradients: four columns a thread by one load, and four groups of threads a
// block, each with rows of its own; rows that many indices name (padding, common words) are shared by the groups. As in scatter.cu no sum
// is atomic, and the order of the additions depends on the indices alone.
// Memory-bound: one read of the updates, one write of the result; each block also reads all indices, from the second-level cache.
#include "cuda/gather.h"
#include "cuda/launch.h"

namespace rhetor::gpu {
namespace {

constexpr int kThreads = 256, kGroups = 4, kGroup = kThreads / kGroups, kWide = 4, kColumns = kGroup * kWide;
constexpr int kMostRows = 64, kListed = 2048;
constexpr int kShared = 16;   // a row with more updates is shared by the groups

using Sums = Pack<float, kWide>;

template <class T>
__device__ Sums load(const T* from) {
  const auto pack = *reinterpret_cast<const Pack<T, kWide>*>(from);
  Sums sums;
#pragma unroll
  for (int c = 0; c < kWide; ++c) sums.v[c] = widen(pack.v[c]);
  return sums;
}
template <class T>
__device__ void store(T* to, const Sums& sums) {
  Pack<T, kWide> pack;
#pragma unroll
  for (int c = 0; c < kWide; ++c) pack.v[c] = narrow<T>(sums.v[c]);
  *reinterpret_cast<Pack<T, kWide>*>(to) = pack;
}
__device__ inline void add(Sums& sums, const Sums& more) {
#pragma unroll
  for (int c = 0; c < kWide; ++c) sums.v[c] += more.v[c];
}

// Adds the updates at places[first], places[first + step], ... before `last`; four reads under way.
template <class T>
__device__ void add_listed(Sums& sums, const T* from, std::int64_t inner, const std::int32_t* places, int first, int last, int step) {
  int i = first;
  for (; i + 3 * step < last; i += 4 * step) {
    const Sums a = load(from + places[i] * inner), b = load(from + places[i + step] * inner);
    const Sums c = load(from + places[i + 2 * step] * inner), d = load(from + places[i + 3 * step] * inner);
    add(sums, a);
    add(sums, b);
    add(sums, c);
    add(sums, d);
  }
  for (; i < last; i += step) add(sums, load(from + places[i] * inner));
}

// Block (range, piece, o) owns the rows [range * per_block, ...) of out[o] and kColumns columns. It walks through the indices, lists those
// in its range in their order, and when the list is full or the indices end adds what is listed.
template <class T, class Out, class Index>
__global__ void __launch_bounds__(kThreads)
    sum_rows_kernel(RowsProblem p, int per_block, const T* x, const Index* __restrict__ indices, const T* __restrict__ updates, Out* out) {
  __shared__ std::int32_t places[kListed], sorted[kListed];
  __shared__ std::uint8_t rows[kListed];
  __shared__ int warps[kThreads / 32], begin[kMostRows + 1];
  __shared__ Sums partial[kGroups - 1][kGroup];
  const std::int64_t low = static_cast<std::int64_t>(blockIdx.x) * per_block, o = blockIdx.z;
  const std::int64_t first_index = p.chunk ? o * p.chunk : 0;
  const std::int64_t count = p.chunk ? min(p.chunk, p.count - first_index) : p.count;
  const int held = static_cast<int>(min(static_cast<std::int64_t>(per_block), p.size - low));
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = threadIdx.x / kGroup, member = threadIdx.x % kGroup;
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.y) * kColumns + member * kWide;
  const bool active = column < p.inner;
  const T* from = updates + (p.chunk ? first_index : o * count) * p.inner + column;
  int listed = 0;
  bool fresh = true;                                   // nothing was written yet

  const auto start = [&](std::int64_t at) {
    if (!fresh) return load(out + at);
    return x ? load(x + at) : Sums{};
  };
  const auto flush = [&](int many) {
    __syncthreads();
    // A counting sort by row, a thread a row: stable.
    if (threadIdx.x <= held) {
      int before = 0;
      for (int i = 0; i < many; ++i) before += rows[i] < threadIdx.x;
      begin[threadIdx.x] = before;
      if (threadIdx.x < held)
        for (int i = 0; i < many; ++i)
          if (rows[i] == threadIdx.x) sorted[before++] = places[i];
    }
    __syncthreads();
    if (active)
      for (int r = group; r < held; r += kGroups) {
        const int first = begin[r], last = begin[r + 1];
        if (last - first > kShared || (!fresh && first == last)) continue;
        const std::int64_t at = (o * p.size + low + r) * p.inner + column;
        Sums sums = start(at);
        add_listed(sums, from, p.inner, sorted, first, last, 1);
        store(out + at, sums);
      }
    for (int r = 0; r < held; ++r) {                    // the same rows for all threads
      const int first = begin[r], last = begin[r + 1];
      if (last - first <= kShared) continue;
      Sums sums{};
      if (active) add_listed(sums, from, p.inner, sorted, first + group, last, kGroups);
      if (group > 0) partial[group - 1][member] = sums;
      __syncthreads();
      if (group == 0 && active) {
        const std::int64_t at = (o * p.size + low + r) * p.inner + column;
#pragma unroll
        for (int g = 1; g < kGroups; ++g) add(sums, partial[g - 1][member]);
        Sums all = start(at);
        add(all, sums);
        store(out + at, all);
      }
      __syncthreads();
    }
    fresh = false;
    __syncthreads();
  };

  constexpr int kEach = 4, kPiece = kThreads * kEach;
  for (std::int64_t base = 0; base < count; base += kPiece) {
    std::int64_t row[kEach];
    int hits = 0;
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      const std::int64_t k = base + threadIdx.x * kEach + e;
      row[e] = k < count ? static_cast<std::int64_t>(indices[first_index + k]) - low : -1;
      if (row[e] < 0 || row[e] >= held) row[e] = -1;
      hits += row[e] >= 0;
    }
    if (!__syncthreads_or(hits)) continue;
    int through = hits;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      const int other = __shfl_up_sync(0xffffffffu, through, d);
      if (lane >= d) through += other;
    }
    if (lane == 31) warps[warp] = through;
    __syncthreads();
    int before = 0, all = 0;
    for (int w = 0; w < kThreads / 32; ++w) {
      before += w < warp ? warps[w] : 0;
      all += warps[w];
    }
    if (listed + all > kListed) {
      flush(listed);
      listed = 0;
    }
    int at = listed + before + through - hits;
#pragma unroll
    for (int e = 0; e < kEach; ++e)
      if (row[e] >= 0) {
        places[at] = static_cast<std::int32_t>(base + threadIdx.x * kEach + e);
        rows[at++] = static_cast<std::uint8_t>(row[e]);
      }
    listed += all;
  }
  flush(listed);
}

// out[i] = parts[0][i] + parts[1][i] + ...
__global__ void __launch_bounds__(kThreads) sum_parts_kernel(std::int64_t parts, std::int64_t width, const float* __restrict__ from, float* __restrict__ out) {
  const std::int64_t at = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kWide;
  if (at >= width) return;
  Sums sums{};
#pragma unroll 8
  for (std::int64_t part = 0; part < parts; ++part) add(sums, load(from + part * width + at));
  store(out + at, sums);
}

template <class T, class Out>
void launch(const RowsProblem& p, const void* x, const void* indices, const void* updates, void* out, void* s) {
  const std::int64_t pieces = (p.inner + kColumns - 1) / kColumns;
  std::int64_t per_block = p.size * pieces * p.outer / 1024;   // blocks enough for the device, and few: each walks through all indices
  per_block = per_block < 1 ? 1 : per_block > kMostRows ? kMostRows : per_block;
  const dim3 grid(static_cast<unsigned>((p.size + per_block - 1) / per_block), static_cast<unsigned>(pieces), static_cast<unsigned>(p.outer));
  with_index(p.index, [&](auto index) {
    using Index = decltype(index);
    sum_rows_kernel<T, Out, Index><<<grid, kThreads, 0, stream(s)>>>(p, static_cast<int>(per_block), static_cast<const T*>(x),
                                                                     static_cast<const Index*>(indices), static_cast<const T*>(updates),
                                                                     static_cast<Out*>(out));
  });
  launched("rows summed by index");
}

}  // namespace

void sum_rows(const RowsProblem& p, bool wide_out, const void* x, const void* indices, const void* updates, void* out, void* s) {
  if (p.outer * p.size * p.inner == 0) return;
  with_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (wide_out) launch<T, float>(p, x, indices, updates, out, s);
    else launch<T, T>(p, x, indices, updates, out, s);
  });
}

void sum_parts(std::int64_t parts, std::int64_t width, const void* from, void* out, void* s) {
  if (width == 0) return;
  sum_parts_kernel<<<blocks(width / kWide, kThreads, std::int64_t{1} << 30), kThreads, 0, stream(s)>>>(parts, width, static_cast<const float*>(from),
                                                                                                 static_cast<float*>(out));
  launched("parts summed");
}

}  // namespace rhetor::gpu
