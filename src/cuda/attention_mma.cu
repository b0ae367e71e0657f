// attention in 16-bit floats on matrix units, after FlashAttention-2 (Dao 2023): a block has 16 M W queries of a head, a warp 16 M of them;
// keys and values pass through shared memory in tiles of C, the next one copied while this one is multiplied; scores and probabilities stay
// in registers. Compute-bound: 4 D operations a visible pair on the matrix units, one exponential a pair; keys hidden from all queries
// of a block are not read.
#include "cuda/attention_mma.h"
#include "cuda/attention_tile.h"

namespace rhetor::gpu {
namespace {

template <class T, int D, int M, int W, int C>
struct Forward {
  static constexpr int kQueries = 16 * M * W, kThreads = 32 * W;
  static constexpr int kShared = (kQueries + 4 * C) * D * 2;
  // Q's fragments live in registers; else, to have two blocks of 256 threads on a processor, they are fetched again for every tile.
  static constexpr bool kKeepQ = M * (D / 16) <= 8 && W <= 4;
};

template <class T, int D, int M, int W, int C>
__global__ void __launch_bounds__(32 * W, 2) mma_forward(AttentionProblem a, AttentionPointers p, float scale_log2) {
  using F = Forward<T, D, M, W, C>;
  extern __shared__ __align__(128) unsigned char memory[];
  const std::uint32_t q_tile = shared_address(memory), k_tiles = q_tile + F::kQueries * D * 2, v_tiles = k_tiles + 2 * C * D * 2;
  const int tiles = (a.s + F::kQueries - 1) / F::kQueries, heads = a.b * a.h, item = blockIdx.x;
  // Under a causal mask the last queries see most: their blocks start first.
  const int tile = a.causal ? tiles - 1 - item / heads : item % tiles, head = a.causal ? item % heads : item / tiles;
  const int b = head / a.h, h = head % a.h, g = h / (a.h / a.g), first = tile * F::kQueries;
  const int least = visible_end(a, p.lengths, p.offsets, b, first);
  const int most = visible_end(a, p.lengths, p.offsets, b, min(first + F::kQueries, a.s) - 1);
  const T* q = static_cast<const T*>(p.q) + query_in(a, b, 0, h);
  const T* k = static_cast<const T*>(p.k) + key_in(a, b, 0, g, a.k_token);
  const T* v = static_cast<const T*>(p.v) + key_in(a, b, 0, g, a.v_token);
  const std::int64_t stride_o = static_cast<std::int64_t>(a.h) * a.d;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, own = warp * 16 * M;   // this warp's rows in the tile
  const auto load_keys = [&](int j) {
    const std::uint32_t at = j % 2 * (C * D * 2);
    load_tile<D, C, F::kThreads>(k_tiles + at, k, a.k_token, j * C, most, a.d, threadIdx.x);
    load_tile<D, C, F::kThreads>(v_tiles + at, v, a.v_token, j * C, most, a.d, threadIdx.x);
  };
  load_tile<D, F::kQueries, F::kThreads>(q_tile, q, a.q_token, first, a.s, a.d, threadIdx.x);
  if (most > 0) load_keys(0);
  commit_copies();

  int end[M][2];
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int r = 0; r < 2; ++r) end[m][r] = visible_end(a, p.lengths, p.offsets, b, first + own + 16 * m + lane / 4 + 8 * r);
  RunningRows rows[M];
  float out[M][D / 8][4] = {};
  Fragment kept[F::kKeepQ ? M : 1][F::kKeepQ ? D / 16 : 1][4];
  const int count = (most + C - 1) / C;
  for (int j = 0; j < count; ++j) {
    wait_copies<0>();
    __syncthreads();   // tile j has come, and nobody reads tile j - 1 any more
    if (j + 1 < count) load_keys(j + 1);
    commit_copies();
    if constexpr (F::kKeepQ) {
      if (j == 0)
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
          for (int c = 0; c < D / 16; ++c) load_a<D>(kept[m][c], q_tile, own + 16 * m, c);
    }
    const std::uint32_t at = j % 2 * (C * D * 2);
    float s[M][C / 8][4] = {};
    product_by_rows<T, D, C, M>(
        s,
        [&](Fragment(&x)[4], int m, int c) {
          if constexpr (F::kKeepQ) {
#pragma unroll
            for (int e = 0; e < 4; ++e) x[e] = kept[m][c][e];
          } else {
            load_a<D>(x, q_tile, own + 16 * m, c);
          }
        },
        k_tiles + at);
    if ((j + 1) * C > least)
#pragma unroll
      for (int m = 0; m < M; ++m) hide_keys<C>(s[m], j * C, end[m]);
#pragma unroll
    for (int m = 0; m < M; ++m) online_softmax<C, D>(rows[m], s[m], out[m], scale_log2);
    product_with_rows<T, D, C, M>(out, s, v_tiles + at);
  }
  if (count == 0) {   // Q's copy still writes the tile that the results go through
    wait_copies<0>();
    __syncthreads();
  }
#pragma unroll
  for (int m = 0; m < M; ++m) {
    float inverse[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float sum = row_sum(rows[m].sum[r]);
      const int i = first + own + 16 * m + lane / 4 + 8 * r;
      inverse[r] = end[m][r] > 0 ? 1.0f / sum : 0.0f;
      if (p.lse && i < a.s && lane % 4 == 0)
        static_cast<float*>(p.lse)[lse_row(a, b, i, h)] =
            end[m][r] > 0 ? fmaf(rows[m].top[r], static_cast<float>(a.scale), logf(sum)) : -INFINITY;
    }
    stage_rows<T, D>(out[m], inverse, memory, own + 16 * m);
  }
  __syncwarp();
  store_tile<D, 16 * M>(memory, static_cast<T*>(p.o) + query_row(a, b, 0, h), stride_o, own, first, a.s, a.d);
}

template <class T, int D, int M, int W, int C>
void start(const AttentionProblem& a, const AttentionPointers& p, void* handle) {
  using F = Forward<T, D, M, W, C>;
  const auto kernel = mma_forward<T, D, M, W, C>;
  require(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, F::kShared), "cudaFuncSetAttribute");
  const std::int64_t grid = static_cast<std::int64_t>((a.s + F::kQueries - 1) / F::kQueries) * a.b * a.h;
  kernel<<<static_cast<unsigned>(grid), F::kThreads, F::kShared, stream(handle)>>>(a, p, static_cast<float>(a.scale * 1.4426950408889634));
  launched("attention_mma");
}

}  // namespace

void attention_mma(const AttentionProblem& a, const AttentionPointers& p, int processors, void* handle) {
  if (static_cast<std::int64_t>(a.b) * a.s * a.h == 0) return;
  // Wide blocks fetch keys less often; narrow ones fill the device when there are few queries.
  const std::int64_t wide = static_cast<std::int64_t>((a.s + 127) / 128) * a.b * a.h;
  with_half(a.dtype, [&](auto zero) {
    using T = decltype(zero);
    with_head(a.d, [&](auto head) {
      constexpr int D = decltype(head)::value;
      if (wide < processors) start<T, D, 1, 4, 64>(a, p, handle);
      else if constexpr (D <= 64) start<T, D, 2, 4, 64>(a, p, handle);
      else start<T, D, 1, 8, 64>(a, p, handle);
    });
  });
}

}  // namespace rhetor::gpu
