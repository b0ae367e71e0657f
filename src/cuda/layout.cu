// Moving elements. Memory-bound: one read, one write; 16 bytes a thread where alignment allows.
#include "cuda/layout.h"

#include "cuda/launch.h"

namespace rhetor::gpu {
namespace {

constexpr int kThreads = 256;

// Calls f with a zero of the type of `bytes` bytes.
template <class F>
void with_unit(int bytes, F&& f) {
  if (bytes == 16) f(uint4{});
  else with_bytes(static_cast<std::size_t>(bytes), static_cast<F&&>(f));
}
// ... and with a zero of the type that counts `units`.
template <class F>
void with_unit_and_index(int bytes, std::int64_t units, F&& f) {
  with_unit(bytes, [&](auto unit) {
    if (units < kDividerLimit) f(unit, std::uint32_t{});
    else f(unit, std::uint64_t{});
  });
}

template <class T, class Index>
__global__ void __launch_bounds__(kThreads) strided_kernel(StridedCopy c, const T* __restrict__ in, T* __restrict__ out) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t u = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; u < c.units; u += step) {
    Index rest = static_cast<Index>(u);
    std::int64_t at = c.offset;
    for (int d = c.rank - 1; d > 0; --d) {
      const Index quotient = split_off(rest, c.divide[d], c.size[d]);
      at += static_cast<std::int64_t>(rest) * c.from[d];
      rest = quotient;
    }
    at += static_cast<std::int64_t>(rest) * c.from[0];
    out[u] = in[at];
  }
}

template <class T, class Index>
__global__ void __launch_bounds__(kThreads) pad_kernel(PadCopy p, const T* __restrict__ in, T* __restrict__ out) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  T fill;
  memcpy(&fill, p.fill, sizeof(T));
  for (std::int64_t u = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; u < p.units; u += step) {
    Index rest = static_cast<Index>(u);
    std::int64_t at = 0;
    bool inside = true;
    for (int d = p.rank - 1; d >= 0; --d) {
      const Index quotient = split_off(rest, p.divide[d], p.size[d]);
      const std::int64_t index = static_cast<std::int64_t>(rest) - p.before[d];
      inside = inside && index >= 0 && index < p.inside[d];
      at += index * p.from[d];
      rest = quotient;
    }
    out[u] = inside ? in[at] : fill;
  }
}

template <class T, class Index>
__global__ void __launch_bounds__(kThreads) join_kernel(JoinRows j, T* __restrict__ out) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads, units = j.rows * j.width;
  for (std::int64_t u = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; u < units; u += step) {
    Index column = static_cast<Index>(u);
    const auto row = static_cast<std::int64_t>(split_off(column, j.divide, j.width));
    const auto at = static_cast<std::int64_t>(column);
    int part = 0;
    while (at >= j.begin[part + 1]) ++part;
    const std::int64_t width = j.begin[part + 1] - j.begin[part];
    out[row * j.row + j.column + at] = static_cast<const T*>(j.in[part])[row * width + at - j.begin[part]];
  }
}

constexpr int kTile = 32, kTileRows = 8;

// Where this block's tile of `side` x `side` elements lies: its matrix, first row and first column.
struct Tile {
  std::int64_t from = 0, to = 0, r0 = 0, c0 = 0;
};
__device__ Tile tile_of_block(const TileTranspose& t, int side) {
  const std::int64_t across = (t.rows + side - 1) / side, down = (t.columns + side - 1) / side;
  std::int64_t rest = blockIdx.x;
  Tile tile;
  tile.r0 = rest % across * side;
  rest /= across;
  tile.c0 = rest % down * side;
  rest /= down;
  for (int d = t.rank - 1; d >= 0; --d) {
    const std::int64_t index = rest % t.size[d];
    rest /= t.size[d];
    tile.from += index * t.batch_from[d];
    tile.to += index * t.batch_to[d];
  }
  return tile;
}

