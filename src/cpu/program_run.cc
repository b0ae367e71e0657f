// The machine that runs pointwise programs. Memory-bound: each operand is read once, each result written once; between, a tile of
// 512 elements stays in the first-level cache.
#include <cmath>
#include <limits>

#include "cpu/program_internal.h"
#include "cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/program_run.cc"
#include "hwy/foreach_target.h"

#include "cpu/philox-inl.h"
#include "cpu/program_memory-inl.h"
#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rhetor {
namespace HWY_NAMESPACE {

constexpr int kMaxRegisters = 64;

// ---- f32 ----------------------------------------------------------------------------------------------
template <class F>
HWY_INLINE void map1(const void* a, void* dst, std::int64_t n, F f) {
  for (std::int64_t i = 0; i < n; i += lanes()) store(f(load(static_cast<const float*>(a) + i)), static_cast<float*>(dst) + i);
}
template <class F>
HWY_INLINE void map2(const void* a, const void* b, void* dst, std::int64_t n, F f) {
  for (std::int64_t i = 0; i < n; i += lanes())
    store(f(load(static_cast<const float*>(a) + i), load(static_cast<const float*>(b) + i)), static_cast<float*>(dst) + i);
}
// Masks become 0 or 1 in an i32 register.
template <class M>
HWY_INLINE void store_mask(M mask, void* dst, std::int64_t i) {
  hn::StoreU(hn::IfThenElseZero(hn::RebindMask(I32(), mask), hn::Set(I32(), 1)), I32(), static_cast<std::int32_t*>(dst) + i);
}
template <class F>
HWY_INLINE void test2(const void* a, const void* b, void* dst, std::int64_t n, F f) {
  for (std::int64_t i = 0; i < n; i += lanes())
    store_mask(f(load(static_cast<const float*>(a) + i), load(static_cast<const float*>(b) + i)), dst, i);
}

HWY_INLINE VF keep_nan(VF a, VF result) { return hn::IfThenElse(hn::IsNaN(a), a, result); }
HWY_INLINE VF sign_of(VF x) {
  const VF one = hn::CopySign(set(1.0f), x);
  return hn::IfThenElse(hn::Or(hn::Eq(x, zero()), hn::IsNaN(x)), x, one);
}

void step_f32(const Instr& s, const void* a, const void* b, void* dst, std::int64_t n) {
  switch (s.code) {
    case Code::neg: return map1(a, dst, n, [](VF x) { return hn::Neg(x); });
    case Code::abs: return map1(a, dst, n, [](VF x) { return hn::Abs(x); });
    case Code::sign: return map1(a, dst, n, [](VF x) { return sign_of(x); });
    case Code::exp: return map1(a, dst, n, [](VF x) { return vexp(x); });
    case Code::log: return map1(a, dst, n, [](VF x) { return vlog(x); });
    case Code::sqrt: return map1(a, dst, n, [](VF x) { return hn::Sqrt(x); });
    case Code::rsqrt: return map1(a, dst, n, [](VF x) { return hn::Div(set(1.0f), hn::Sqrt(x)); });
    case Code::reciprocal: return map1(a, dst, n, [](VF x) { return hn::Div(set(1.0f), x); });
    case Code::square: return map1(a, dst, n, [](VF x) { return hn::Mul(x, x); });
    case Code::sin: return map1(a, dst, n, [](VF x) { return hn::Sin(F32(), x); });
    case Code::cos: return map1(a, dst, n, [](VF x) { return hn::Cos(F32(), x); });
    case Code::tanh: return map1(a, dst, n, [](VF x) { return vtanh(x); });
    case Code::erf: return map1(a, dst, n, [](VF x) { return verf(x); });
    case Code::sigmoid: return map1(a, dst, n, [](VF x) { return vsigmoid(x); });
    case Code::relu: return map1(a, dst, n, [](VF x) { return hn::Max(zero(), x); });
    case Code::gelu: return map1(a, dst, n, [](VF x) { return vgelu(x); });
    case Code::gelu_tanh: return map1(a, dst, n, [](VF x) { return vgelu_tanh(x); });
    case Code::silu: return map1(a, dst, n, [](VF x) { return hn::Mul(x, vsigmoid(x)); });
    case Code::floor: return map1(a, dst, n, [](VF x) { return hn::Floor(x); });
    case Code::round: return map1(a, dst, n, [](VF x) { return hn::Round(x); });
    case Code::is_finite:
      for (std::int64_t i = 0; i < n; i += lanes()) store_mask(hn::IsFinite(load(static_cast<const float*>(a) + i)), dst, i);
      return;
    case Code::add: return map2(a, b, dst, n, [](VF x, VF y) { return hn::Add(x, y); });
    case Code::sub: return map2(a, b, dst, n, [](VF x, VF y) { return hn::Sub(x, y); });
    case Code::mul: return map2(a, b, dst, n, [](VF x, VF y) { return hn::Mul(x, y); });
    case Code::div: return map2(a, b, dst, n, [](VF x, VF y) { return hn::Div(x, y); });
    // The hardware's max and min return their second operand when either is NaN.
    case Code::maximum: return map2(a, b, dst, n, [](VF x, VF y) { return keep_nan(x, hn::Max(x, y)); });
    case Code::minimum: return map2(a, b, dst, n, [](VF x, VF y) { return keep_nan(x, hn::Min(x, y)); });
    case Code::gelu_tanh_grad: return map2(a, b, dst, n, [](VF x, VF y) { return hn::Mul(x, vgelu_tanh_slope(y)); });
    case Code::pow:
      for (std::int64_t i = 0; i < n; ++i)
        static_cast<float*>(dst)[i] = std::pow(static_cast<const float*>(a)[i], static_cast<const float*>(b)[i]);
      return;
    case Code::equal: return test2(a, b, dst, n, [](VF x, VF y) { return hn::Eq(x, y); });
    case Code::less: return test2(a, b, dst, n, [](VF x, VF y) { return hn::Lt(x, y); });
    case Code::less_equal: return test2(a, b, dst, n, [](VF x, VF y) { return hn::Le(x, y); });
    default: return;
  }
}

// ---- i32: masks and indices -----------------------------------------------------------------------------
template <class F>
HWY_INLINE void imap2(const void* a, const void* b, void* dst, std::int64_t n, F f) {
  const I32 d;
  for (std::int64_t i = 0; i < n; i += lanes())
    hn::StoreU(f(hn::LoadU(d, static_cast<const std::int32_t*>(a) + i), hn::LoadU(d, static_cast<const std::int32_t*>(b) + i)), d,
               static_cast<std::int32_t*>(dst) + i);
}
HWY_INLINE VI bit_of(hn::Mask<I32> mask) { return hn::IfThenElseZero(mask, hn::Set(I32(), 1)); }

// False: not one of the vectorised ones.
bool step_i32(const Instr& s, const void* a, const void* b, void* dst, std::int64_t n) {
  switch (s.code) {
    case Code::add: imap2(a, b, dst, n, [](VI x, VI y) { return hn::Add(x, y); }); return true;
    case Code::sub: imap2(a, b, dst, n, [](VI x, VI y) { return hn::Sub(x, y); }); return true;
    case Code::mul: imap2(a, b, dst, n, [](VI x, VI y) { return hn::Mul(x, y); }); return true;
    case Code::maximum: imap2(a, b, dst, n, [](VI x, VI y) { return hn::Max(x, y); }); return true;
    case Code::minimum: imap2(a, b, dst, n, [](VI x, VI y) { return hn::Min(x, y); }); return true;
    case Code::equal: imap2(a, b, dst, n, [](VI x, VI y) { return bit_of(hn::Eq(x, y)); }); return true;
    case Code::less: imap2(a, b, dst, n, [](VI x, VI y) { return bit_of(hn::Lt(x, y)); }); return true;
    case Code::less_equal: imap2(a, b, dst, n, [](VI x, VI y) { return bit_of(hn::Not(hn::Lt(y, x))); }); return true;
    case Code::logical_and: imap2(a, b, dst, n, [](VI x, VI y) { return hn::And(x, y); }); return true;
    case Code::logical_or: imap2(a, b, dst, n, [](VI x, VI y) { return hn::Or(x, y); }); return true;
    case Code::logical_not: imap2(a, a, dst, n, [](VI x, VI) { return hn::Xor(x, hn::Set(I32(), 1)); }); return true;
    default: return false;
  }
}

// ---- any type, one element at a time: f64, i64 and rare i32 ops --------------------------------------------
template <class T, class F>
void each(const void* a, const void* b, void* dst, std::int64_t n, F f) {
  const auto *x = static_cast<const T*>(a), *y = static_cast<const T*>(b ? b : a);
  auto* out = static_cast<decltype(f(T(), T()))*>(dst);
  for (std::int64_t i = 0; i < n; ++i) out[i] = f(x[i], y[i]);
}

// Integers wrap, division by zero gives 0: the reference's rules.
template <class T> T wrap_add(T a, T b) {
  if constexpr (std::is_integral_v<T>) return static_cast<T>(static_cast<std::make_unsigned_t<T>>(a) + static_cast<std::make_unsigned_t<T>>(b));
  else return a + b;
}
template <class T> T wrap_mul(T a, T b) {
  if constexpr (std::is_integral_v<T>) return static_cast<T>(static_cast<std::uint64_t>(a) * static_cast<std::uint64_t>(b));
  else return a * b;
}
template <class T> T wrap_neg(T a) {
  if constexpr (std::is_integral_v<T>) return wrap_mul<T>(a, T(-1));
  else return -a;
}
template <class T> T divide(T a, T b) {
  if constexpr (std::is_integral_v<T>) return b == 0 ? T(0) : b == -1 ? wrap_neg(a) : static_cast<T>(a / b);
  else return a / b;
}

template <class T>
void step_scalar(const Instr& s, const void* a, const void* b, void* dst, std::int64_t n) {
  using Bool = std::int32_t;
  switch (s.code) {
    case Code::neg: return each<T>(a, b, dst, n, [](T x, T) { return wrap_neg(x); });
    case Code::abs: return each<T>(a, b, dst, n, [](T x, T) { return x < 0 ? wrap_neg(x) : x == 0 ? T(0) : x; });
    case Code::sign: return each<T>(a, b, dst, n, [](T x, T) { return x != x ? x : T((x > 0) - (x < 0)); });
    case Code::square: return each<T>(a, b, dst, n, [](T x, T) { return wrap_mul(x, x); });
    case Code::relu: return each<T>(a, b, dst, n, [](T x, T) { return x < 0 ? T(0) : x; });
    case Code::add: return each<T>(a, b, dst, n, [](T x, T y) { return wrap_add(x, y); });
    case Code::sub: return each<T>(a, b, dst, n, [](T x, T y) { return wrap_add(x, wrap_neg(y)); });
    case Code::mul: return each<T>(a, b, dst, n, [](T x, T y) { return wrap_mul(x, y); });
    case Code::div: return each<T>(a, b, dst, n, [](T x, T y) { return divide(x, y); });
    case Code::maximum: return each<T>(a, b, dst, n, [](T x, T y) { return x < y || y != y ? y : x; });
    case Code::minimum: return each<T>(a, b, dst, n, [](T x, T y) { return y < x || y != y ? y : x; });
    case Code::equal: return each<T>(a, b, dst, n, [](T x, T y) { return Bool(x == y); });
    case Code::less: return each<T>(a, b, dst, n, [](T x, T y) { return Bool(x < y); });
    case Code::less_equal: return each<T>(a, b, dst, n, [](T x, T y) { return Bool(x <= y); });
    default: break;
  }
  if constexpr (std::is_floating_point_v<T>) {
    switch (s.code) {
      case Code::exp: return each<T>(a, b, dst, n, [](T x, T) { return std::exp(x); });
      case Code::log: return each<T>(a, b, dst, n, [](T x, T) { return std::log(x); });
      case Code::sqrt: return each<T>(a, b, dst, n, [](T x, T) { return std::sqrt(x); });
      case Code::rsqrt: return each<T>(a, b, dst, n, [](T x, T) { return 1 / std::sqrt(x); });
      case Code::reciprocal: return each<T>(a, b, dst, n, [](T x, T) { return 1 / x; });
      case Code::sin: return each<T>(a, b, dst, n, [](T x, T) { return std::sin(x); });
      case Code::cos: return each<T>(a, b, dst, n, [](T x, T) { return std::cos(x); });
      case Code::tanh: return each<T>(a, b, dst, n, [](T x, T) { return std::tanh(x); });
      case Code::erf: return each<T>(a, b, dst, n, [](T x, T) { return std::erf(x); });
      case Code::sigmoid: return each<T>(a, b, dst, n, [](T x, T) { return 1 / (1 + std::exp(-x)); });
      case Code::gelu: return each<T>(a, b, dst, n, [](T x, T) { return x / 2 * (1 + std::erf(x * 0.70710678118654752440)); });
      case Code::gelu_tanh:
        return each<T>(a, b, dst, n, [](T x, T) { return x / 2 * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))); });
      case Code::silu: return each<T>(a, b, dst, n, [](T x, T) { return x / (1 + std::exp(-x)); });
      case Code::floor: return each<T>(a, b, dst, n, [](T x, T) { return std::floor(x); });
      case Code::round: return each<T>(a, b, dst, n, [](T x, T) { return std::nearbyint(x); });
      case Code::is_finite: return each<T>(a, b, dst, n, [](T x, T) { return Bool(std::isfinite(x)); });
      case Code::pow: return each<T>(a, b, dst, n, [](T x, T y) { return std::pow(x, y); });
      case Code::gelu_tanh_grad:
        return each<T>(a, b, dst, n, [](T x, T y) {
          constexpr T k = T(0.7978845608028654), c = T(0.044715);
          const T t = std::tanh(k * (y + c * y * y * y));
          return x * (T(0.5) * (1 + t) + T(0.5) * y * (1 - t * t) * k * (1 + 3 * c * y * y));
        });
      default: break;
    }
  }
}

