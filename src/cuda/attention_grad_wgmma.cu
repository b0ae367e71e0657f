// attention backward in 16-bit floats on Hopper's asynchronous matrix units, heads of up to 64. The two kernels of
// attention_grad_mma.cu, with what a block owns as operands in registers (K and V, or Q and dO: 64 rows, 16 a warp) and the tiles
// that it goes over in shared memory:
//   dk, dv   S' = K Q', dP' = V dO', dv += P' dO, dk += dS' Q        dq   S = Q K', dP = dO V', dq += dS K
// A block is one warpgroup: two or three of them on a processor fill each other's gaps, while one makes probabilities or waits
// for a tile. Compute-bound: 14 D operations a visible pair on the matrix units, two exponentials.
#include "cuda/attention_mma.h"
#include "cuda/attention_wgmma_mma.h"

namespace rhetor::gpu {
namespace {

constexpr float kLog2E = 1.4426950408889634f;
constexpr int kThreads = 128, kRows = 64, kHead = 64;  // of a tile, as wide as the longest head
constexpr std::uint32_t kRowBytes = kHead * 2, kTile = kRows * kRowBytes;
// Two tiles that stay, two pairs that come, two of lse and delta, and what aligns them.
constexpr int kShared = 6 * kTile + 4 * kRows * 4 + 1024;

using Square = float[kRows / 8][4];  // [64, 64] of a warpgroup as C fragments
using Operand = Fragment[kRows / 16][4];

template <class T>
__device__ inline void load_rows(std::uint32_t tile, const T* from, std::int64_t token, int first, int limit, int d) {
  load_tile<kHead, kRows, kThreads>(tile, from, token, first, limit, d, threadIdx.x);
}
// Those of all threads, before the matrix units read them.
__device__ inline void copies_come() {
  wait_copies<0>();
  publish_copies();
  __syncthreads();
}
// to = a B' for the 64 rows B of `tile`.
template <class T>
__device__ inline void start_by_rows(Square& to, const Operand& a, std::uint32_t tile) {
  begin_products();
#pragma unroll
  for (int c = 0; c < kHead / 16; ++c)
    multiply_async<false>(T{}, reinterpret_cast<float(&)[32]>(to), a[c], matrix_at(tile + c * 32, 16), c > 0);
  close_products();
}
// to += a B for the 64 rows B of `tile`.
template <class T>
__device__ inline void start_with_rows(Square& to, const Operand& a, std::uint32_t tile) {
  begin_products();
#pragma unroll
  for (int c = 0; c < kRows / 16; ++c)
    multiply_async<true>(T{}, reinterpret_cast<float(&)[32]>(to), a[c], matrix_at(tile + c * 16 * kRowBytes, kTile), 1);
  close_products();
}
template <class T>
__device__ inline void round_all(Operand& to, const Square& x) {
#pragma unroll
  for (int c = 0; c < kRows / 16; ++c) round_fragment<T>(to[c], x, c);
}
// This warp's rows through its rows of a tile that nobody else reads.
template <class T>
__device__ inline void store_square(const Square& x, float factor, unsigned char* tile, T* to, std::int64_t token, int own,
                                    int first, int limit, int d) {
  const float factors[2] = {factor, factor};
  stage_rows<T, kHead>(x, factors, tile, own);
  __syncwarp();
  store_tile<kHead, 16>(tile, to, token, own, first, limit, d);
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    wgmma_dkv(AttentionGradProblem a, AttentionGradPointers p, const float* delta, float scale_log2) {
  extern __shared__ __align__(1024) unsigned char memory[];
  const std::uint32_t at = shared_address(memory), k_tile = (at + 1023) / 1024 * 1024, v_tile = k_tile + kTile;
  const std::uint32_t q_tiles = v_tile + kTile, do_tiles = q_tiles + 2 * kTile, lse_rows = do_tiles + 2 * kTile;
  const auto* lse_memory = reinterpret_cast<const float*>(memory + (lse_rows - at));  // [2][lse, delta][64]
  const int tiles = (a.t + kRows - 1) / kRows, heads = a.b * a.g, item = blockIdx.x;
  // Under a causal mask the first keys are seen most: their blocks start first.
  const int tile = a.causal ? item / heads : item % tiles, head = a.causal ? item % heads : item / tiles;
  const int b = head / a.g, g = head % a.g, first = tile * kRows, group = a.h / a.g;
  const int most = visible_end(a, p.lengths, p.offsets, b, a.s - 1);
  const int length = p.lengths ? min(p.lengths[b], a.t) : a.t, offset = p.offsets ? p.offsets[b] : a.t - a.s;
  const int begin = first >= most ? a.s
                    : a.causal    ? min(max(first - offset, 0), a.s)
                                  : 0;  // the first query that sees key `first`
  const int start = begin / kRows, steps = begin < a.s ? (a.s + kRows - 1) / kRows - start : 0, count = steps * group;
  const std::int64_t stride_o = static_cast<std::int64_t>(a.h) * a.d;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, own = warp * 16;
  const auto load_queries = [&](int n) {
    const int h = g * group + n / steps, i = (start + n % steps) * kRows, buffer = n % 2;
    load_rows(q_tiles + buffer * kTile, static_cast<const T*>(p.q) + query_in(a, b, 0, h), a.q_token, i, a.s, a.d);
    load_rows(do_tiles + buffer * kTile, static_cast<const T*>(p.d_o) + query_row(a, b, 0, h), stride_o, i, a.s, a.d);
    const int r = threadIdx.x % kRows;  // half of the threads copy lse, half delta
    const float* from = (threadIdx.x < kRows ? static_cast<const float*>(p.lse) : delta) + lse_row(a, b, 0, h);
    copy_float_async(lse_rows + (buffer * 2 * kRows + threadIdx.x) * 4, i + r < a.s ? from + i + r : from, i + r < a.s);
  };
  load_rows(k_tile, static_cast<const T*>(p.k) + key_in(a, b, 0, g, a.k_token), a.k_token, first, most, a.d);
  load_rows(v_tile, static_cast<const T*>(p.v) + key_in(a, b, 0, g, a.v_token), a.v_token, first, most, a.d);
  if (count > 0) load_queries(0);
  commit_copies();
  copies_come();
  Operand k, v;
#pragma unroll
  for (int c = 0; c < kHead / 16; ++c) {
    load_a<kHead>(k[c], k_tile, own, c);
    load_a<kHead>(v[c], v_tile, own, c);
  }

  Square dk = {}, dv = {};
  for (int n = 0; n < count; ++n) {
    if (n > 0) copies_come();  // tile n; and nobody reads tile n - 1 any more
    if (n + 1 < count) load_queries(n + 1);
    commit_copies();
    const int i0 = (start + n % steps) * kRows;
    const std::uint32_t q_tile = q_tiles + n % 2 * kTile, do_tile = do_tiles + n % 2 * kTile;
    // Rows are keys, columns queries. Queries behind the last are rows of zeros with lse = delta = 0: they add P * 0 and 1 * 0.
    Square s, ds;
    Operand x, y;
    start_by_rows<T>(s, k, q_tile);
    start_by_rows<T>(ds, v, do_tile);
    const float* lse = lse_memory + n % 2 * 2 * kRows + lane % 4 * 2;
    const bool masked = first + kRows > visible_end(a, p.lengths, p.offsets, b, i0);
    wait_products<1>();
    settle(s);
#pragma unroll
    for (int c = 0; c < kRows / 8; ++c)
#pragma unroll
      for (int e = 0; e < 4; ++e) s[c][e] = exp2_fast(fmaf(s[c][e], scale_log2, -kLog2E * lse[8 * c + e % 2]));
    if (masked) {
#pragma unroll
      for (int c = 0; c < kRows / 8; ++c)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int query = i0 + 8 * c + lane % 4 * 2 + e % 2, key = first + own + lane / 4 + e / 2 * 8;
          if (key >= (a.causal ? min(length, query + offset + 1) : length)) s[c][e] = 0;
        }
    }
    round_all<T>(x, s);
    start_with_rows<T>(dv, x, do_tile);
    wait_products<1>();  // dP
    settle(ds);
#pragma unroll
    for (int c = 0; c < kRows / 8; ++c)
#pragma unroll
      for (int e = 0; e < 4; ++e) ds[c][e] = s[c][e] * (ds[c][e] - lse[kRows + 8 * c + e % 2]);
    round_all<T>(y, ds);
    start_with_rows<T>(dk, y, q_tile);
    wait_products<0>();
    settle(dv);
    settle(dk);
  }
  store_square(dk, static_cast<float>(a.scale), memory + (k_tile - at), static_cast<T*>(p.dk) + key_in(a, b, 0, g, a.dk_token),
               a.dk_token, own, first, a.t, a.d);
  store_square(dv, 1.0f, memory + (v_tile - at), static_cast<T*>(p.dv) + key_in(a, b, 0, g, a.dv_token), a.dv_token, own, first,
               a.t, a.d);
}

template <class T>
__global__ void __launch_bounds__(kThreads, 3)
    wgmma_dq(AttentionGradProblem a, AttentionGradPointers p, const float* delta, float scale_log2) {
  extern __shared__ __align__(1024) unsigned char memory[];
  const std::uint32_t at = shared_address(memory), q_tile = (at + 1023) / 1024 * 1024, do_tile = q_tile + kTile;
  const std::uint32_t k_tiles = do_tile + kTile, v_tiles = k_tiles + 2 * kTile;
  const int tiles = (a.s + kRows - 1) / kRows, heads = a.b * a.h, item = blockIdx.x;
  const int tile = a.causal ? tiles - 1 - item / heads : item % tiles, head = a.causal ? item % heads : item / tiles;
  const int b = head / a.h, h = head % a.h, g = h / (a.h / a.g), first = tile * kRows;
  const int least = visible_end(a, p.lengths, p.offsets, b, first);
  const int most = visible_end(a, p.lengths, p.offsets, b, min(first + kRows, a.s) - 1);
  const T* k = static_cast<const T*>(p.k) + key_in(a, b, 0, g, a.k_token);
  const T* v = static_cast<const T*>(p.v) + key_in(a, b, 0, g, a.v_token);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, own = warp * 16, count = (most + kRows - 1) / kRows;
  const auto load_keys = [&](int j) {
    load_rows(k_tiles + j % 2 * kTile, k, a.k_token, j * kRows, most, a.d);
    load_rows(v_tiles + j % 2 * kTile, v, a.v_token, j * kRows, most, a.d);
  };
  load_rows(q_tile, static_cast<const T*>(p.q) + query_in(a, b, 0, h), a.q_token, first, a.s, a.d);
  load_rows(do_tile, static_cast<const T*>(p.d_o) + query_row(a, b, 0, h), static_cast<std::int64_t>(a.h) * a.d, first, a.s, a.d);
  if (count > 0) load_keys(0);
  commit_copies();
  float shift[2], mean[2];
  int end[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int i = first + own + lane / 4 + 8 * r;
    const std::int64_t row = lse_row(a, b, min(i, a.s - 1), h);
    end[r] = visible_end(a, p.lengths, p.offsets, b, i);
    shift[r] = static_cast<const float*>(p.lse)[row] * kLog2E;
    mean[r] = delta[row];
  }
  copies_come();
  Operand q, d_o;
#pragma unroll
  for (int c = 0; c < kHead / 16; ++c) {
    load_a<kHead>(q[c], q_tile, own, c);
    load_a<kHead>(d_o[c], do_tile, own, c);
  }

  Square dq = {};
  for (int j = 0; j < count; ++j) {
    if (j > 0) copies_come();
    if (j + 1 < count) load_keys(j + 1);
    commit_copies();
    const std::uint32_t k_tile = k_tiles + j % 2 * kTile;
    Square s, ds;
    Operand y;
    start_by_rows<T>(s, q, k_tile);
    start_by_rows<T>(ds, d_o, v_tiles + j % 2 * kTile);
    wait_products<1>();
    settle(s);
#pragma unroll
    for (int c = 0; c < kRows / 8; ++c)
#pragma unroll
      for (int e = 0; e < 4; ++e) s[c][e] = exp2_fast(fmaf(s[c][e], scale_log2, -shift[e / 2]));
    if ((j + 1) * kRows > least) {
#pragma unroll
      for (int c = 0; c < kRows / 8; ++c)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          if (j * kRows + 8 * c + lane % 4 * 2 + e % 2 >= end[e / 2]) s[c][e] = 0;
    }
    wait_products<0>();
    settle(ds);
#pragma unroll
    for (int c = 0; c < kRows / 8; ++c)
#pragma unroll
      for (int e = 0; e < 4; ++e) ds[c][e] = s[c][e] * (ds[c][e] - mean[e / 2]);
    round_all<T>(y, ds);
    start_with_rows<T>(dq, y, k_tile);
    wait_products<0>();
    settle(dq);
  }
  store_square(dq, static_cast<float>(a.scale), memory + (q_tile - at), static_cast<T*>(p.dq) + query_at(a, b, 0, h, a.dq_token),
               a.dq_token, own, first, a.s, a.d);
}

}  // namespace

void attention_grad_wgmma(const AttentionGradProblem& a, const AttentionGradPointers& p, void* scratch, void* handle) {
  auto* delta = static_cast<float*>(scratch);
  attention_delta(a, p.o, p.d_o, delta, handle);
  const std::int64_t key_blocks = static_cast<std::int64_t>((a.t + kRows - 1) / kRows) * a.b * a.g;
  const std::int64_t query_blocks = static_cast<std::int64_t>((a.s + kRows - 1) / kRows) * a.b * a.h;
  with_half(a.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto start = [&](auto kernel, std::int64_t grid, const char* what) {
      if (grid == 0) return;
      require(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared), "cudaFuncSetAttribute");
      kernel<<<static_cast<unsigned>(grid), kThreads, kShared, stream(handle)>>>(
          a, p, delta, static_cast<float>(a.scale * 1.4426950408889634));
      launched(what);
    };
    start(wgmma_dkv<T>, key_blocks, "attention_grad_wgmma dk, dv");
    start(wgmma_dq<T>, query_blocks, "attention_grad_wgmma dq");
  });
}

}  // namespace rhetor::gpu
