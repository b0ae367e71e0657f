// quantize_f8, dequantize_f8 and stochastic_round. Memory-bound: quantize_f8 reads its operand twice (the greatest magnitude, then the
// elements) and writes a quarter of it; the maximum of parts does not depend on their number, nor do Philox words on the threads.
#include "ops/float8.h"

#include <fmt/core.h>

#include "cpu/families.h"
#include "cpu/kernel_util.h"
#include "cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/float8.cc"
#include "hwy/foreach_target.h"

#include "cpu/philox-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rhetor {
namespace HWY_NAMESPACE {

// NaN is passed over (Max keeps its second operand): it becomes NaN by itself.
float f8_greatest(DType dtype, const void* x, std::int64_t begin, std::int64_t end) {
  VF most = zero();
  with_float(dtype, [&](auto z) {
    const auto* p = static_cast<const decltype(z)*>(x);
    for (std::int64_t i = begin; i < end; i += lanes()) most = hn::Max(hn::Abs(load_some(p + i, std::min(lanes(), end - i))), most);
  });
  return max_lanes(most);
}

// Nearest even by integers: adding half a unit (less one, plus the last kept bit) carries into the exponent as it must. Below the least
// normal number 2^low the units are equal, and adding `magic`, whose unit in f32 is that of the format, rounds to it.
template <int mantissa, int bias, std::uint32_t largest, std::uint32_t overflow, std::uint32_t nan>
HWY_INLINE VU f8_bits(VF x) {
  constexpr int drop = 23 - mantissa;
  const U32 d;
  const VF a = hn::Abs(x), magic = set(static_cast<float>(1u << (24 - bias - mantissa)));
  const VU u = hn::BitCast(d, a);
  const VU odd = hn::And(hn::ShiftRight<drop>(u), hn::Set(d, 1u));
  const VU wide = hn::ShiftRight<drop>(hn::Add(u, hn::Add(odd, hn::Set(d, (1u << (drop - 1)) - 1))));
  const VU normal = hn::Sub(wide, hn::Set(d, static_cast<std::uint32_t>(127 - bias) << mantissa));
  const VU small = hn::Sub(hn::BitCast(d, hn::Add(a, magic)), hn::BitCast(d, magic));
  const auto is_small = hn::RebindMask(d, hn::Lt(a, set(1.0f / static_cast<float>(1u << (bias - 1)))));
  VU bits = hn::IfThenElse(is_small, small, normal);
  bits = hn::IfThenElse(hn::Gt(bits, hn::Set(d, largest)), hn::Set(d, overflow), bits);
  bits = hn::IfThenElse(hn::RebindMask(d, hn::IsNaN(x)), hn::Set(d, nan), bits);
  return hn::Or(bits, hn::And(hn::ShiftRight<24>(hn::BitCast(d, x)), hn::Set(d, 0x80u)));
}
HWY_INLINE void store_bytes(VU bits, std::uint8_t* out, std::int64_t n) {
  const hn::Rebind<std::uint8_t, F32> bytes;
  const auto packed = hn::DemoteTo(bytes, hn::BitCast(I32(), bits));
  if (n == lanes()) {
    hn::StoreU(packed, bytes, out);
    return;
  }
  std::uint8_t last[hn::MaxLanes(F32())];
  hn::StoreU(packed, bytes, last);
  std::memcpy(out, last, static_cast<std::size_t>(n & (lanes() - 1)));
}

void f8_encode(DType from, DType to, const void* x, float inverse, std::uint8_t* out, std::int64_t begin, std::int64_t end) {
  with_float(from, [&](auto z) {
    const auto* p = static_cast<const decltype(z)*>(x);
    for (std::int64_t i = begin; i < end; i += lanes()) {
      const std::int64_t n = std::min(lanes(), end - i);
      const VF v = hn::Mul(load_some(p + i, n), set(inverse));
      const VU bits = to == DType::f8e4m3 ? f8_bits<3, 7, 0x7e, 0x7f, 0x7f>(v) : f8_bits<2, 15, 0x7b, 0x7c, 0x7e>(v);
      store_bytes(bits, out + i, n);
    }
  });
}

// table: the 256 numbers of the format.
void f8_decode(const float* table, const std::uint8_t* q, float scale, DType to, void* out, std::int64_t begin, std::int64_t end) {
  const hn::Rebind<std::uint8_t, F32> bytes;
  with_float(to, [&](auto z) {
    auto* p = static_cast<decltype(z)*>(out);
    for (std::int64_t i = begin; i < end; i += lanes()) {
      const std::int64_t n = std::min(lanes(), end - i);
      std::uint8_t last[hn::MaxLanes(F32())] = {};
      if (n < lanes()) std::memcpy(last, q + i, static_cast<std::size_t>(n & (lanes() - 1)));
      const VI codes = hn::PromoteTo(I32(), hn::LoadU(bytes, n < lanes() ? last : q + i));
      store_some(hn::Mul(hn::GatherIndex(F32(), table, codes), set(scale)), p + i, n);
    }
  });
}

void round_stochastically(const float* x, std::uint64_t seed, std::uint64_t stream, std::uint64_t offset, std::uint16_t* out,
                          std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t kWords = 512;
  const U32 d;
  HWY_ALIGN std::uint32_t buffer[kWords + 8 * hn::MaxLanes(F32())];
  for (std::int64_t at = begin; at < end; at += kWords) {
    const std::int64_t count = std::min(kWords, end - at);
    const std::uint32_t* w = philox_words(seed, stream, offset + static_cast<std::uint64_t>(at), count, buffer);
    for (std::int64_t i = 0; i < count; i += lanes()) {
      const std::int64_t n = std::min(lanes(), count - i);
      const VF v = load_some(x + at + i, n);
      const VU u = hn::BitCast(d, v), exponent = hn::Set(d, 0x7f800000u);
      const VU moved = hn::Add(u, hn::ShiftRight<16>(hn::LoadU(d, w + i)));
      // Infinities are exact; NaN is made quiet, as in the nearest rounding.
      const VU special = hn::IfThenElse(hn::RebindMask(d, hn::IsNaN(v)), hn::Or(u, hn::Set(d, 0x400000u)), u);
      const VU bits = hn::ShiftRight<16>(hn::IfThenElse(hn::Eq(hn::And(u, exponent), exponent), special, moved));
      std::uint16_t last[hn::MaxLanes(F32())];
      hn::StoreU(hn::DemoteTo(U16Half(), hn::BitCast(I32(), bits)), U16Half(), last);
      std::memcpy(out + at + i, last, static_cast<std::size_t>(n) * 2);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace rhetor
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rhetor {
namespace {
HWY_EXPORT(f8_greatest);
HWY_EXPORT(f8_encode);
HWY_EXPORT(f8_decode);
HWY_EXPORT(round_stochastically);

constexpr std::int64_t kGrain = 8192, kParts = 64;

struct Params {
  std::int64_t elements = 0;
  DType from = DType::f32, to = DType::f32;
  std::uint64_t stream = 0, offset = 0;
  float table[256] = {};
};

void run_quantize(const void* opaque, const KernelArgs& args) {
  const auto& p = *static_cast<const Params*>(opaque);
  auto* parts = static_cast<float*>(args.scratch);
  const std::int64_t count = std::clamp<std::int64_t>(p.elements / kGrain, 1, kParts);
  run_tasks(args.pool, count, [&](int i) {
    const std::int64_t begin = part_begin(p.elements, count, i), end = part_begin(p.elements, count, i + 1);
    parts[i] = HWY_DYNAMIC_DISPATCH(f8_greatest)(p.from, args.in[0], begin, end);
  });
  const float greatest = *std::max_element(parts, parts + count);
  const double scale = f8_scale(p.to, static_cast<double>(greatest));
  *static_cast<float*>(args.out[1]) = static_cast<float>(scale);
  args.pool.parallel_for(p.elements, kGrain, [&](std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(f8_encode)(p.from, p.to, args.in[0], static_cast<float>(1 / scale), static_cast<std::uint8_t*>(args.out[0]), begin,
                                    end);
  });
}
void run_dequantize(const void* opaque, const KernelArgs& args) {
  const auto& p = *static_cast<const Params*>(opaque);
  const float scale = *static_cast<const float*>(args.in[1]);
  args.pool.parallel_for(p.elements, kGrain, [&](std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(f8_decode)(p.table, static_cast<const std::uint8_t*>(args.in[0]), scale, p.to, args.out[0], begin, end);
  });
}
void run_round(const void* opaque, const KernelArgs& args) {
  const auto& p = *static_cast<const Params*>(opaque);
  const auto seed = static_cast<std::uint64_t>(*static_cast<const std::int64_t*>(args.in[1]));
  args.pool.parallel_for(p.elements, kGrain, [&](std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(round_stochastically)(static_cast<const float*>(args.in[0]), seed, p.stream, p.offset,
                                               static_cast<std::uint16_t*>(args.out[0]), begin, end);
  });
}

std::string refuse_wide(DType dtype) {
  if (is_fast_float(dtype)) return "";
  return fmt::format("computes in f32, {} is left to the reference", name(dtype));
}
std::string refuse_quantize(const KernelRequest& request) { return refuse_wide(request.in[0].dtype); }
std::string refuse_dequantize(const KernelRequest& request) { return refuse_wide(request.out[0].dtype); }
std::string refuse_nothing(const KernelRequest&) { return ""; }

std::shared_ptr<Params> params_of(const KernelRequest& request) {
  auto p = std::make_shared<Params>();
  p->elements = request.out[0].elements();
  p->from = request.in[0].dtype;
  p->to = request.out[0].dtype;
  return p;
}
Kernel prepare_quantize(const KernelRequest& request) {
  return {.run = run_quantize, .params = params_of(request), .scratch_bytes = kParts * 4};
}
Kernel prepare_dequantize(const KernelRequest& request) {
  const auto p = params_of(request);
  for (std::uint32_t code = 0; code < 256; ++code) {
    const auto bits = static_cast<std::uint8_t>(code);
    p->table[code] = p->from == DType::f8e4m3 ? f8e4m3{bits}.to_float() : f8e5m2{bits}.to_float();
  }
  return {.run = run_dequantize, .params = p};
}
Kernel prepare_round(const KernelRequest& request) {
  const auto p = params_of(request);
  p->stream = static_cast<std::uint64_t>(request.node.attrs.i("stream"));
  p->offset = static_cast<std::uint64_t>(request.node.attrs.i("offset"));
  return {.run = run_round, .params = p};
}

}  // namespace

std::vector<KernelRow> float8_rows() {
  return {{"quantize_f8", {{"cpu.quantize_f8", refuse_quantize, prepare_quantize}}},
          {"dequantize_f8", {{"cpu.dequantize_f8", refuse_dequantize, prepare_dequantize}}},
          {"stochastic_round", {{"cpu.stochastic_round", refuse_nothing, prepare_round}}}};
}

}  // namespace rhetor
#endif
