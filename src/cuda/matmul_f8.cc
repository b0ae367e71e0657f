// Products of FP8 tensors with one scale each: the nodes dequantize_f8 x dequantize_f8 -> matmul (ops/float8.cc,
// passes/float8.cc) as one product of the FP8 numbers. Dequantising is exact there, so the result is the same but for the order
// of the sums.
//
// Hopper multiplies FP8 only as a[m, k] b[n, k]; an operand that lies otherwise is turned first, a pass over its bytes.
#include "base/error.h"
#include "cuda/cublas.h"
#include "cuda/matmul.h"
#include "cuda/matmul_contraction.h"
#include "ops/ops.h"

namespace rhetor::gpu {
namespace {

// An operand of the matmul traced to its dequantize_f8: only moves that keep the order of its elements, or turn a matrix whose
// rows stay what they are.
struct Source {
  std::string why_not;
  int q = -1, scale = -1;  // operands of the fused node
  bool turned = false;
};
Source trace(const Graph& body, ValueId v) {
  Source source;
  bool rows_change = false;
  const auto operand = [&](ValueId input) { return body.is_input(input.node) ? std::stoi(body.input_name(input.node)) : -1; };
  while (v.valid()) {
    const Node& node = body.node(v);
    if (node.op->name == "dequantize_f8") {
      source.q = operand(node.inputs[0]);
      source.scale = operand(node.inputs[1]);
      if (source.q < 0 || source.scale < 0) source.why_not = "an FP8 tensor is computed inside the body";
      return source;
    }
    if (body.is_input(v.node)) break;
    const Shape &to = body.type(v).shape, &from = body.type(node.inputs[0]).shape;
    const bool regroups = node.op->name == "reshape";
    const bool turns = node.op->name == "transpose" && from.rank() == 2 && node.attrs.ints("perm")[0] == 1 && !rows_change;
    if (!regroups && !turns) break;
    if (regroups) rows_change = rows_change || from.rank() == 0 || to.rank() == 0 || from.last() != to.last();
    source.turned ^= turns;
    v = node.inputs[0];
  }
  source.why_not = "an operand of the matmul is no dequantize_f8";
  return source;
}

}  // namespace

Taken take_f8(const KernelRequest& r) {
  Taken taken;
  const auto no = [&](std::string why) {
    taken.why_not = std::move(why);
    return taken;
  };
  if (r.node.attrs.s("anchor") != "matmul") return no(fmt::format("the anchor is '{}', not matmul", r.node.attrs.s("anchor")));
  const Graph& body = *r.node.attrs.graph("body");
  taken.body = &body;
  std::int32_t product = -1;
  for (std::int32_t i = 0; i < body.size(); ++i) {
    if (body.node(i).op->name != "matmul") continue;
    if (product >= 0) return no("the body has two contractions");
    product = i;
  }
  if (product < 0) return no("the body has no matmul");
  taken.anchor = &body.node(product);
  const Source a = trace(body, taken.anchor->inputs[0]), b = trace(body, taken.anchor->inputs[1]);
  for (const Source* source : {&a, &b})
    if (!source->why_not.empty()) return no(source->why_not);
  const bool transpose_a = taken.anchor->attrs.b("transpose_a") != a.turned,
             transpose_b = taken.anchor->attrs.b("transpose_b") != b.turned;
  const Shape &a_shape = body.type(taken.anchor->inputs[0]).shape, &b_shape = body.type(taken.anchor->inputs[1]).shape;
  if (b_shape.rank() != 2 || (a_shape.rank() != 2 && taken.anchor->attrs.b("transpose_a")))
    return no("the product is not one of two matrices");
  taken.anchor_operands = {a.q, a.scale, b.q, b.scale};
  taken.maker_attrs = {{"transpose_a", transpose_a}, {"transpose_b", transpose_b}};

  std::vector<bool> reached(static_cast<std::size_t>(body.size()), false);
  for (const GraphOutput& output : body.outputs()) {
    if (body.type(output.value).shape != taken.anchor->outputs[0].shape)
      return no("a result has another shape than the contraction");
    reached[static_cast<std::size_t>(output.value.node)] = true;
  }
  for (std::int32_t i = body.size() - 1; i >= 0; --i) {
    if (!reached[static_cast<std::size_t>(i)] || i == product) continue;
    for (const ValueId v : body.node(i).inputs)
      if (v.valid()) reached[static_cast<std::size_t>(v.node)] = true;
  }
  for (std::int32_t i = 0; i < body.size(); ++i)
    if (body.is_input(i) && reached[static_cast<std::size_t>(i)])
      taken.epilogue_operands.push_back(std::stoi(body.input_name(i)));
  return taken;
}

namespace {

// in: {a, scale, b, scale}, whose shapes only say how many elements they have.
LtProblem f8_problem(const ContractionRequest& r) {
  const std::int64_t n = r.out.shape.last(), m = n ? r.out.elements() / n : 0;
  return {.m = m,
          .n = n,
          .k = m ? r.in[0].elements() / m : 0,
          .transpose_b = true,
          .shared_b = true,
          .a = r.in[0].dtype,
          .b = r.in[2].dtype,
          .out = r.out.dtype,
          .activation = r.epilogue.activation,
          .bias = r.epilogue.bias,
          .bias_dtype = r.epilogue.bias_dtype,
          .residual = r.epilogue.residual,
          .scaled = true};
}

class LtF8 final : public Contraction {
 public:
  explicit LtF8(const ContractionRequest& r)
      : p_(f8_problem(r)), plan_(lt_plan(r.device, p_)), turn_a_(r.attrs.b("transpose_a")), turn_b_(!r.attrs.b("transpose_b")) {
    b_ = turn_a_ ? aligned(static_cast<std::uint64_t>(p_.m * p_.k)) : 0;
    workspace_ = b_ + (turn_b_ ? aligned(static_cast<std::uint64_t>(p_.n * p_.k)) : 0);
    scratch_bytes = workspace_ + plan_->workspace_bytes();
    detail = fmt::format("{} x {}{}{}, {}", name(p_.a), name(p_.b), turn_a_ ? ", a turned" : "", turn_b_ ? ", b turned" : "",
                         plan_->text());
  }
  void enqueue(const ContractionCall& call) const override {
    const void *a = call.in[0], *b = call.in[2];
    if (turn_a_) {
      transpose_bytes(p_.k, p_.m, a, call.scratch, call.stream);
      a = call.scratch;
    }
    if (turn_b_) {
      transpose_bytes(p_.k, p_.n, b, at(call.scratch, b_), call.stream);
      b = at(call.scratch, b_);
    }
    plan_->run({.a = a,
                .b = b,
                .bias = call.bias,
                .residual = call.residual,
                .a_scale = call.in[1],
                .b_scale = call.in[3],
                .out = call.out},
               at(call.scratch, workspace_), call.stream);
  }

 private:
  LtProblem p_;
  std::shared_ptr<const LtPlan> plan_;
  bool turn_a_, turn_b_;
  std::uint64_t b_ = 0, workspace_ = 0;  // where in the scratch
};

std::string refuse_f8(const ContractionRequest& r) {
  if (r.device.compute < 89) return "needs the FP8 units of sm_89";
  const LtProblem p = f8_problem(r);
  if (p.n % 16 != 0 || p.k % 16 != 0 || (p.m % 16 != 0 && r.attrs.b("transpose_a")))
    return fmt::format("[{}, {}, {}] is not made of blocks of 16", p.m, p.n, p.k);
  if (r.epilogue.residual && r.epilogue.residual_dtype != r.out.dtype) return "the residual has another dtype than the result";
  return lt_plan(r.device, p)->why_not();
}

}  // namespace

const ContractionMaker kMatmulF8Lt{
    refuse_f8, [](const ContractionRequest& r) -> std::unique_ptr<Contraction> { return std::make_unique<LtF8>(r); }};

}  // namespace rhetor::gpu
