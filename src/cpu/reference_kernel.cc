// The kernel of last resort: any op through OpDef.reference, on converted copies of its buffers. Correct and slow.
#include "cpu/families.h"

namespace rhetor {
namespace {

struct ReferenceParams {
  const OpDef* op;
  Attrs attrs;
  std::vector<Type> in, out;
  std::vector<bool> present;
};

template <class T>
void load(const void* from, RefTensor<T>& to) {
  const auto n = static_cast<std::size_t>(to.elements());
  dispatch(to.type.dtype, [&](auto zero) {
    using S = decltype(zero);
    const auto* p = static_cast<const S*>(from);
    if (is_float(to.type.dtype)) {
      to.f.resize(n);
      for (std::size_t i = 0; i < n; ++i) to.f[i] = static_cast<T>(to_double(p[i]));
    } else {
      to.i.resize(n);
      if constexpr (requires { static_cast<std::int64_t>(p[0]); })
        for (std::size_t i = 0; i < n; ++i) to.i[i] = static_cast<std::int64_t>(p[i]);
    }
  });
}

template <class T>
void store(const RefTensor<T>& from, void* to) {
  const auto n = static_cast<std::size_t>(from.elements());
  dispatch(from.type.dtype, [&](auto zero) {
    using S = decltype(zero);
    auto* p = static_cast<S*>(to);
    if (is_float(from.type.dtype)) {
      for (std::size_t i = 0; i < n; ++i) p[i] = from_double<S>(static_cast<double>(from.f[i]));
    } else if constexpr (requires { static_cast<S>(std::int64_t{}); }) {
      for (std::size_t i = 0; i < n; ++i) p[i] = static_cast<S>(from.i[i]);
    }
  });
}

template <class T>
void evaluate(const ReferenceParams& params, const KernelArgs& args) {
  std::vector<RefTensor<T>> operands(params.in.size());
  RefCall<T> call{.in = {}, .out = {}, .attrs = params.attrs};
  for (std::size_t k = 0; k < operands.size(); ++k) {
    if (!params.present[k]) {
      call.in.push_back(nullptr);
      continue;
    }
    operands[k].type = params.in[k];
    load(args.in[k], operands[k]);
    call.in.push_back(&operands[k]);
  }
  for (const Type& type : params.out) {
    RefTensor<T> result{.type = type, .f = {}, .i = {}};
    const auto n = static_cast<std::size_t>(type.elements());
    if (is_float(type.dtype)) result.f.assign(n, T{0}); else result.i.assign(n, 0);
    call.out.push_back(std::move(result));
  }
  if constexpr (std::is_same_v<T, double>) params.op->reference.f64(call); else params.op->reference.f32(call);
  for (std::size_t k = 0; k < call.out.size(); ++k)
    if (args.out[k]) store(call.out[k], args.out[k]);
}

}  // namespace

Kernel reference_kernel(const KernelRequest& request) {
  if (!request.node.op->reference)
    fail(ErrorKind::unsupported, "the op {} has neither a kernel nor a reference", request.node.op->name);
  auto params = std::make_shared<ReferenceParams>(
      ReferenceParams{request.node.op, request.node.attrs, request.in, request.out, {}});
  for (std::size_t k = 0; k < request.in.size(); ++k)
    params->present.push_back(k < request.node.inputs.size() && request.node.inputs[k].valid());
  bool wide = false;
  for (const auto* types : {&request.in, &request.out})
    for (const Type& type : *types) wide = wide || type.dtype == DType::f64;
  Kernel kernel;
  kernel.run = wide ? KernelFn{[](const void* p, const KernelArgs& args) {
                  evaluate<double>(*static_cast<const ReferenceParams*>(p), args);
                }}
                    : KernelFn{[](const void* p, const KernelArgs& args) {
                        evaluate<float>(*static_cast<const ReferenceParams*>(p), args);
                      }};
  kernel.params = std::move(params);
  kernel.detail = wide ? "OpDef.reference in f64" : "OpDef.reference in f32";
  kernel.allocates = true;
  return kernel;
}

}  // namespace rhetor
