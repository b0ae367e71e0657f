// Products by plain tiles in shared memory: for what nobody faster takes (odd layouts, f8, f64 without a library, k = 0, int4 in
// groups). Bound by the f32 units at best; a block makes 64 x 64 sums, 16 a thread, from 32 k at a time.
#include "cuda/matmul.h"

namespace rhetor::gpu {
namespace {

constexpr int kTile = 64, kDepth = 32, kThreads = 256;

template <class T>
__device__ inline auto value_of(T x) {
  if constexpr (sizeof(T) == 1)
    return static_cast<float>(x);  // f8
  else
    return widen(x);
}

// A policy says what a(batch, row, k) and b(batch, k, col) are (Value), how a tile's sum (Part) joins the result (Sum), and where
// that goes. k tiles are as deep as an int4 group.
template <class P>
__global__ void __launch_bounds__(kThreads) tiled(P p, std::int64_t m_size, std::int64_t n_size, std::int64_t k_size) {
  using Value = typename P::Value;
  using Part = typename P::Part;
  using Sum = typename P::Sum;
  __shared__ Value a[kTile][kDepth + 1], b[kDepth][kTile + 1];
  const std::int64_t n_tiles = (n_size + kTile - 1) / kTile, m_tiles = (m_size + kTile - 1) / kTile;
  const std::int64_t tile = blockIdx.x, batch = tile / (m_tiles * n_tiles);
  const std::int64_t m0 = tile / n_tiles % m_tiles * kTile, n0 = tile % n_tiles * kTile;
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  Sum sum[4][4] = {};
  for (std::int64_t k0 = 0; k0 < k_size; k0 += kDepth) {
    for (int i = threadIdx.x; i < kTile * kDepth; i += kThreads) {
      const int row = p.a_by_k() ? i / kDepth : i % kTile, k = p.a_by_k() ? i % kDepth : i / kTile;
      a[row][k] = m0 + row < m_size && k0 + k < k_size ? p.a(batch, m0 + row, k0 + k) : Value(0);
    }
    for (int i = threadIdx.x; i < kTile * kDepth; i += kThreads) {
      const int col = p.b_by_k() ? i / kDepth : i % kTile, k = p.b_by_k() ? i % kDepth : i / kTile;
      b[k][col] = n0 + col < n_size && k0 + k < k_size ? p.b(batch, k0 + k, n0 + col) : Value(0);
    }
    __syncthreads();
    Part part[4][4] = {};
#pragma unroll 8
    for (int k = 0; k < kDepth; ++k) {
      Value x[4], y[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) x[i] = a[ty + 16 * i][k], y[i] = b[k][tx + 16 * i];
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) part[i][j] += x[i] * y[j];
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const std::int64_t m = m0 + ty + 16 * i, n = n0 + tx + 16 * j;
        if (m < m_size && n < n_size) p.join(sum[i][j], part[i][j], m, n, k0);
      }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const std::int64_t m = m0 + ty + 16 * i, n = n0 + tx + 16 * j;
      if (m < m_size && n < n_size) p.store(batch, m, n, sum[i][j]);
    }
}

template <class P>
void launch_tiled(const P& p, std::int64_t batch, std::int64_t m, std::int64_t n, std::int64_t k, void* handle) {
  const std::int64_t tiles = batch * ((m + kTile - 1) / kTile) * ((n + kTile - 1) / kTile);
  if (batch * m * n == 0) return;
  tiled<<<static_cast<unsigned>(tiles), kThreads, 0, stream(handle)>>>(p, m, n, k);
  launched("simple_matmul");
}

template <class T, class F>  // F: what sums are kept in
struct FloatPolicy {
  using Value = F;
  using Part = F;
  using Sum = F;
  StridedProduct s;
  const T *x, *y;
  void* c;
  __device__ bool a_by_k() const { return s.a_k == 1; }
  __device__ bool b_by_k() const { return s.b_n != 1; }
  __device__ F a(std::int64_t batch, std::int64_t m, std::int64_t k) const {
    return value_of(x[batch * s.a_batch + m * s.a_m + k * s.a_k]);
  }
  __device__ F b(std::int64_t batch, std::int64_t k, std::int64_t n) const {
    return value_of(y[batch * s.b_batch + k * s.b_k + n * s.b_n]);
  }
  __device__ void join(F& sum, F part, std::int64_t, std::int64_t, std::int64_t) const { sum += part; }
  __device__ void store(std::int64_t batch, std::int64_t m, std::int64_t n, F sum) const {
    const std::int64_t i = (batch * s.m + m) * s.n + n;
    if (s.out == DType::f64)
      static_cast<double*>(c)[i] = static_cast<double>(sum);
    else
      store_element(c, s.out, i, static_cast<float>(sum));
  }
};

struct I8Policy {
  using Value = std::int32_t;
  using Part = std::int32_t;
  using Sum = std::int32_t;
  RowsProduct s;
  const std::int8_t *x, *w;
  const float *x_scale, *w_scale;
  void* c;
  __device__ bool a_by_k() const { return true; }
  __device__ bool b_by_k() const { return true; }
  __device__ int a(std::int64_t, std::int64_t m, std::int64_t k) const { return x[m * s.k + k]; }
  __device__ int b(std::int64_t, std::int64_t k, std::int64_t n) const { return w[n * s.k + k]; }
  __device__ void join(int& sum, int part, std::int64_t, std::int64_t, std::int64_t) const { sum += part; }
  __device__ void store(std::int64_t, std::int64_t m, std::int64_t n, int sum) const {
    if (s.out == DType::f64)
      static_cast<double*>(c)[m * s.n + n] = double(sum) * double(x_scale[m]) * double(w_scale[n]);
    else
      store_element(c, s.out, m * s.n + n, static_cast<float>(sum) * (x_scale[m] * w_scale[n]));
  }
};

__device__ inline int nibble(const std::uint8_t* q, std::int64_t i) { return (q[i / 2] >> (i % 2 * 4) & 15) - 8; }

struct I4Policy {
  using Value = std::int32_t;
  using Part = std::int32_t;
  using Sum = float;
  RowsProduct s;
  const std::int8_t* x;
  const std::uint8_t* w;
  const float* x_scale;
  const __half* w_scale;
  void* c;
  __device__ bool a_by_k() const { return true; }
  __device__ bool b_by_k() const { return true; }
  __device__ int a(std::int64_t, std::int64_t m, std::int64_t k) const { return x[m * s.k + k]; }
  __device__ int b(std::int64_t, std::int64_t k, std::int64_t n) const { return nibble(w, n * s.k + k); }
  __device__ void join(float& sum, int part, std::int64_t m, std::int64_t n, std::int64_t k) const {
    const std::int64_t groups = s.k / kDepth, g = k / kDepth;
    sum = fmaf(x_scale[m * groups + g] * __half2float(w_scale[n * groups + g]), static_cast<float>(part), sum);
  }
  __device__ void store(std::int64_t, std::int64_t m, std::int64_t n, float sum) const {
    store_element(c, s.out, m * s.n + n, sum);
  }
};

template <class T, class F>
struct W4Policy {
  using Value = F;
  using Part = F;
  using Sum = F;
  RowsProduct s;
  const T* x;
  const std::uint8_t* w;
  const __half* w_scale;
  void* c;
  __device__ bool a_by_k() const { return true; }
  __device__ bool b_by_k() const { return true; }
  __device__ F a(std::int64_t, std::int64_t m, std::int64_t k) const { return widen(x[m * s.k + k]); }
  __device__ F b(std::int64_t, std::int64_t k, std::int64_t n) const {
    return widen(narrow<T>(static_cast<float>(nibble(w, n * s.k + k)) * __half2float(w_scale[n * (s.k / kDepth) + k / kDepth])));
  }
  __device__ void join(F& sum, F part, std::int64_t, std::int64_t, std::int64_t) const { sum += part; }
  __device__ void store(std::int64_t, std::int64_t m, std::int64_t n, F sum) const {
    if (s.out == DType::f64)
      static_cast<double*>(c)[m * s.n + n] = static_cast<double>(sum);
    else
      store_element(c, s.out, m * s.n + n, static_cast<float>(sum));
  }
};

template <int W, class Index>
__global__ void __launch_bounds__(256)
    finish_kernel(FinishCall p, const void* sums, const float* x_scale, const float* w_scale, Finish f, void* out) {
  const Index packs = static_cast<Index>(p.m * p.n / W), per_row = static_cast<Index>(p.n / W);
  const bool fast = p.out == DType::bf16 || p.out == DType::f16;
  for (Index i = blockIdx.x * Index(256) + threadIdx.x; i < packs; i += gridDim.x * Index(256)) {
    const Index row = i / per_row, col = (i - row * per_row) * W;
    const std::int64_t flat = static_cast<std::int64_t>(i) * W;
    float x[W];
    elements(sums, p.sums, flat, x);
    if (x_scale) {
      float scale[W];
      elements(w_scale, DType::f32, col, scale);
#pragma unroll
      for (int e = 0; e < W; ++e) x[e] *= x_scale[row] * scale[e];
    }
    if (fast)
      finish<true>(f, flat, col, x);
    else
      finish<false>(f, flat, col, x);
    store_elements(out, p.out, flat, x);
  }
}

// Tiles of 64 x 64 bytes, a thread 4 x 4 of them: four words in, turned by byte permutations, four words out.
__global__ void __launch_bounds__(256)
    transpose_kernel(int rows, int cols, int col_tiles, const std::uint8_t* from, std::uint8_t* to) {
  __shared__ std::uint32_t tile[64][17];  // [column][row / 4]
  const int r0 = blockIdx.x / col_tiles * 64, c0 = blockIdx.x % col_tiles * 64, x = threadIdx.x % 16, y = threadIdx.x / 16;
  std::uint32_t w[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = r0 + 4 * y + i, col = c0 + 4 * x;
    w[i] = row < rows && col < cols ? *reinterpret_cast<const std::uint32_t*>(from + std::int64_t(row) * cols + col) : 0;
  }
  const std::uint32_t a = __byte_perm(w[0], w[1], 0x5140), b = __byte_perm(w[2], w[3], 0x5140),
                      c = __byte_perm(w[0], w[1], 0x7362), d = __byte_perm(w[2], w[3], 0x7362);
  tile[4 * x][y] = __byte_perm(a, b, 0x5410);
  tile[4 * x + 1][y] = __byte_perm(a, b, 0x7632);
  tile[4 * x + 2][y] = __byte_perm(c, d, 0x5410);
  tile[4 * x + 3][y] = __byte_perm(c, d, 0x7632);
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int col = c0 + y + 16 * i, row = r0 + 4 * x;
    if (col < cols && row < rows) *reinterpret_cast<std::uint32_t*>(to + std::int64_t(col) * rows + row) = tile[y + 16 * i][x];
  }
}

}  // namespace

