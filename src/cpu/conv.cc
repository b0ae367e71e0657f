// conv2d and its two gradients through oneDNN. The work is split by images, by groups, or by the channels of the result; each
// slice reorders its plain NCHW operands into the layout that oneDNN asks for, where that is another one.
#include <algorithm>
#include <array>

#include "base/error.h"
#include "cpu/families.h"
#include "cpu/onednn.h"
#include "cpu/pack_cache.h"
#include "cpu/widened.h"

namespace rhetor {
namespace {

using dnnl::memory;
using onednn::Call;

constexpr double kMinFlopsPerSlice = 1e5;

enum class ConvKind { forward, input_grad, weight_grad };

std::uint64_t aligned(std::uint64_t bytes) { return (bytes + 63) / 64 * 64; }

struct Range {
  std::int64_t begin, end;
  std::int64_t size() const { return end - begin; }
};

struct ConvProblem {
  ConvKind kind;
  DType dtype;
  std::int64_t n, groups, c, o;  // c and o: channels of one group
  std::int64_t h, w, oh, ow, kh, kw;
  memory::dims stride, dilation, pad_before, pad_after;
  double flops() const { return 2.0 * static_cast<double>(n * groups * o * oh * ow) * static_cast<double>(c * kh * kw); }
};

ConvProblem problem_of(ConvKind kind, const KernelRequest& r) {
  const Shape& x = kind == ConvKind::input_grad ? r.out[0].shape : r.in[0].shape;
  const Shape& y = kind == ConvKind::forward ? r.out[0].shape : kind == ConvKind::input_grad ? r.in[0].shape : r.in[1].shape;
  const Shape& w = kind == ConvKind::weight_grad ? r.out[0].shape : r.in[1].shape;
  const Attrs& attrs = r.node.attrs;
  const std::int64_t groups = attrs.i("groups");
  const auto pair = [&](std::string_view name, std::int64_t minus) {
    return memory::dims{attrs.ints(name)[0] - minus, attrs.ints(name)[1] - minus};
  };
  return {.kind = kind,
          .dtype = r.in[0].dtype,
          .n = x[0],
          .groups = groups,
          .c = w[1],
          .o = w[0] / groups,
          .h = x[2],
          .w = x[3],
          .oh = y[2],
          .ow = y[3],
          .kh = w[2],
          .kw = w[3],
          .stride = pair("stride", 0),
          .dilation = pair("dilation", 1),  // oneDNN counts the gaps
          .pad_before = pair("pad_before", 0),
          .pad_after = pair("pad_after", 0)};
}

// What one slice computes.
struct Piece {
  Range n, g, c, o;
};

std::vector<Piece> split(const ConvProblem& p, int threads) {
  const Piece all{{0, p.n}, {0, p.groups}, {0, p.c}, {0, p.o}};
  const int parts = std::min(threads, std::max(1, static_cast<int>(p.flops() / kMinFlopsPerSlice)));
  // The dim to cut. Images cannot be for weight gradients, which sum over them; channels only without groups.
  Range Piece::*cut = nullptr;
  if (p.kind != ConvKind::weight_grad && p.n >= parts)
    cut = &Piece::n;
  else if (p.groups >= parts && p.groups > 1)
    cut = &Piece::g;
  else if (p.groups == 1 && p.kind == ConvKind::input_grad && p.c >= parts)
    cut = &Piece::c;
  else if (p.groups == 1 && p.kind != ConvKind::input_grad && p.o >= parts)
    cut = &Piece::o;
  if (parts == 1 || !cut) return {all};
  const std::int64_t count = (all.*cut).size();
  std::vector<Piece> out;
  for (int i = 0; i < parts; ++i) {
    Piece piece = all;
    piece.*cut = {count * i / parts, count * (i + 1) / parts};
    out.push_back(piece);
  }
  return out;
}

// The operands of a slice in memory: layout and first element.
struct Operand {
  memory::desc desc;
  std::int64_t offset;  // elements
};
struct Operands {
  Operand x, w, y;
};

Operands operands_of(const ConvProblem& p, const Piece& s) {
  const auto type = *onednn::data_type(p.dtype);
  const auto image = [&](std::int64_t per_group, const Range& channels, std::int64_t height, std::int64_t width) {
    const std::int64_t plane = height * width, first = s.g.begin * per_group + channels.begin;
    return Operand{onednn::strided({s.n.size(), s.g.size() * channels.size(), height, width}, type,
                                   {p.groups * per_group * plane, plane, width, 1}),
                   (s.n.begin * p.groups * per_group + first) * plane};
  };
  const std::int64_t taps = p.kh * p.kw;
  Operand w;
  if (p.groups == 1) {
    w = {onednn::strided({s.o.size(), s.c.size(), p.kh, p.kw}, type, {p.c * taps, taps, p.kw, 1}),
         (s.o.begin * p.c + s.c.begin) * taps};
  } else {
    w = {onednn::strided({s.g.size(), p.o, p.c, p.kh, p.kw}, type, {p.o * p.c * taps, p.c * taps, taps, p.kw, 1}),
         s.g.begin * p.o * p.c * taps};
  }
  return {image(p.c, s.c, p.h, p.w), w, image(p.o, s.o, p.oh, p.ow)};
}

memory::desc any_layout(const memory::desc& like) { return memory::desc(like.dims(), like.data_type(), memory::format_tag::any); }

// A primitive and the layouts it wants; no primitive if oneDNN has none but its scalar one.
struct Chosen {
  dnnl::primitive primitive;
  memory::desc x, w, y, scratchpad;
  std::string implementation;
};

Chosen choose(const ConvProblem& p, const Operands& plain) {
  onednn::stream();
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const memory::desc x = any_layout(plain.x.desc), w = any_layout(plain.w.desc), y = any_layout(plain.y.desc);
  const auto direct = dnnl::algorithm::convolution_direct;
  const auto forward_kind = p.kind == ConvKind::forward ? dnnl::prop_kind::forward_inference : dnnl::prop_kind::forward_training;
  const dnnl::convolution_forward::primitive_desc forward(
      dnnl::convolution_forward::desc(forward_kind, direct, x, w, y, p.stride, p.dilation, p.pad_before, p.pad_after), attr,
      onednn::engine(), true);
  if (!forward) return {};
  Chosen out;
  const auto take = [&](const auto& pd, const memory::desc& dx, const memory::desc& dw, const memory::desc& dy, auto make) {
    if (!pd || onednn::is_reference(pd.impl_info_str())) return;
    out = {make(pd), dx, dw, dy, pd.scratchpad_desc(), pd.impl_info_str()};
  };
  if (p.kind == ConvKind::forward) {
    take(forward, forward.src_desc(), forward.weights_desc(), forward.dst_desc(),
         [](auto& pd) { return dnnl::convolution_forward(pd); });
  } else if (p.kind == ConvKind::input_grad) {
    const dnnl::convolution_backward_data::primitive_desc pd(
        dnnl::convolution_backward_data::desc(direct, x, w, y, p.stride, p.dilation, p.pad_before, p.pad_after), attr,
        onednn::engine(), forward, true);
    if (pd)
      take(pd, pd.diff_src_desc(), pd.weights_desc(), pd.diff_dst_desc(),
           [](auto& d) { return dnnl::convolution_backward_data(d); });
  } else {
    const dnnl::convolution_backward_weights::primitive_desc pd(
        dnnl::convolution_backward_weights::desc(direct, x, w, y, p.stride, p.dilation, p.pad_before, p.pad_after), attr,
        onednn::engine(), forward, true);
    if (pd)
      take(pd, pd.src_desc(), pd.diff_weights_desc(), pd.diff_dst_desc(),
           [](auto& d) { return dnnl::convolution_backward_weights(d); });
  }
  return out;
}

struct Slice {
  // Reorders of the operands and of the result, null where the layout is plain or the weights are packed.
  std::array<std::shared_ptr<const Call>, 2> load;
  std::shared_ptr<const Call> compute, store;
  std::array<std::int64_t, 3> offsets{};  // bytes into the operands and the result
  std::array<std::uint64_t, 3> space{};   // bytes into scratch, for reordered ones
  std::uint64_t scratchpad = 0;
};
struct ConvParams {
  std::vector<Slice> slices;
};

void run_slice(const Slice& s, const KernelArgs& args) {
  auto* scratch = static_cast<std::byte*>(args.scratch);
  void* at[4];
  for (std::size_t i = 0; i < 2; ++i) {
    at[i] = args.in[i] ? static_cast<std::byte*>(const_cast<void*>(args.in[i])) + s.offsets[i] : nullptr;
    if (!s.load[i]) continue;
    void* pointers[] = {at[i], scratch + s.space[i]};
    s.load[i]->run(pointers);
    at[i] = pointers[1];
  }
  std::byte* const result = static_cast<std::byte*>(args.out[0]) + s.offsets[2];
  at[2] = s.store ? scratch + s.space[2] : result;
  at[3] = scratch + s.scratchpad;
  s.compute->run(at);
  if (!s.store) return;
  void* pointers[] = {at[2], result};
  s.store->run(pointers);
}

void run_conv(const void* opaque, const KernelArgs& args) {
  struct Context {
    const ConvParams* params;
    const KernelArgs* args;
  } context{static_cast<const ConvParams*>(opaque), &args};
  args.pool.run(
      static_cast<int>(context.params->slices.size()),
      [](void* c, int i) {
        const auto& x = *static_cast<const Context*>(c);
        run_slice(x.params->slices[static_cast<std::size_t>(i)], *x.args);
      },
      &context);
}

template <ConvKind kind>
std::string refuse(const KernelRequest& r) {
  const ConvProblem p = problem_of(kind, r);
  if (p.dtype != DType::f32 && p.dtype != DType::bf16) return fmt::format("oneDNN convolves f32 and bf16, not {}", name(p.dtype));
  if (p.dtype == DType::bf16 && cpu_isa() < Isa::avx512) return "bf16 needs AVX-512";
  if (r.in[0].elements() * r.in[1].elements() * r.out[0].elements() == 0) return "an operand is empty";
  try {
    for (const Piece& piece : split(p, r.threads))
      if (!choose(p, operands_of(p, piece)).primitive) return "oneDNN has only its scalar implementation here";
  } catch (const dnnl::error& e) {
    return fmt::format("oneDNN: {}", e.what());
  }
  return "";
}

template <ConvKind kind>
Kernel prepare(const KernelRequest& r) {
  const ConvProblem p = problem_of(kind, r);
  auto params = std::make_shared<ConvParams>();
  Kernel kernel;
  kernel.absorbed.assign(2, false);
  const auto size = static_cast<std::int64_t>(byte_size(p.dtype));
  std::string implementation;
  const auto pieces = split(p, r.threads);
  const Hash128 content = kind != ConvKind::weight_grad && r.constants[1] ? content_of(*r.constants[1]) : Hash128{};
  for (const Piece& piece : pieces) {
    const Operands plain = operands_of(p, piece);
    const Chosen chosen = choose(p, plain);
    implementation = chosen.implementation;
    // In the order operand 0, operand 1, result; with oneDNN's names.
    struct Role {
      int id;
      const Operand* from;
      const memory::desc* want;
    };
    std::array<Role, 3> roles{};
    if (kind == ConvKind::forward) {
      roles = {
          {{DNNL_ARG_SRC, &plain.x, &chosen.x}, {DNNL_ARG_WEIGHTS, &plain.w, &chosen.w}, {DNNL_ARG_DST, &plain.y, &chosen.y}}};
    } else if (kind == ConvKind::input_grad) {
      roles = {{{DNNL_ARG_DIFF_DST, &plain.y, &chosen.y},
                {DNNL_ARG_WEIGHTS, &plain.w, &chosen.w},
                {DNNL_ARG_DIFF_SRC, &plain.x, &chosen.x}}};
    } else {
      roles = {{{DNNL_ARG_SRC, &plain.x, &chosen.x},
                {DNNL_ARG_DIFF_DST, &plain.y, &chosen.y},
                {DNNL_ARG_DIFF_WEIGHTS, &plain.w, &chosen.w}}};
    }
    Slice slice;
    std::vector<onednn::Argument> arguments;
    for (std::size_t i = 0; i < 3; ++i) {
      const auto& [id, from, want] = roles[i];
      slice.offsets[i] = from->offset * size;
      std::shared_ptr<void> fixed;
      if (i == 1 && kind != ConvKind::weight_grad && r.constants[1]) {
        fixed = onednn::reordered(from->desc, *r.constants[1], content, slice.offsets[1], *want);
        kernel.packed_bytes += want->get_size();
        kernel.absorbed[1] = true;
      } else if (from->desc != *want) {
        slice.space[i] = kernel.scratch_bytes;
        kernel.scratch_bytes += aligned(want->get_size());
        if (i == 2)
          slice.store = onednn::reorder_call(*want, from->desc);
        else
          slice.load[i] = onednn::reorder_call(from->desc, *want);
      }
      arguments.push_back({id, *want, fixed});
    }
    arguments.push_back({DNNL_ARG_SCRATCHPAD, chosen.scratchpad});
    slice.scratchpad = kernel.scratch_bytes;
    kernel.scratch_bytes += aligned(chosen.scratchpad.get_size());
    slice.compute = std::make_shared<Call>(chosen.primitive, std::move(arguments));
    params->slices.push_back(std::move(slice));
  }
  kernel.detail =
      fmt::format("oneDNN {}{}", implementation, pieces.size() > 1 ? fmt::format(", split in {}", pieces.size()) : "");
  kernel.params = std::move(params);
  kernel.run = run_conv;
  return kernel;
}

template <ConvKind kind>
std::string refuse_widened(const KernelRequest& r) {
  if (std::string why = refuse_widening(r); !why.empty()) return why;
  return refuse<kind>(WidenedRequest(r).request);
}
template <ConvKind kind>
Kernel prepare_widened(const KernelRequest& r) {
  const WidenedRequest wide(r);
  return widened_kernel(r, prepare<kind>(wide.request));
}

template <ConvKind kind>
KernelRow row(std::string_view op, std::string_view direct, std::string_view widened) {
  return {op,
          {{.name = direct, .refuse = refuse<kind>, .prepare = prepare<kind>},
           {.name = widened, .refuse = refuse_widened<kind>, .prepare = prepare_widened<kind>}}};
}

}  // namespace

std::vector<KernelRow> conv_rows() {
  return {row<ConvKind::forward>("conv2d", "cpu.conv2d.onednn", "cpu.conv2d.widened"),
          row<ConvKind::input_grad>("conv2d_input_grad", "cpu.conv2d_input_grad.onednn", "cpu.conv2d_input_grad.widened"),
          row<ConvKind::weight_grad>("conv2d_weight_grad", "cpu.conv2d_weight_grad.onednn", "cpu.conv2d_weight_grad.widened")};
}

}  // namespace rhetor
