// c[m, n] = finish(sum_k a[m, k] b[n, k] (or b[k, n])) for bf16, f16, int8 and e4m3 on Hopper. Compute-bound: 2 m n k operations.
//
// One block a processor walks over tiles of the result. A warp of its first warpgroup copies blocks of 128 bytes of k of both
// operands into a ring of stages; the two other warpgroups take tiles in turn. While one finishes its tile (scales, bias,
// activation, residual, store) the other multiplies, so that an epilogue as long as erf's costs no time of the matrix units. This
// is the scheme CUTLASS calls "pingpong".
//
// Stages and phases: step s of the block (counted over its tiles) lies in stage s mod kStages, in phase s / kStages of that
// stage's barriers. A warpgroup may ask for a phase only when no earlier one is pending, so it begins to multiply when the other
// has begun its last step
// (`turn`).
#include <cuda.h>

#include <type_traits>

#include "cuda/matmul_wgmma.h"
#include "cuda/matmul_wgmma_mma.h"

namespace rhetor::gpu {
namespace {

constexpr int kThreads = 384, kRowBytes = 128;  // bytes of k in a stage: one row of the swizzled layout

// ---- instructions of sm_90a; for other targets the kernel is compiled without them and never launched -----
__device__ inline std::uint32_t address(const void* shared) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
}
__device__ inline void init_barrier(std::uint64_t* barrier, int arrivals) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address(barrier)), "r"(arrivals) : "memory");
#endif
}
__device__ inline void barriers_made() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async;" ::: "memory");
#endif
}
__device__ inline void arrive(std::uint64_t* barrier) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address(barrier)) : "memory");
#endif
}
__device__ inline void expect_bytes(std::uint64_t* barrier, int bytes) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address(barrier)), "r"(bytes) : "memory");
#endif
}
__device__ inline void wait(std::uint64_t* barrier, std::uint32_t parity) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile(
      "{\n .reg .pred done;\n"
      "again:\n mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n @!done bra again;\n}\n" ::"r"(address(barrier)),
      "r"(parity)
      : "memory");
#endif
}
__device__ inline void copy_box(void* to, const CUtensorMap& map, int inner, int outer, std::uint64_t* barrier) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
                   address(to)),
               "l"(&map), "r"(address(barrier)), "r"(inner), "r"(outer)
               : "memory");
#endif
}
// As copy_box, to the same place of both blocks of a cluster, each of whose barriers hears of it.
__device__ inline void copy_box_to_both(void* to, const CUtensorMap& map, int inner, int outer, std::uint64_t* barrier) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%3, %4}], "
      "[%2], %5;" ::"r"(address(to)),
      "l"(&map), "r"(address(barrier)), "r"(inner), "r"(outer), "h"(static_cast<std::uint16_t>(3))
      : "memory");
#endif
}
// At the barrier of block `rank` of the cluster.
__device__ inline void arrive_at(std::uint64_t* barrier, int rank) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile(
      "{\n .reg .b32 there;\n mapa.shared::cluster.u32 there, %0, %1;\n mbarrier.arrive.release.cluster.shared::cluster.b64 _, "
      "[there];\n}\n" ::"r"(address(barrier)),
      "r"(rank)
      : "memory");
#endif
}
// Waits for every thread of the cluster that has not returned.
__device__ inline void meet_cluster() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("barrier.cluster.arrive.release;\n barrier.cluster.wait.acquire;" ::: "memory");
#endif
}
__device__ inline void begin_products() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
__device__ inline void close_products() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
template <int pending>
__device__ inline void wait_products() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
#endif
}
// The sums may be read from here on: without this the compiler could read them before it waits.
__device__ inline void settle(float& x) { asm volatile("" : "+f"(x)::"memory"); }
__device__ inline void settle(std::int32_t& x) { asm volatile("" : "+r"(x)::"memory"); }
// Registers a thread: the copying warpgroup gives what the others take.
template <bool copies>
__device__ inline void share_registers() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  if constexpr (copies)
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
  else
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
#else
  __trap();  // built for another target than the host believes
#endif
}

// Where a matrix lies in shared memory, in rows of 128 bytes swizzled in groups of eight (1,024 bytes). By rows: 8-row groups
// follow each other. Else: rows are k, 64 elements of n wide; 8-row groups follow each other, and the next 64 of n stand `chunk`
// bytes on.
template <bool by_rows>
__device__ inline std::uint64_t matrix_desc(const void* shared, int chunk) {
  const std::uint64_t start = (address(shared) & 0x3ffffu) >> 4, leading = by_rows ? 1 : static_cast<std::uint64_t>(chunk >> 4);
  return start | leading << 16 | std::uint64_t{1024 >> 4} << 32 | std::uint64_t{1} << 62;
}