void simple_matmul(const StridedProduct& p, const void* a, const void* b, void* c, void* handle) {
  const auto run = [&](auto type, auto sum) {
    using T = decltype(type);
    launch_tiled(FloatPolicy<T, decltype(sum)>{p, static_cast<const T*>(a), static_cast<const T*>(b), c}, p.batch, p.m, p.n, p.k,
                 handle);
  };
  if (p.in == DType::f64)
    run(double{}, double{});
  else if (p.in == DType::f8e4m3)
    run(__nv_fp8_e4m3{}, float{});
  else if (p.in == DType::f8e5m2)
    run(__nv_fp8_e5m2{}, float{});
  else
    with_float(p.in, [&](auto type) { run(type, float{}); });
}

void simple_matmul_i8(const RowsProduct& p, const void* x, const void* x_scale, const void* w, const void* w_scale, void* c,
                      void* handle) {
  launch_tiled(I8Policy{p, static_cast<const std::int8_t*>(x), static_cast<const std::int8_t*>(w),
                        static_cast<const float*>(x_scale), static_cast<const float*>(w_scale), c},
               1, p.m, p.n, p.k, handle);
}

void simple_matmul_i4(const RowsProduct& p, const void* x, const void* x_scale, const void* w, const void* w_scale, void* c,
                      void* handle) {
  launch_tiled(I4Policy{p, static_cast<const std::int8_t*>(x), static_cast<const std::uint8_t*>(w),
                        static_cast<const float*>(x_scale), static_cast<const __half*>(w_scale), c},
               1, p.m, p.n, p.k, handle);
}

