// The gradient of attention, alone or over columns of wider tensors: who takes which request.
#include <limits>

#include "cuda/attention_mma.h"
#include "cuda/attention_rows.h"

namespace rhetor::gpu {
namespace {

struct Described {
  std::string why_not;
  AttentionGradProblem problem;
};

AttentionGradProblem problem_of(const Node& node, const Type& q, const Type& k) {
  AttentionGradProblem a{describe_attention(node.attrs, q, k)};
  a.dq_token = a.q_token;
  a.dk_token = a.k_token;
  a.dv_token = a.v_token;
  return a;
}

// A fused node: slices of the last dim and reshapes before attention_grad; dq, dk and dv are results, reshaped or not, or joined
// by columns.
Described columns_of(const KernelRequest& request) {
  if (request.node.op->name != "fused" || request.node.attrs.s("anchor") != "attention_grad")
    return {"the anchor is not attention_grad", {}};
  const Graph& body = *request.node.attrs.graph("body");
  std::int32_t anchor = -1;
  for (std::int32_t i = 0; i < body.size(); ++i)
    if (body.node(i).op->name == "attention_grad") anchor = i;
  if (anchor < 0) return {"the body has no attention_grad", {}};
  const Node& node = body.node(anchor);
  Described out{"", problem_of(node, body.type(node.inputs[1]), body.type(node.inputs[2]))};
  AttentionGradProblem& a = out.problem;
  const auto up = [&](ValueId v) {  // through what moves nothing
    while (v.node != anchor && !body.is_input(v.node) && body.node(v).op->traits.alias) v = body.node(v).inputs[0];
    return v;
  };
  const std::int64_t widths[3] = {a.q_token, a.k_token, a.v_token};
  std::int64_t* const token[3] = {&a.q_token, &a.k_token, &a.v_token};
  std::int64_t* const begin[3] = {&a.q_begin, &a.k_begin, &a.v_begin};
  for (std::size_t k = 0; k < 8; ++k) {
    a.source[k] = -1;
    if (k >= node.inputs.size() || !node.inputs[k].valid()) continue;
    ValueId v = up(node.inputs[k]);
    if (k >= 1 && k <= 3 && !body.is_input(v.node) && body.node(v).op->name == "slice" &&
        body.type(v).shape.last() == widths[k - 1]) {
      const Node& slice = body.node(v);
      *begin[k - 1] = slice.attrs.i("begin");
      v = slice.inputs[0];
      *token[k - 1] = body.type(v).shape.last();
    }
    if (!body.is_input(v.node)) return {"an operand is made in another way than by slicing columns", {}};
    a.source[k] = static_cast<std::int8_t>(std::stoi(body.input_name(v.node)));
  }
  std::int64_t* const grad_token[3] = {&a.dq_token, &a.dk_token, &a.dv_token};
  std::int64_t* const grad_begin[3] = {&a.dq_begin, &a.dk_begin, &a.dv_begin};
  for (std::int8_t& result : a.gradient) result = -1;
  for (const GraphOutput& output : body.outputs()) {
    const auto place = static_cast<std::int8_t>(std::stoi(output.name));
    const ValueId made = up(output.value);
    if (made.node == anchor) {
      a.gradient[made.output] = place;
      continue;
    }
    if (body.is_input(made.node) || body.node(made).op->name != "concat")
      return {"a result is made in another way than by joining columns", {}};
    std::int64_t columns = 0;
    for (const ValueId part : body.node(made).inputs) {
      const ValueId from = up(part);
      const std::int64_t width = body.type(part).shape.last();
      if (from.node != anchor || width != widths[from.output] || a.gradient[from.output] >= 0)
        return {"other columns are joined to the gradients", {}};
      a.gradient[from.output] = place;
      *grad_begin[from.output] = columns;
      *grad_token[from.output] = body.type(made).shape.last();
      columns += width;
    }
  }
  for (const std::int8_t result : a.gradient)
    if (result < 0) return {"a gradient is not a result", {}};
  return out;
}

Described described(const KernelRequest& request) {
  if (request.node.op->name == "fused") return columns_of(request);
  return {"", problem_of(request.node, request.in[1], request.in[2])};
}

AttentionGradPointers pointers_of(const KernelArgs& args, const AttentionGradProblem& a) {
  const auto bytes = static_cast<std::int64_t>(byte_size(a.dtype));
  const auto source = [&](int k, std::int64_t begin = 0) -> const void* {
    if (a.source[k] < 0 || !args.in[a.source[k]]) return nullptr;
    return static_cast<const char*>(args.in[a.source[k]]) + begin * bytes;
  };
  const auto gradient = [&](int k, std::int64_t begin) { return static_cast<char*>(args.out[a.gradient[k]]) + begin * bytes; };
  return {.d_o = source(0),
          .q = source(1, a.q_begin),
          .k = source(2, a.k_begin),
          .v = source(3, a.v_begin),
          .o = source(4),
          .lse = source(5),
          .lengths = static_cast<const std::int32_t*>(source(6)),
          .offsets = static_cast<const std::int32_t*>(source(7)),
          .dq = gradient(0, a.dq_begin),
          .dk = gradient(1, a.dk_begin),
          .dv = gradient(2, a.dv_begin)};
}

// The general kernels index rows by 32 bits and launch one warp for a few of them.
std::string refuse_general(const KernelRequest& request) {
  const Described x = described(request);
  if (!x.why_not.empty()) return x.why_not;
  if (x.problem.dtype == DType::f8e4m3 || x.problem.dtype == DType::f8e5m2) return "no arithmetic in f8";
  for (const Type& type : request.in)
    for (int i = 0; i < type.shape.rank(); ++i)
      if (type.shape[i] > std::numeric_limits<std::int32_t>::max()) return "a dim is longer than 2^31";
  return "";
}
Kernel prepare_general(const KernelRequest& request) {
  return {.run =
              [](const void* params, const KernelArgs& args) {
                const auto& a = *static_cast<const AttentionGradProblem*>(params);
                attention_grad_general(a, pointers_of(args, a), args.stream);
              },
          .params = std::make_shared<AttentionGradProblem>(described(request).problem)};
}

std::string refuse_mma(const KernelRequest& request) {
  const Described x = described(request);
  const AttentionGradProblem& a = x.problem;
  if (!x.why_not.empty()) return x.why_not;
  if (std::string why = refuse_matrix_units(request, a); !why.empty()) return why;
  for (const std::int64_t elements : {a.q_token, a.k_token, a.v_token, a.q_begin, a.k_begin, a.v_begin, a.dq_token, a.dk_token,
                                      a.dv_token, a.dq_begin, a.dk_begin, a.dv_begin})
    if (elements % 8 != 0) return "a row does not begin at a multiple of 16 bytes";
  return "";
}
using Launcher = void (*)(const AttentionGradProblem&, const AttentionGradPointers&, void*, void*);
template <Launcher launcher>
Kernel prepare_matrix_units(const KernelRequest& request) {
  auto a = std::make_shared<AttentionGradProblem>(described(request).problem);
  const auto rows = static_cast<std::uint64_t>(a->b) * static_cast<std::uint64_t>(a->s) * static_cast<std::uint64_t>(a->h);
  return {.run =
              [](const void* params, const KernelArgs& args) {
                const auto& problem = *static_cast<const AttentionGradProblem*>(params);
                launcher(problem, pointers_of(args, problem), args.scratch, args.stream);
              },
          .params = a,
          .scratch_bytes = rows * sizeof(float),
          .detail = "dk and dv by keys, dq by queries, P recomputed"};
}

}  // namespace

std::vector<KernelRow> attention_grad_rows() {
  return {{"attention_grad",
           {{"cuda.attention_grad.mma", refuse_mma, prepare_matrix_units<attention_grad_mma>},
            {"cuda.attention_grad", refuse_general, prepare_general}}},
          {"fused",
           {{"cuda.fused_attention_grad.mma", refuse_mma, prepare_matrix_units<attention_grad_mma>},
            {"cuda.fused_attention_grad", refuse_general, prepare_general}}}};
}

}  // namespace rhetor::gpu
