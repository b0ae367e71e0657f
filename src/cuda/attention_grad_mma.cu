// attention backward in 16-bit floats on matrix units (after Dao 2023, but without atomic sums): delta_i = d_o_i . o_i, then two kernels
// that recompute P and dS tile by tile, in registers:
//   dk, dv   a block has 16 M W keys of a key head and goes over the queries that see them: S' = K Q', dP' = V dO', dv += P' dO, dk += dS' Q
//   dq       a block has 16 M W queries and goes over their keys: S = Q K', dP = dO V', dq += dS K
// Every sum has one owner and one order. Compute-bound: 14 D operations a visible pair on the matrix units (10 D if one kernel could own
// all three sums) and two exponentials.
#include "cuda/attention_mma.h"
#include "cuda/attention_tile.h"

namespace rhetor::gpu {
namespace {

constexpr float kLog2E = 1.4426950408889634f;

// A row [d] of o and d_o has 16 lanes, 8 elements each.
template <class T>
__global__ void __launch_bounds__(128) make_delta(AttentionProblem a, const T* o, const T* d_o, float* delta) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * 8 + threadIdx.x / 16, rows = static_cast<std::int64_t>(a.b) * a.s * a.h;
  const int c = threadIdx.x % 16 * 8;
  float sum = 0;
  if (row < rows && c < a.d) {
    const auto x = *reinterpret_cast<const Pack<T, 8>*>(o + row * a.d + c), y = *reinterpret_cast<const Pack<T, 8>*>(d_o + row * a.d + c);
#pragma unroll
    for (int e = 0; e < 8; ++e) sum = fmaf(widen(x.v[e]), widen(y.v[e]), sum);
  }
#pragma unroll
  for (int d = 8; d > 0; d >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, d);
  if (row < rows && c == 0) {
    const int h = static_cast<int>(row % a.h), i = static_cast<int>(row / a.h % a.s), b = static_cast<int>(row / a.h / a.s);
    delta[lse_row(a, b, i, h)] = sum;
  }
}

// Shared memory: K, V [16 M W, D], two of Q, dO [C, D], two of lse, delta [C].
template <int D, int M, int W, int C>
constexpr int kKeysShared = 2 * 16 * M * W * D * 2 + 4 * C * D * 2 + 4 * C * 4;

template <class T, int D, int M, int W, int C>
__global__ void __launch_bounds__(32 * W) mma_dkv(AttentionGradProblem a, AttentionGradPointers p, const float* delta, float scale_log2) {
  constexpr int kKeys = 16 * M * W, kThreads = 32 * W, kTile = C * D * 2;
  extern __shared__ __align__(128) unsigned char memory[];
  const std::uint32_t k_tile = shared_address(memory), v_tile = k_tile + kKeys * D * 2;
  const std::uint32_t q_tiles = v_tile + kKeys * D * 2, do_tiles = q_tiles + 2 * kTile, lse_rows = do_tiles + 2 * kTile;
  const auto* lse_memory = reinterpret_cast<const float*>(memory + (lse_rows - k_tile));   // [2][lse, delta][C]
  const int tiles = (a.t + kKeys - 1) / kKeys, heads = a.b * a.g, item = blockIdx.x;
  // Under a causal mask the first keys are seen most: their blocks start first.
  const int tile = a.causal ? item / heads : item % tiles, head = a.causal ? item % heads : item / tiles;
  const int b = head / a.g, g = head % a.g, first = tile * kKeys, group = a.h / a.g;
  const int most = visible_end(a, p.lengths, p.offsets, b, a.s - 1);
  const int length = p.lengths ? min(p.lengths[b], a.t) : a.t, offset = p.offsets ? p.offsets[b] : a.t - a.s;
  const int begin = first >= most ? a.s : a.causal ? min(max(first - offset, 0), a.s) : 0;   // the first query that sees key `first`
  const int start = begin / C, steps = begin < a.s ? (a.s + C - 1) / C - start : 0, count = steps * group;
  const std::int64_t stride_o = static_cast<std::int64_t>(a.h) * a.d;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, own = warp * 16 * M;
  const auto load_queries = [&](int n) {
    const int h = g * group + n / steps, i = (start + n % steps) * C;
    const std::int64_t row = lse_row(a, b, 0, h);
    load_tile<D, C, kThreads>(q_tiles + n % 2 * kTile, static_cast<const T*>(p.q) + query_in(a, b, 0, h), a.q_token, i, a.s, a.d, threadIdx.x);
    load_tile<D, C, kThreads>(do_tiles + n % 2 * kTile, static_cast<const T*>(p.d_o) + query_row(a, b, 0, h), stride_o, i, a.s, a.d, threadIdx.x);
    if (threadIdx.x < 2 * C) {
      const int r = threadIdx.x % C;
      const float* from = (threadIdx.x < C ? static_cast<const float*>(p.lse) : delta) + row;
      copy_float_async(lse_rows + (n % 2 * 2 * C + threadIdx.x) * 4, i + r < a.s ? from + i + r : from, i + r < a.s);
    }
  };
  load_tile<D, kKeys, kThreads>(k_tile, static_cast<const T*>(p.k) + key_in(a, b, 0, g, a.k_token), a.k_token, first, most, a.d, threadIdx.x);
  load_tile<D, kKeys, kThreads>(v_tile, static_cast<const T*>(p.v) + key_in(a, b, 0, g, a.v_token), a.v_token, first, most, a.d, threadIdx.x);
  if (count > 0) load_queries(0);
  commit_copies();

  float dk[M][D / 8][4] = {}, dv[M][D / 8][4] = {};
  for (int n = 0; n < count; ++n) {
    wait_copies<0>();
    __syncthreads();   // tile n has come, and nobody reads tile n - 1 any more
    if (n + 1 < count) load_queries(n + 1);
    commit_copies();
    const int i0 = (start + n % steps) * C;
    const std::uint32_t q_tile = q_tiles + n % 2 * kTile, do_tile = do_tiles + n % 2 * kTile;
    // Rows are keys, columns queries. Queries behind the last are rows of zeros with lse = delta = 0: they add P * 0 and 1 * 0.
    float s[M][C / 8][4] = {}, ds[M][C / 8][4] = {};
    product_by_rows<T, D, C, M>(s, [&](Fragment(&x)[4], int m, int c) { load_a<D>(x, k_tile, own + 16 * m, c); }, q_tile);
    product_by_rows<T, D, C, M>(ds, [&](Fragment(&x)[4], int m, int c) { load_a<D>(x, v_tile, own + 16 * m, c); }, do_tile);
    const float* lse = lse_memory + n % 2 * 2 * C;
    const bool masked = first + kKeys > visible_end(a, p.lengths, p.offsets, b, i0);
#pragma unroll
    for (int c = 0; c < C / 8; ++c) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int column = 8 * c + lane % 4 * 2 + e;
        const float shift = lse[column] * kLog2E, mean = lse[C + column];
        const int end = masked ? (a.causal ? min(length, i0 + column + offset + 1) : length) : a.t;
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            const int key = first + own + 16 * m + lane / 4 + 8 * r;
            float& x = s[m][c][2 * r + e];
            x = masked && key >= end ? 0.0f : exp2_fast(fmaf(x, scale_log2, -shift));
            ds[m][c][2 * r + e] = x * (ds[m][c][2 * r + e] - mean);
          }
      }
    }
    product_with_rows<T, D, C, M>(dv, s, do_tile);
    product_with_rows<T, D, C, M>(dk, ds, q_tile);
  }
  if (count == 0) {   // the copies still write the tiles that the results go through
    wait_copies<0>();
    __syncthreads();
  }
  const float scale = static_cast<float>(a.scale);
  __syncwarp();
