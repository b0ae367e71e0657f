// attention of few queries over many keys, decoding above all: the heads that share a key head, and the positions, are the 16 rows of one
// product, so that every key is read once; the keys of a (batch, key head) are split over blocks, and in a block over its four warps, each
// with copies of its own under way. What the parts found is joined by their maxima: through shared memory inside a block, then through the
// shared memory of a cluster of blocks or by a second kernel.
// Memory-bound: keys and values that are visible, once.
#include "cuda/attention_mma.h"
#include "cuda/attention_tile.h"

namespace rhetor::gpu {
namespace {

constexpr int kSplitWarps = 4, kSplitThreads = 32 * kSplitWarps, kTileKeys = 16;

template <int D>
struct Split {
  static constexpr int kStages = D <= 64 ? 3 : 2, kTile = kTileKeys * D * 2, kRow = D + 8;   // kRow: floats, rows in different banks
  static constexpr int kWarp = 2 * kStages * kTile;
  // Q, the warps' tiles (later their outputs [4][16][kRow]), the block's output [16][D], maxima and sums of warps and block.
  static constexpr int kOut = kTile + kSplitWarps * kWarp, kStats = kOut + 16 * D * 4, kShared = kStats + (kSplitWarps + 1) * 16 * 8;
  static_assert(kSplitWarps * 16 * kRow * 4 <= kSplitWarps * kWarp);
};

// Of the parts found by several: a maximum of raw scores and a sum relative to it.
struct Part {
  float top, sum;
};
__device__ inline float weight(float top, float most, float scale_log2) { return most == -INFINITY ? 0.0f : exp2_fast((top - most) * scale_log2); }

// The row-th query of a (batch, key head): position and query head.
struct Row {
  int i, h;
};
__device__ inline Row row_of(const AttentionProblem& a, int g, int row) {
  const int group = a.h / a.g;
  return {row / group, g * group + row % group};
}

// Four dims of a row, joined: to the output, and the row's lse.
template <class T>
__device__ inline void write_row(const AttentionProblem& a, const AttentionPointers& p, int b, Row row, int c, float4 sums, Part all) {
  const float inverse = all.top == -INFINITY && all.sum == 0 ? 0.0f : 1.0f / all.sum;
  if (c < a.d) {
    const Pack<T, 4> y{narrow<T>(sums.x * inverse), narrow<T>(sums.y * inverse), narrow<T>(sums.z * inverse), narrow<T>(sums.w * inverse)};
    *reinterpret_cast<Pack<T, 4>*>(static_cast<T*>(p.o) + query_row(a, b, row.i, row.h) + c) = y;
  }
  if (c == 0 && p.lse)
    static_cast<float*>(p.lse)[lse_row(a, b, row.i, row.h)] =
        all.top == -INFINITY && all.sum == 0 ? -INFINITY : fmaf(all.top, static_cast<float>(a.scale), logf(all.sum));
}
__device__ inline void add_weighted(float4& sum, float w, float4 x) {
  sum.x = fmaf(w, x.x, sum.x), sum.y = fmaf(w, x.y, sum.y), sum.z = fmaf(w, x.z, sum.z), sum.w = fmaf(w, x.w, sum.w);
}

// A chunk and the one half a head further, turned by their angles.
template <class T>
__device__ inline void turn(Pack<T, 8>& lo, Pack<T, 8>& hi, const float* cosine, const float* sine) {
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    const float x = widen(lo.v[e]), y = widen(hi.v[e]);
    lo.v[e] = narrow<T>(x * cosine[e] - y * sine[e]);
    hi.v[e] = narrow<T>(y * cosine[e] + x * sine[e]);
  }
}

// One token a sequence: its query into the tile, turned; its key, turned, and its value into the caches, by the block that will read
// them, [begin, stop). All threads have to come here.
template <class T, int D>
__device__ inline void take_token(const AttentionProblem& a, const AttentionPointers& p, const AttentionStep& step, int b, int g, int begin,
                                  int stop, unsigned char* q_tile) {
  __shared__ float cosine[D / 2], sine[D / 2];
  const int chunks = a.d / 8, half = chunks / 2, group = a.h / a.g, at = p.offsets[b];
  if (step.frequency) {
    const double position = static_cast<double>(step.positions[b]);
    for (int i = threadIdx.x; i < a.d / 2; i += kSplitThreads) {
      double s, c;
      sincos(position * step.frequency[i], &s, &c);
      cosine[i] = static_cast<float>(c);
      sine[i] = static_cast<float>(s);
    }
    __syncthreads();
  }
  const auto store = [&](int r, int chunk, const Pack<T, 8>& x) { *reinterpret_cast<Pack<T, 8>*>(q_tile + chunk_offset<D>(r, chunk)) = x; };
  const auto load = [](const void* from, std::int64_t i) { return *reinterpret_cast<const Pack<T, 8>*>(static_cast<const T*>(from) + i); };
  for (int n = threadIdx.x; n < 16 * (D / 16); n += kSplitThreads) {
    const int r = n / (D / 16), c = n % (D / 16);
    if (r < group && c < half) {
      const std::int64_t from = query_in(a, b, 0, g * group + r) + 8 * c;
      Pack<T, 8> lo = load(p.q, from), hi = load(p.q, from + 8 * half);
      if (step.frequency) turn(lo, hi, cosine + 8 * c, sine + 8 * c);
      store(r, c, lo);
      store(r, c + half, hi);
    } else {   // no row, or past the head's end
      store(r, 2 * c, Pack<T, 8>{});
      store(r, 2 * c + 1, Pack<T, 8>{});
    }
  }
  if (at >= begin && at < stop) {
    const std::int64_t to = key_in(a, b, at, g, a.k_token), k_from = b * step.k_token + static_cast<std::int64_t>(g) * a.d,
                       v_from = b * step.v_token + static_cast<std::int64_t>(g) * a.d;
    const auto keep = [&](void* cache, int c, const Pack<T, 8>& x) { *reinterpret_cast<Pack<T, 8>*>(static_cast<T*>(cache) + to + 8 * c) = x; };
    for (int c = threadIdx.x; c < half; c += kSplitThreads) {
      Pack<T, 8> lo = load(step.k, k_from + 8 * c), hi = load(step.k, k_from + 8 * (c + half));
      if (step.frequency) turn(lo, hi, cosine + 8 * c, sine + 8 * c);
      keep(step.k_cache, c, lo);
      keep(step.k_cache, c + half, hi);
    }
    for (int c = threadIdx.x; c < chunks; c += kSplitThreads) keep(step.v_cache, c, load(step.v, v_from + 8 * c));
  }
  __syncthreads();   // this block's copies may now read the caches
}

// Asks for this block's keys and values to come to the second-level cache, before it is certain what they are: nothing is read.
template <int D>
__device__ inline void fetch_early(const AttentionProblem& a, const AttentionPointers& p, int splits) {
#if __CUDA_ARCH__ >= 900
  const int split = blockIdx.x % splits, g = blockIdx.x / splits % a.g, b = blockIdx.x / splits / a.g;
  const int most = visible_end(a, nullptr, p.offsets, b, 0);
  const int share = ((most + splits - 1) / splits + kTileKeys - 1) / kTileKeys * kTileKeys;
  const int begin = min(split * share, most), stop = min(begin + share, most);
  for (int j = begin + threadIdx.x; j < stop; j += kSplitThreads) {
    const std::int64_t row = key_in(a, b, j, g, a.k_token) * 2;
    for (int byte = 0; byte < a.d * 2; byte += 128) {
      asm volatile("prefetch.global.L2 [%0];" ::"l"(static_cast<const char*>(p.k) + row + byte));
      asm volatile("prefetch.global.L2 [%0];" ::"l"(static_cast<const char*>(p.v) + row + byte));
    }
  }
#endif
}

// blockIdx.x: splits fastest (a cluster is the splits of one item), then blocks of 16 rows, key heads, batch.
// parts [B,H,S][splits][D], stats [B,H,S][splits]: what the second kernel joins.
template <class T, int D, bool token>
__global__ void __launch_bounds__(kSplitThreads) split_forward(AttentionProblem a, AttentionPointers p, AttentionStep step, int splits,
                                                               bool cluster, float* parts, Part* stats, float scale_log2) {
  using F = Split<D>;
  let_next_begin();
  if constexpr (token) fetch_early<D>(a, p, splits);
  wait_for_previous();
  extern __shared__ __align__(128) unsigned char memory[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, rows = a.s * (a.h / a.g), row_tiles = (rows + 15) / 16;
  const int split = blockIdx.x % splits, item = blockIdx.x / splits, first = item % row_tiles * 16;
  const int g = item / row_tiles % a.g, b = item / row_tiles / a.g;
  const std::uint32_t q_tile = shared_address(memory), tiles = q_tile + F::kTile + warp * F::kWarp;
  const int last = min(first + 16, rows) - 1;
  const int least = visible_end(a, p.lengths, p.offsets, b, row_of(a, g, first).i);
  const int most = visible_end(a, p.lengths, p.offsets, b, row_of(a, g, last).i);
  const int share = ((most + splits - 1) / splits + kTileKeys - 1) / kTileKeys * kTileKeys;
  const int begin = min(split * share, most), stop = min(begin + share, most);
  const T* k = static_cast<const T*>(p.k) + key_in(a, b, 0, g, a.k_token);
  const T* v = static_cast<const T*>(p.v) + key_in(a, b, 0, g, a.v_token);
  if constexpr (token) {
    take_token<T, D>(a, p, step, b, g, begin, stop, memory);
  } else {
    for (int c = threadIdx.x; c < 16 * (D / 8); c += kSplitThreads) {
      const int r = c / (D / 8), chunk = c % (D / 8);
      const bool valid = first + r < rows && chunk * 8 < a.d;
      const Row row = row_of(a, g, valid ? first + r : first);
      copy_async(q_tile + chunk_offset<D>(r, chunk), static_cast<const T*>(p.q) + query_in(a, b, row.i, row.h) + (valid ? chunk * 8 : 0), valid);
    }
  }
  commit_copies();
  // This warp's tiles: every fourth of the split.
  const int tile_count = (stop - begin + kTileKeys - 1) / kTileKeys, count = (tile_count - warp + kSplitWarps - 1) / kSplitWarps;
  const auto key_of = [&](int n) { return begin + (warp + n * kSplitWarps) * kTileKeys; };
  const auto load_keys = [&](int n) {
    if (n < count) {
      const std::uint32_t at = tiles + n % F::kStages * 2 * F::kTile;
      load_tile<D, kTileKeys, 32>(at, k, a.k_token, key_of(n), stop, a.d, lane);
      load_tile<D, kTileKeys, 32>(at + F::kTile, v, a.v_token, key_of(n), stop, a.d, lane);
    }
    commit_copies();
  };
#pragma unroll
  for (int n = 0; n + 1 < F::kStages; ++n) load_keys(n);
  wait_copies<F::kStages - 1>();
  __syncthreads();   // Q has come
  Fragment q[D / 16][4];
#pragma unroll
  for (int c = 0; c < D / 16; ++c) load_a<D>(q[c], q_tile, 0, c);
  int end[2];
#pragma unroll
  for (int r = 0; r < 2; ++r)
    end[r] = min(stop, visible_end(a, p.lengths, p.offsets, b, row_of(a, g, min(first + lane / 4 + 8 * r, rows - 1)).i));

  RunningRows running;
  float out[1][D / 8][4] = {};
  for (int n = 0; n < count; ++n) {
    wait_copies<F::kStages - 2>();
    __syncwarp();   // tile n has come for all lanes, and none reads tile n - 1 any more
    load_keys(n + F::kStages - 1);
    const std::uint32_t at = tiles + n % F::kStages * 2 * F::kTile;
    float s[1][kTileKeys / 8][4] = {};
    product_by_rows<T, D, kTileKeys, 1>(
        s,
        [&](Fragment(&x)[4], int, int c) {
#pragma unroll
          for (int e = 0; e < 4; ++e) x[e] = q[c][e];
        },
        at);
    if (key_of(n) + kTileKeys > min(least, stop)) hide_keys<kTileKeys>(s[0], key_of(n), end);
    online_softmax<kTileKeys, D>(running, s[0], out[0], scale_log2);
    product_with_rows<T, D, kTileKeys, 1>(out, s, at + F::kTile);
  }
  wait_copies<0>();
  __syncthreads();

  // The warps' parts become the block's.
  auto* wide = reinterpret_cast<float*>(memory + F::kTile);
  auto* block_out = reinterpret_cast<float*>(memory + F::kOut);
  auto* found = reinterpret_cast<Part*>(memory + F::kStats);   // [4][16], then the block's [16]
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = lane / 4 + 8 * r;
#pragma unroll
    for (int c = 0; c < D / 8; ++c)
      *reinterpret_cast<float2*>(wide + (warp * 16 + row) * F::kRow + 8 * c + lane % 4 * 2) = {out[0][c][2 * r], out[0][c][2 * r + 1]};
    const float sum = row_sum(running.sum[r]);
    if (lane % 4 == 0) found[warp * 16 + row] = {running.top[r], sum};
  }
  __syncthreads();
  for (int c = threadIdx.x; c < 16 * (D / 4); c += kSplitThreads) {
    const int r = c / (D / 4), dim = c % (D / 4) * 4;
    Part all{-INFINITY, 0};
    float4 sums{};
#pragma unroll
    for (int w = 0; w < kSplitWarps; ++w) all.top = fmaxf(all.top, found[w * 16 + r].top);
#pragma unroll
    for (int w = 0; w < kSplitWarps; ++w) {
      const float f = weight(found[w * 16 + r].top, all.top, scale_log2);
      all.sum = fmaf(f, found[w * 16 + r].sum, all.sum);
      add_weighted(sums, f, *reinterpret_cast<const float4*>(wide + (w * 16 + r) * F::kRow + dim));
    }
    if (first + r >= rows) continue;
    const Row row = row_of(a, g, first + r);
    if (splits == 1) {
      write_row<T>(a, p, b, row, dim, sums, all);
    } else if (cluster) {
      *reinterpret_cast<float4*>(block_out + r * D + dim) = sums;
      if (dim == 0) found[kSplitWarps * 16 + r] = all;
    } else {
      const std::int64_t at = lse_row(a, b, row.i, row.h) * splits + split;
      *reinterpret_cast<float4*>(parts + at * D + dim) = sums;
      if (dim == 0) stats[at] = all;
    }
  }
  if (!cluster || splits == 1) return;
  // The blocks' parts become the result, each block joining its share of rows and dims.
  cluster_barrier();
  const int items = (last - first + 1) * (D / 4);
  for (int c = split * kSplitThreads + threadIdx.x; c < items; c += splits * kSplitThreads) {
    const int r = c / (D / 4), dim = c % (D / 4) * 4;
    const std::uint32_t at = shared_address(found + kSplitWarps * 16 + r / 2 * 2);   // 16 bytes hold the parts of two rows
    Part all{-INFINITY, 0};
    float4 sums{};
    for (int w = 0; w < splits; ++w) {
      const float4 two = load_from_block(at, w);
      all.top = fmaxf(all.top, r % 2 ? two.z : two.x);
    }
    for (int w = 0; w < splits; ++w) {
      const float4 two = load_from_block(at, w);
      const float f = weight(r % 2 ? two.z : two.x, all.top, scale_log2);
      all.sum = fmaf(f, r % 2 ? two.w : two.y, all.sum);
      add_weighted(sums, f, load_from_block(shared_address(block_out + r * D + dim), w));
    }
    write_row<T>(a, p, b, row_of(a, g, first + r), dim, sums, all);
  }
  cluster_barrier();   // shared memory stays until all have read it
}

// A warp joins a row's splits, a lane four dims.
template <class T, int D>
__global__ void __launch_bounds__(kSplitThreads) join_splits(AttentionProblem a, AttentionPointers p, int splits, const float* parts,
                                                        const Part* stats, float scale_log2) {
  let_next_begin();
  wait_for_previous();
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kSplitWarps + threadIdx.x / 32;
  const int dim = threadIdx.x % 32 * 4;
  if (row >= static_cast<std::int64_t>(a.b) * a.h * a.s || dim >= D) return;
  Part all{-INFINITY, 0};
  float4 sums{};
  for (int w = 0; w < splits; ++w) all.top = fmaxf(all.top, stats[row * splits + w].top);
  for (int w = 0; w < splits; ++w) {
    const Part part = stats[row * splits + w];
    const float f = weight(part.top, all.top, scale_log2);
    all.sum = fmaf(f, part.sum, all.sum);
    add_weighted(sums, f, *reinterpret_cast<const float4*>(parts + (row * splits + w) * D + dim));
  }
  const int i = static_cast<int>(row % a.s), h = static_cast<int>(row / a.s % a.h), b = static_cast<int>(row / a.s / a.h);
  write_row<T>(a, p, b, {i, h}, dim, sums, all);
}

std::int64_t split_items(const AttentionProblem& a) { return static_cast<std::int64_t>(a.b) * a.g * ((a.s * (a.h / a.g) + 15) / 16); }

}  // namespace

