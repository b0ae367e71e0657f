// What every generated kernel starts with, in CUDA C++ that needs no header: element formats, vector access, integer arithmetic,
// conversions, activations and random numbers. The semantics are those of tensor/dtype.h, ops/pointwise.cc and base/rng.h.
//
// Formats keep 1 to 16 elements of memory in 32-bit words and hand them out as the type arithmetic is done in (`lane`). Functions
// ending in _fast are for results of at most 16 bits: they err by some 1e-7 of the result's scale.
#include "cuda/codegen_text.h"

namespace rhetor::gpu {
namespace {

constexpr std::string_view kMemory = R"(
typedef signed char i8; typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32;
typedef long long i64; typedef unsigned long long u64;
#define FN __device__ __forceinline__

template <int B> FN void fetch(const void* p, u32* w) {
  if constexpr (B % 16 == 0) {
#pragma unroll
    for (int i = 0; i < B / 16; ++i) {
      const uint4 q = static_cast<const uint4*>(p)[i];
      w[4 * i] = q.x; w[4 * i + 1] = q.y; w[4 * i + 2] = q.z; w[4 * i + 3] = q.w;
    }
  } else if constexpr (B == 8) {
    const uint2 q = *static_cast<const uint2*>(p);
    w[0] = q.x; w[1] = q.y;
  } else if constexpr (B == 4) w[0] = *static_cast<const u32*>(p);
  else if constexpr (B == 2) w[0] = *static_cast<const u16*>(p);
  else w[0] = *static_cast<const u8*>(p);
}
template <int B> FN void put(void* p, const u32* w) {
  if constexpr (B % 16 == 0) {
#pragma unroll
    for (int i = 0; i < B / 16; ++i) static_cast<uint4*>(p)[i] = make_uint4(w[4 * i], w[4 * i + 1], w[4 * i + 2], w[4 * i + 3]);
  } else if constexpr (B == 8) *static_cast<uint2*>(p) = make_uint2(w[0], w[1]);
  else if constexpr (B == 4) *static_cast<u32*>(p) = w[0];
  else if constexpr (B == 2) *static_cast<u16*>(p) = static_cast<u16>(w[0]);
  else *static_cast<u8*>(p) = static_cast<u8>(w[0]);
}
)";

constexpr std::string_view kNarrowFloats = R"(
// Conversions of pairs run at full rate, of one number at a quarter: one is the lower half of a pair.
FN float bits_f16(u32 b) { float f; const u16 h = static_cast<u16>(b); asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h)); return f; }
FN u32 f16_one(float x) { u16 h; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x)); return h; }
FN u32 f16_pair(float low, float high) {
#if __CUDA_ARCH__ >= 800
  u32 w; asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(w) : "f"(high), "f"(low)); return w;
#else
  return f16_one(low) | f16_one(high) << 16;
#endif
}
FN u32 f16_bits(float x) { return f16_pair(x, 0) & 0xffffu; }
FN float bits_bf16(u32 b) { return __uint_as_float(b << 16); }
FN u32 bf16_pair(float low, float high) {
#if __CUDA_ARCH__ >= 800
  u32 w; asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(w) : "f"(high), "f"(low)); return w;
#else
  const u32 a = __float_as_uint(low), b = __float_as_uint(high);
  return (low != low ? a >> 16 | 0x40 : (a + 0x7fffu + (a >> 16 & 1)) >> 16) |
         (high != high ? b >> 16 | 0x40 : (b + 0x7fffu + (b >> 16 & 1)) >> 16) << 16;
