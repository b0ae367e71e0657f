// Direct convolutions, sums in f32 (f64 in f64): a thread for every element of y and dx, a block for every element of dw.
// Bound by the loads of its operands, which come from the caches: each of x and w is read by many neighbouring threads.
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

// y[n,o,i,j] = sum of x[n, c, i s0 - p0 + u d0, j s1 - p1 + v d1] w[o,c,u,v]
template <class T>
__global__ void __launch_bounds__(kThreads) forward_kernel(ImageProblem p, const T* __restrict__ x, const T* __restrict__ w, T* __restrict__ y) {
  const std::int64_t all = p.n * p.out_channels * p.oh * p.ow, step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  const std::int64_t group_in = p.channels / p.groups, group_out = p.out_channels / p.groups;
  for (std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; at < all; at += step) {
    const std::int64_t j = at % p.ow, i = at / p.ow % p.oh, o = at / (p.ow * p.oh) % p.out_channels, n = at / (p.ow * p.oh * p.out_channels);
    const std::int64_t top = i * p.stride[0] - p.pad[0], left = j * p.stride[1] - p.pad[1];
    const T* image = x + (n * p.channels + o / group_out * group_in) * p.h * p.w;
    const T* taps = w + o * group_in * p.kh * p.kw;
    Sum<T> sum{};
    for (std::int64_t c = 0; c < group_in; ++c)
      for (std::int64_t u = 0; u < p.kh; ++u) {
        const std::int64_t row = top + u * p.dilation[0];
        if (row < 0 || row >= p.h) continue;
        for (std::int64_t v = 0; v < p.kw; ++v) {
          const std::int64_t column = left + v * p.dilation[1];
          if (column >= 0 && column < p.w) sum += widen(image[(c * p.h + row) * p.w + column]) * widen(taps[(c * p.kh + u) * p.kw + v]);
        }
      }
    y[at] = rounded<T>(sum);
  }
}

// dx[n,c,row,column] = sum over the o of c's group and the (u, v) whose window (i, j) exists of dy[n,o,i,j] w[o,c,u,v]
template <class T>
__global__ void __launch_bounds__(kThreads) input_grad_kernel(ImageProblem p, const T* __restrict__ dy, const T* __restrict__ w, T* __restrict__ dx) {
  const std::int64_t all = p.n * p.channels * p.h * p.w, step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  const std::int64_t group_in = p.channels / p.groups, group_out = p.out_channels / p.groups;
  for (std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; at < all; at += step) {
    const std::int64_t column = at % p.w, row = at / p.w % p.h, channel = at / (p.w * p.h) % p.channels, n = at / (p.w * p.h * p.channels);
    const std::int64_t group = channel / group_in, c = channel % group_in;
    Sum<T> sum{};
    for (std::int64_t u = 0; u < p.kh; ++u) {
      const std::int64_t down = row + p.pad[0] - u * p.dilation[0], i = down / p.stride[0];
      if (down < 0 || down % p.stride[0] != 0 || i >= p.oh) continue;
      for (std::int64_t v = 0; v < p.kw; ++v) {
        const std::int64_t across = column + p.pad[1] - v * p.dilation[1], j = across / p.stride[1];
        if (across < 0 || across % p.stride[1] != 0 || j >= p.ow) continue;
        for (std::int64_t o = group * group_out; o < (group + 1) * group_out; ++o)
          sum += widen(dy[((n * p.out_channels + o) * p.oh + i) * p.ow + j]) * widen(w[((o * group_in + c) * p.kh + u) * p.kw + v]);
      }
    }
    dx[at] = rounded<T>(sum);
  }
}

// dw[o,c,u,v] = sum over (n, i, j) of x[n, c, i s0 - p0 + u d0, j s1 - p1 + v d1] dy[n,o,i,j]
template <class T>
__global__ void __launch_bounds__(kThreads) weight_grad_kernel(ImageProblem p, const T* __restrict__ x, const T* __restrict__ dy, T* __restrict__ dw) {
  __shared__ Sum<T> shared[32];
  const std::int64_t group_in = p.channels / p.groups, group_out = p.out_channels / p.groups, all = p.out_channels * group_in * p.kh * p.kw;
  for (std::int64_t at = blockIdx.x; at < all; at += gridDim.x) {
    const std::int64_t v = at % p.kw, u = at / p.kw % p.kh, c = at / (p.kw * p.kh) % group_in, o = at / (p.kw * p.kh * group_in);
    const std::int64_t channel = o / group_out * group_in + c, places = p.oh * p.ow;
    Sum<T> sum{};
    for (std::int64_t place = threadIdx.x; place < p.n * places; place += kThreads) {
      const std::int64_t n = place / places, i = place / p.ow % p.oh, j = place % p.ow;
      const std::int64_t row = i * p.stride[0] - p.pad[0] + u * p.dilation[0], column = j * p.stride[1] - p.pad[1] + v * p.dilation[1];
      if (row < 0 || row >= p.h || column < 0 || column >= p.w) continue;
      sum += widen(x[((n * p.channels + channel) * p.h + row) * p.w + column]) * widen(dy[((n * p.out_channels + o) * p.oh + i) * p.ow + j]);
    }
    sum = block_reduce(sum, Add{}, shared, Sum<T>{});
    if (threadIdx.x == 0) dw[at] = rounded<T>(sum);
  }
}

}  // namespace

void conv2d(const ImageProblem& p, const void* x, const void* w, void* y, void* s) {
  const std::int64_t all = p.n * p.out_channels * p.oh * p.ow;
  if (all == 0) return;
  with_any_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    forward_kernel<<<blocks(all, kThreads), kThreads, 0, stream(s)>>>(p, static_cast<const T*>(x), static_cast<const T*>(w), static_cast<T*>(y));
  });
  launched("conv2d");
}

void conv2d_input_grad(const ImageProblem& p, const void* dy, const void* w, void* dx, void* s) {
  const std::int64_t all = p.n * p.channels * p.h * p.w;
  if (all == 0) return;
  with_any_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    input_grad_kernel<<<blocks(all, kThreads), kThreads, 0, stream(s)>>>(p, static_cast<const T*>(dy), static_cast<const T*>(w), static_cast<T*>(dx));
  });
  launched("conv2d_input_grad");
}

void conv2d_weight_grad(const ImageProblem& p, const void* x, const void* dy, void* dw, void* s) {
  const std::int64_t all = p.out_channels * (p.channels / p.groups) * p.kh * p.kw;
  if (all == 0) return;
  with_any_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    weight_grad_kernel<<<blocks(all, 1), kThreads, 0, stream(s)>>>(p, static_cast<const T*>(x), static_cast<const T*>(dy), static_cast<T*>(dw));
  });
  launched("conv2d_weight_grad");
}

}  // namespace rhetor::gpu