// ---- the epilogue --------------------------------------------------------------------------------
// Two neighbours, at an even place.
__device__ inline float2 pair(const void* p, DType dtype, std::int64_t i) {
  if (dtype == DType::f32) return *reinterpret_cast<const float2*>(static_cast<const float*>(p) + i);
  if (dtype == DType::bf16)
    return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(static_cast<const __nv_bfloat16*>(p) + i));
  return __half22float2(*reinterpret_cast<const __half2*>(static_cast<const __half*>(p) + i));
}
__device__ inline void store_pair(__nv_bfloat16* p, float x, float y) {
  *reinterpret_cast<__nv_bfloat162*>(p) = __floats2bfloat162_rn(x, y);
}
__device__ inline void store_pair(__half* p, float x, float y) { *reinterpret_cast<__half2*>(p) = __floats2half2_rn(x, y); }

// gelu_tanh and silu are both x / (1 + e^(x (a + b x^2))): one copy of the loop for the two.
template <int n>
__device__ inline void activate_all(Activation activation, float (&v)[n]) {
  if (activation == Activation::relu) {
#pragma unroll
    for (int i = 0; i < n; ++i) v[i] = activate<true>(Activation::relu, v[i]);
  } else if (activation == Activation::gelu) {
#pragma unroll
    for (int i = 0; i < n; ++i) v[i] = activate<true>(Activation::gelu, v[i]);
  } else if (activation != Activation::none) {
    const bool silu = activation == Activation::silu;
    const float a = silu ? -1.0f : -1.5957691216f, b = silu ? 0.0f : -0.0713548162f;  // -2 sqrt(2 / pi), and times 0.044715
#pragma unroll
    for (int i = 0; i < n; ++i) v[i] = __fdividef(v[i], 1.0f + __expf(fminf(v[i] * fmaf(b * v[i], v[i], a), 80.0f)));
  }
}

// Four lanes beside each other have the columns 8 j + 2 t, + 1 (t = 0 ... 3) of a row, as pairs of FP8 numbers for j = 0 ... 3. They
// change places until lane t has the eight columns of j = t, ascending.
__device__ inline uint2 turn_quad(std::uint32_t j01, std::uint32_t j23, int t) {
  const bool upper = t & 2, odd = t & 1;
  const std::uint32_t kept = upper ? j23 : j01, other = __shfl_xor_sync(0xffffffffu, upper ? j01 : j23, 2);  // lanes t and t ^ 2
  const std::uint32_t low = __byte_perm(kept, other, 0x5410), high = __byte_perm(kept, other, 0x7632);
  const std::uint32_t mine = odd ? high : low, theirs = __shfl_xor_sync(0xffffffffu, odd ? low : high, 1);
  const std::uint32_t first = odd ? theirs : mine, second = odd ? mine : theirs;
  const std::uint32_t near = __byte_perm(first, second, 0x5410), far = __byte_perm(first, second, 0x7632);
  return upper ? make_uint2(far, near) : make_uint2(near, far);
}
__device__ inline std::uint32_t f8_pair(float x, float y) {
  return __nv_cvt_float2_to_fp8x2(make_float2(x, y), __NV_SATFINITE, __NV_E4M3);
}
// As finish_tile() stores, row and col likewise; 8 columns are all inside or all outside.
template <int n>
__device__ inline void store_f8(const WgmmaProduct& p, const float (&v)[n], std::int64_t row, std::int64_t col, __nv_fp8_e4m3* out) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < n; i += 16) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const auto two = [&](int j) {
        return f8_pair(v[i + 4 * j + 2 * h], v[i + 4 * j + 2 * h + 1]) | f8_pair(v[i + 4 * j + 4 + 2 * h], v[i + 4 * j + 5 + 2 * h]) << 16;
      };
      const uint2 bytes = turn_quad(two(0), two(2), t);
      const std::int64_t c = col - 2 * t + 2 * i + 8 * t;
      if (row + 8 * h < p.m && c < p.n) *reinterpret_cast<uint2*>(out + (row + 8 * h) * p.n + c) = bytes;
    }
  }
}

