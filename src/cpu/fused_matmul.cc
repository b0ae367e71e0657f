// A contraction with its pointwise epilogue (bias, activation, residual, scale, cast): the product leaves an f32 accumulator, and
// each thread runs the epilogue's program over the part it has just made, while that part is in its cache. The result is rounded
// once.
#include <string>

#include "base/error.h"
#include "cpu/families.h"
#include "cpu/fused_parts.h"
#include "cpu/product.h"
#include "cpu/program.h"

namespace rhetor {

FusedParts take_apart(const KernelRequest& r, std::string_view anchor_name) {
  FusedParts parts;
  const std::string& anchor_attr = r.node.attrs.s("anchor");
  if (anchor_attr != anchor_name) {
    parts.why_not = fmt::format("the anchor is '{}', not {}", anchor_attr, anchor_name);
    return parts;
  }
  const Graph& body = *r.node.attrs.graph("body");
  parts.body = &body;
  ValueId product{};
  std::vector<int> operand_of(static_cast<std::size_t>(body.size()), -1);
  for (std::int32_t i = 0; i < body.size(); ++i) {
    if (body.is_input(i)) {
      operand_of[static_cast<std::size_t>(i)] = std::stoi(body.input_name(i));
    } else if (body.node(i).op->name == anchor_name) {
      if (parts.anchor) {
        parts.why_not = "the body has two contractions";
        return parts;
      }
      parts.anchor = &body.node(i);
      product = {i, 0};
    }
  }
  if (!parts.anchor) {
    parts.why_not = fmt::format("the body has no {}", anchor_name);
    return parts;
  }
  for (const ValueId v : parts.anchor->inputs) {
    const int operand = v.valid() ? operand_of[static_cast<std::size_t>(v.node)] : -1;
    if (operand < 0) parts.why_not = "an operand of the contraction is computed inside the body";
    parts.anchor_operands.push_back(operand);
  }
  const Type& made = body.type(product);
  std::vector<ValueId> outputs;
  for (std::size_t k = 0; k < body.outputs().size(); ++k) {
    outputs.push_back(body.find_output(std::to_string(k)));
    if (body.type(outputs.back()).shape != made.shape) parts.why_not = "a result has another shape than the contraction";
  }
  if (!parts.why_not.empty()) return parts;

  // What the epilogue reads: values reached from the results without passing through the contraction.
  std::vector<bool> reached(static_cast<std::size_t>(body.size()), false);
  for (const ValueId v : outputs) reached[static_cast<std::size_t>(v.node)] = true;
  for (std::int32_t i = body.size() - 1; i >= 0; --i) {
    if (!reached[static_cast<std::size_t>(i)] || i == product.node) continue;
    for (const ValueId v : body.node(i).inputs)
      if (v.valid()) reached[static_cast<std::size_t>(v.node)] = true;
  }
  std::vector<ValueId> inputs{product};
  std::vector<DType> storage{DType::f32};
  for (std::int32_t i = 0; i < body.size(); ++i) {
    if (!body.is_input(i) || !reached[static_cast<std::size_t>(i)]) continue;
    inputs.push_back({i, 0});
    storage.push_back(body.node(i).outputs[0].dtype);
    parts.epilogue_operands.push_back(operand_of[static_cast<std::size_t>(i)]);
  }
  if (made.dtype == DType::f64) {
    parts.why_not = "sums are kept in f32, the contraction is f64";
    return parts;
  }
  parts.program = compile_program(body, inputs, outputs, &parts.why_not, storage);
  if (!parts.program && parts.why_not.empty()) parts.why_not = "the epilogue is not pointwise";
  return parts;
}

ProductRequest inner_request(const KernelRequest& r, const FusedParts& parts) {
  ProductRequest inner{.in = {},
                       .constants = {},
                       .out = parts.anchor->outputs[0],
                       .attrs = parts.anchor->attrs,
                       .threads = r.threads,
                       .blocked = true};
  for (const int k : parts.anchor_operands) {
    inner.in.push_back(r.in[static_cast<std::size_t>(k)]);
    inner.constants.push_back(r.constants[static_cast<std::size_t>(k)]);
  }
  inner.out.dtype = DType::f32;
  inner.takes_sums = program_takes_blocks(*parts.program);
  return inner;
}

namespace {

std::uint64_t aligned(std::uint64_t bytes) { return (bytes + 63) / 64 * 64; }

constexpr std::size_t kMaxOperands = 24, kMaxResults = 4;

struct FusedParams {
  std::unique_ptr<Product> product;
  ProgramPtr program;
  std::vector<int> anchor_operands, epilogue_operands;
  std::size_t results = 1;
  bool in_result = false;  // the accumulator is result 0's buffer (if the product leaves one)
  std::uint64_t accumulator_bytes = 0, tile_bytes = 0;
  std::int64_t cols = 0;
};

void run_fused(const void* opaque, const KernelArgs& args) {
  const auto& p = *static_cast<const FusedParams*>(opaque);
  auto* space = static_cast<std::byte*>(args.scratch);
  void* accumulator = args.out[0];
  if (!p.in_result) {
    accumulator = space;
    space += p.accumulator_bytes;
  }
  struct Context {
    const FusedParams* p;
    const void* in[kMaxOperands];
    void* out[kMaxResults];
    std::byte* tiles;
  } context{&p, {}, {}, space};
  space += p.tile_bytes * static_cast<std::uint64_t>(p.product->slices);
  const void* operands[kMaxOperands];
  for (std::size_t i = 0; i < p.anchor_operands.size(); ++i) operands[i] = args.in[p.anchor_operands[i]];
  context.in[0] = accumulator;
  for (std::size_t i = 0; i < p.epilogue_operands.size(); ++i) context.in[i + 1] = args.in[p.epilogue_operands[i]];
  for (std::size_t i = 0; i < p.results; ++i) context.out[i] = args.out[i];

  const auto finish = [](const void* c, int slice, const Region& region) {
    const auto& x = *static_cast<const Context*>(c);
    void* tile = x.tiles + x.p->tile_bytes * static_cast<std::uint64_t>(slice);
    if (region.sums) {
      run_program_block(*x.p->program, x.in, x.out, {region.row_begin, region.row_end - region.row_begin, region.col_begin,
                                                     region.col_end - region.col_begin, region.sums}, tile);
      return;
    }
    const std::int64_t cols = x.p->cols;
    if (region.col_begin == 0 && region.col_end == cols) {
      run_program(*x.p->program, x.in, x.out, region.row_begin, region.row_end, tile);
      return;
    }
    for (std::int64_t row = region.row_begin; row < region.row_end; ++row)
      run_program_elements(*x.p->program, x.in, x.out, row * cols + region.col_begin, row * cols + region.col_end, tile);
  };
  p.product->run(operands, accumulator, space, args.pool, finish, &context);
}

// Anchors and the ways to compute them.
struct MatmulAnchor {
  static constexpr std::string_view name = "matmul";
  static const std::vector<ProductMaker>& makers() { return matmul_makers(); }
};
struct MatmulI8Anchor {
  static constexpr std::string_view name = "matmul_i8";
  static const std::vector<ProductMaker>& makers() { return matmul_i8_makers(); }
};
struct MatmulI4Anchor {
  static constexpr std::string_view name = "matmul_i4";
  static const std::vector<ProductMaker>& makers() { return matmul_i4_makers(); }
};

struct MatmulW4Anchor {
  static constexpr std::string_view name = "matmul_w4";
  static const std::vector<ProductMaker>& makers() { return matmul_w4_makers(); }
};

template <class Anchor, std::size_t maker>
std::string refuse(const KernelRequest& r) {
  const FusedParts parts = take_apart(r, Anchor::name);
  if (!parts.why_not.empty()) return parts.why_not;
  if (parts.epilogue_operands.size() + 1 > kMaxOperands || r.out.size() > kMaxResults) return "the group has too many operands";
  return Anchor::makers()[maker].refuse(inner_request(r, parts));
}

template <class Anchor, std::size_t maker>
Kernel prepare(const KernelRequest& r) {
  FusedParts parts = take_apart(r, Anchor::name);
  auto params = std::make_shared<FusedParams>();
  const ProductRequest inner = inner_request(r, parts);
  params->product = Anchor::makers()[maker].make(inner);
  params->in_result = r.out[0].dtype == DType::f32;
  params->accumulator_bytes = params->in_result || params->product->leaves_sums ? 0 : aligned(static_cast<std::uint64_t>(inner.out.elements()) * 4);
  params->tile_bytes = aligned(program_scratch_bytes(*parts.program));
  params->cols = inner.out.shape.last();
  params->results = r.out.size();
  params->program = parts.program;
  params->anchor_operands = parts.anchor_operands;
  params->epilogue_operands = parts.epilogue_operands;

  Kernel kernel;
  kernel.run = run_fused;
  kernel.scratch_bytes = params->accumulator_bytes + params->tile_bytes * static_cast<std::uint64_t>(params->product->slices) +
                         params->product->scratch_bytes;
  kernel.packed_bytes = params->product->packed_bytes;
  kernel.absorbed.assign(r.in.size(), false);
  for (std::size_t i = 0; i < parts.anchor_operands.size(); ++i)
    if (params->product->absorbed[i]) kernel.absorbed[static_cast<std::size_t>(parts.anchor_operands[i])] = true;
  for (const int k : parts.epilogue_operands) kernel.absorbed[static_cast<std::size_t>(k)] = false;
  // An operand may also be read twice by the contraction.
  for (std::size_t i = 0; i < parts.anchor_operands.size(); ++i)
    if (!params->product->absorbed[i]) kernel.absorbed[static_cast<std::size_t>(parts.anchor_operands[i])] = false;
  kernel.detail = fmt::format("{}; then {}", params->product->detail, program_text(*parts.program));
  kernel.params = std::move(params);
  return kernel;
}

template <class Anchor, std::size_t maker>
Candidate fused_candidate(std::string_view name) {
  return {.name = name, .refuse = refuse<Anchor, maker>, .prepare = prepare<Anchor, maker>};
}

}  // namespace

std::vector<KernelRow> fused_matmul_rows() {
  return {
      {"fused",
       {fused_candidate<MatmulAnchor, 0>("cpu.fused_matmul.panels"), fused_candidate<MatmulAnchor, 4>("cpu.fused_matmul.fresh"),
        fused_candidate<MatmulAnchor, 1>("cpu.fused_matmul.tiles"),
        {.name = "cpu.fused_matmul.post_ops", .refuse = refuse_post_ops, .prepare = prepare_post_ops},
        fused_candidate<MatmulAnchor, 2>("cpu.fused_matmul.onednn"), fused_candidate<MatmulAnchor, 3>("cpu.fused_matmul.widened"),
        fused_candidate<MatmulI8Anchor, 0>("cpu.fused_matmul_i8.few_rows"),
        fused_candidate<MatmulI8Anchor, 1>("cpu.fused_matmul_i8.tiles"),
        fused_candidate<MatmulI8Anchor, 2>("cpu.fused_matmul_i8.onednn"),
        fused_candidate<MatmulI8Anchor, 3>("cpu.fused_matmul_i8.panels"),
        fused_candidate<MatmulI4Anchor, 0>("cpu.fused_matmul_i4.vnni"), fused_candidate<MatmulI4Anchor, 1>("cpu.fused_matmul_i4.avx2"),
        fused_candidate<MatmulW4Anchor, 0>("cpu.fused_matmul_w4.tiles"), fused_candidate<MatmulW4Anchor, 1>("cpu.fused_matmul_w4.widening")}}};
}

}  // namespace rhetor