template <class T>
void choose(const void* c, const void* a, const void* b, void* dst, std::int64_t n) {
  const auto* mask = static_cast<const std::int32_t*>(c);
  for (std::int64_t i = 0; i < n; ++i) static_cast<T*>(dst)[i] = mask[i] ? static_cast<const T*>(a)[i] : static_cast<const T*>(b)[i];
}
void choose_32(const void* c, const void* a, const void* b, void* dst, std::int64_t n) {
  const I32 d;
  for (std::int64_t i = 0; i < n; i += lanes()) {
    const auto mask = hn::Ne(hn::LoadU(d, static_cast<const std::int32_t*>(c) + i), hn::Zero(d));
    hn::StoreU(hn::IfThenElse(mask, hn::LoadU(d, static_cast<const std::int32_t*>(a) + i),
                              hn::LoadU(d, static_cast<const std::int32_t*>(b) + i)), d, static_cast<std::int32_t*>(dst) + i);
  }
}

// ---- cast: floats to integers truncate and saturate, NaN to 0; integers wrap ---------------------------------
template <class From, class To>
To convert_one(From v) {
  if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To>) return from_double<To>(static_cast<double>(v));
  else return static_cast<To>(v);
}
template <class From, class To, class Register>
void convert_each(const void* a, void* dst, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) static_cast<Register*>(dst)[i] = static_cast<Register>(convert_one<From, To>(static_cast<const From*>(a)[i]));
}
template <class From>
void convert_from(DType to, const void* a, void* dst, std::int64_t n) {
  switch (to) {
    case DType::f64: return convert_each<From, double, double>(a, dst, n);
    case DType::i64: return convert_each<From, std::int64_t, std::int64_t>(a, dst, n);
    case DType::i32: return convert_each<From, std::int32_t, std::int32_t>(a, dst, n);
    case DType::i8: return convert_each<From, std::int8_t, std::int32_t>(a, dst, n);
    case DType::u8: return convert_each<From, std::uint8_t, std::int32_t>(a, dst, n);
    case DType::boolean:
      for (std::int64_t i = 0; i < n; ++i) static_cast<std::int32_t*>(dst)[i] = static_cast<const From*>(a)[i] != From(0);
      return;
    case DType::f32: return convert_each<From, float, float>(a, dst, n);
    default:  // bf16, f16, f8: rounded once from the source's value
      dispatch(to, [&](auto narrow) {
        using Narrow = decltype(narrow);
        if constexpr (requires { narrow.to_float(); })
          for (std::int64_t i = 0; i < n; ++i)
            static_cast<float*>(dst)[i] = from_double<Narrow>(static_cast<double>(static_cast<const From*>(a)[i])).to_float();
      });
  }
}
template <class Narrow>
HWY_INLINE void round_to(const void* a, void* dst, std::int64_t n) {
  HWY_ALIGN Narrow buffer[hn::MaxLanes(F32())];
  map1(a, dst, n, [&](VF x) {
    store(x, buffer);
    return load(buffer);
  });
}
void step_convert(const Instr& s, const void* a, void* dst, std::int64_t n) {
  if (s.lane == Lane::f32 && s.dtype == DType::bf16) return round_to<bf16>(a, dst, n);
  if (s.lane == Lane::f32 && s.dtype == DType::f16) return round_to<f16>(a, dst, n);
  if (s.lane == Lane::i32 && s.dtype == DType::f32) {
    for (std::int64_t i = 0; i < n; i += lanes())
      store(hn::ConvertTo(F32(), hn::LoadU(I32(), static_cast<const std::int32_t*>(a) + i)), static_cast<float*>(dst) + i);
    return;
  }
  switch (s.lane) {
    case Lane::f32: return convert_from<float>(s.dtype, a, dst, n);
    case Lane::f64: return convert_from<double>(s.dtype, a, dst, n);
    case Lane::i32: return convert_from<std::int32_t>(s.dtype, a, dst, n);
    case Lane::i64: return convert_from<std::int64_t>(s.dtype, a, dst, n);
  }
}