// Registers 4 j ... 4 j + 3 of lane (g, t) hold the columns 8 j + 2 t, + 1 of row g and of row g + 8. row and col: of the lane's
// first.
template <bool kTensorScales, class Sum, class Out, int n>
__device__ inline void finish_tile(const WgmmaProduct& p, const Sum (&sum)[n], std::int64_t row, std::int64_t col,
                                   const float* x_scale, const float* w_scale, const Finish& f, Out* out) {
  float v[n];
#pragma unroll
  for (int i = 0; i < n; ++i) v[i] = static_cast<float>(sum[i]);
  if constexpr (kTensorScales) {
    const float scale = *x_scale * *w_scale;
#pragma unroll
    for (int i = 0; i < n; ++i) v[i] *= scale;
  } else if constexpr (!std::is_same_v<Sum, float>) {
    const float low = row < p.m ? x_scale[row] : 0.0f, high = row + 8 < p.m ? x_scale[row + 8] : 0.0f;
#pragma unroll
    for (int i = 0; i < n; i += 4) {
      const std::int64_t c = col + 2 * i;
      const float2 w = c < p.n ? pair(w_scale, DType::f32, c) : float2{};
      v[i] *= low * w.x, v[i + 1] *= low * w.y, v[i + 2] *= high * w.x, v[i + 3] *= high * w.y;
    }
  }
  if (f.bias) {
#pragma unroll
    for (int i = 0; i < n; i += 4) {
      const std::int64_t c = col + 2 * i;
      const float2 b = c < p.n ? pair(f.bias, f.bias_dtype, c) : float2{};
      v[i] += b.x, v[i + 1] += b.y, v[i + 2] += b.x, v[i + 3] += b.y;
    }
  }
  activate_all(f.activation, v);
  constexpr bool kF8 = std::is_same_v<Out, __nv_fp8_e4m3>;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    if (row + 8 * h >= p.m) break;
    const std::int64_t flat = (row + 8 * h) * p.n + col;
#pragma unroll
    for (int i = 0; i < n; i += 4) {
      if (col + 2 * i >= p.n) break;
      if (f.residual) {
        const float2 r = pair(f.residual, f.residual_dtype, flat + 2 * i);
        v[i + 2 * h] += r.x, v[i + 2 * h + 1] += r.y;
      }
      if constexpr (!kF8) store_pair(out + flat + 2 * i, v[i + 2 * h], v[i + 2 * h + 1]);
    }
  }
  if constexpr (kF8) {
    const float factor = f.factor ? element(f.factor, f.factor_dtype, 0) : 1.0f;
#pragma unroll
    for (int i = 0; i < n; ++i) v[i] *= factor;
    store_f8(p, v, row, col, out);
  }
}

// ---- the kernel ----------------------------------------------------------------------------------
// A tile is 64 kRows x kCols. Large tiles go in pairs to the two blocks of a cluster, one below the other: each copies its rows
// of a and half of the b they share, which takes a quarter off what the second-level cache must deliver.
template <class Kind, int kRows, int kCols>
struct Shape {
  static constexpr int kCluster = kRows == 2 ? 2 : 1;
  static constexpr int kDepth = kRowBytes / sizeof(typename Kind::Element);
  static constexpr int kBytesA = 64 * kRows * kRowBytes, kBytesB = kCols * kRowBytes, kStage = kBytesA + kBytesB,
                       kStages = 196608 / kStage;
  static constexpr int kShared = kStage * kStages + 1024;  // and what aligns the ring
};

