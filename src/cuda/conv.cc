// Rows of conv2d, max_pool2d, avg_pool2d and their gradients.
#include "cuda/conv.h"

#include <fmt/format.h>

#include "cuda/families.h"

namespace rhetor::gpu {
namespace {

std::string refuse(const KernelRequest& r) {
  const DType dtype = r.in[0].dtype;
  return is_float(dtype) && byte_size(dtype) > 1 ? "" : fmt::format("has no {}", name(dtype));
}

// `kernel`: the window's height and width.
ImageProblem problem(const KernelRequest& r, const Shape& x, const Shape& y, std::int64_t kh, std::int64_t kw) {
  const Attrs& attrs = r.node.attrs;
  const auto &stride = attrs.ints("stride"), &pad = attrs.ints("pad_before");
  ImageProblem p{.n = x[0], .channels = x[1], .out_channels = y[1], .h = x[2], .w = x[3], .oh = y[2], .ow = y[3], .kh = kh, .kw = kw,
                 .stride = {stride[0], stride[1]}, .pad = {pad[0], pad[1]}, .dtype = r.in[0].dtype};
  if (attrs.has("groups")) p.groups = attrs.i("groups");
  if (attrs.has("dilation")) {
    p.dilation[0] = attrs.ints("dilation")[0];
    p.dilation[1] = attrs.ints("dilation")[1];
  }
  if (attrs.has("count_padding")) p.count_padding = attrs.b("count_padding");
  return p;
}
ImageProblem conv_problem(const KernelRequest& r, const Type& x, const Type& w, const Type& y) {
  return problem(r, x.shape, y.shape, w.shape[2], w.shape[3]);
}
ImageProblem pool_problem(const KernelRequest& r, const Type& x, const Type& y) {
  const auto& kernel = r.node.attrs.ints("kernel");
  return problem(r, x.shape, y.shape, kernel[0], kernel[1]);
}

Kernel kernel_of(KernelFn run, const ImageProblem& p) {
  Kernel kernel;
  kernel.run = run;
  kernel.params = std::make_shared<const ImageProblem>(p);
  return kernel;
}
const ImageProblem& of(const void* params) { return *static_cast<const ImageProblem*>(params); }

Kernel prepare_conv(const KernelRequest& r) {
  return kernel_of([](const void* p, const KernelArgs& a) { conv2d(of(p), a.in[0], a.in[1], a.out[0], a.stream); },
                   conv_problem(r, r.in[0], r.in[1], r.out[0]));
}
Kernel prepare_input_grad(const KernelRequest& r) {
  return kernel_of([](const void* p, const KernelArgs& a) { conv2d_input_grad(of(p), a.in[0], a.in[1], a.out[0], a.stream); },
                   conv_problem(r, r.out[0], r.in[1], r.in[0]));
}
Kernel prepare_weight_grad(const KernelRequest& r) {
  return kernel_of([](const void* p, const KernelArgs& a) { conv2d_weight_grad(of(p), a.in[0], a.in[1], a.out[0], a.stream); },
                   conv_problem(r, r.in[0], r.out[0], r.in[1]));
}
Kernel prepare_max(const KernelRequest& r) {
  return kernel_of([](const void* p, const KernelArgs& a) { max_pool2d(of(p), a.in[0], a.out[0], a.stream); },
                   pool_problem(r, r.in[0], r.out[0]));
}
Kernel prepare_max_grad(const KernelRequest& r) {
  return kernel_of([](const void* p, const KernelArgs& a) { max_pool2d_grad(of(p), a.in[0], a.in[1], a.in[2], a.out[0], a.stream); },
                   pool_problem(r, r.in[0], r.in[1]));
}
Kernel prepare_average(const KernelRequest& r) {
  return kernel_of([](const void* p, const KernelArgs& a) { avg_pool2d(of(p), a.in[0], a.out[0], a.stream); },
                   pool_problem(r, r.in[0], r.out[0]));
}
Kernel prepare_average_grad(const KernelRequest& r) {
  return kernel_of([](const void* p, const KernelArgs& a) { avg_pool2d_grad(of(p), a.in[0], a.out[0], a.stream); },
                   pool_problem(r, r.out[0], r.in[0]));
}

}  // namespace

std::vector<KernelRow> conv_rows() {
  return {{"conv2d", {{"cuda.conv2d", refuse, prepare_conv}}},
          {"conv2d_input_grad", {{"cuda.conv2d_input_grad", refuse, prepare_input_grad}}},
          {"conv2d_weight_grad", {{"cuda.conv2d_weight_grad", refuse, prepare_weight_grad}}},
          {"max_pool2d", {{"cuda.max_pool2d", refuse, prepare_max}}},
          {"max_pool2d_grad", {{"cuda.max_pool2d_grad", refuse, prepare_max_grad}}},
          {"avg_pool2d", {{"cuda.avg_pool2d", refuse, prepare_average}}},
          {"avg_pool2d_grad", {{"cuda.avg_pool2d_grad", refuse, prepare_average_grad}}}};
}

}  // namespace rhetor::gpu