void step_dropout(const Instr& s, const void* x, const void* seed, void* dst, std::int64_t begin, std::int64_t n, std::uint32_t* words) {
  const auto key = static_cast<std::uint64_t>(*static_cast<const std::int64_t*>(seed));
  const auto first = static_cast<std::uint64_t>(s.offset + begin);
  const std::uint32_t* w = philox_words(key, static_cast<std::uint64_t>(s.stream), first, n, words);
  const VF p = set(static_cast<float>(s.p)), scale = set(static_cast<float>(1.0 / (1.0 - s.p)));
  for (std::int64_t i = 0; i < n; i += lanes()) {
    const VI bits = hn::BitCast(I32(), hn::ShiftRight<8>(hn::LoadU(U32(), w + i)));
    const VF u = hn::Mul(hn::ConvertTo(F32(), bits), set(1.0f / 16777216.0f));
    const VF v = hn::Mul(load(static_cast<const float*>(x) + i), scale);
    store(hn::IfThenElseZero(hn::Ge(u, p), v), static_cast<float*>(dst) + i);
  }
}

void step(const Instr& s, void* const* reg, void* dst, std::int64_t begin, std::int64_t n, std::uint32_t* words) {
  const void* a = reg[s.a];
  const void* b = s.b >= 0 ? reg[s.b] : nullptr;
  switch (s.code) {
    case Code::convert: return step_convert(s, a, dst, n);
    case Code::dropout: return step_dropout(s, a, b, dst, begin, n, words);
    case Code::where:
      if (s.lane == Lane::f64 || s.lane == Lane::i64) return choose<std::int64_t>(a, b, reg[s.c], dst, n);
      return choose_32(a, b, reg[s.c], dst, n);
    default: break;
  }
  switch (s.lane) {
    case Lane::f32: return step_f32(s, a, b, dst, n);
    case Lane::f64: return step_scalar<double>(s, a, b, dst, n);
    case Lane::i64: return step_scalar<std::int64_t>(s, a, b, dst, n);
    case Lane::i32:
      if (!step_i32(s, a, b, dst, n)) step_scalar<std::int32_t>(s, a, b, dst, n);
  }
}