template <class Kind, int kRows, int kCols, bool b_by_rows, class Out>
__global__ void __launch_bounds__(kThreads, 1)
    wgmma_kernel(const __grid_constant__ CUtensorMap a_map, const __grid_constant__ CUtensorMap b_map, WgmmaProduct p,
                 const float* x_scale, const float* w_scale, Finish f, Out* out) {
  using S = Shape<Kind, kRows, kCols>;
  constexpr int kStages = S::kStages, kDepth = S::kDepth, kChunk = 64 * kRowBytes, kCluster = S::kCluster;
  extern __shared__ std::uint8_t raw[];
  __shared__ std::uint64_t full[kStages], empty[kStages], turn[2];
  std::uint8_t* ring = raw + (1024 - address(raw) % 1024) % 1024;
  const int group = threadIdx.x / 128, rank = blockIdx.x % kCluster;
  const int steps = static_cast<int>((p.k + kDepth - 1) / kDepth);
  // Of the clusters: a tile of theirs is kCluster tiles high.
  const int row_tiles = static_cast<int>((p.m + 64 * kRows * kCluster - 1) / (64 * kRows * kCluster));
  const int col_tiles = static_cast<int>((p.n + kCols - 1) / kCols), tiles = row_tiles * col_tiles, first = blockIdx.x / kCluster,
            stride = gridDim.x / kCluster;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      init_barrier(&full[i], 1);
      init_barrier(&empty[i], 4 * kCluster);  // a warp of every warpgroup that reads what this block copies
    }
    init_barrier(&turn[0], 128);
    init_barrier(&turn[1], 128);
    barriers_made();
  }
  __syncthreads();
  if constexpr (kCluster > 1) meet_cluster();
  const auto release = [&](std::uint64_t* barrier) {
    if constexpr (kCluster > 1) {
      arrive_at(barrier, 0);
      arrive_at(barrier, 1);
    } else {
      arrive(barrier);
    }
  };

  if (group == 0) {  // copies
    share_registers<true>();
    if (threadIdx.x != 0) return;
    std::uint32_t step = 0;
    for (int tile = first; tile < tiles; tile += stride) {
      const int row = (tile % row_tiles * kCluster + rank) * 64 * kRows, col = tile / row_tiles * kCols;
      for (int i = 0; i < steps; ++i, ++step) {
        const int stage = step % kStages;
        wait(&empty[stage], (step / kStages & 1) ^ 1);
        expect_bytes(&full[stage], S::kStage);
        std::uint8_t* a = ring + stage * S::kStage;
        std::uint8_t* b = a + S::kBytesA;
        copy_box(a, a_map, i * kDepth, row, &full[stage]);
        if constexpr (kCluster > 1) {  // 64 of its columns
          const int part = col + 64 * rank;
          copy_box_to_both(b + rank * kChunk, b_map, b_by_rows ? i * kDepth : part, b_by_rows ? part : i * kDepth, &full[stage]);
        } else {
          copy_box(b, b_map, b_by_rows ? i * kDepth : col, b_by_rows ? col : i * kDepth, &full[stage]);
        }
      }
    }
    if constexpr (kCluster > 1) meet_cluster();
    return;
  }

  share_registers<false>();
  const int mine = group - 1, lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  for (int nth = mine;; nth += 2) {  // of the cluster's tiles
    const std::int64_t tile = first + static_cast<std::int64_t>(nth) * stride;
    if (tile >= tiles) break;
    if (nth > 0) wait(&turn[mine], static_cast<std::uint32_t>((nth - 1) / 2 & 1));
    typename Kind::Sum sum[kRows][kCols / 2];
    std::uint32_t step = static_cast<std::uint32_t>(nth) * static_cast<std::uint32_t>(steps);
    for (int i = 0; i < steps; ++i, ++step) {
      const int stage = step % kStages;
      wait(&full[stage], step / kStages & 1);
      const std::uint8_t* a = ring + stage * S::kStage;
      const std::uint64_t b_desc = matrix_desc<b_by_rows>(a + S::kBytesA, kChunk);
      begin_products();
#pragma unroll
      for (int part = 0; part < 4; ++part) {  // 32 bytes of k by rows; 16 rows of k else
#pragma unroll
        for (int r = 0; r < kRows; ++r)
          Kind::template mma<b_by_rows>(sum[r], matrix_desc<true>(a + r * kChunk, 0) + 2 * part,
                                        b_desc + (b_by_rows ? 2 * part : 16 * kRowBytes / 16 * part), i > 0 || part > 0);
      }
      close_products();
      wait_products<1>();
      if (i > 0 && lane == 0) release(&empty[(step - 1) % kStages]);
    }
    arrive(&turn[1 - mine]);
    wait_products<0>();
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
      for (int i = 0; i < kCols / 2; ++i) settle(sum[r][i]);
    if (lane == 0) release(&empty[(step - 1) % kStages]);
    const std::int64_t row = (tile % row_tiles * kCluster + rank) * (64 * kRows) + warp * 16 + lane / 4,
                       col = tile / row_tiles * kCols + lane % 4 * 2;
#pragma unroll
    for (int r = 0; r < kRows; ++r) finish_tile<std::is_same_v<Kind, WgmmaF8>>(p, sum[r], row + 64 * r, col, x_scale, w_scale, f, out);
  }
  if constexpr (kCluster > 1) meet_cluster();  // the other block may still write to this one's memory and barriers
}

// ---- launching -----------------------------------------------------------------------------------
using Encode = decltype(&cuTensorMapEncodeTiled);