#endif
}
FN u32 bf16_bits(float x) { return bf16_pair(x, 0) & 0xffffu; }
// A float of E exponent and M mantissa bits; `finite`: it has no infinity, and overflow gives NaN.
template <int E, int M, bool finite> FN u32 narrow_bits(float x) {
  const u32 u = __float_as_uint(x), mask = (1u << E) - 1, sign = (u >> 31) << (E + M), magnitude = u & 0x7fffffffu;
  const u32 nan = finite ? (mask << M | ((1u << M) - 1)) : (mask << M | 1u << (M - 1));
  if (magnitude > 0x7f800000u) return sign | nan;
  const u32 largest = finite ? (mask << M | ((1u << M) - 2)) : (mask << M) - 1;
  const int exponent = static_cast<int>(magnitude >> 23) - 127 + (1 << (E - 1)) - 1;
  u32 bits = 0;
  if (exponent > 0) {
    const u32 wide = static_cast<u32>(exponent) << 23 | (magnitude & 0x7fffffu);
    bits = (wide + (1u << (22 - M)) - 1 + (wide >> (23 - M) & 1)) >> (23 - M);
  } else if (exponent > -M - 1) {
    const u32 mantissa = (magnitude & 0x7fffffu) | 0x800000u, drop = 24 - M - exponent;
    bits = (mantissa + (1u << (drop - 1)) - 1 + (mantissa >> drop & 1)) >> drop;
  }
  return sign | (bits > largest ? (finite ? nan : mask << M) : bits);
}
FN u32 e4m3_bits(float x) {
#if __CUDA_ARCH__ >= 890
  if (fabsf(x) > 464.0f) x = __uint_as_float(0x7fc00000u);   // the instruction would saturate; the format has NaN there
  u16 h; asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(h) : "f"(0.0f), "f"(x)); return h & 255;
#else
  return narrow_bits<4, 3, true>(x);
#endif
}
template <int E, int M, bool finite> FN float narrow_value(u32 bits) {
  const u32 sign = (bits >> (E + M) & 1) << 31, exponent = bits >> M & ((1u << E) - 1), mantissa = bits & ((1u << M) - 1);
  const int bias = (1 << (E - 1)) - 1;
  if (exponent == (1u << E) - 1 && (!finite || mantissa == (1u << M) - 1))
    return __uint_as_float(sign | 0x7f800000u | (finite || mantissa ? 0x400000u : 0));
  if (exponent == 0) {
    const float value = static_cast<float>(mantissa) * __uint_as_float(static_cast<u32>(128 - bias - M) << 23);
    return sign ? -value : value;
  }
  return __uint_as_float(sign | (exponent + 127 - bias) << 23 | mantissa << (23 - M));
}
)";

