// rope: pairs (i, i + d/2) turned by positions[row] frequency[i]; cache_write: rows moved to [b, positions[b] + s].
// Both memory-bound: 1 read, 1 write of x; of a cache in place only the fresh rows. An angle is computed in f64, so that large positions
// keep their phase, once for all heads that a block turns.
#include "cuda/rope.h"

namespace rhetor::gpu {
namespace {

constexpr int kThreads = 128;

template <class T> __device__ inline T narrow_any(float x) { return narrow<T>(x); }
template <class T> __device__ inline T narrow_any(double x) { return static_cast<T>(x); }

// A block turns `per_block` heads of one row; shared memory: d / 2 cosines, d / 2 sines. V pairs at a time.
template <class T, class Index, int V>
__global__ void __launch_bounds__(kThreads) turn(RopeProblem r, int per_block, const T* x, const Index* positions, const double* frequency,
                                                 T* y) {
  using A = decltype(widen(T{}));
  extern __shared__ __align__(16) unsigned char raw[];
  const int half = r.d / 2, parts = (r.heads + per_block - 1) / per_block;
  const std::int64_t row = blockIdx.x / parts;
  const int first = static_cast<int>(blockIdx.x % parts) * per_block, heads = min(per_block, r.heads - first);
  A *cosine = reinterpret_cast<A*>(raw), *sine = cosine + half;
  const double position = static_cast<double>(positions[row]);
  for (int i = threadIdx.x; i < half; i += kThreads) {
    double s, c;
    sincos(position * frequency[i], &s, &c);
    cosine[i] = static_cast<A>(c);
    sine[i] = static_cast<A>(r.inverse ? -s : s);
  }
  __syncthreads();
  const int steps = half / V;
  for (int item = threadIdx.x; item < heads * steps; item += kThreads) {
    const int i = item % steps * V;
    const std::int64_t lo = (row * r.heads + first + item / steps) * r.d + i, hi = lo + half;
    auto a = *reinterpret_cast<const Pack<T, V>*>(x + lo), b = *reinterpret_cast<const Pack<T, V>*>(x + hi);
#pragma unroll
    for (int e = 0; e < V; ++e) {
      const A p = widen(a.v[e]), q = widen(b.v[e]), c = cosine[i + e], s = sine[i + e];
      a.v[e] = narrow_any<T>(p * c - q * s);
      b.v[e] = narrow_any<T>(q * c + p * s);
    }
    *reinterpret_cast<Pack<T, V>*>(y + lo) = a;
    *reinterpret_cast<Pack<T, V>*>(y + hi) = b;
  }
}

// Units of U, `units` a row. In place a thread moves fresh units only; else every unit of out is taken from the one or the other.
template <class U, class Index>
__global__ void __launch_bounds__(kThreads) write_in_place(CacheWriteProblem c, std::int64_t units, const U* fresh, const Index* positions,
                                                           U* out) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads, count = c.b * c.s * units;
  for (std::int64_t n = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; n < count; n += step) {
    const std::int64_t row = n / units, b = row / c.s, at = static_cast<std::int64_t>(positions[b]) + row % c.s;
    if (at >= 0 && at < c.t) out[(b * c.t + at) * units + n % units] = fresh[n];
  }
}
template <class U, class Index>
__global__ void __launch_bounds__(kThreads) write_apart(CacheWriteProblem c, std::int64_t units, const U* cache, const U* fresh,
                                                        const Index* positions, U* out) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads, count = c.b * c.t * units;
  for (std::int64_t n = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; n < count; n += step) {
    const std::int64_t row = n / units, b = row / c.t, s = row % c.t - static_cast<std::int64_t>(positions[b]);
    out[n] = s >= 0 && s < c.s ? fresh[(b * c.s + s) * units + n % units] : cache[n];
  }
}

// The widest unit that divides a row.
template <class F>
void with_unit(std::int64_t row_bytes, F&& f) {
  if (row_bytes % 16 == 0) f(uint4{});
  else if (row_bytes % 8 == 0) f(std::uint64_t{});
  else if (row_bytes % 4 == 0) f(std::uint32_t{});
  else if (row_bytes % 2 == 0) f(std::uint16_t{});
  else f(std::uint8_t{});
}

}  // namespace

void rope(const RopeProblem& r, const void* x, const void* positions, const double* frequency, void* y, void* handle) {
  if (r.rows * r.heads * r.d == 0) return;
  // With few rows (decoding) a row's heads go to several blocks, at the price of computing its angles again.
  const int spread = static_cast<int>(r.rows >= 256 ? 1 : 256 / r.rows), per_block = (r.heads + spread - 1) / spread;
  const std::int64_t grid = r.rows * ((r.heads + per_block - 1) / per_block);
  with_any_float(r.dtype, [&](auto zero) {
    using T = decltype(zero);
    using A = std::conditional_t<sizeof(T) == 8, double, float>;
    constexpr int V = 16 / sizeof(T);
    with_index(r.index, [&](auto at) {
      using Index = decltype(at);
      const auto start = [&](auto kernel) {
        kernel<<<static_cast<unsigned>(grid), kThreads, sizeof(A) * r.d, stream(handle)>>>(
            r, per_block, static_cast<const T*>(x), static_cast<const Index*>(positions), frequency, static_cast<T*>(y));
        launched("rope");
      };
      if (r.d / 2 % V == 0) start(turn<T, Index, V>);
      else start(turn<T, Index, 1>);
    });
  });
}

void cache_write(const CacheWriteProblem& c, const void* cache, const void* fresh, const void* positions, void* out, void* handle) {
  if (c.b * c.t * c.row_bytes == 0) return;
  with_unit(c.row_bytes, [&](auto unit) {
    using U = decltype(unit);
    const std::int64_t units = c.row_bytes / static_cast<std::int64_t>(sizeof(U));
    with_index(c.index, [&](auto at) {
      using Index = decltype(at);
      const auto* where = static_cast<const Index*>(positions);
      if (out != cache) {
        write_apart<U, Index><<<blocks(c.b * c.t * units, kThreads), kThreads, 0, stream(handle)>>>(
            c, units, static_cast<const U*>(cache), static_cast<const U*>(fresh), where, static_cast<U*>(out));
      } else if (c.s > 0) {
        write_in_place<U, Index><<<blocks(c.b * c.s * units, kThreads), kThreads, 0, stream(handle)>>>(c, units, static_cast<const U*>(fresh), where,
                                                                                           static_cast<U*>(out));
      }
      launched("cache_write");
    });
  });
}

}  // namespace rhetor::gpu