#pragma unroll
  for (int m = 0; m < M; ++m) {
    stage_rows<T, D>(dk[m], {scale, scale}, memory, own + 16 * m);
    stage_rows<T, D>(dv[m], {1.0f, 1.0f}, memory + kKeys * D * 2, own + 16 * m);
  }
  __syncwarp();
  store_tile<D, 16 * M>(memory, static_cast<T*>(p.dk) + key_in(a, b, 0, g, a.dk_token), a.dk_token, own, first, a.t, a.d);
  store_tile<D, 16 * M>(memory + kKeys * D * 2, static_cast<T*>(p.dv) + key_in(a, b, 0, g, a.dv_token), a.dv_token, own, first, a.t, a.d);
}

// Shared memory: Q, dO [16 M W, D], two of K, V [C, D].
template <int D, int M, int W, int C>
constexpr int kQueriesShared = 2 * 16 * M * W * D * 2 + 4 * C * D * 2;

template <class T, int D, int M, int W, int C>
__global__ void __launch_bounds__(32 * W) mma_dq(AttentionGradProblem a, AttentionGradPointers p, const float* delta, float scale_log2) {
  constexpr int kQueries = 16 * M * W, kThreads = 32 * W, kTile = C * D * 2;
  extern __shared__ __align__(128) unsigned char memory[];
  const std::uint32_t q_tile = shared_address(memory), do_tile = q_tile + kQueries * D * 2;
  const std::uint32_t k_tiles = do_tile + kQueries * D * 2, v_tiles = k_tiles + 2 * kTile;
  const int tiles = (a.s + kQueries - 1) / kQueries, heads = a.b * a.h, item = blockIdx.x;
  const int tile = a.causal ? tiles - 1 - item / heads : item % tiles, head = a.causal ? item % heads : item / tiles;
  const int b = head / a.h, h = head % a.h, g = h / (a.h / a.g), first = tile * kQueries;
  const int least = visible_end(a, p.lengths, p.offsets, b, first);
  const int most = visible_end(a, p.lengths, p.offsets, b, min(first + kQueries, a.s) - 1);
  const T* k = static_cast<const T*>(p.k) + key_in(a, b, 0, g, a.k_token);
  const T* v = static_cast<const T*>(p.v) + key_in(a, b, 0, g, a.v_token);
  const std::int64_t stride_o = static_cast<std::int64_t>(a.h) * a.d;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, own = warp * 16 * M;
  const auto load_keys = [&](int j) {
    load_tile<D, C, kThreads>(k_tiles + j % 2 * kTile, k, a.k_token, j * C, most, a.d, threadIdx.x);
    load_tile<D, C, kThreads>(v_tiles + j % 2 * kTile, v, a.v_token, j * C, most, a.d, threadIdx.x);
  };
  load_tile<D, kQueries, kThreads>(q_tile, static_cast<const T*>(p.q) + query_in(a, b, 0, h), a.q_token, first, a.s, a.d, threadIdx.x);
  load_tile<D, kQueries, kThreads>(do_tile, static_cast<const T*>(p.d_o) + query_row(a, b, 0, h), stride_o, first, a.s, a.d, threadIdx.x);
  if (most > 0) load_keys(0);
  commit_copies();

  float shift[M][2], mean[M][2], dq[M][D / 8][4] = {};
  int end[M][2];
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int i = first + own + 16 * m + lane / 4 + 8 * r;
      const std::int64_t row = lse_row(a, b, min(i, a.s - 1), h);
      end[m][r] = visible_end(a, p.lengths, p.offsets, b, i);
      shift[m][r] = static_cast<const float*>(p.lse)[row] * kLog2E;
      mean[m][r] = delta[row];
    }
  const int count = (most + C - 1) / C;
  for (int j = 0; j < count; ++j) {
    wait_copies<0>();
    __syncthreads();
    if (j + 1 < count) load_keys(j + 1);
    commit_copies();
    const std::uint32_t k_tile = k_tiles + j % 2 * kTile, v_tile = v_tiles + j % 2 * kTile;
    float s[M][C / 8][4] = {}, ds[M][C / 8][4] = {};
    product_by_rows<T, D, C, M>(s, [&](Fragment(&x)[4], int m, int c) { load_a<D>(x, q_tile, own + 16 * m, c); }, k_tile);
    product_by_rows<T, D, C, M>(ds, [&](Fragment(&x)[4], int m, int c) { load_a<D>(x, do_tile, own + 16 * m, c); }, v_tile);
    const bool masked = (j + 1) * C > least;
    const int key = j * C + lane % 4 * 2;
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int c = 0; c < C / 8; ++c)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float probability = exp2_fast(fmaf(s[m][c][e], scale_log2, -shift[m][e / 2]));
          ds[m][c][e] = masked && key + 8 * c + e % 2 >= end[m][e / 2] ? 0.0f : probability * (ds[m][c][e] - mean[m][e / 2]);
        }
    product_with_rows<T, D, C, M>(dq, ds, k_tile);
  }
  if (count == 0) {
    wait_copies<0>();
    __syncthreads();
  }
  const float scale = static_cast<float>(a.scale);
  __syncwarp();