// A tile of 32 x 32 elements through shared memory: both sides move whole lines. A column more than the tile keeps the 32 elements of a
// column in different banks.
template <class T>
__global__ void __launch_bounds__(kTile* kTileRows) tile_kernel(TileTranspose t, const T* __restrict__ in, T* __restrict__ out) {
  __shared__ T tile[kTile][kTile + 1];
  const auto [from, to, r0, c0] = tile_of_block(t, kTile);
  in += from;
  out += to;
  const int x = threadIdx.x, y = threadIdx.y;
#pragma unroll
  for (int i = 0; i < kTile; i += kTileRows)
    if (c0 + y + i < t.columns && r0 + x < t.rows) tile[y + i][x] = in[(c0 + y + i) * t.from + r0 + x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kTile; i += kTileRows)
    if (r0 + y + i < t.rows && c0 + x < t.columns) out[(r0 + y + i) * t.to + c0 + x] = tile[x][y + i];
}

// 64 x 64 elements of 2 bytes: a word holds two, and two words of neighbouring columns become two words of neighbouring rows.
__global__ void __launch_bounds__(kTile* kTileRows) pair_kernel(TileTranspose t, const std::uint32_t* __restrict__ in, std::uint32_t* __restrict__ out) {
  __shared__ std::uint32_t tile[2 * kTile][kTile + 1];
  const auto [from, to, r0, c0] = tile_of_block(t, 2 * kTile);
  const int x = threadIdx.x, y = threadIdx.y;
#pragma unroll
  for (int i = 0; i < kTile; i += kTileRows) {
    const std::int64_t c = c0 + 2 * (y + i), r = r0 + 2 * x;
    if (c >= t.columns || r >= t.rows) continue;
    const std::uint32_t a = in[(from + c * t.from + r) / 2], b = in[(from + (c + 1) * t.from + r) / 2];
    tile[2 * x][y + i] = __byte_perm(a, b, 0x5410);
    tile[2 * x + 1][y + i] = __byte_perm(a, b, 0x7632);
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 2 * kTile; i += kTileRows)
    if (r0 + y + i < t.rows && c0 + 2 * x < t.columns) out[(to + (r0 + y + i) * t.to + c0) / 2 + x] = tile[y + i][x];
}

}  // namespace

void strided_copy(const StridedCopy& copy, const void* in, void* out, void* s) {
  if (copy.units == 0) return;
  with_unit_and_index(copy.bytes, copy.units, [&](auto unit, auto index) {
    using T = decltype(unit);
    strided_kernel<T, decltype(index)><<<blocks(copy.units, kThreads), kThreads, 0, stream(s)>>>(copy, static_cast<const T*>(in), static_cast<T*>(out));
  });
  launched("strided copy");
}

void pad_copy(const PadCopy& pad, const void* in, void* out, void* s) {
  if (pad.units == 0) return;
  with_unit_and_index(pad.bytes, pad.units, [&](auto unit, auto index) {
    using T = decltype(unit);
    pad_kernel<T, decltype(index)><<<blocks(pad.units, kThreads), kThreads, 0, stream(s)>>>(pad, static_cast<const T*>(in), static_cast<T*>(out));
  });
  launched("pad");
}

void join_rows(const JoinRows& join, void* out, void* s) {
  const std::int64_t units = join.rows * join.width;
  if (units == 0) return;
  with_unit_and_index(join.bytes, units, [&](auto unit, auto index) {
    using T = decltype(unit);
    join_kernel<T, decltype(index)><<<blocks(units, kThreads), kThreads, 0, stream(s)>>>(join, static_cast<T*>(out));
  });
  launched("concat");
}

void tile_transpose(const TileTranspose& t, const void* in, void* out, void* s) {
  const int side = t.pairs ? 2 * kTile : kTile;
  const std::int64_t tiles = (t.rows + side - 1) / side * ((t.columns + side - 1) / side) * t.batch;
  if (tiles == 0) return;
  const dim3 threads(kTile, kTileRows);
  if (t.pairs) {
    pair_kernel<<<static_cast<unsigned>(tiles), threads, 0, stream(s)>>>(t, static_cast<const std::uint32_t*>(in), static_cast<std::uint32_t*>(out));
  } else {
    with_bytes(static_cast<std::size_t>(t.bytes), [&](auto unit) {
      using T = decltype(unit);
      tile_kernel<T><<<static_cast<unsigned>(tiles), threads, 0, stream(s)>>>(t, static_cast<const T*>(in), static_cast<T*>(out));
    });
  }
  launched("transpose");
}

void copy_bytes(std::int64_t bytes, const void* in, void* out, void* s) {
  if (in == out || bytes == 0) return;
  require(cudaMemcpyAsync(out, in, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToDevice, stream(s)), "cudaMemcpyAsync");
}

}  // namespace rhetor::gpu
