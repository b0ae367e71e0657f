// random_uniform and random_normal: Philox words of base/rng.h, a vector of blocks at a time. Compute-bound: about 3 vector
// instructions a word; the normal's logarithm and cosine are evaluated in double, as on every device.
#include <cmath>

#include "cpu/families.h"
#include "cpu/kernel_util.h"
#include "cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/random.cc"
#include "hwy/foreach_target.h"

#include "cpu/philox-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rhetor {
namespace HWY_NAMESPACE {

constexpr std::int64_t kWords = 512;

template <class T>
void uniform_range(std::uint64_t seed, std::uint64_t stream, std::uint64_t offset, double low, double high, T* out,
                   std::int64_t begin, std::int64_t end) {
  HWY_ALIGN std::uint32_t buffer[kWords + 8 * hn::MaxLanes(F32())];
  const float base = static_cast<float>(low), range = static_cast<float>(high - low);
  for (std::int64_t at = begin; at < end; at += kWords) {
    const std::int64_t n = std::min(kWords, end - at);
    const std::uint32_t* w = philox_words(seed, stream, offset + static_cast<std::uint64_t>(at), n, buffer);
    for (std::int64_t i = 0; i < n; i += lanes()) {
      const VF u = hn::Mul(hn::ConvertTo(F32(), hn::BitCast(I32(), hn::ShiftRight<8>(hn::LoadU(U32(), w + i)))), set(1.0f / 16777216.0f));
      store_some(hn::MulAdd(set(range), u, set(base)), out + at + i, std::min(lanes(), n - i));
    }
  }
}

template <class T>
void normal_range(std::uint64_t seed, std::uint64_t stream, std::uint64_t offset, double mean, double stddev, T* out,
                  std::int64_t begin, std::int64_t end) {
  HWY_ALIGN std::uint32_t buffer[kWords + 8 * hn::MaxLanes(F32())];
  for (std::int64_t at = begin; at < end; at += kWords / 2) {
    const std::int64_t n = std::min(kWords / 2, end - at);
    const std::uint32_t* w = philox_words(seed, stream, 2 * (offset + static_cast<std::uint64_t>(at)), 2 * n, buffer);
    for (std::int64_t i = 0; i < n; ++i) {
      const double u = (static_cast<double>(w[2 * i]) + 1.0) / 4294967296.0, v = static_cast<double>(w[2 * i + 1]) / 4294967296.0;
      out[at + i] = from_double<T>(mean + stddev * (std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586 * v)));
    }
  }
}

void random(bool normal, DType dtype, std::uint64_t seed, std::uint64_t stream, std::uint64_t offset, double a, double b,
            void* out, std::int64_t begin, std::int64_t end) {
  with_float(dtype, [&](auto z) {
    auto* to = static_cast<decltype(z)*>(out);
    if (normal) normal_range(seed, stream, offset, a, b, to, begin, end);
    else uniform_range(seed, stream, offset, a, b, to, begin, end);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace rhetor
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rhetor {
namespace {
HWY_EXPORT(random);

struct Params {
  bool normal = false;
  DType dtype = DType::f32;
  std::uint64_t stream = 0, offset = 0;  // offset: element 0's place in the stream
  double a = 0, b = 1;
  std::int64_t elements = 0;
};

void run(const void* opaque, const KernelArgs& args) {
  const auto& p = *static_cast<const Params*>(opaque);
  const auto seed = static_cast<std::uint64_t>(*static_cast<const std::int64_t*>(args.in[0]));
  args.pool.parallel_for(p.elements, 4096, [&](std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(random)(p.normal, p.dtype, seed, p.stream, p.offset, p.a, p.b, args.out[0], begin, end);
  });
}

Kernel prepare(const KernelRequest& request) {
  const Attrs& attrs = request.node.attrs;
  auto p = std::make_shared<Params>();
  p->normal = request.node.op->name == "random_normal";
  p->dtype = request.out[0].dtype;
  p->stream = static_cast<std::uint64_t>(attrs.i("stream"));
  p->offset = static_cast<std::uint64_t>(attrs.i("offset"));
  p->a = attrs.f(p->normal ? "mean" : "low");
  p->b = attrs.f(p->normal ? "stddev" : "high");
  p->elements = request.out[0].elements();
  return {.run = run, .params = p};
}

}  // namespace

std::vector<KernelRow> random_rows() {
  return {{"random_uniform", {{"cpu.random", refuse_wide_floats, prepare}}}, {"random_normal", {{"cpu.random", refuse_wide_floats, prepare}}}};
}

}  // namespace rhetor
#endif
