// Pooling over NCHW planes and its gradients; a thread for every element of the result, sums in f32 (f64 in f64).
// Memory-bound: each plane is read and written once, windows that overlap come from the cache.
#include "cuda/conv.h"
#include "cuda/launch.h"

namespace rhetor::gpu {
namespace {

constexpr int kThreads = 256;

template <class T>
using Sum = decltype(widen(T{}));

template <class T>
__device__ T rounded(Sum<T> v) {
  if constexpr (sizeof(T) == 8) return v;
  else return narrow<T>(v);
}

// The part of window (i, j) inside the plane: [row, row_end) x [column, column_end), never empty (padding is smaller than the kernel).
struct Inside {
  std::int64_t row, row_end, column, column_end;
};
__device__ Inside inside(const ImageProblem& p, std::int64_t i, std::int64_t j) {
  const std::int64_t row = i * p.stride[0] - p.pad[0], column = j * p.stride[1] - p.pad[1];
  const std::int64_t row_end = row + p.kh, column_end = column + p.kw;
  return {row < 0 ? 0 : row, row_end < p.h ? row_end : p.h, column < 0 ? 0 : column, column_end < p.w ? column_end : p.w};
}
template <class T>
__device__ Sum<T> divisor(const ImageProblem& p, const Inside& in) {
  return static_cast<Sum<T>>(p.count_padding ? p.kh * p.kw : (in.row_end - in.row) * (in.column_end - in.column));
}

// f(plane, row, column, position) for the elements of planes [rows, columns] that fall to this thread.
template <class F>
__device__ void each_element(std::int64_t planes, std::int64_t rows, std::int64_t columns, F f) {
  const std::int64_t all = planes * rows * columns, step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; at < all; at += step)
    f(at / (rows * columns), at / columns % rows, at % columns, at);
}
// f(i, j) for the windows that a place of x lies in.
template <class F>
__device__ void each_window(const ImageProblem& p, std::int64_t row, std::int64_t column, F f) {
  const std::int64_t down = row + p.pad[0], across = column + p.pad[1];
  const std::int64_t i0 = down < p.kh ? 0 : (down - p.kh) / p.stride[0] + 1, j0 = across < p.kw ? 0 : (across - p.kw) / p.stride[1] + 1;
  for (std::int64_t i = i0; i < p.oh && i * p.stride[0] <= down; ++i)
    for (std::int64_t j = j0; j < p.ow && j * p.stride[1] <= across; ++j) f(i, j);
}

template <class T>
__global__ void __launch_bounds__(kThreads) max_kernel(ImageProblem p, const T* __restrict__ x, T* __restrict__ y) {
  each_element(p.n * p.channels, p.oh, p.ow, [&](std::int64_t plane, std::int64_t i, std::int64_t j, std::int64_t at) {
    const T* image = x + plane * p.h * p.w;
    const Inside in = inside(p, i, j);
    T best = image[in.row * p.w + in.column];
    for (std::int64_t r = in.row; r < in.row_end; ++r)
      for (std::int64_t c = in.column; c < in.column_end; ++c) {
        const T value = image[r * p.w + c];
        if (widen(value) > widen(best) || widen(value) != widen(value)) best = value;   // a NaN is the result
      }
    y[at] = best;
  });
}

// The gradient of a window goes to its first place, row by row, where x = y.
template <class T>
__global__ void __launch_bounds__(kThreads)
    max_grad_kernel(ImageProblem p, const T* __restrict__ x, const T* __restrict__ y, const T* __restrict__ dy, T* __restrict__ dx) {
  each_element(p.n * p.channels, p.h, p.w, [&](std::int64_t plane, std::int64_t row, std::int64_t column, std::int64_t at) {
    const T* image = x + plane * p.h * p.w;
    const auto own = widen(x[at]);
    Sum<T> sum{};
    each_window(p, row, column, [&](std::int64_t i, std::int64_t j) {
      const std::int64_t window = (plane * p.oh + i) * p.ow + j;
      if (own != widen(y[window])) return;
      const Inside in = inside(p, i, j);
      for (std::int64_t r = in.row; r <= row; ++r)
        for (std::int64_t c = in.column; c < (r < row ? in.column_end : column); ++c)
          if (widen(image[r * p.w + c]) == own) return;
      sum += widen(dy[window]);
    });
    dx[at] = rounded<T>(sum);
  });
}

template <class T>
__global__ void __launch_bounds__(kThreads) average_kernel(ImageProblem p, const T* __restrict__ x, T* __restrict__ y) {
  each_element(p.n * p.channels, p.oh, p.ow, [&](std::int64_t plane, std::int64_t i, std::int64_t j, std::int64_t at) {
    const T* image = x + plane * p.h * p.w;
    const Inside in = inside(p, i, j);
    Sum<T> sum{};
    for (std::int64_t r = in.row; r < in.row_end; ++r)
      for (std::int64_t c = in.column; c < in.column_end; ++c) sum += widen(image[r * p.w + c]);
    y[at] = rounded<T>(sum / divisor<T>(p, in));
  });
}

template <class T>
__global__ void __launch_bounds__(kThreads) average_grad_kernel(ImageProblem p, const T* __restrict__ dy, T* __restrict__ dx) {
  each_element(p.n * p.channels, p.h, p.w, [&](std::int64_t plane, std::int64_t row, std::int64_t column, std::int64_t at) {
    Sum<T> sum{};
    each_window(p, row, column, [&](std::int64_t i, std::int64_t j) {
      sum += widen(dy[(plane * p.oh + i) * p.ow + j]) / divisor<T>(p, inside(p, i, j));
    });
    dx[at] = rounded<T>(sum);
  });
}

std::int64_t in_elements(const ImageProblem& p) { return p.n * p.channels * p.h * p.w; }
std::int64_t out_elements(const ImageProblem& p) { return p.n * p.channels * p.oh * p.ow; }

}  // namespace

void max_pool2d(const ImageProblem& p, const void* x, void* y, void* s) {
  if (out_elements(p) == 0) return;
  with_any_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    max_kernel<<<blocks(out_elements(p), kThreads), kThreads, 0, stream(s)>>>(p, static_cast<const T*>(x), static_cast<T*>(y));
  });
  launched("max_pool2d");
}
void max_pool2d_grad(const ImageProblem& p, const void* x, const void* y, const void* dy, void* dx, void* s) {
  if (in_elements(p) == 0) return;
  with_any_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    max_grad_kernel<<<blocks(in_elements(p), kThreads), kThreads, 0, stream(s)>>>(p, static_cast<const T*>(x), static_cast<const T*>(y),
                                                                                  static_cast<const T*>(dy), static_cast<T*>(dx));
  });
  launched("max_pool2d_grad");
}
void avg_pool2d(const ImageProblem& p, const void* x, void* y, void* s) {
  if (out_elements(p) == 0) return;
  with_any_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    average_kernel<<<blocks(out_elements(p), kThreads), kThreads, 0, stream(s)>>>(p, static_cast<const T*>(x), static_cast<T*>(y));
  });
  launched("avg_pool2d");
}
void avg_pool2d_grad(const ImageProblem& p, const void* dy, void* dx, void* s) {
  if (in_elements(p) == 0) return;
  with_any_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    average_grad_kernel<<<blocks(in_elements(p), kThreads), kThreads, 0, stream(s)>>>(p, static_cast<const T*>(dy), static_cast<T*>(dx));
  });
  launched("avg_pool2d_grad");
}

}  // namespace rhetor::gpu