void simple_matmul_w4(const RowsProduct& p, const void* x, const void* w, const void* w_scale, void* c, void* handle) {
  const auto run = [&](auto type, auto sum) {
    using T = decltype(type);
    launch_tiled(W4Policy<T, decltype(sum)>{p, static_cast<const T*>(x), static_cast<const std::uint8_t*>(w),
                                            static_cast<const __half*>(w_scale), c},
                 1, p.m, p.n, p.k, handle);
  };
  if (p.in == DType::f64)
    run(double{}, double{});
  else
    with_float(p.in, [&](auto type) { run(type, float{}); });
}

void finish_product(const FinishCall& p, const void* sums, const float* x_scale, const float* w_scale, const Finish& f, void* out,
                    void* handle) {
  const std::int64_t elements = p.m * p.n;
  if (elements == 0) return;
  const bool wide = p.n % 8 == 0;
  const std::int64_t packs = wide ? elements / 8 : elements;
  const unsigned grid = blocks(packs, 256, 132 * 32);
  const auto run = [&](auto kernel) { kernel<<<grid, 256, 0, stream(handle)>>>(p, sums, x_scale, w_scale, f, out); };
  if (packs >= 1ll << 31)
    run(wide ? finish_kernel<8, std::int64_t> : finish_kernel<1, std::int64_t>);
  else
    run(wide ? finish_kernel<8, std::uint32_t> : finish_kernel<1, std::uint32_t>);
  launched("finish_product");
}

void transpose_bytes(std::int64_t rows, std::int64_t cols, const void* from, void* to, void* handle) {
  const std::int64_t row_tiles = (rows + 63) / 64, col_tiles = (cols + 63) / 64;
  if (rows * cols == 0) return;
  transpose_kernel<<<static_cast<unsigned>(row_tiles * col_tiles), 256, 0, stream(handle)>>>(
      static_cast<int>(rows), static_cast<int>(cols), static_cast<int>(col_tiles), static_cast<const std::uint8_t*>(from),
      static_cast<std::uint8_t*>(to));
  launched("transpose_bytes");
}

}  // namespace rhetor::gpu
