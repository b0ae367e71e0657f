// Max and average pooling over NCHW planes and their gradients; f32 arithmetic for f32, bf16 and f16. Memory-bound: each plane is
// read and written once. Planes are shared among threads; gradients are gathered in an f32 plane of scratch a thread, then
// rounded once.
#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "cpu/families.h"

namespace rhetor {
namespace {

struct PoolParams {
  std::int64_t planes, h, w, oh, ow;
  std::int64_t kernel[2], stride[2], pad[2];
  bool count_padding;
  int slices;
};

PoolParams pool_params(const KernelRequest& r, const Shape& x, const Shape& y) {
  const Attrs& a = r.node.attrs;
  PoolParams p{.planes = x[0] * x[1],
               .h = x[2],
               .w = x[3],
               .oh = y[2],
               .ow = y[3],
               .kernel = {a.ints("kernel")[0], a.ints("kernel")[1]},
               .stride = {a.ints("stride")[0], a.ints("stride")[1]},
               .pad = {a.ints("pad_before")[0], a.ints("pad_before")[1]},
               .count_padding = a.has("count_padding") && a.b("count_padding"),
               .slices = 1};
  p.slices =
      static_cast<int>(std::clamp<std::int64_t>(p.planes * p.h * p.w / 4096, 1, std::min<std::int64_t>(r.threads, p.planes)));
  return p;
}

// The part of window (i, j) inside the image: [row, row_end) x [col, col_end), never empty (padding is smaller than the kernel).
struct Inside {
  std::int64_t row, row_end, col, col_end;
};
Inside inside(const PoolParams& p, std::int64_t i, std::int64_t j) {
  const std::int64_t row = i * p.stride[0] - p.pad[0], col = j * p.stride[1] - p.pad[1];
  return {std::max<std::int64_t>(row, 0), std::min(row + p.kernel[0], p.h), std::max<std::int64_t>(col, 0),
          std::min(col + p.kernel[1], p.w)};
}
float divisor(const PoolParams& p, const Inside& in) {
  return static_cast<float>(p.count_padding ? p.kernel[0] * p.kernel[1] : (in.row_end - in.row) * (in.col_end - in.col));
}

inline float value(float x) { return x; }
inline float value(bf16 x) { return x.to_float(); }
inline float value(f16 x) { return x.to_float(); }
template <class T>
T rounded(float x) {
  if constexpr (std::is_same_v<T, float>)
    return x;
  else
    return T::from_float(x);
}

// Calls body(plane, slice's f32 plane) for every plane.
template <class Body>
void each_plane(const PoolParams& p, const KernelArgs& args, Body&& body) {
  struct Context {
    const PoolParams* p;
    float* scratch;
    std::remove_reference_t<Body>* body;
  } context{&p, static_cast<float*>(args.scratch), &body};
  args.pool.run(
      p.slices,
      [](void* opaque, int slice) {
        const auto& c = *static_cast<const Context*>(opaque);
        for (std::int64_t plane = c.p->planes * slice / c.p->slices; plane < c.p->planes * (slice + 1) / c.p->slices; ++plane)
          (*c.body)(plane, c.scratch + slice * c.p->h * c.p->w);
      },
      &context);
}

template <class T, bool average>
void run_pool(const void* opaque, const KernelArgs& args) {
  const auto& p = *static_cast<const PoolParams*>(opaque);
  each_plane(p, args, [&](std::int64_t plane, float*) {
    const T* x = static_cast<const T*>(args.in[0]) + plane * p.h * p.w;
    T* y = static_cast<T*>(args.out[0]) + plane * p.oh * p.ow;
    for (std::int64_t i = 0; i < p.oh; ++i)
      for (std::int64_t j = 0; j < p.ow; ++j) {
        const Inside in = inside(p, i, j);
        float sum = 0, greatest = value(x[in.row * p.w + in.col]);
        for (std::int64_t row = in.row; row < in.row_end; ++row)
          for (std::int64_t col = in.col; col < in.col_end; ++col) {
            const float v = value(x[row * p.w + col]);
            if constexpr (average)
              sum += v;
            else if (v > greatest || v != v)
              greatest = v;  // a NaN is the result
          }
        y[i * p.ow + j] = rounded<T>(average ? sum / divisor(p, in) : greatest);
      }
  });
}

template <class T>
void write_plane(const PoolParams& p, const float* from, void* out, std::int64_t plane) {
  T* to = static_cast<T*>(out) + plane * p.h * p.w;
  for (std::int64_t i = 0; i < p.h * p.w; ++i) to[i] = rounded<T>(from[i]);
}

template <class T>
void run_max_grad(const void* opaque, const KernelArgs& args) {
  const auto& p = *static_cast<const PoolParams*>(opaque);
  each_plane(p, args, [&](std::int64_t plane, float* dx) {
    const T* x = static_cast<const T*>(args.in[0]) + plane * p.h * p.w;
    const T* y = static_cast<const T*>(args.in[1]) + plane * p.oh * p.ow;
    const T* dy = static_cast<const T*>(args.in[2]) + plane * p.oh * p.ow;
    std::memset(dx, 0, static_cast<std::size_t>(p.h * p.w) * 4);
    for (std::int64_t i = 0; i < p.oh; ++i)
      for (std::int64_t j = 0; j < p.ow; ++j) {
        const Inside in = inside(p, i, j);
        const float greatest = value(y[i * p.ow + j]);
        bool found = false;  // the first maximum takes it all
        for (std::int64_t row = in.row; row < in.row_end && !found; ++row)
          for (std::int64_t col = in.col; col < in.col_end && !found; ++col) {
            found = value(x[row * p.w + col]) == greatest;
            if (found) dx[row * p.w + col] += value(dy[i * p.ow + j]);
          }
      }
    write_plane<T>(p, dx, args.out[0], plane);
  });
}

template <class T>
void run_average_grad(const void* opaque, const KernelArgs& args) {
  const auto& p = *static_cast<const PoolParams*>(opaque);
  each_plane(p, args, [&](std::int64_t plane, float* dx) {
    const T* dy = static_cast<const T*>(args.in[0]) + plane * p.oh * p.ow;
    std::memset(dx, 0, static_cast<std::size_t>(p.h * p.w) * 4);
    for (std::int64_t i = 0; i < p.oh; ++i)
      for (std::int64_t j = 0; j < p.ow; ++j) {
        const Inside in = inside(p, i, j);
        const float share = value(dy[i * p.ow + j]) / divisor(p, in);
        for (std::int64_t row = in.row; row < in.row_end; ++row)
          for (std::int64_t col = in.col; col < in.col_end; ++col) dx[row * p.w + col] += share;
      }
    write_plane<T>(p, dx, args.out[0], plane);
  });
}

std::string refuse(const KernelRequest& r) {
  const DType type = r.in[0].dtype;
  if (type != DType::f32 && type != DType::bf16 && type != DType::f16)
    return fmt::format("made for f32, bf16 and f16, not {}", name(type));
  if (r.in[0].elements() * r.out[0].elements() == 0) return "an operand is empty";
  return "";
}

Kernel make(KernelFn run, const PoolParams& params, bool gradient) {
  Kernel kernel;
  kernel.run = run;
  kernel.params = std::make_shared<PoolParams>(params);
  kernel.scratch_bytes = gradient ? static_cast<std::uint64_t>(params.slices * params.h * params.w) * 4 : 0;
  kernel.detail = fmt::format("planes split in {}", params.slices);
  return kernel;
}
template <class F32, class Bf16, class F16>
KernelFn by_dtype(DType type, F32 f32, Bf16 b16, F16 h16) {
  return type == DType::f32 ? KernelFn{f32} : type == DType::bf16 ? KernelFn{b16} : KernelFn{h16};
}

Kernel prepare_max(const KernelRequest& r) {
  return make(by_dtype(r.in[0].dtype, run_pool<float, false>, run_pool<bf16, false>, run_pool<f16, false>),
              pool_params(r, r.in[0].shape, r.out[0].shape), false);
}
Kernel prepare_average(const KernelRequest& r) {
  return make(by_dtype(r.in[0].dtype, run_pool<float, true>, run_pool<bf16, true>, run_pool<f16, true>),
              pool_params(r, r.in[0].shape, r.out[0].shape), false);
}
Kernel prepare_max_grad(const KernelRequest& r) {
  return make(by_dtype(r.in[0].dtype, run_max_grad<float>, run_max_grad<bf16>, run_max_grad<f16>),
              pool_params(r, r.in[0].shape, r.in[1].shape), true);
}
Kernel prepare_average_grad(const KernelRequest& r) {
  return make(by_dtype(r.in[0].dtype, run_average_grad<float>, run_average_grad<bf16>, run_average_grad<f16>),
              pool_params(r, r.out[0].shape, r.in[0].shape), true);
}

}  // namespace

std::vector<KernelRow> pool_rows() {
  return {{"max_pool2d", {{"cpu.max_pool2d", refuse, prepare_max}}},
          {"max_pool2d_grad", {{"cpu.max_pool2d_grad", refuse, prepare_max_grad}}},
          {"avg_pool2d", {{"cpu.avg_pool2d", refuse, prepare_average}}},
          {"avg_pool2d_grad", {{"cpu.avg_pool2d_grad", refuse, prepare_average_grad}}}};
}

}  // namespace rhetor
