// Building blocks of the attention kernels on matrix units (mma.sync m16n8k16, sm_80 and later), 16-bit floats, sums in f32.
//
// Fragments of a warp, with g = lane / 4 and t = lane % 4 (PTX ISA, "Matrix Fragments for mma.m16n8k16"):
//   A [16 x 16]  four registers of two: rows g, g + 8, g, g + 8; columns 2t, 2t+1 (first two) and 8 + 2t, 9 + 2t
//   B [16 x 8]   two registers: rows 2t, 2t+1 and 8 + 2t, 9 + 2t of column g
//   C [16 x 8]   four floats: row g columns 2t, 2t+1; row g + 8 the same
// So two neighbouring C tiles are, rounded, one A fragment: P needs no trip through shared memory on its way into P V.
//
// Tiles in shared memory are rows of D elements in chunks of 16 bytes, a chunk's place XORed with its row so that the eight rows that
// ldmatrix takes at a time lie in different banks.
#pragma once

#include "cuda/attention.h"

#ifdef __CUDACC__
namespace rhetor::gpu {

using Fragment = std::uint32_t;   // two 16-bit floats

// ---- instructions: empty below sm_80, where the host does not offer these kernels ---------------
__device__ inline std::uint32_t shared_address(const void* p) { return static_cast<std::uint32_t>(__cvta_generic_to_shared(p)); }

// 16 bytes to shared memory in the background; zeros if !valid.
__device__ inline void copy_async(std::uint32_t to, const void* from, bool valid) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
#endif
}
// A float likewise.
__device__ inline void copy_float_async(std::uint32_t to, const float* from, bool valid) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(valid ? 4 : 0) : "memory");
#endif
}
__device__ inline void commit_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Waits until at most N groups of this thread's copies are under way.
template <int N>
__device__ inline void wait_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}
__device__ inline void load_matrices(Fragment (&r)[4], std::uint32_t address) {
#if __CUDA_ARCH__ >= 800
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
#endif
}
__device__ inline void load_matrices_turned(Fragment (&r)[4], std::uint32_t address) {
#if __CUDA_ARCH__ >= 800
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
#endif
}
template <class T>
__device__ inline void multiply(float (&c)[4], const Fragment (&a)[4], Fragment b0, Fragment b1) {
#if __CUDA_ARCH__ >= 800
  if constexpr (std::is_same_v<T, __half>)
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}
// Of a cluster of blocks (sm_90): all have come here, and see what the others wrote to shared memory before.
__device__ inline void cluster_barrier() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}
// From block `rank`'s shared memory, at the place that `address` is in this block's.
__device__ inline float4 load_from_block(std::uint32_t address, int rank) {
  float4 x = {};
#if __CUDA_ARCH__ >= 900
  std::uint32_t there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  asm volatile("ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [%4];" : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w) : "r"(there) : "memory");
#endif
  return x;
}
// 2^x, relative error 2^-22, 0 for -inf.
__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
template <class T>
__device__ inline Fragment pack(float lo, float hi) {
  if constexpr (std::is_same_v<T, __half>) {
    const __half2 x = __floats2half2_rn(lo, hi);
    return *reinterpret_cast<const Fragment*>(&x);
  } else {
    const __nv_bfloat162 x = __floats2bfloat162_rn(lo, hi);
    return *reinterpret_cast<const Fragment*>(&x);
  }
}

// ---- tiles ---------------------------------------------------------------------------------------
// Byte offset of a chunk of a tile with D elements a row: 32 or 96 (rows are half of 128 bytes apart, mod 128), 64 or 128.
template <int D>
__device__ inline std::uint32_t chunk_offset(int row, int chunk) {
  const int place = D % 64 == 0 ? chunk ^ (row & 7) : chunk ^ ((row >> 1) & 3);
  return static_cast<std::uint32_t>((row * (D / 8) + place) * 16);
}

