// cache_write: rows copied to [b, positions[b] + s]; memory-bound, in place only the rows move.
// rope: pairs (i, i + D/2) rotated by positions[b,s] theta^(-2i/D); memory-bound: 1 read, 1 write; a sine and a cosine a pair and
// position, shared by the heads, computed in double so that large positions keep their phase.
#include <cmath>
#include <cstring>

#include "cpu/families.h"
#include "cpu/kernel_util.h"

namespace rhetor {
namespace {

// ---- cache_write ----------------------------------------------------------------------------------------
struct CacheParams {
  std::int64_t b = 0, t = 0, s = 0, row_bytes = 0;
  DType index = DType::i32;
};

void run_cache(const void* opaque, const KernelArgs& args) {
  const auto& p = *static_cast<const CacheParams*>(opaque);
  auto* out = static_cast<char*>(args.out[0]);
  const auto* rows = static_cast<const char*>(args.in[1]);
  if (out != args.in[0]) std::memcpy(out, args.in[0], static_cast<std::size_t>(p.b * p.t * p.row_bytes));
  for (std::int64_t b = 0; b < p.b; ++b) {
    const std::int64_t at = read_index(args.in[2], p.index, b);
    if (at >= p.t || at <= -p.s) continue;
    const std::int64_t skip = std::max<std::int64_t>(0, -at), count = std::min(p.s, p.t - at) - skip;
    std::memcpy(out + (b * p.t + at + skip) * p.row_bytes, rows + (b * p.s + skip) * p.row_bytes,
                static_cast<std::size_t>(count * p.row_bytes));
  }
}

Kernel prepare_cache(const KernelRequest& request) {
  const Shape &cache = request.in[0].shape, &rows = request.in[1].shape;
  auto p = std::make_shared<CacheParams>();
  *p = {.b = cache[0], .t = cache[1], .s = rows[1],
        .row_bytes = cache[2] * cache[3] * static_cast<std::int64_t>(byte_size(request.in[0].dtype)), .index = request.in[2].dtype};
  return {.run = run_cache, .params = p};
}

// ---- rope -------------------------------------------------------------------------------------------------
struct RopeParams {
  std::int64_t rows = 0, heads = 0, d = 0;
  DType dtype = DType::f32, index = DType::i32;
  bool inverse = false;
  std::vector<double> frequency;  // theta^(-2i/D)
};

// Scratch a task: cos [d/2], sin [d/2].
template <class T>
void rotate(const RopeParams& p, const T* x, const void* positions, T* y, std::int64_t begin, std::int64_t end, float* scratch) {
  const std::int64_t half = p.d / 2;
  float *cosine = scratch, *sine = scratch + half;
  for (std::int64_t r = begin; r < end; ++r) {
    const auto position = static_cast<double>(read_index(positions, p.index, r));
    for (std::int64_t i = 0; i < half; ++i) {
      const double angle = position * p.frequency[static_cast<std::size_t>(i)];
      cosine[i] = static_cast<float>(std::cos(angle));
      sine[i] = static_cast<float>(p.inverse ? -std::sin(angle) : std::sin(angle));
    }
    for (std::int64_t h = 0; h < p.heads; ++h) {
      const T *lo = x + (r * p.heads + h) * p.d, *hi = lo + half;
      T* out = y + (r * p.heads + h) * p.d;
      for (std::int64_t i = 0; i < half; ++i) {
        if constexpr (std::is_same_v<T, float>) {
          const float a = lo[i], b = hi[i];
          out[i] = a * cosine[i] - b * sine[i];
          out[half + i] = b * cosine[i] + a * sine[i];
        } else {
          const float a = lo[i].to_float(), b = hi[i].to_float();
          out[i] = T::from_float(a * cosine[i] - b * sine[i]);
          out[half + i] = T::from_float(b * cosine[i] + a * sine[i]);
        }
      }
    }
  }
}

void run_rope(const void* opaque, const KernelArgs& args) {
  const auto& p = *static_cast<const RopeParams*>(opaque);
  const std::int64_t tasks = task_count(args.pool, p.rows, static_cast<double>(p.heads * p.d + 20 * p.d));
  run_tasks(args.pool, tasks, [&](int i) {
    auto* scratch = reinterpret_cast<float*>(static_cast<char*>(args.scratch) + static_cast<std::uint64_t>(i) * round_up(static_cast<std::uint64_t>(p.d) * 4));
    with_float(p.dtype, [&](auto z) {
      using T = decltype(z);
      rotate(p, static_cast<const T*>(args.in[0]), args.in[1], static_cast<T*>(args.out[0]), part_begin(p.rows, tasks, i),
             part_begin(p.rows, tasks, i + 1), scratch);
    });
  });
}

Kernel prepare_rope(const KernelRequest& request) {
  const Shape& x = request.in[0].shape;
  auto p = std::make_shared<RopeParams>();
  p->rows = x[0] * x[1];
  p->heads = x[2];
  p->d = x[3];
  p->dtype = request.in[0].dtype;
  p->index = request.in[1].dtype;
  p->inverse = request.node.attrs.b("inverse");
  for (std::int64_t i = 0; i < p->d / 2; ++i)
    p->frequency.push_back(std::pow(request.node.attrs.f("theta"), static_cast<double>(-2 * i) / static_cast<double>(p->d)));
  return {.run = run_rope, .params = p, .scratch_bytes = round_up(static_cast<std::uint64_t>(p->d) * 4) * static_cast<std::uint64_t>(request.threads)};
}

std::string never(const KernelRequest&) { return ""; }

}  // namespace

std::vector<KernelRow> attention_cache_rows() {
  return {{"cache_write", {{"cpu.cache_write", never, prepare_cache}}}, {"rope", {{"cpu.rope", refuse_wide_floats, prepare_rope}}}};
}

}  // namespace rhetor