constexpr std::string_view kFormats = R"(
struct F64 {
  typedef u64 cell; typedef double lane;
  static FN double get(const u32* w, int k) {
    return __longlong_as_double(static_cast<i64>(static_cast<u64>(w[2 * k + 1]) << 32 | w[2 * k]));
  }
  static FN void set(u32* w, int k, double v) { const u64 b = __double_as_longlong(v); w[2 * k] = b; w[2 * k + 1] = b >> 32; }
};
struct I64 {
  typedef u64 cell; typedef i64 lane;
  static FN i64 get(const u32* w, int k) { return static_cast<u64>(w[2 * k + 1]) << 32 | w[2 * k]; }
  static FN void set(u32* w, int k, i64 v) { const u64 b = v; w[2 * k] = b; w[2 * k + 1] = b >> 32; }
};
struct F32 {
  typedef u32 cell; typedef float lane;
  static FN float get(const u32* w, int k) { return __uint_as_float(w[k]); }
  static FN void set(u32* w, int k, float v) { w[k] = __float_as_uint(v); }
};
struct I32 {
  typedef u32 cell; typedef int lane;
  static FN int get(const u32* w, int k) { return w[k]; }
  static FN void set(u32* w, int k, int v) { w[k] = v; }
};
FN u32 half_of(const u32* w, int k) { return k % 2 ? w[k / 2] >> 16 : w[k / 2] & 0xffffu; }
FN void set_half(u32* w, int k, u32 b) { w[k / 2] = k % 2 ? w[k / 2] | b << 16 : b; }
FN u32 byte_of(const u32* w, int k) { return w[k / 4] >> 8 * (k % 4) & 255; }
FN void set_byte(u32* w, int k, u32 b) { w[k / 4] = k % 4 ? w[k / 4] | (b & 255) << 8 * (k % 4) : b & 255; }
struct F16 {
  typedef u16 cell; typedef float lane;
  static FN float get(const u32* w, int k) { return bits_f16(half_of(w, k)); }
  static FN void set(u32* w, int k, float v) { set_half(w, k, f16_bits(v)); }
  static FN u32 pair(float low, float high) { return f16_pair(low, high); }
};
struct BF16 {
  typedef u16 cell; typedef float lane;
  static FN float get(const u32* w, int k) { return __uint_as_float(k % 2 ? w[k / 2] & 0xffff0000u : w[k / 2] << 16); }
  static FN void set(u32* w, int k, float v) { set_half(w, k, bf16_bits(v)); }
  static FN u32 pair(float low, float high) { return bf16_pair(low, high); }
};
template <int E, int M, bool finite> struct F8 {
  typedef u8 cell; typedef float lane;
  static FN float get(const u32* w, int k) { return narrow_value<E, M, finite>(byte_of(w, k)); }
  static FN void set(u32* w, int k, float v) { set_byte(w, k, narrow_bits<E, M, finite>(v)); }
};
struct F8E4M3 : F8<4, 3, true> {
  static FN void set(u32* w, int k, float v) { set_byte(w, k, e4m3_bits(v)); }
};
typedef F8<5, 2, false> F8E5M2;
struct I8 {
  typedef u8 cell; typedef int lane;
  static FN int get(const u32* w, int k) { return static_cast<i8>(byte_of(w, k)); }
  static FN void set(u32* w, int k, int v) { set_byte(w, k, v); }
};
struct U8 {
  typedef u8 cell; typedef int lane;
  static FN int get(const u32* w, int k) { return byte_of(w, k); }
  static FN void set(u32* w, int k, int v) { set_byte(w, k, v); }
};
typedef U8 BOOL;

template <class F> FN typename F::lane load(const typename F::cell* p) {
  u32 w[2];
  fetch<sizeof(typename F::cell)>(p, w);
  return F::get(w, 0);
}
template <class F, int V> FN void unpack(const u32* w, typename F::lane (&v)[V]) {
#pragma unroll
  for (int k = 0; k < V; ++k) v[k] = F::get(w, k);
}
template <class F, int V> FN void load(const typename F::cell* p, typename F::lane (&v)[V]) {
  u32 w[(V * sizeof(typename F::cell) + 3) / 4];
  fetch<V * sizeof(typename F::cell)>(p, w);
  unpack<F, V>(w, v);
}
template <class F, int V> FN void store(typename F::cell* p, const typename F::lane (&v)[V]) {
  u32 w[(V * sizeof(typename F::cell) + 3) / 4];
  if constexpr (sizeof(typename F::cell) == 2 && V > 1) {
#pragma unroll
    for (int k = 0; k < V; k += 2) w[k / 2] = F::pair(v[k], v[k + 1]);
  } else {
#pragma unroll
    for (int k = 0; k < V; ++k) F::set(w, k, v[k]);
  }
  put<V * sizeof(typename F::cell)>(p, w);
}
// The last elements, fewer than V.
template <class F, int V, class I> FN void load_some(const typename F::cell* p, typename F::lane (&v)[V], I count) {
#pragma unroll
  for (int k = 0; k < V; ++k) v[k] = k < count ? load<F>(p + k) : typename F::lane(0);
}
template <class F, int V, class I> FN void store_some(typename F::cell* p, const typename F::lane (&v)[V], I count) {
#pragma unroll
  for (int k = 0; k < V; ++k)
    if (k < count) {
      u32 w[2];
      F::set(w, 0, v[k]);
      put<sizeof(typename F::cell)>(p + k, w);
    }
}
)";

