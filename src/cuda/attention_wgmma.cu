// attention in 16-bit floats on Hopper's asynchronous matrix units, after FlashAttention-3 (Shah et al. 2024): a block has 128 queries of a
// head, each of its two warpgroups 64; Q and P are operands in registers, K and V in shared memory. The outputs of a tile of keys are under way
// while the probabilities of the next are made.
// Compute-bound: 4 D operations a visible pair, one exponential a pair.
#include "cuda/attention_mma.h"
#include "cuda/attention_wgmma_mma.h"

namespace rhetor::gpu {
namespace {

constexpr int kWgmmaThreads = 256, kQueries = 128, kKeys = 64;
constexpr std::uint32_t kRowBytes = 128, kKeyPanel = kKeys * kRowBytes, kQueryPanel = kQueries * kRowBytes;   // panels: 64 columns wide

// D: 64 or 128.
template <int D>
struct Wgmma {
  static constexpr int kPanels = D / 64, kTile = kPanels * kKeyPanel, kQ = kPanels * kQueryPanel;
  static constexpr int kShared = kQ + 4 * kTile + 1024;   // two tiles of K, two of V, and what aligns them
  static constexpr int kBlocks = D > 64 ? 1 : 2;          // on a processor
};

template <int D, int Rows, class T>
__device__ inline void load_panels(std::uint32_t tile, const T* from, std::int64_t stride, int first, int limit, int d) {
#pragma unroll
  for (int c = 0; c < D / 64; ++c)
    load_tile<64, Rows, kWgmmaThreads>(tile + c * Rows * kRowBytes, from + 64 * c, stride, first, limit, d - 64 * c, threadIdx.x);
}

template <class T, int D>
__global__ void __launch_bounds__(kWgmmaThreads, Wgmma<D>::kBlocks) wgmma_forward(AttentionProblem a, AttentionPointers p, float scale_log2) {
  using F = Wgmma<D>;
  extern __shared__ __align__(1024) unsigned char memory[];
  const std::uint32_t at = shared_address(memory), q_tile = (at + 1023) / 1024 * 1024, k_tiles = q_tile + F::kQ, v_tiles = k_tiles + 2 * F::kTile;
  const int tiles = (a.s + kQueries - 1) / kQueries, heads = a.b * a.h, item = blockIdx.x;
  const int tile = a.causal ? tiles - 1 - item / heads : item % tiles, head = a.causal ? item % heads : item / tiles;
  const int b = head / a.h, h = head % a.h, g = h / (a.h / a.g), first = tile * kQueries;
  const int least = visible_end(a, p.lengths, p.offsets, b, first);
  const int most = visible_end(a, p.lengths, p.offsets, b, min(first + kQueries, a.s) - 1);
  const T* k = static_cast<const T*>(p.k) + key_in(a, b, 0, g, a.k_token);
  const T* v = static_cast<const T*>(p.v) + key_in(a, b, 0, g, a.v_token);
  const std::int64_t stride_o = static_cast<std::int64_t>(a.h) * a.d;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, own = warp * 16, count = (most + kKeys - 1) / kKeys;
  const auto load_k = [&](int j) {
    if (j < count) load_panels<D, kKeys>(k_tiles + j % 2 * F::kTile, k, a.k_token, j * kKeys, most, a.d);
  };
  const auto load_v = [&](int j) {
    if (j < count) load_panels<D, kKeys>(v_tiles + j % 2 * F::kTile, v, a.v_token, j * kKeys, most, a.d);
  };
  load_panels<D, kQueries>(q_tile, static_cast<const T*>(p.q) + query_in(a, b, 0, h), a.q_token, first, a.s, a.d);
  load_k(0);
  load_v(0);
  load_k(1);
  commit_copies();
  const auto copies_come = [&] {   // those of all threads, before the matrix units read them
    wait_copies<0>();
    publish_copies();
    __syncthreads();
  };

  int end[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) end[r] = visible_end(a, p.lengths, p.offsets, b, first + own + lane / 4 + 8 * r);
  copies_come();
  Fragment q[D / 16][4];
#pragma unroll
  for (int c = 0; c < D / 16; ++c) load_a<64>(q[c], q_tile + c / 4 * kQueryPanel, own, c % 4);

  RunningRows rows;
  float out[D / 8][4] = {}, s[kKeys / 8][4], rescale[2];
  const auto start_scores = [&](float(&to)[kKeys / 8][4], int j) {
    const std::uint32_t tile_at = k_tiles + j % 2 * F::kTile;
    begin_products();
#pragma unroll
    for (int c = 0; c < D / 16; ++c)
      multiply_async<false>(T{}, reinterpret_cast<float(&)[kKeys / 2]>(to), q[c], matrix_at(tile_at + c / 4 * kKeyPanel + c % 4 * 32, 16), c > 0);
    close_products();
  };
  const auto start_outputs = [&](const Fragment(&x)[kKeys / 16][4], int j) {
    const std::uint32_t tile_at = v_tiles + j % 2 * F::kTile;
    begin_products();
#pragma unroll
    for (int c = 0; c < kKeys / 16; ++c)
      multiply_async<true>(T{}, reinterpret_cast<float(&)[D / 2]>(out), x[c], matrix_at(tile_at + c * 16 * kRowBytes, kKeyPanel), 1);
    close_products();
  };
  const auto probabilities = [&](int j) {
    if ((j + 1) * kKeys > least) hide_keys<kKeys>(s, j * kKeys, end);
    next_probabilities<kKeys>(rows, s, rescale, scale_log2);
  };
  Fragment x[kKeys / 16][4];
  const auto round_all = [&] {
#pragma unroll
    for (int c = 0; c < kKeys / 16; ++c) round_fragment<T>(x[c], s, c);
  };

  if (count > 0) {
    start_scores(s, 0);
    wait_products<0>();
    settle(s);
    probabilities(0);
    round_all();
    for (int j = 0; j + 1 < count; ++j) {
      if (j > 0) copies_come();   // K of j + 1 and V of j
      else __syncthreads();
      load_k(j + 2);              // all have done with K of j and V of j - 1
      load_v(j + 1);
      commit_copies();
      start_scores(s, j + 1);
      start_outputs(x, j);
      wait_products<1>();   // the scores
      settle(s);
      probabilities(j + 1);
      wait_products<0>();   // the outputs
      settle(out);
      scale_rows<D>(out, rescale);
      round_all();
    }
    if (count > 1) copies_come();
    start_outputs(x, count - 1);
    wait_products<0>();
    settle(out);
  }

  float inverse[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float sum = row_sum(rows.sum[r]);
    const int i = first + own + lane / 4 + 8 * r;
    inverse[r] = end[r] > 0 ? 1.0f / sum : 0.0f;
    if (p.lse && i < a.s && lane % 4 == 0)
      static_cast<float*>(p.lse)[lse_row(a, b, i, h)] = end[r] > 0 ? fmaf(rows.top[r], static_cast<float>(a.scale), logf(sum)) : -INFINITY;
  }
  // Through this warp's rows of Q, which nobody else reads and which it has in registers.
#pragma unroll
  for (int c = 0; c < F::kPanels; ++c)
    stage_rows<T, 64>(reinterpret_cast<const float(&)[8][4]>(out[8 * c]), inverse, memory + (q_tile - at) + c * kQueryPanel, own);
  __syncwarp();
#pragma unroll
  for (int c = 0; c < F::kPanels; ++c)
    store_tile<64, 16>(memory + (q_tile - at) + c * kQueryPanel, static_cast<T*>(p.o) + query_row(a, b, 0, h) + 64 * c, stride_o, own, first, a.s, a.d - 64 * c);
}

}  // namespace

void attention_wgmma(const AttentionProblem& a, const AttentionPointers& p, void* handle) {
  const std::int64_t grid = static_cast<std::int64_t>((a.s + kQueries - 1) / kQueries) * a.b * a.h;
  if (grid == 0) return;
  with_half(a.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto start = [&](auto kernel, int shared) {
      require(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared), "cudaFuncSetAttribute");
      kernel<<<static_cast<unsigned>(grid), kWgmmaThreads, shared, stream(handle)>>>(a, p, static_cast<float>(a.scale * 1.4426950408889634));
      launched("attention_wgmma");
    };
    if (a.d <= 64) start(wgmma_forward<T, 64>, Wgmma<64>::kShared);
    else start(wgmma_forward<T, 128>, Wgmma<128>::kShared);
  });
}

}  // namespace rhetor::gpu