void run_elements(const Program& program, const void* const* in, void* const* out, std::int64_t begin, std::int64_t end, void* scratch) {
  void* home[kMaxRegisters];
  void* reg[kMaxRegisters];
  for (int r = 0; r < program.registers; ++r) home[r] = reg[r] = static_cast<char*>(scratch) + r * Program::kRegisterBytes;
  auto* words = reinterpret_cast<std::uint32_t*>(static_cast<char*>(scratch) + program.registers * Program::kRegisterBytes);
  const auto memory = [&](const Instr& s) {
    const Operand& operand = program.operands[static_cast<std::size_t>(s.slot)];
    return operand.input >= 0 ? in[operand.input] : program.constants[static_cast<std::size_t>(operand.constant)].raw();
  };
  const std::int64_t tile = std::min(Program::kTile, end - begin);
  const std::int64_t padded = (tile + lanes() - 1) / lanes() * lanes();
  for (const Instr& s : program.prologue) read_repeat(s.dtype, memory(s), 0, reg[s.dst], padded);

  const std::size_t count = program.body.size();
  // With one result the last instruction may write it straight to memory, and loads may be windows on memory.
  const Instr& last_store = program.body[count - 1];
  const bool straight = program.single_output && last_store.dtype == DType::f32 && count >= 2 &&
                        program.body[count - 2].dst == last_store.a && program.body[count - 2].code != Code::load;
  for (std::int64_t at = begin; at < end; at += Program::kTile) {
    const std::int64_t n = std::min(Program::kTile, end - at);
    const bool whole = n % lanes() == 0;  // only then may vectors touch memory itself
    for (std::size_t k = 0; k < count; ++k) {
      const Instr& s = program.body[k];
      if (s.code == Code::load) {
        const void* p = memory(s);
        const std::size_t width = byte_size(s.dtype);
        if (s.full && whole && program.single_output && (s.dtype == DType::f32 || s.dtype == DType::i32 || width == 8)) {
          reg[s.dst] = const_cast<char*>(static_cast<const char*>(p)) + static_cast<std::size_t>(at) * width;
        } else {
          reg[s.dst] = home[s.dst];
          if (s.full) read_run(s.dtype, p, at, reg[s.dst], n);
          else read_tile(s.dtype, program.operands[static_cast<std::size_t>(s.slot)].access, p, at, reg[s.dst], n);
        }
      } else if (s.code == Code::store) {
        if (straight && whole) continue;
        write_tile(s.dtype, reg[s.a], out[s.slot], at, n);
      } else if (straight && whole && k == count - 2) {
        step(s, reg, static_cast<float*>(out[last_store.slot]) + at, at, n, words);
      } else {
        reg[s.dst] = home[s.dst];
        step(s, reg, home[s.dst], at, n, words);
      }
    }
  }
}