constexpr std::string_view kIntegers = R"(
// Integers wrap, division by zero gives 0.
FN int plus(int a, int b) { return static_cast<int>(static_cast<u32>(a) + static_cast<u32>(b)); }
FN i64 plus(i64 a, i64 b) { return static_cast<i64>(static_cast<u64>(a) + static_cast<u64>(b)); }
FN int times(int a, int b) { return static_cast<int>(static_cast<u32>(a) * static_cast<u32>(b)); }
FN i64 times(i64 a, i64 b) { return static_cast<i64>(static_cast<u64>(a) * static_cast<u64>(b)); }
FN int minus(int a) { return times(a, -1); }
FN i64 minus(i64 a) { return times(a, static_cast<i64>(-1)); }
template <class T> FN T quotient(T a, T b) { return b == 0 ? T(0) : b == -1 ? minus(a) : a / b; }
template <class T> FN T sign(T x) { return x != x ? x : static_cast<T>((x > 0) - (x < 0)); }

// Floats to integers: toward zero, saturating, NaN to 0.
template <class T, class X> FN T truncated(X v, X low, X high, T least, T greatest) {
  return v != v ? T(0) : v <= low ? least : v >= high ? greatest : static_cast<T>(v);
}
template <class X> FN i64 to_i64(X v) {
  return truncated<i64>(v, X(-0x1p63), X(0x1p63), -0x7fffffffffffffffll - 1, 0x7fffffffffffffffll);
}
template <class X> FN int to_i32(X v) { return truncated<int>(v, X(-0x1p31), X(0x1p31), -0x7fffffff - 1, 0x7fffffff); }
template <class X> FN int to_i8(X v) { return truncated<int>(v, X(-128), X(127), -128, 127); }
template <class X> FN int to_u8(X v) { return truncated<int>(v, X(0), X(255), 0, 255); }

// Rounded to odd, so that a further rounding sees the right side of a tie.
FN float to_odd(double v) {
  const float f = static_cast<float>(v);
  const u32 u = __float_as_uint(f);
  if (static_cast<double>(f) == v || v != v || (u & 0x7fffffffu) == 0x7f800000u || u & 1) return f;
  return __uint_as_float((f > v) == (v > 0) ? u - 1 : u + 1);
}
FN float round_bf16(float x) { return bits_bf16(bf16_pair(x, 0)); }
FN float round_f16(float x) { return bits_f16(f16_bits(x)); }
FN float round_f8e4m3(float x) { return narrow_value<4, 3, true>(narrow_bits<4, 3, true>(x)); }
FN float round_f8e5m2(float x) { return narrow_value<5, 2, false>(narrow_bits<5, 2, false>(x)); }
)";