AttentionSplit attention_split_of(const AttentionProblem& a, int processors, int most_splits) {
  const std::int64_t items = split_items(a);
  if (items == 0 || 2 * items > processors) return {};
  // Two blocks a processor, but a split should have some keys to read.
  const std::int64_t wanted = std::min<std::int64_t>(2 * processors / items, (a.t + 31) / 32);
  return {.splits = static_cast<int>(wanted < 1 ? 1 : wanted > most_splits ? most_splits : wanted)};
}

std::uint64_t attention_split_scratch(const AttentionProblem& a, const AttentionSplit& how) {
  if (how.splits == 1 || how.cluster) return 0;
  return static_cast<std::uint64_t>(a.b) * a.h * a.s * how.splits * (128 * sizeof(float) + sizeof(Part));
}

namespace {

template <bool token>
void start(const AttentionProblem& a, const AttentionPointers& p, const AttentionStep& step, const AttentionSplit& how, void* scratch,
           void* handle) {
  const std::int64_t rows = static_cast<std::int64_t>(a.b) * a.h * a.s, grid = split_items(a) * how.splits;
  if (rows == 0) return;
  const float scale_log2 = static_cast<float>(a.scale * 1.4426950408889634);
  auto* parts = static_cast<float*>(scratch);
  with_half(a.dtype, [&](auto zero) {
    using T = decltype(zero);
    with_head(a.d, [&](auto head) {
      constexpr int D = decltype(head)::value;
      auto* stats = reinterpret_cast<Part*>(parts + rows * how.splits * D);
      launch_early(split_forward<T, D, token>, how.early, dim3(static_cast<unsigned>(grid)), how.cluster ? static_cast<unsigned>(how.splits) : 1,
                   kSplitThreads, Split<D>::kShared, handle, a, p, step, how.splits, how.cluster, parts, stats, scale_log2);
      if (how.cluster || how.splits == 1) return;
      launch_early(join_splits<T, D>, how.early, dim3(static_cast<unsigned>((rows + kSplitWarps - 1) / kSplitWarps)), 1, kSplitThreads, 0, handle,
                   a, p, how.splits, static_cast<const float*>(parts), static_cast<const Part*>(stats), scale_log2);
    });
  });
}

}  // namespace

void attention_split(const AttentionProblem& a, const AttentionPointers& p, const AttentionSplit& how, void* scratch, void* handle) {
  start<false>(a, p, {}, how, scratch, handle);
}
void attention_step(const AttentionProblem& a, const AttentionPointers& p, const AttentionStep& step, const AttentionSplit& how, void* scratch,
                    void* handle) {
  start<true>(a, p, step, how, scratch, handle);
}

}  // namespace rhetor::gpu