// The same for a rectangle of the result whose first operand's elements lie in `sums`, kBlockCols apart. As many rows at a time as a
// tile register holds; elements past `cols` are computed from whatever is there and not written.
void run_block(const Program& program, const void* const* in, void* const* out, const ProgramBlock& block, void* scratch) {
  void* home[kMaxRegisters];
  void* reg[kMaxRegisters];
  for (int r = 0; r < program.registers; ++r) home[r] = reg[r] = static_cast<char*>(scratch) + r * Program::kRegisterBytes;
  auto* words = reinterpret_cast<std::uint32_t*>(static_cast<char*>(scratch) + program.registers * Program::kRegisterBytes);
  const auto memory = [&](const Instr& s) {
    const Operand& operand = program.operands[static_cast<std::size_t>(s.slot)];
    return operand.input >= 0 ? in[operand.input] : program.constants[static_cast<std::size_t>(operand.constant)].raw();
  };
  constexpr std::int64_t kRows = Program::kTile / kBlockCols;
  for (const Instr& s : program.prologue) read_repeat(s.dtype, memory(s), 0, reg[s.dst], Program::kTile);
  for (std::int64_t done = 0; done < block.rows; done += kRows) {
    const std::int64_t rows = std::min(kRows, block.rows - done), row = block.row + done, n = rows * kBlockCols;
    for (const Instr& s : program.body) {
      if (s.code == Code::load) {
        const Operand& operand = program.operands[static_cast<std::size_t>(s.slot)];
        if (operand.input == 0) {
          reg[s.dst] = const_cast<float*>(block.sums + done * kBlockCols);
        } else {
          reg[s.dst] = home[s.dst];
          read_square(s.dtype, operand, s.full, memory(s), program.cols, row, block.col, rows, block.cols, reg[s.dst]);
        }
      } else if (s.code == Code::store) {
        write_square(s.dtype, reg[s.a], out[s.slot], program.cols, row, block.col, rows, block.cols);
      } else if (s.code == Code::dropout) {
        for (std::int64_t r = 0; r < rows; ++r)
          step_dropout(s, static_cast<const float*>(reg[s.a]) + r * kBlockCols, reg[s.b], static_cast<float*>(home[s.dst]) + r * kBlockCols,
                       (row + r) * program.cols + block.col, kBlockCols, words);
        reg[s.dst] = home[s.dst];
      } else {
        reg[s.dst] = home[s.dst];
        step(s, reg, home[s.dst], row * program.cols + block.col, n, words);
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace rhetor
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rhetor {
HWY_EXPORT(run_elements);
HWY_EXPORT(run_block);

void run_program_elements(const Program& program, const void* const* in, void* const* out, std::int64_t begin, std::int64_t end,
                          void* tile_scratch) {
  if (begin < end) HWY_DYNAMIC_DISPATCH(run_elements)(program, in, out, begin, end, tile_scratch);
}
void run_program_block(const Program& program, const void* const* in, void* const* out, const ProgramBlock& block, void* tile_scratch) {
  if (program.chain) return run_chain(*program.chain, in, out[0], program.cols, block);
  HWY_DYNAMIC_DISPATCH(run_block)(program, in, out, block, tile_scratch);
}
}  // namespace rhetor
#endif
