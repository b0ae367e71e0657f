// attention: who takes which request.
#include <cmath>
#include <limits>

#include "cuda/attention_rows.h"

namespace rhetor::gpu {

AttentionProblem describe_attention(const Attrs& attrs, const Type& q, const Type& k) {
  const Shape &qs = q.shape, &ks = k.shape;
  const double scale = attrs.f("scale");
  const auto dim = [](std::int64_t size) { return static_cast<int>(size); };
  return {.b = dim(qs[0]),
          .s = dim(qs[1]),
          .t = dim(ks[1]),
          .h = dim(qs[2]),
          .g = dim(ks[2]),
          .d = dim(qs[3]),
          .causal = attrs.b("causal"),
          .scale = scale == 0 ? 1 / std::sqrt(static_cast<double>(qs[3])) : scale,
          .dtype = q.dtype,
          .q_token = qs[2] * qs[3],
          .k_token = ks[2] * ks[3],
          .v_token = ks[2] * ks[3]};
}

namespace {

// A fused node: attention, with reshapes and slices of the last dim before it.
struct Columns {
  std::string why_not;
  AttentionProblem problem;
};
Columns columns_of(const KernelRequest& request) {
  if (request.node.op->name != "fused" || request.node.attrs.s("anchor") != "attention")
    return {"the anchor is not attention", {}};
  const Graph& body = *request.node.attrs.graph("body");
  std::int32_t anchor = -1;
  for (std::int32_t i = 0; i < body.size(); ++i)
    if (body.node(i).op->name == "attention") anchor = i;
  if (anchor < 0) return {"the body has no attention", {}};
  const Node& node = body.node(anchor);
  Columns out{"", describe_attention(node.attrs, body.type(node.inputs[0]), body.type(node.inputs[1]))};
  AttentionProblem& a = out.problem;
  const auto input_of = [&](ValueId v) {
    return body.is_input(v.node) ? static_cast<std::int8_t>(std::stoi(body.input_name(v.node))) : std::int8_t{-1};
  };
  std::int64_t* const token[3] = {&a.q_token, &a.k_token, &a.v_token};
  std::int64_t* const begin[3] = {&a.q_begin, &a.k_begin, &a.v_begin};
  for (std::size_t k = 0; k < 5; ++k) {
    a.operand[k] = -1;
    if (k >= node.inputs.size() || !node.inputs[k].valid()) continue;
    ValueId v = node.inputs[k];
    while (k < 3 && !body.is_input(v.node) && body.node(v).op->traits.alias) v = body.node(v).inputs[0];
    if (k < 3 && !body.is_input(v.node) && body.node(v).op->name == "slice") {
      const Node& slice = body.node(v);
      *begin[k] = slice.attrs.i("begin");
      v = slice.inputs[0];
      *token[k] = body.type(v).shape.last();
    }
    a.operand[k] = input_of(v);
    if (a.operand[k] < 0) return {"an operand is made in another way than by slicing columns", {}};
  }
  for (std::int32_t k = 0; k < 2; ++k) {
    a.result[k] = -1;
    for (std::size_t o = 0; o < body.outputs().size(); ++o)
      if (body.outputs()[o].value == ValueId{anchor, k})
        a.result[k] = static_cast<std::int8_t>(std::stoi(body.outputs()[o].name));
  }
  if (a.result[0] < 0) return {"nobody reads the result", {}};
  return out;
}

}  // namespace

std::string refuse_fused_attention(const KernelRequest& request) { return columns_of(request).why_not; }

AttentionProblem attention_problem(const KernelRequest& request, std::size_t q) {
  if (request.node.op->name == "fused") return columns_of(request).problem;
  return describe_attention(request.node.attrs, request.in[q], request.in[q + 1]);
}

AttentionPointers attention_pointers(const KernelArgs& args, const AttentionProblem& a) {
  const auto operand = [&](int k, std::int64_t begin) -> const void* {
    if (a.operand[k] < 0 || !args.in[a.operand[k]]) return nullptr;
    return static_cast<const char*>(args.in[a.operand[k]]) + begin * static_cast<std::int64_t>(byte_size(a.dtype));
  };
  const auto result = [&](int k) { return a.result[k] < 0 ? nullptr : args.out[a.result[k]]; };
  return {.q = operand(0, a.q_begin),
          .k = operand(1, a.k_begin),
          .v = operand(2, a.v_begin),
          .lengths = static_cast<const std::int32_t*>(operand(3, 0)),
          .offsets = static_cast<const std::int32_t*>(operand(4, 0)),
          .o = result(0),
          .lse = result(1)};
}

namespace {

std::string refuse_dtype(DType dtype) { return dtype == DType::f8e4m3 || dtype == DType::f8e5m2 ? "no arithmetic in f8" : ""; }

// The general kernels index rows by 32 bits and launch one warp for a few of them.
std::string refuse_general(const Type& q, const Type& k) {
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
  for (const Type* type : {&q, &k})
    for (int i = 0; i < 4; ++i)
      if (type->shape[i] > most) return "a dim is longer than 2^31";
  return refuse_dtype(q.dtype);
}

Kernel prepare_forward(const KernelRequest& request) {
  return {.run =
              [](const void* params, const KernelArgs& args) {
                const auto& a = *static_cast<const AttentionProblem*>(params);
                attention_general(a, attention_pointers(args, a), args.stream);
              },
          .params = std::make_shared<AttentionProblem>(attention_problem(request, 0))};
}

const Candidate kForward = {"cuda.attention", [](const KernelRequest& r) { return refuse_general(r.in[0], r.in[1]); },
                            prepare_forward};
const Candidate kColumns = {"cuda.fused_attention",
                            [](const KernelRequest& r) {
                              if (std::string why = refuse_fused_attention(r); !why.empty()) return why;
                              return refuse_dtype(attention_problem(r, 0).dtype);
                            },
                            prepare_forward};

}  // namespace

std::vector<KernelRow> attention_rows() {
  return join_families(
      {rope_rows, attention_step_rows, attention_mma_rows, attention_grad_rows, [] {
         return std::vector<KernelRow>{{"attention", {kForward}}, {"fused", {kColumns}}};
       }});
}

}  // namespace rhetor::gpu
