// `fused` around a contraction, three ways: the epilogue inside the product's own kernel; the product, rounded to its declared
// dtype, then one kernel for a chain of bias, activation and residual; or then a generated kernel for any pointwise body. The two
// later ways read and write the result's bytes once more, mostly in the second-level cache.
#include <optional>

#include "base/error.h"
#include "cuda/codegen.h"
#include "cuda/matmul.h"
#include "cuda/matmul_contraction.h"

namespace rhetor::gpu {

namespace {

std::optional<Activation> activation_of(std::string_view op) {
  if (op == "relu") return Activation::relu;
  if (op == "gelu") return Activation::gelu;
  if (op == "gelu_tanh") return Activation::gelu_tanh;
  if (op == "silu") return Activation::silu;
  if (op == "tanh") return Activation::tanh;
  return std::nullopt;
}

ValueId product_of(const FusedParts& parts) {
  for (std::int32_t i = 0; i < parts.body->size(); ++i)
    if (&parts.body->node(i) == parts.anchor) return {i, 0};
  fail(ErrorKind::internal, "the contraction is not in its body");
}

}  // namespace

std::optional<ChainedEpilogue> find_epilogue(const FusedParts& parts) {
  const Graph& body = *parts.body;
  if (body.outputs().size() != 1) return {};
  ValueId current = product_of(parts);
  const Shape& shape = body.type(current).shape;
  const ValueId last = body.outputs()[0].value;
  const auto uses = body.uses();
  ChainedEpilogue chain;
  Epilogue& e = chain.epilogue;
  const auto operand_number = [&](ValueId v) { return std::stoi(body.input_name(v.node)); };
  while (current != last) {
    if (uses[static_cast<std::size_t>(current.node)][static_cast<std::size_t>(current.output)] != 1) return {};
    const Node* next = nullptr;
    std::int32_t at = current.node;
    while (!next && ++at < body.size())
      for (const ValueId v : body.node(at).inputs)
        if (v == current) next = &body.node(at);
    if (!next || next->outputs.size() != 1) return {};
    const ValueId made{at, 0};
    if (e.quantised && next->op->name != "cast") return {};
    if (const auto activation = activation_of(next->op->name)) {
      if (e.activation != Activation::none || e.residual) return {};
      e.activation = *activation;
    } else if (next->op->name == "add") {
      const ValueId other = next->inputs[0] == current ? next->inputs[1] : next->inputs[0];
      const Node& from = body.node(other);
      const bool repeated = from.op->name == "broadcast_to" && body.is_input(from.inputs[0].node);
      const ValueId source = repeated ? from.inputs[0] : other;
      if (!body.is_input(source.node)) return {};
      const Type& type = body.type(source);
      if (!is_float(type.dtype) || type.dtype == DType::f64 || byte_size(type.dtype) == 1) return {};
      if (type.shape == shape && !e.residual) {
        e.residual = true;
        e.residual_dtype = type.dtype;
        chain.residual = operand_number(source);
      } else if (repeated && type.shape.rank() > 0 && type.shape.last() == shape.last() && type.elements() == shape.last() &&
                 !e.bias && e.activation == Activation::none && !e.residual) {
        e.bias = true;
        e.bias_dtype = type.dtype;
        chain.bias = operand_number(source);
      } else {
        return {};
      }
    } else if (next->op->name == "mul") {
      const Node& repeat = body.node(next->inputs[next->inputs[0] == current ? 1 : 0]);
      if (repeat.op->name != "broadcast_to" || !body.is_input(repeat.inputs[0].node)) return {};
      const Type& number = body.type(repeat.inputs[0]);
      if (number.shape.rank() != 0 || (number.dtype != DType::f32 && number.dtype != DType::bf16)) return {};
      e.quantised = true;
      e.factor_dtype = number.dtype;
      chain.factor = operand_number(repeat.inputs[0]);
    } else if (next->op->name != "cast" || made != last) {  // a last cast is the dtype stored
      return {};
    }
    current = made;
  }
  const DType out = body.type(last).dtype;
  if (e.quantised) return out == DType::f8e4m3 ? std::optional(chain) : std::nullopt;
  if (out != DType::f32 && out != DType::bf16 && out != DType::f16) return {};
  return chain;
}

namespace {

enum class Way { inside, finish, generated };

struct FusedParams {
  Way way = Way::inside;
  std::unique_ptr<Contraction> contraction;
  ChainedEpilogue chain;
  FinishCall finish;
  GeneratedPtr generated;
  std::vector<int> anchor_operands, epilogue_operands;
  std::size_t results = 1;
  bool in_result = false;  // the product lies in result 0's buffer, else in scratch at:
  std::uint64_t product = 0;
};

constexpr std::size_t kMaxOperands = 24, kMaxResults = 8;

void run_fused(const void* opaque, const KernelArgs& args) {
  const auto& p = *static_cast<const FusedParams*>(opaque);
  const void* operands[kMaxOperands];
  for (std::size_t i = 0; i < p.anchor_operands.size(); ++i) operands[i] = args.in[p.anchor_operands[i]];
  const auto in = [&](int k) { return k < 0 ? nullptr : args.in[k]; };
  ContractionCall call{.in = operands,
                       .bias = in(p.chain.bias),
                       .residual = in(p.chain.residual),
                       .factor = in(p.chain.factor),
                       .out = args.out[0],
                       .scratch = args.scratch,
                       .stream = args.stream};
  if (p.way == Way::inside) return p.contraction->enqueue(call);
  void* product = p.in_result ? args.out[0] : at(args.scratch, p.product);
  p.contraction->enqueue({.in = operands, .out = product, .scratch = args.scratch, .stream = args.stream});
  if (p.way == Way::finish)
    return finish_product(p.finish, product, nullptr, nullptr, finish_of(p.chain.epilogue, call), args.out[0], args.stream);
  const void* sources[kMaxOperands + 1] = {product};
  for (std::size_t i = 0; i < p.epilogue_operands.size(); ++i) sources[i + 1] = args.in[p.epilogue_operands[i]];
  p.generated->launch(sources, args.out, args.stream);
}

ContractionRequest inner(const KernelRequest& r, const Taken& parts) {
  ContractionRequest inner{
      .device = *r.device, .in = {}, .constants = {}, .out = parts.anchor->outputs[0], .attrs = parts.maker_attrs};
  for (const int k : parts.anchor_operands) {
    inner.in.push_back(r.in[static_cast<std::size_t>(k)]);
    inner.constants.push_back(r.constants[static_cast<std::size_t>(k)]);
  }
  return inner;
}
// Where everything after the product happens in its own kernel.
ContractionRequest inner_chained(const KernelRequest& r, const Taken& parts, const ChainedEpilogue& chain) {
  ContractionRequest out = inner(r, parts);
  out.out.dtype = r.out[0].dtype;
  out.epilogue = chain.epilogue;
  return out;
}

struct PointwiseRest {
  std::vector<ValueId> inputs, outputs;
  std::vector<DType> storage;
};
PointwiseRest rest_of(const FusedParts& parts) {
  const Graph& body = *parts.body;
  PointwiseRest rest{.inputs = {product_of(parts)}, .outputs = {}, .storage = {}};
  for (const int k : parts.epilogue_operands) rest.inputs.push_back(body.find_input(std::to_string(k)));
  for (const ValueId v : rest.inputs) rest.storage.push_back(body.type(v).dtype);
  for (std::size_t k = 0; k < body.outputs().size(); ++k) rest.outputs.push_back(body.find_output(std::to_string(k)));
  return rest;
}

using Take = Taken (*)(const KernelRequest&);

template <Way way>
std::string refuse_fused(const KernelRequest& r, Take take, const ContractionMaker& maker) {
  const Taken parts = take(r);
  if (!parts.why_not.empty()) return parts.why_not;
  if (parts.epilogue_operands.size() > kMaxOperands || r.out.size() > kMaxResults) return "the group has too many operands";
  if constexpr (way == Way::generated) {
    const PointwiseRest rest = rest_of(parts);
    if (std::string why = refuse_pointwise(*parts.body, rest.inputs, rest.outputs, rest.storage); !why.empty()) return why;
    return maker.refuse(inner(r, parts));
  } else {
    const auto chain = find_epilogue(parts);
    if (!chain) return "the epilogue is not bias, activation and residual in this order";
    if (chain->epilogue.quantised && (way != Way::inside || !maker.quantises)) return "does not store its result in FP8";
    return maker.refuse(way == Way::inside ? inner_chained(r, parts, *chain) : inner(r, parts));
  }
}

template <Way way>
Kernel prepare_fused(const KernelRequest& r, Take take, const ContractionMaker& maker) {
  const Taken parts = take(r);
  const auto p = std::make_shared<FusedParams>();
  p->way = way;
  p->anchor_operands = parts.anchor_operands;
  p->epilogue_operands = parts.epilogue_operands;
  p->results = r.out.size();
  std::string after;
  if constexpr (way == Way::generated) {
    const PointwiseRest rest = rest_of(parts);
    p->contraction = maker.make(inner(r, parts));
    p->generated = generate_pointwise(*r.device, *parts.body, rest.inputs, rest.outputs, rest.storage);
    after = "; then " + p->generated->text();
  } else {
    p->chain = *find_epilogue(parts);
    p->contraction = maker.make(way == Way::inside ? inner_chained(r, parts, p->chain) : inner(r, parts));
    after = way == Way::inside ? ", epilogue inside" : "; then the epilogue in one kernel";
  }
  Kernel kernel;
  kernel.run = run_fused;
  kernel.scratch_bytes = p->contraction->scratch_bytes;
  kernel.packed_bytes = p->contraction->packed_bytes;
  if (way != Way::inside) {
    const Type& product = parts.anchor->outputs[0];
    const std::int64_t n = product.shape.last();
    p->finish = {.m = n ? product.elements() / n : 0, .n = n, .sums = product.dtype, .out = r.out[0].dtype};
    p->in_result = r.out.size() == 1 && byte_size(r.out[0].dtype) == byte_size(product.dtype);
    if (!p->in_result) {
      p->product = aligned(kernel.scratch_bytes);
      kernel.scratch_bytes = p->product + product.bytes();
    }
  }
  kernel.absorbed.assign(r.in.size(), false);
  const std::vector<bool>& absorbed = p->contraction->absorbed;
  for (std::size_t i = 0; i < absorbed.size(); ++i)
    if (absorbed[i]) kernel.absorbed[static_cast<std::size_t>(parts.anchor_operands[i])] = true;
  for (const int k : parts.epilogue_operands) kernel.absorbed[static_cast<std::size_t>(k)] = false;
  for (std::size_t i = 0; i < parts.anchor_operands.size(); ++i)  // an operand may be read twice by the contraction
    if (i >= absorbed.size() || !absorbed[i]) kernel.absorbed[static_cast<std::size_t>(parts.anchor_operands[i])] = false;
  kernel.detail = p->contraction->detail + after;
  kernel.params = p;
  return kernel;
}

Taken take(const KernelRequest& r, std::string_view anchor) {
  Taken taken{take_apart(r, anchor), {}};
  if (taken.anchor) taken.maker_attrs = taken.anchor->attrs;
  return taken;
}
struct Matmul {
  static Taken take(const KernelRequest& r) { return gpu::take(r, "matmul"); }
};
struct MatmulI8 {
  static Taken take(const KernelRequest& r) { return gpu::take(r, "matmul_i8"); }
};
struct MatmulI4 {
  static Taken take(const KernelRequest& r) { return gpu::take(r, "matmul_i4"); }
};
struct MatmulW4 {
  static Taken take(const KernelRequest& r) { return gpu::take(r, "matmul_w4"); }
};
struct MatmulF8 {
  static Taken take(const KernelRequest& r) { return take_f8(r); }
};

template <class Anchor, const ContractionMaker& maker, Way way>
Candidate fused_candidate(std::string_view name) {
  return {.name = name,
          .refuse = [](const KernelRequest& r) { return refuse_fused<way>(r, Anchor::take, maker); },
          .prepare = [](const KernelRequest& r) { return prepare_fused<way>(r, Anchor::take, maker); }};
}

}  // namespace

std::vector<Candidate> fused_small_candidates() {
  return {fused_candidate<Matmul, kMatmulStream, Way::inside>("cuda.fused_matmul.stream"),
          fused_candidate<Matmul, kMatmulStream, Way::generated>("cuda.fused_matmul.stream_generated"),
          fused_candidate<MatmulI8, kMatmulI8Small, Way::inside>("cuda.fused_matmul_i8.small"),
          fused_candidate<MatmulI4, kMatmulI4Small, Way::inside>("cuda.fused_matmul_i4.small"),
          fused_candidate<MatmulI8, kMatmulI8Small, Way::generated>("cuda.fused_matmul_i8.small_generated"),
          fused_candidate<MatmulI4, kMatmulI4Small, Way::generated>("cuda.fused_matmul_i4.small_generated")};
}

std::vector<Candidate> fused_matmul_candidates() {
  return {fused_candidate<Matmul, kMatmulLt, Way::inside>("cuda.fused_matmul.lt"),
          fused_candidate<Matmul, kMatmulSmall, Way::inside>("cuda.fused_matmul.small"),
          fused_candidate<Matmul, kMatmulLt, Way::generated>("cuda.fused_matmul.lt_generated"),
          fused_candidate<Matmul, kMatmulLt, Way::finish>("cuda.fused_matmul.lt_finish"),
          fused_candidate<Matmul, kMatmulWgmma, Way::inside>("cuda.fused_matmul.wgmma"),
          fused_candidate<MatmulI8, kMatmulI8Lt, Way::inside>("cuda.fused_matmul_i8.lt"),
          fused_candidate<MatmulI8, kMatmulI8Lt, Way::generated>("cuda.fused_matmul_i8.lt_generated"),
          fused_candidate<MatmulI8, kMatmulI8Wgmma, Way::inside>("cuda.fused_matmul_i8.wgmma"),
          fused_candidate<MatmulI8, kMatmulI8Wgmma, Way::generated>("cuda.fused_matmul_i8.wgmma_generated"),
          fused_candidate<MatmulW4, kMatmulW4Lt, Way::inside>("cuda.fused_matmul_w4.lt"),
          fused_candidate<MatmulW4, kMatmulW4Lt, Way::finish>("cuda.fused_matmul_w4.lt_finish"),
          fused_candidate<MatmulW4, kMatmulW4Lt, Way::generated>("cuda.fused_matmul_w4.lt_generated"),
          fused_candidate<MatmulF8, kMatmulF8Lt, Way::inside>("cuda.fused_matmul_f8.lt"),
          fused_candidate<MatmulF8, kMatmulF8Wgmma, Way::inside>("cuda.fused_matmul_f8.wgmma"),
          fused_candidate<MatmulF8, kMatmulF8Lt, Way::finish>("cuda.fused_matmul_f8.lt_finish"),
          fused_candidate<MatmulF8, kMatmulF8Lt, Way::generated>("cuda.fused_matmul_f8.lt_generated"),
          fused_candidate<Matmul, kMatmulSmall, Way::generated>("cuda.fused_matmul.small_generated"),
          fused_candidate<Matmul, kMatmulSimple, Way::finish>("cuda.fused_matmul.simple_finish"),
          fused_candidate<Matmul, kMatmulSimple, Way::generated>("cuda.fused_matmul.simple_generated"),
          fused_candidate<MatmulI8, kMatmulI8Simple, Way::finish>("cuda.fused_matmul_i8.simple_finish"),
          fused_candidate<MatmulI8, kMatmulI8Simple, Way::generated>("cuda.fused_matmul_i8.simple_generated"),
          fused_candidate<MatmulI4, kMatmulI4Simple, Way::finish>("cuda.fused_matmul_i4.simple_finish"),
          fused_candidate<MatmulI4, kMatmulI4Simple, Way::generated>("cuda.fused_matmul_i4.simple_generated"),
          fused_candidate<MatmulW4, kMatmulW4Simple, Way::finish>("cuda.fused_matmul_w4.simple_finish"),
          fused_candidate<MatmulW4, kMatmulW4Simple, Way::generated>("cuda.fused_matmul_w4.simple_generated")};
}

}  // namespace rhetor::gpu
