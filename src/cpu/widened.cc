#include "cpu/widened.h"

#include "base/error.h"
#include "cpu/panels.h"

namespace rhetor {
namespace {

constexpr std::size_t kMaxBuffers = 8;
constexpr std::int64_t kGrain = 4096;  // elements a thread converts at least

bool narrow_float(DType type) { return type == DType::bf16 || type == DType::f16; }

struct Buffer {
  DType dtype;
  std::int64_t elements;
  bool converted;
  std::uint64_t offset;  // in scratch, if converted
};
struct WidenedParams {
  Kernel inner;
  std::vector<Buffer> in, out;
  std::uint64_t inner_offset = 0;
};

void run_widened(const void* opaque, const KernelArgs& args) {
  const auto& p = *static_cast<const WidenedParams*>(opaque);
  auto* space = static_cast<std::byte*>(args.scratch);
  const void* in[kMaxBuffers] = {};
  void* out[kMaxBuffers] = {};
  for (std::size_t k = 0; k < p.in.size(); ++k) {
    const Buffer& b = p.in[k];
    in[k] = args.in[k];
    if (!b.converted || !args.in[k]) continue;
    auto* wide = reinterpret_cast<float*>(space + b.offset);
    const auto* from = static_cast<const std::byte*>(args.in[k]);
    args.pool.parallel_for(b.elements, kGrain, [&](std::int64_t begin, std::int64_t end) {
      widen(b.dtype, from + begin * 2, wide + begin, end - begin);
    });
    in[k] = wide;
  }
  for (std::size_t k = 0; k < p.out.size(); ++k) out[k] = p.out[k].converted ? space + p.out[k].offset : args.out[k];
  p.inner.run(p.inner.params.get(), {.in = in, .out = out, .scratch = space + p.inner_offset, .pool = args.pool});
  for (std::size_t k = 0; k < p.out.size(); ++k) {
    const Buffer& b = p.out[k];
    if (!b.converted) continue;
    const auto* wide = static_cast<const float*>(out[k]);
    auto* to = static_cast<std::byte*>(args.out[k]);
    args.pool.parallel_for(b.elements, kGrain, [&](std::int64_t begin, std::int64_t end) {
      narrow(wide + begin, b.dtype, to + begin * 2, end - begin);
    });
  }
}

}  // namespace

WidenedRequest::WidenedRequest(const KernelRequest& r) : request(r) {
  constants.resize(r.constants.size());
  for (std::size_t k = 0; k < r.constants.size(); ++k) {
    if (!r.constants[k] || !narrow_float(r.constants[k]->dtype())) continue;
    constants[k] = r.constants[k]->cast(DType::f32);
    request.constants[k] = &constants[k];
  }
  for (auto* types : {&request.in, &request.out})
    for (Type& type : *types)
      if (narrow_float(type.dtype)) type.dtype = DType::f32;
}

std::string refuse_widening(const KernelRequest& r) {
  if (r.in.size() > kMaxBuffers || r.out.size() > kMaxBuffers) return "too many operands";
  bool any = false;
  for (const auto* types : {&r.in, &r.out})
    for (const Type& type : *types) {
      if (type.dtype == DType::f64) return "f64 does not widen to f32";
      any = any || narrow_float(type.dtype);
    }
  return any ? "" : "nothing to widen";
}

Kernel widened_kernel(const KernelRequest& r, Kernel inner) {
  auto params = std::make_shared<WidenedParams>();
  inner.absorbed.resize(r.in.size(), false);
  std::uint64_t bytes = 0;
  const auto place = [&](const Type& type, bool absorbed) {
    const bool converted = narrow_float(type.dtype) && !absorbed;
    const Buffer b{type.dtype, type.elements(), converted, bytes};
    if (converted) bytes += (static_cast<std::uint64_t>(type.elements()) * 4 + 63) / 64 * 64;
    return b;
  };
  for (std::size_t k = 0; k < r.in.size(); ++k) params->in.push_back(place(r.in[k], inner.absorbed[k]));
  for (const Type& type : r.out) params->out.push_back(place(type, false));
  params->inner_offset = bytes;
  Kernel kernel;
  kernel.run = run_widened;
  kernel.scratch_bytes = bytes + inner.scratch_bytes;
  kernel.packed_bytes = inner.packed_bytes;
  kernel.absorbed = inner.absorbed;
  kernel.detail = fmt::format("widened to f32, {}", inner.detail);
  params->inner = std::move(inner);
  kernel.params = std::move(params);
  return kernel;
}

}  // namespace rhetor
