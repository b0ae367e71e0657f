// rope and cache_write: parameters.
#include "cuda/rope.h"

#include <cmath>

#include "cuda/attention_rows.h"

namespace rhetor::gpu {
namespace {

std::string never(const KernelRequest&) { return ""; }

struct RopeParams {
  RopeProblem problem;
  std::shared_ptr<void> frequency;
};

std::string refuse_rope(const KernelRequest& request) {
  const std::int64_t bytes = request.in[0].shape[3] * 8;
  return bytes <= 48 * 1024 ? "" : "the head is longer than 6144";
}

Kernel prepare_rope(const KernelRequest& request) {
  const Shape& x = request.in[0].shape;
  auto p = std::make_shared<RopeParams>();
  p->problem = {.rows = x[0] * x[1], .heads = static_cast<int>(x[2]), .d = static_cast<int>(x[3]), .dtype = request.in[0].dtype,
                .index = request.in[1].dtype, .inverse = request.node.attrs.b("inverse")};
  p->frequency = rope_frequency(*request.device, request.node.attrs.f("theta"), x[3]);
  return {.run =
              [](const void* params, const KernelArgs& args) {
                const auto& r = *static_cast<const RopeParams*>(params);
                rope(r.problem, args.in[0], args.in[1], static_cast<const double*>(r.frequency.get()), args.out[0], args.stream);
              },
          .params = p, .packed_bytes = static_cast<std::uint64_t>(x[3] / 2) * sizeof(double)};
}

Kernel prepare_cache(const KernelRequest& request) {
  const Shape &cache = request.in[0].shape, &rows = request.in[1].shape;
  auto p = std::make_shared<CacheWriteProblem>();
  *p = {.b = cache[0], .t = cache[1], .s = rows[1],
        .row_bytes = cache[2] * cache[3] * static_cast<std::int64_t>(byte_size(request.in[0].dtype)), .index = request.in[2].dtype};
  return {.run =
              [](const void* params, const KernelArgs& args) {
                cache_write(*static_cast<const CacheWriteProblem*>(params), args.in[0], args.in[1], args.in[2], args.out[0], args.stream);
              },
          .params = p};
}

}  // namespace

std::shared_ptr<void> rope_frequency(const CudaDevice& device, double theta, std::int64_t d) {
  std::vector<double> frequency;
  for (std::int64_t i = 0; i < d / 2; ++i) frequency.push_back(std::pow(theta, static_cast<double>(-2 * i) / static_cast<double>(d)));
  if (frequency.empty()) return nullptr;
  std::shared_ptr<void> there = cuda_allocate(device, CudaMemory::device, frequency.size() * sizeof(double));
  cuda_copy(there.get(), frequency.data(), frequency.size() * sizeof(double));
  return there;
}

std::vector<KernelRow> rope_rows() {
  return {{"rope", {{"cuda.rope", refuse_rope, prepare_rope}}}, {"cache_write", {{"cuda.cache_write", never, prepare_cache}}}};
}

}  // namespace rhetor::gpu