// With s = sigmoid(2 u), u = k (x + c x^3): (1 + tanh u) / 2 = s and 1 - tanh(u)^2 = 4 s (1 - s) = 4 e / (1 + e)^2 with e =
// exp(-2 |u|), which saves gelu_tanh and its slope the cancellation of their usual forms. gelu_fast: erfc by Abramowitz &
// Stegun 7.1.26.
constexpr std::string_view kActivations = R"(
FN float exp_fast(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 0x1.715476p+0f)); return y; }
FN float rcp(float x) { float y; asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
FN float sigmoid(float x) { return 1 / (1 + expf(-x)); }
FN double sigmoid(double x) { return 1 / (1 + exp(-x)); }
FN float sigmoid_fast(float x) { return rcp(1 + exp_fast(-x)); }
FN float silu(float x) { return x / (1 + expf(-x)); }
FN double silu(double x) { return x / (1 + exp(-x)); }
FN float silu_fast(float x) { return x * sigmoid_fast(x); }
FN float gelu(float x) { return x * 0.5f * (1 + erff(x * 0.7071067811865476f)); }
FN double gelu(double x) { return x * 0.5 * (1 + erf(x * 0.7071067811865476)); }
FN float gelu_fast(float x) {
  const float t = rcp(fmaf(fabsf(x), 0.3275911f * 0.7071067811865476f, 1.0f));
  const float q = fmaf(fmaf(fmaf(fmaf(1.061405429f, t, -1.453152027f), t, 1.421413741f), t, -0.284496736f), t, 0.254829592f);
  const float half_tail = 0.5f * q * t * exp_fast(-0.5f * x * x);
  return x * (x < 0 ? half_tail : 1 - half_tail);
}
template <class T> FN T gelu_argument(T x) { return T(2 * 0.7978845608028654) * (x + T(0.044715) * x * x * x); }
FN float gelu_tanh(float x) { return x / (1 + expf(-gelu_argument(x))); }
FN double gelu_tanh(double x) { return x / (1 + exp(-gelu_argument(x))); }
FN float gelu_tanh_fast(float x) { return x * rcp(1 + exp_fast(-gelu_argument(x))); }
template <class T> FN T gelu_slope(T x, T u, T e, T r) {   // u = 2 k (x + c x^3), e = exp(-|u|), r = 1 / (1 + e)
  return (u < 0 ? e * r : r) + 2 * x * (e * r * r) * T(0.7978845608028654) * (1 + T(3 * 0.044715) * x * x);
}
FN float gelu_tanh_grad(float a, float x) {
  const float u = gelu_argument(x), e = expf(-fabsf(u));
  return a * gelu_slope(x, u, e, 1 / (1 + e));
}
FN double gelu_tanh_grad(double a, double x) {
  const double u = gelu_argument(x), e = exp(-fabs(u));
  return a * gelu_slope(x, u, e, 1 / (1 + e));
}
FN float gelu_tanh_grad_fast(float a, float x) {
  const float u = gelu_argument(x), e = exp_fast(-fabsf(u));
  return a * gelu_slope(x, u, e, rcp(1 + e));
}
)";

constexpr std::string_view kRandom = R"(
// Philox4x32-10: block `block` of stream `stream` under `seed`.
struct Block { u32 w[4]; };
FN Block philox(u64 seed, u64 stream, u64 block) {
  u32 c0 = block, c1 = block >> 32, c2 = stream, c3 = stream >> 32, k0 = seed, k1 = seed >> 32;
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const u64 p0 = static_cast<u64>(0xD2511F53u) * c0, p1 = static_cast<u64>(0xCD9E8D57u) * c2;
    c0 = static_cast<u32>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<u32>(p1);
    c2 = static_cast<u32>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<u32>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}
template <int N> FN void random_words(u64 seed, u64 stream, u64 block, u32 (&w)[4 * N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const Block b = philox(seed, stream, block + i);
#pragma unroll
    for (int k = 0; k < 4; ++k) w[4 * i + k] = b.w[k];
  }
}
FN u32 random_word(u64 seed, u64 stream, u64 index) {
  const Block b = philox(seed, stream, index / 4);
  const u32 k = index % 4;
  return k == 0 ? b.w[0] : k == 1 ? b.w[1] : k == 2 ? b.w[2] : b.w[3];
}
FN float uniform(u32 word) { return static_cast<float>(word >> 8) * 0x1p-24f; }
FN double normal(u32 first, u32 second) {
  const double u = (static_cast<double>(first) + 1) / 4294967296.0, v = static_cast<double>(second) / 4294967296.0;
  return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}
)";

// Sums over the threads of a warp, or of a block of whole warps; every thread gets the same bits.
constexpr std::string_view kSums = R"(
template <int T, class A> FN A row_sum(A x) {
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) x += __shfl_xor_sync(0xffffffffu, x, d);
  if constexpr (T > 32) {
    __shared__ A parts[32];
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    x = threadIdx.x % 32 < T / 32 ? parts[threadIdx.x % 32] : A(0);
#pragma unroll
    for (int d = 16; d > 0; d >>= 1) x += __shfl_xor_sync(0xffffffffu, x, d);
  }
  return x;
}
)";

}  // namespace

const std::string& codegen_prelude() {
  static const std::string text = [] {
    std::string all;
    for (const std::string_view part : {kMemory, kNarrowFloats, kFormats, kIntegers, kActivations, kRandom, kSums}) all += part;
    return all;
  }();
  return text;
}

}  // namespace rhetor::gpu