Encode encoder() {
  static const Encode found = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult result{};
    const cudaError_t status =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &result);
    return status == cudaSuccess && result == cudaDriverEntryPointSuccess ? reinterpret_cast<Encode>(entry) : nullptr;
  }();
  return found;
}

// A matrix [rows, cols] of contiguous rows, copied in boxes of 128 bytes by `box` rows; beyond its edges are zeros.
CUtensorMap matrix_map(const void* data, DType dtype, std::int64_t rows, std::int64_t cols, int box) {
  const CUtensorMapDataType type = dtype == DType::bf16  ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                   : dtype == DType::f16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                                         : CU_TENSOR_MAP_DATA_TYPE_UINT8;
  const auto size = static_cast<std::int64_t>(byte_size(dtype));
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(cols), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(cols * size)};
  const cuuint32_t boxes[2] = {static_cast<cuuint32_t>(kRowBytes / size), static_cast<cuuint32_t>(box)}, steps[2] = {1, 1};
  CUtensorMap map{};
  const CUresult status =
      encoder()(&map, type, 2, const_cast<void*>(data), sizes, strides, boxes, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  require(status == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue, "cuTensorMapEncodeTiled");
  return map;
}

template <class Kind, int kRows, int kCols, bool b_by_rows, class Out>
void launch(const WgmmaProduct& p, const void* a, const void* b, const float* x_scale, const float* w_scale, const Finish& f,
            void* out, void* handle) {
  using S = Shape<Kind, kRows, kCols>;
  const auto kernel = wgmma_kernel<Kind, kRows, kCols, b_by_rows, Out>;
  require(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kShared), "cudaFuncSetAttribute");
  const CUtensorMap a_map = matrix_map(a, p.in, p.m, p.k, 64 * kRows),
                    b_map = b_by_rows ? matrix_map(b, p.in, p.n, p.k, 64) : matrix_map(b, p.in, p.k, p.n, 64);
  const std::int64_t high = 64 * kRows * S::kCluster, tiles = ((p.m + high - 1) / high) * ((p.n + kCols - 1) / kCols);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks(tiles, 1, p.processors / S::kCluster) * S::kCluster);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = S::kShared;
  config.stream = stream(handle);
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {S::kCluster, 1, 1};
  config.attrs = &attribute;
  config.numAttrs = 1;
  require(cudaLaunchKernelEx(&config, kernel, a_map, b_map, p, x_scale, w_scale, f, static_cast<Out*>(out)), "wgmma_matmul");
}

template <class Kind, bool b_by_rows, class Out, class... Args>
void launch_tiles(const WgmmaProduct& p, Args... args) {
  if (p.small_tiles)
    launch<Kind, 1, 64, b_by_rows, Out>(p, args...);
  else
    launch<Kind, 2, 128, b_by_rows, Out>(p, args...);
}

}  // namespace

bool has_tensor_maps() { return encoder() != nullptr; }

void wgmma_matmul(const WgmmaProduct& p, const void* a, const void* b, const float* x_scale, const float* w_scale,
                  const Finish& f, void* out, void* handle) {
  const auto floats = [&](auto kind) {
    using Kind = decltype(kind);
    using Out = typename Kind::Element;
    if (p.b_by_rows)
      launch_tiles<Kind, true, Out>(p, a, b, x_scale, w_scale, f, out, handle);
    else
      launch_tiles<Kind, false, Out>(p, a, b, x_scale, w_scale, f, out, handle);
  };
  if (p.in == DType::f8e4m3) {
    if (p.out == DType::f8e4m3)
      launch_tiles<WgmmaF8, true, __nv_fp8_e4m3>(p, a, b, x_scale, w_scale, f, out, handle);
    else if (p.out == DType::f16)
      launch_tiles<WgmmaF8, true, __half>(p, a, b, x_scale, w_scale, f, out, handle);
    else
      launch_tiles<WgmmaF8, true, __nv_bfloat16>(p, a, b, x_scale, w_scale, f, out, handle);
  } else if (p.in == DType::f16)
    floats(WgmmaF16{});
  else if (p.in == DType::bf16)
    floats(WgmmaBf16{});
  else if (p.out == DType::f16)
    launch_tiles<WgmmaI8, true, __half>(p, a, b, x_scale, w_scale, f, out, handle);
  else
    launch_tiles<WgmmaI8, true, __nv_bfloat16>(p, a, b, x_scale, w_scale, f, out, handle);
}

}  // namespace rhetor::gpu