#pragma unroll
  for (int m = 0; m < M; ++m) stage_rows<T, D>(dq[m], {scale, scale}, memory, own + 16 * m);
  __syncwarp();
  store_tile<D, 16 * M>(memory, static_cast<T*>(p.dq) + query_at(a, b, 0, h, a.dq_token), a.dq_token, own, first, a.s, a.d);
}

template <class T, int D, int M, int W, int C>
void start(const AttentionGradProblem& a, const AttentionGradPointers& p, float* delta, void* handle) {
  const std::int64_t block = 16 * M * W;
  const float scale_log2 = static_cast<float>(a.scale * 1.4426950408889634);
  const unsigned key_blocks = static_cast<unsigned>((a.t + block - 1) / block * a.b * a.g);
  const unsigned query_blocks = static_cast<unsigned>((a.s + block - 1) / block * a.b * a.h);
  const auto dkv = mma_dkv<T, D, M, W, C>;
  const auto dq = mma_dq<T, D, M, W, C>;
  require(cudaFuncSetAttribute(dkv, cudaFuncAttributeMaxDynamicSharedMemorySize, kKeysShared<D, M, W, C>), "cudaFuncSetAttribute");
  require(cudaFuncSetAttribute(dq, cudaFuncAttributeMaxDynamicSharedMemorySize, kQueriesShared<D, M, W, C>), "cudaFuncSetAttribute");
  if (key_blocks > 0) {
    dkv<<<key_blocks, 32 * W, kKeysShared<D, M, W, C>, stream(handle)>>>(a, p, delta, scale_log2);
    launched("attention_grad_mma dk, dv");
  }
  if (query_blocks > 0) {
    dq<<<query_blocks, 32 * W, kQueriesShared<D, M, W, C>, stream(handle)>>>(a, p, delta, scale_log2);
    launched("attention_grad_mma dq");
  }
}

}  // namespace

void attention_delta(const AttentionProblem& a, const void* o, const void* d_o, float* delta, void* handle) {
  const std::int64_t rows = static_cast<std::int64_t>(a.b) * a.s * a.h;
  if (rows == 0) return;
  with_half(a.dtype, [&](auto zero) {
    using T = decltype(zero);
    make_delta<T><<<blocks(rows, 8, 1LL << 31), 128, 0, stream(handle)>>>(a, static_cast<const T*>(o), static_cast<const T*>(d_o), delta);
  });
  launched("attention_delta");
}

void attention_grad_mma(const AttentionGradProblem& a, const AttentionGradPointers& p, void* scratch, void* handle) {
  attention_delta(a, p.o, p.d_o, static_cast<float*>(scratch), handle);
  with_half(a.dtype, [&](auto zero) {
    using T = decltype(zero);
    with_head(a.d, [&](auto head) {
      constexpr int D = decltype(head)::value;
      if constexpr (D <= 64) start<T, D, 2, 4, 32>(a, p, static_cast<float*>(scratch), handle);
      else start<T, D, 1, 4, 32>(a, p, static_cast<float*>(scratch), handle);
    });
  });
}

}  // namespace rhetor::gpu
