// Rows and elements added by index, each result by one thread in the order of the indices: no atomics on the sums, so the same bits in
// every run. Floats are summed in f32 (f64 in f64), integers modulo 2^64.
#include "cuda/gather.h"

#include "cuda/launch.h"

namespace rhetor::gpu {
namespace {

constexpr int kThreads = 256, kMostRows = 64, kListed = 2048;

// How a sum of T is held, read and written.
template <class T>
struct Held {
  using Sum = unsigned long long;
  static __device__ Sum read(T v) { return static_cast<Sum>(static_cast<long long>(v)); }
  template <class Out> static __device__ Out write(Sum v) { return static_cast<Out>(v); }
};
template <class T>
struct HeldFloat {
  using Sum = float;
  static __device__ Sum read(T v) { return widen(v); }
  template <class Out> static __device__ Out write(Sum v) { return narrow<Out>(v); }
};
template <> struct Held<float> : HeldFloat<float> {};
template <> struct Held<__half> : HeldFloat<__half> {};
template <> struct Held<__nv_bfloat16> : HeldFloat<__nv_bfloat16> {};
template <> struct Held<double> {
  using Sum = double;
  static __device__ Sum read(double v) { return v; }
  template <class Out> static __device__ Out write(Sum v) { return static_cast<Out>(v); }
};

template <class F>
void with_number(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f64: return f(double{});
    case DType::i64: return f(std::int64_t{});
    case DType::i32: return f(std::int32_t{});
    case DType::i8: return f(std::int8_t{});
    case DType::u8: return f(std::uint8_t{});
    default: with_float(dtype, static_cast<F&&>(f));
  }
}

// Block (range, piece, o) owns the rows [range * per_block, ...) of out[o] and one column a thread. It walks through all indices, lists
// those in its range in their order, and when the list is full or the indices end adds what is listed, row by row.
template <class T, class Out, class Index>
__global__ void __launch_bounds__(kThreads)
    add_rows_kernel(RowsProblem p, int per_block, const T* x, const Index* __restrict__ indices, const T* __restrict__ updates, Out* out) {
  using H = Held<T>;
  __shared__ std::int32_t places[kListed], sorted[kListed];
  __shared__ std::uint8_t rows[kListed];
  __shared__ int warps[kThreads / 32], begin[kMostRows + 1];
  const std::int64_t low = static_cast<std::int64_t>(blockIdx.x) * per_block, o = blockIdx.z;
  const int held = static_cast<int>(min(static_cast<std::int64_t>(per_block), p.size - low));
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int listed = 0;
  bool fresh = true;                                   // nothing was written yet

  const auto flush = [&](int many) {
    __syncthreads();
    // A counting sort by row, a thread a row: stable, and at most kListed steps.
    if (threadIdx.x <= held) {
      int before = 0;
      for (int i = 0; i < many; ++i) before += rows[i] < threadIdx.x;
      begin[threadIdx.x] = before;
      if (threadIdx.x < held)
        for (int i = 0; i < many; ++i)
          if (rows[i] == threadIdx.x) sorted[before++] = places[i];
    }
    __syncthreads();
    if (column < p.inner)
      for (int r = 0; r < held; ++r) {
        const std::int64_t at = (o * p.size + low + r) * p.inner + column;
        const int first = begin[r], last = begin[r + 1];
        if (!fresh && first == last) continue;
        typename H::Sum sum{};
        if (!fresh) sum = Held<Out>::read(out[at]);
        else if (x) sum = H::read(x[at]);
        const T* from = updates + o * p.count * p.inner + column;
        int i = first;
        for (; i + 4 <= last; i += 4) {                // four reads under way
          const T a = from[static_cast<std::int64_t>(sorted[i]) * p.inner], b = from[static_cast<std::int64_t>(sorted[i + 1]) * p.inner];
          const T c = from[static_cast<std::int64_t>(sorted[i + 2]) * p.inner], d = from[static_cast<std::int64_t>(sorted[i + 3]) * p.inner];
          sum += H::read(a);
          sum += H::read(b);
          sum += H::read(c);
          sum += H::read(d);
        }
        for (; i < last; ++i) sum += H::read(from[static_cast<std::int64_t>(sorted[i]) * p.inner]);
        out[at] = H::template write<Out>(sum);
      }
    fresh = false;
    __syncthreads();
  };

  constexpr int kEach = 4, kPiece = kThreads * kEach;
  for (std::int64_t base = 0; base < p.count; base += kPiece) {
    std::int64_t row[kEach];
    int hits = 0;
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      const std::int64_t k = base + threadIdx.x * kEach + e;
      row[e] = k < p.count ? static_cast<std::int64_t>(indices[k]) - low : -1;
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

// The thread of the first update to a place adds all updates of that place.
template <class T, class Index>
__global__ void __launch_bounds__(kThreads)
    put_kernel(RowsProblem p, const T* x, const Index* __restrict__ indices, const T* __restrict__ updates, T* out) {
  using H = Held<T>;
  const std::int64_t all = p.outer * p.count * p.inner, step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t u = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; u < all; u += step) {
    const std::int64_t o = u / (p.count * p.inner), b = u % p.inner, first = o * p.count * p.inner + b, end = first + p.count * p.inner;
    const Index index = indices[u];
    if (index < 0 || static_cast<std::int64_t>(index) >= p.size) continue;
    bool owner = true;
    for (std::int64_t i = first; i < u && owner; i += p.inner) owner = indices[i] != index;
    if (!owner) continue;
    const std::int64_t at = (o * p.size + static_cast<std::int64_t>(index)) * p.inner + b;
    typename H::Sum sum = H::read(x[at]) + H::read(updates[u]);
    for (std::int64_t i = u + p.inner; i < end; i += p.inner)
      if (indices[i] == index) sum += H::read(updates[i]);
    out[at] = H::template write<T>(sum);
  }
}

template <class T, class Out>
void launch_add_rows(const RowsProblem& p, const void* x, const void* indices, const void* updates, void* out, void* s) {
  // Enough blocks to fill the device, as few as that takes: each walks through all indices.
  const std::int64_t pieces = (p.inner + kThreads - 1) / kThreads;
  std::int64_t per_block = p.size * pieces * p.outer / 1024;
  per_block = per_block < 1 ? 1 : per_block > kMostRows ? kMostRows : per_block;
  const dim3 grid(static_cast<unsigned>((p.size + per_block - 1) / per_block), static_cast<unsigned>(pieces), static_cast<unsigned>(p.outer));
  with_index(p.index, [&](auto index) {
    using Index = decltype(index);
    add_rows_kernel<T, Out, Index><<<grid, kThreads, 0, stream(s)>>>(p, static_cast<int>(per_block), static_cast<const T*>(x),
                                                                     static_cast<const Index*>(indices), static_cast<const T*>(updates),
                                                                     static_cast<Out*>(out));
  });
  launched("rows added by index");
}

}  // namespace

void add_rows(const RowsProblem& p, bool wide_out, const void* x, const void* indices, const void* updates, void* out, void* s) {
  if (p.outer * p.size * p.inner == 0) return;
  if (wide_out) {
    with_any_float(p.dtype, [&](auto zero) {
      using T = decltype(zero);
      launch_add_rows<T, typename Held<T>::Sum>(p, x, indices, updates, out, s);
    });
  } else {
    with_number(p.dtype, [&](auto zero) { launch_add_rows<decltype(zero), decltype(zero)>(p, x, indices, updates, out, s); });
  }
}

void put_along_add(const RowsProblem& p, const void* x, const void* indices, const void* updates, void* out, void* s) {
  const std::int64_t bytes = p.outer * p.size * p.inner * static_cast<std::int64_t>(byte_size(p.dtype)), all = p.outer * p.count * p.inner;
  if (x != out && bytes) require(cudaMemcpyAsync(out, x, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToDevice, stream(s)), "cudaMemcpyAsync");
  if (bytes == 0 || all == 0) return;
  with_number(p.dtype, [&](auto zero) {
    with_index(p.index, [&](auto index) {
      using T = decltype(zero);
      using Index = decltype(index);
      put_kernel<<<blocks(all, kThreads), kThreads, 0, stream(s)>>>(p, static_cast<const T*>(x), static_cast<const Index*>(indices),
                                                                    static_cast<const T*>(updates), static_cast<T*>(out));
    });
  });
  launched("put_along_add");
}

}  // namespace rhetor::gpu
