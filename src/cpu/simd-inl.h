// Vector building blocks of the CPU kernels: f32 vectors loaded from and stored to f32, bf16 and f16, reductions, and the
// transcendental functions. Included once per instruction set (Highway's foreach_target); a kernel file writes its loops once and gets
// an AVX2 and an AVX-512 version chosen at run time.
//
// The polynomial coefficients are our own weighted least-squares fits; the errors noted are relative, before f32 rounding.

// Per-target include guard (Highway's idiom).
#if defined(RHETOR_CPU_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RHETOR_CPU_SIMD_INL_H_
#undef RHETOR_CPU_SIMD_INL_H_
#else
#define RHETOR_CPU_SIMD_INL_H_
#endif

#include <cmath>
#include <cstdint>
#include <cstring>

#include "hwy/highway.h"
#include "hwy/contrib/math/math-inl.h"
#include "tensor/dtype.h"

HWY_BEFORE_NAMESPACE();
namespace rhetor {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::ScalableTag<float>;
using I32 = hn::ScalableTag<std::int32_t>;
using U32 = hn::ScalableTag<std::uint32_t>;
using U16Half = hn::Rebind<std::uint16_t, F32>;
using VF = hn::Vec<F32>;
using VI = hn::Vec<I32>;
using VU = hn::Vec<U32>;

HWY_INLINE constexpr std::int64_t lanes() { return static_cast<std::int64_t>(hn::MaxLanes(F32())); }
HWY_INLINE VF set(float v) { return hn::Set(F32(), v); }
HWY_INLINE VF zero() { return hn::Zero(F32()); }

// ---- load and store -------------------------------------------------------------------------------
HWY_INLINE VF load(const float* p) { return hn::LoadU(F32(), p); }
HWY_INLINE VF load(const bf16* p) {
  const auto bits = hn::LoadU(U16Half(), reinterpret_cast<const std::uint16_t*>(p));
  return hn::BitCast(F32(), hn::ShiftLeft<16>(hn::PromoteTo(U32(), bits)));
}
HWY_INLINE VF load(const f16* p) {
  const hn::Rebind<hwy::float16_t, F32> half;
  return hn::PromoteTo(F32(), hn::LoadU(half, reinterpret_cast<const hwy::float16_t*>(p)));
}
HWY_INLINE VF load(const std::int8_t* p) {
  return hn::ConvertTo(F32(), hn::PromoteTo(I32(), hn::LoadU(hn::Rebind<std::int8_t, F32>(), p)));
}
HWY_INLINE void store(VF v, float* p) { hn::StoreU(v, F32(), p); }
HWY_INLINE void store(VF v, bf16* p) {
  const VU u = hn::BitCast(U32(), v);
  const VU odd = hn::And(hn::ShiftRight<16>(u), hn::Set(U32(), 1u));
  const VU rounded = hn::ShiftRight<16>(hn::Add(u, hn::Add(odd, hn::Set(U32(), 0x7fffu))));
  const VU quiet = hn::Or(hn::ShiftRight<16>(u), hn::Set(U32(), 0x40u));  // NaN stays NaN
  const VU bits = hn::IfThenElse(hn::RebindMask(U32(), hn::IsNaN(v)), quiet, rounded);
  hn::StoreU(hn::DemoteTo(U16Half(), hn::BitCast(I32(), bits)), U16Half(), reinterpret_cast<std::uint16_t*>(p));
}
HWY_INLINE void store(VF v, f16* p) {
  const hn::Rebind<hwy::float16_t, F32> half;
  hn::StoreU(hn::DemoteTo(half, v), half, reinterpret_cast<hwy::float16_t*>(p));
}

// The first n < lanes() elements; the other lanes are `fill`. f32 has masked moves; 16-bit elements pass through a buffer.
HWY_INLINE VF load_n(const float* p, std::int64_t n, float fill = 0.0f) {
  const auto mask = hn::FirstN(F32(), static_cast<std::size_t>(n));
  const VF v = hn::MaskedLoad(mask, F32(), p);
  return fill == 0.0f ? v : hn::IfThenElse(mask, v, set(fill));
}
HWY_INLINE void store_n(VF v, float* p, std::int64_t n) {
  hn::BlendedStore(v, hn::FirstN(F32(), static_cast<std::size_t>(n)), F32(), p);
}
template <class T>
HWY_INLINE VF load_n(const T* p, std::int64_t n, float fill = 0.0f) {
  HWY_ALIGN T buffer[hn::MaxLanes(F32())] = {};
  n &= lanes() - 1;  // tells the compiler that the copy fits
  std::memcpy(static_cast<void*>(buffer), p, static_cast<std::size_t>(n) * sizeof(T));
  return hn::IfThenElse(hn::FirstN(F32(), static_cast<std::size_t>(n)), load(buffer), set(fill));
}
template <class T>
HWY_INLINE void store_n(VF v, T* p, std::int64_t n) {
  HWY_ALIGN T buffer[hn::MaxLanes(F32())];
  store(v, buffer);
  std::memcpy(static_cast<void*>(p), buffer, static_cast<std::size_t>(n & (lanes() - 1)) * sizeof(T));
}

HWY_INLINE float sum_lanes(VF v) { return hn::GetLane(hn::SumOfLanes(F32(), v)); }
HWY_INLINE float max_lanes(VF v) { return hn::GetLane(hn::MaxOfLanes(F32(), v)); }

// ---- rows: vectors of `n` <= lanes() elements ------------------------------------------------------------
template <class T>
HWY_INLINE VF load_some(const T* p, std::int64_t n) { return n == lanes() ? load(p) : load_n(p, n); }
template <class T>
HWY_INLINE void store_some(VF v, T* p, std::int64_t n) {
  if (n == lanes()) store(v, p);
  else store_n(v, p, n);
}

// Sum of f(i-th vector, tail lanes) over a row; f gives 0 in lanes past the end. Two accumulators hide the latency of the adds.
template <class F>
HWY_INLINE float sum_over(std::int64_t n, F f) {
  VF a = zero(), b = zero();
  std::int64_t i = 0;
  for (; i + 2 * lanes() <= n; i += 2 * lanes()) {
    a = hn::Add(a, f(i, lanes()));
    b = hn::Add(b, f(i + lanes(), lanes()));
  }
  for (; i + lanes() <= n; i += lanes()) a = hn::Add(a, f(i, lanes()));
  if (i < n) {
    const auto mask = hn::FirstN(F32(), static_cast<std::size_t>(n - i));
    b = hn::Add(b, hn::IfThenElseZero(mask, f(i, n - i)));
  }
  return sum_lanes(hn::Add(a, b));
}
// The greatest element of a row.
template <class T>
HWY_INLINE float max_over(const T* p, std::int64_t n) {
  VF a = hn::Neg(hn::Inf(F32())), b = a;
  std::int64_t i = 0;
  for (; i + 2 * lanes() <= n; i += 2 * lanes()) {
    a = hn::Max(a, load(p + i));
    b = hn::Max(b, load(p + i + lanes()));
  }
  for (; i + lanes() <= n; i += lanes()) a = hn::Max(a, load(p + i));
  if (i < n) b = hn::Max(b, load_n(p + i, n - i, -HUGE_VALF));
  return max_lanes(hn::Max(a, b));
}

// ---- transcendental functions -----------------------------------------------------------------------
// e^x, 1 ulp. Range reduction to |r| <= ln2/2, 1 + r + r^2 P(r) (error 1e-8), scaled by 2^n in two steps so that overflow and
// subnormals come out right. NaN stays NaN (the clamps keep their second operand when one is NaN).
HWY_INLINE VF vexp_poly(VF r) {
  VF p = set(0.00139012365801f);
  p = hn::MulAdd(p, r, set(0.00836319993985f));
  p = hn::MulAdd(p, r, set(0.0416668549744f));
  p = hn::MulAdd(p, r, set(0.166665769633f));
  p = hn::MulAdd(p, r, set(0.499999995489f));
  return hn::Add(hn::MulAdd(p, hn::Mul(r, r), r), set(1.0f));
}
HWY_INLINE VF two_to(VI n) { return hn::BitCast(F32(), hn::ShiftLeft<23>(hn::Add(n, hn::Set(I32(), 127)))); }
HWY_INLINE VF vexp(VF x) {
  x = hn::Max(set(-104.0f), hn::Min(set(89.0f), x));
  const VF n = hn::Round(hn::Mul(x, set(1.44269504089f)));
  const VF r = hn::NegMulAdd(n, set(-2.12194440e-4f), hn::NegMulAdd(n, set(0.693359375f), x));
  const VI k = hn::ConvertTo(I32(), n);
  const VI half = hn::ShiftRight<1>(k);
  return hn::Mul(hn::Mul(vexp_poly(r), two_to(half)), two_to(hn::Sub(k, half)));
}
// e^x for x <= 0 (softmax): results below 2^-126 flush to 0. NaN stays NaN.
HWY_INLINE VF vexp_negative(VF x) {
  const auto tiny = hn::Lt(x, set(-87.3f));
  const VF n = hn::Round(hn::Mul(x, set(1.44269504089f)));
  const VF r = hn::NegMulAdd(n, set(-2.12194440e-4f), hn::NegMulAdd(n, set(0.693359375f), x));
  return hn::IfThenZeroElse(tiny, hn::Mul(vexp_poly(r), two_to(hn::ConvertTo(I32(), n))));
}

// Natural logarithm, 1 ulp: x = m 2^e with m in [sqrt(1/2), sqrt 2); f - f^2/2 + f^3 P(f) (error 1e-8).
HWY_INLINE VF vlog(VF x) {
  const auto subnormal = hn::Lt(x, set(1.17549435e-38f));
  const VF scaled = hn::IfThenElse(subnormal, hn::Mul(x, set(8388608.0f)), x);
  const VI bits = hn::BitCast(I32(), scaled);
  // Subtracting the bits of sqrt(1/2) moves the mantissa's wrap to sqrt(1/2).
  const VI shifted = hn::Sub(bits, hn::Set(I32(), 0x3f3504f3));
  const VI e = hn::ShiftRight<23>(shifted);
  const VF m = hn::BitCast(F32(), hn::Sub(bits, hn::ShiftLeft<23>(e)));
  const VF exponent = hn::Sub(hn::ConvertTo(F32(), e), hn::IfThenElseZero(subnormal, set(23.0f)));
  const VF f = hn::Sub(m, set(1.0f));
  VF p = set(-0.079722759915f);
  p = hn::MulAdd(p, f, set(0.126548353327f));
  p = hn::MulAdd(p, f, set(-0.129895363192f));
  p = hn::MulAdd(p, f, set(0.142100640932f));
  p = hn::MulAdd(p, f, set(-0.166415714229f));
  p = hn::MulAdd(p, f, set(0.200011968919f));
  p = hn::MulAdd(p, f, set(-0.250003040345f));
  p = hn::MulAdd(p, f, set(0.333333299645f));
  const VF f2 = hn::Mul(f, f);
  VF y = hn::MulAdd(hn::Mul(f2, f), p, hn::Mul(exponent, set(-2.12194440e-4f)));
  y = hn::Add(f, hn::NegMulAdd(set(0.5f), f2, y));
  y = hn::MulAdd(exponent, set(0.693359375f), y);
  const VF inf = hn::Inf(F32());
  y = hn::IfThenElse(hn::Eq(x, zero()), hn::Neg(inf), y);
  y = hn::IfThenElse(hn::Lt(x, zero()), hn::NaN(F32()), y);
  return hn::IfThenElse(hn::Or(hn::Eq(x, inf), hn::IsNaN(x)), x, y);
}

// erf on |x| <= 3.92 (1 beyond, to f32): x P(x^2)/Q(x^2), error 2e-8 and some roundings: for gelu, where it is added to 1.
HWY_INLINE VF verf_fast(VF x) {
  x = hn::Max(set(-3.92f), hn::Min(set(3.92f), x));
  const VF t = hn::Mul(x, x);
  VF p = set(2.05038712644e-6f), q = set(3.80910046958e-5f);
  p = hn::MulAdd(p, t, set(0.00028481007245f));
  q = hn::MulAdd(q, t, set(0.00116186648791f));
  p = hn::MulAdd(p, t, set(0.00376296188333f));
  q = hn::MulAdd(q, t, set(0.0149639284741f));
  p = hn::MulAdd(p, t, set(0.0527405383734f));
  q = hn::MulAdd(q, t, set(0.114084067388f));
  p = hn::MulAdd(p, t, set(0.190346425945f));
  q = hn::MulAdd(q, t, set(0.502022882933f));
  p = hn::MulAdd(p, t, set(1.12837914674f));
  q = hn::MulAdd(q, t, set(1.0f));
  return hn::Div(hn::Mul(x, p), q);
}

// erf, 1 ulp: x + x P(x^2) for |x| < 1, else 1 - exp(-P(|x|)), whose error is scaled by erfc < 0.16.
HWY_INLINE VF verf(VF x) {
  const VF a = hn::Abs(x), t = hn::Mul(x, x);
  VF p = set(-9.68007609713e-6f);
  p = hn::MulAdd(p, t, set(0.000112705234241f));
  p = hn::MulAdd(p, t, set(-0.000848470855882f));
  p = hn::MulAdd(p, t, set(0.00522107468154f));
  p = hn::MulAdd(p, t, set(-0.0268654457528f));
  p = hn::MulAdd(p, t, set(0.112837827461f));
  p = hn::MulAdd(p, t, set(-0.376126384837f));
  p = hn::MulAdd(p, t, set(0.128379167063f));
  const VF near = hn::MulAdd(x, p, x);
  const VF b = hn::Min(set(4.0f), a);
  VF q = set(-1.60119858278e-6f);
  q = hn::MulAdd(q, b, set(4.53272467239e-5f));
  q = hn::MulAdd(q, b, set(-0.000590467252523f));
  q = hn::MulAdd(q, b, set(0.00472902463702f));
  q = hn::MulAdd(q, b, set(-0.0263316500185f));
  q = hn::MulAdd(q, b, set(0.109917677947f));
  q = hn::MulAdd(q, b, set(0.632004132849f));
  q = hn::MulAdd(q, b, set(1.13012576548f));
  q = hn::MulAdd(q, b, set(-0.000292693011996f));
  const VF far = hn::CopySign(hn::Sub(set(1.0f), vexp_negative(hn::Neg(q))), x);
  return hn::IfThenElse(hn::Or(hn::Lt(a, set(1.0f)), hn::IsNaN(x)), near, far);
}

// tanh on |x| <= 9 (1 beyond, to f32): x P(x^2)/Q(x^2), error 1.3e-9.
HWY_INLINE VF vtanh(VF x) {
  x = hn::Max(set(-9.0f), hn::Min(set(9.0f), x));
  const VF t = hn::Mul(x, x);
  VF p = set(-1.22497543238e-11f), q = set(1.28919060249e-6f);
  p = hn::MulAdd(p, t, set(3.06476909642e-8f));
  p = hn::MulAdd(p, t, set(2.80336025128e-5f));
  q = hn::MulAdd(q, t, set(0.000394091802603f));
  p = hn::MulAdd(p, t, set(0.00386962575576f));
  q = hn::MulAdd(q, t, set(0.0272505911292f));
  p = hn::MulAdd(p, t, set(0.136809515065f));
  q = hn::MulAdd(q, t, set(0.470142836128f));
  p = hn::MulAdd(p, t, set(0.999999998743f));
  q = hn::MulAdd(q, t, set(1.0f));
  return hn::Div(hn::Mul(x, p), q);
}

HWY_INLINE VF vsigmoid(VF x) { return hn::Div(set(1.0f), hn::Add(set(1.0f), vexp(hn::Neg(x)))); }
HWY_INLINE VF vgelu(VF x) {
  const VF h = hn::Mul(x, set(0.5f));
  return hn::MulAdd(h, verf_fast(hn::Mul(x, set(0.70710678118f))), h);
}
HWY_INLINE VF vgelu_tanh(VF x) {
  const VF h = hn::Mul(x, set(0.5f));
  const VF inner = hn::Mul(x, hn::MulAdd(hn::Mul(x, x), set(0.0356774081363f), set(0.797884560803f)));
  return hn::MulAdd(h, vtanh(inner), h);
}
// Its derivative (1 + t)/2 + x (1 - t^2) u'/2, t = tanh(u): with e = exp(-2|u|) the parts are 1/(1 + e) (or e/(1 + e) where u < 0) and
// 2 x u' e/(1 + e)^2, free of cancellation. 0 or 1 beyond 10.
HWY_INLINE VF vgelu_tanh_slope(VF x) {
  x = hn::Max(set(-10.0f), hn::Min(set(10.0f), x));
  const VF xx = hn::Mul(x, x);
  const VF e = vexp_negative(hn::Mul(hn::Neg(hn::Abs(x)), hn::MulAdd(xx, set(0.0713548162726f), set(1.59576912161f))));
  const VF r = hn::Div(set(1.0f), hn::Add(set(1.0f), e)), p = hn::Mul(e, r);
  const VF bend = hn::Mul(hn::Mul(x, hn::Mul(p, r)), hn::MulAdd(xx, set(0.214064448818f), set(1.59576912161f)));
  return hn::Add(hn::IfThenElse(hn::Lt(x, zero()), p, r), bend);
}

}  // namespace HWY_NAMESPACE
}  // namespace rhetor
HWY_AFTER_NAMESPACE();

#endif  // RHETOR_CPU_SIMD_INL_H_