// Rows [first, first + Rows) of a matrix with d <= D columns, `stride` elements from row to row, by Threads threads of which this is
// number `thread`. Rows from `limit` on and columns from d on become zeros.
template <int D, int Rows, int Threads, class T>
__device__ inline void load_tile(std::uint32_t tile, const T* from, std::int64_t stride, int first, int limit, int d, int thread) {
  constexpr int kChunks = D / 8;
#pragma unroll
  for (int n = 0; n < Rows * kChunks / Threads; ++n) {
    const int i = thread + n * Threads, row = i / kChunks, chunk = i % kChunks;
    const bool valid = first + row < limit && chunk * 8 < d;
    copy_async(tile + chunk_offset<D>(row, chunk), valid ? from + (first + row) * stride + chunk * 8 : from, valid);
  }
}

// A fragment of rows [row, row + 16), columns [16 k, 16 k + 16).
template <int D>
__device__ inline void load_a(Fragment (&a)[4], std::uint32_t tile, int row, int k) {
  const int lane = threadIdx.x % 32;
  load_matrices(a, tile + chunk_offset<D>(row + lane % 16, 2 * k + lane / 16));
}
// B fragments of a tile whose rows are the product's columns (K in Q K'): columns [row, row + 16), k step k; b[0], b[1] the first eight.
template <int D>
__device__ inline void load_b(Fragment (&b)[4], std::uint32_t tile, int row, int k) {
  const int lane = threadIdx.x % 32;
  load_matrices(b, tile + chunk_offset<D>(row + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
}
// B fragments of a tile whose rows are what is summed over (V in P V): rows [row, row + 16), columns [16 n, 16 n + 16).
template <int D>
__device__ inline void load_b_turned(Fragment (&b)[4], std::uint32_t tile, int row, int n) {
  const int lane = threadIdx.x % 32;
  load_matrices_turned(b, tile + chunk_offset<D>(row + lane % 16, 2 * n + lane / 16));
}

// c[M][C / 8] += A B' for M fragments of 16 rows that `a(m, k)` gives and C rows of `tile`, summed over D.
template <class T, int D, int C, int M, class LoadA>
__device__ inline void product_by_rows(float (&c)[M][C / 8][4], LoadA&& a, std::uint32_t tile) {
#pragma unroll
  for (int k = 0; k < D / 16; ++k) {
    Fragment x[M][4];
#pragma unroll
    for (int m = 0; m < M; ++m) a(x[m], m, k);
#pragma unroll
    for (int n = 0; n < C / 16; ++n) {
      Fragment y[4];
      load_b<D>(y, tile, 16 * n, k);
#pragma unroll
      for (int m = 0; m < M; ++m) {
        multiply<T>(c[m][2 * n], x[m], y[0], y[1]);
        multiply<T>(c[m][2 * n + 1], x[m], y[2], y[3]);
      }
    }
  }
}
// The k-th A fragment of probabilities in C fragments, rounded.
template <class T, int N>
__device__ inline void round_fragment(Fragment (&x)[4], const float (&p)[N][4], int k) {
  x[0] = pack<T>(p[2 * k][0], p[2 * k][1]);
  x[1] = pack<T>(p[2 * k][2], p[2 * k][3]);
  x[2] = pack<T>(p[2 * k + 1][0], p[2 * k + 1][1]);
  x[3] = pack<T>(p[2 * k + 1][2], p[2 * k + 1][3]);
}
// c[M][D / 8] += P B for P [16 M x C] in C fragments, rounded here, and the C rows of `tile`.
template <class T, int D, int C, int M>
__device__ inline void product_with_rows(float (&c)[M][D / 8][4], const float (&p)[M][C / 8][4], std::uint32_t tile) {
#pragma unroll
  for (int k = 0; k < C / 16; ++k) {
    Fragment x[M][4];
#pragma unroll
    for (int m = 0; m < M; ++m) round_fragment<T>(x[m], p[m], k);
#pragma unroll
    for (int n = 0; n < D / 16; ++n) {
      Fragment y[4];
      load_b_turned<D>(y, tile, 16 * k, n);
#pragma unroll
      for (int m = 0; m < M; ++m) {
        multiply<T>(c[m][2 * n], x[m], y[0], y[1]);
        multiply<T>(c[m][2 * n + 1], x[m], y[2], y[3]);
      }
    }
  }
}

// Sums and maxima over the four lanes that hold a row of a C fragment.
__device__ inline float row_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
__device__ inline float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// The running softmax of 16 rows, two of them this thread's (g and g + 8): maxima of the raw scores, this lane's part of the sums.
struct RunningRows {
  float top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
};
// Scores of C more keys become probabilities relative to the new maximum; `rescale` is what the outputs so far are to be multiplied by.
template <int C>
__device__ inline void next_probabilities(RunningRows& rows, float (&s)[C / 8][4], float (&rescale)[2], float scale_log2) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float top = rows.top[r];
#pragma unroll
    for (int n = 0; n < C / 8; ++n) top = fmaxf(top, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
    top = row_max(top);
    const float shift = top == -INFINITY ? 0.0f : top * scale_log2;   // no key seen yet: exp(-inf), not NaN
    rescale[r] = exp2_fast(fmaf(rows.top[r], scale_log2, -shift));
    rows.top[r] = top;
    float sum = 0;
#pragma unroll
    for (int n = 0; n < C / 8; ++n) {
      s[n][2 * r] = exp2_fast(fmaf(s[n][2 * r], scale_log2, -shift));
      s[n][2 * r + 1] = exp2_fast(fmaf(s[n][2 * r + 1], scale_log2, -shift));
      sum += s[n][2 * r] + s[n][2 * r + 1];
    }
    rows.sum[r] = fmaf(rows.sum[r], rescale[r], sum);
  }
}
template <int D>
__device__ inline void scale_rows(float (&out)[D / 8][4], const float (&factor)[2]) {
#pragma unroll
  for (int n = 0; n < D / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) out[n][e] *= factor[e / 2];
}
template <int C, int D>
__device__ inline void online_softmax(RunningRows& rows, float (&s)[C / 8][4], float (&out)[D / 8][4], float scale_log2) {
  float rescale[2];
  next_probabilities<C>(rows, s, rescale, scale_log2);
  scale_rows<D>(out, rescale);
}

// Scores of keys from `end` on vanish; key: of the first column.
template <int C>
__device__ inline void hide_keys(float (&s)[C / 8][4], int key, const int (&end)[2]) {
  const int own = key + static_cast<int>(threadIdx.x % 4) * 2;
#pragma unroll
  for (int n = 0; n < C / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      if (own + 8 * n + e % 2 >= end[e / 2]) s[n][e] = -INFINITY;
}

// 16 rows of C fragments, times factor[row half], into rows [row, row + 16) of a tile (one warp), to be read by chunks after __syncwarp().
template <class T, int D>
__device__ inline void stage_rows(const float (&c)[D / 8][4], const float (&factor)[2], unsigned char* tile, int row) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int n = 0; n < D / 8; ++n)
#pragma unroll
    for (int r = 0; r < 2; ++r)
      *reinterpret_cast<Fragment*>(tile + chunk_offset<D>(row + g + 8 * r, n) + 4 * t) = pack<T>(c[n][2 * r] * factor[r], c[n][2 * r + 1] * factor[r]);
}
// Rows [row, row + Rows) of a tile, by one warp, to rows first + row ... of a matrix; rows from `limit` and columns from d on are left out.
template <int D, int Rows, class T>
__device__ inline void store_tile(const unsigned char* tile, T* to, std::int64_t stride, int row, int first, int limit, int d) {
  for (int i = threadIdx.x % 32; i < Rows * (D / 8); i += 32) {
    const int r = row + i / (D / 8), chunk = i % (D / 8);
    if (first + r < limit && chunk * 8 < d)
      *reinterpret_cast<uint4*>(to + (first + r) * stride + chunk * 8) = *reinterpret_cast<const uint4*>(tile + chunk_offset<D>(r, chunk));
  }
}

}  // namespace rhetor::gpu
#endif
