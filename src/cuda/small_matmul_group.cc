// Several products of the same few rows, their norm and their gate as one kernel: fused nodes called "products" (passes/fuse_decode.h).
#include <map>

#include "base/error.h"
#include "cuda/families.h"
#include "cuda/small_matmul_stream.h"
#include "passes/fuse_decode.h"

namespace rhetor::gpu {
namespace {

struct ProductGroup {
  std::string why_not;
  StreamProduct p;
  int x = -1, gamma = -1, w[kStreamParts] = {-1, -1, -1}, out[kStreamParts] = {-1, -1, -1};   // operands and results of the node
};

ProductGroup refused(std::string why) {
  ProductGroup group;
  group.why_not = std::move(why);
  return group;
}

bool activation_of(std::string_view op, Activation& activation) {
  static const std::map<std::string_view, Activation> known = {
      {"silu", Activation::silu}, {"relu", Activation::relu}, {"gelu", Activation::gelu}, {"gelu_tanh", Activation::gelu_tanh}};
  const auto found = known.find(op);
  if (found == known.end()) return false;
  activation = found->second;
  return true;
}

ProductGroup group_of(const KernelRequest& r) {
  if (r.node.attrs.s("anchor") != kProductsAnchor) return refused("the group is not made of products of the same rows");
  if (r.device->compute < 80) return refused("needs the matrix units of sm_80");
  const Graph& body = *r.node.attrs.graph("body");
  const auto operand = [&](ValueId v) { return body.is_input(v.node) ? std::stoi(body.input_name(v.node)) : -1; };
  ProductGroup group;
  StreamProduct& p = group.p;
  std::vector<std::int32_t> products;
  std::int32_t norm = -1, activation = -1, gated = -1;
  for (std::int32_t i = 0; i < body.size(); ++i) {
    if (body.is_input(i)) continue;
    const std::string_view op = body.node(i).op->name;
    if (op == "matmul") products.push_back(i);
    else if (op == "rms_norm" && norm < 0) norm = i;
    else if (op == "mul" && gated < 0) gated = i;
    else if (activation < 0 && activation_of(op, p.gate)) activation = i;
    else return refused(fmt::format("the group has a {}", op));
  }
  if (products.empty() || products.size() > kStreamParts) return refused("the group has not from 1 to 3 products");
  const ValueId x = body.node(products[0]).inputs[0];
  group.x = operand(norm < 0 ? x : body.node(norm).inputs[0]);
  if (group.x < 0 || (norm >= 0 && x != ValueId{norm, 0})) return refused("the rows are not an operand or its norm");
  if (norm >= 0) {
    group.gamma = operand(body.node(norm).inputs[1]);
    if (group.gamma < 0) return refused("the norm's weight is no operand");
    p.eps = static_cast<float>(body.node(norm).attrs.f("eps"));
    p.gamma_dtype = body.type(body.node(norm).inputs[1]).dtype;
    if (p.gamma_dtype != DType::f32 && p.gamma_dtype != DType::bf16 && p.gamma_dtype != DType::f16)
      return refused(fmt::format("the norm's weight is {}", name(p.gamma_dtype)));
  }
  const Type& rows = body.type(x);
  p.k = rows.shape.last();
  p.m = p.k ? rows.elements() / p.k : 0;
  p.in = rows.dtype;
  p.parts = static_cast<int>(products.size());
  p.early = group.gamma < 0 || r.constants[static_cast<std::size_t>(group.gamma)];
  p.processors = r.device->processors;
  p.overlaps = r.device->compute >= 90;
  for (std::size_t i = 0; i < products.size(); ++i) {
    const Node& product = body.node(products[i]);
    group.w[i] = operand(product.inputs[1]);
    if (product.inputs[0] != x || group.w[i] < 0 || product.attrs.b("transpose_a") || !product.attrs.b("transpose_b"))
      return refused("a product is not of the same rows with an operand [n, k]");
    const Type& w = body.type(product.inputs[1]);
    if (w.dtype != p.in || w.shape.rank() != 2) return refused("a weight is not a matrix of the rows' dtype");
    p.n[i] = w.shape[0];
    p.early = p.early && r.constants[static_cast<std::size_t>(group.w[i])];
  }
  if (gated >= 0) {
    if (activation < 0 || products.size() != 2 || body.outputs().size() != 1 || body.outputs()[0].value != ValueId{gated, 0})
      return refused("the group is not activation(gate) * up");
    const Node& mul = body.node(gated);
    const ValueId gate = body.node(activation).inputs[0], act{activation, 0};
    const ValueId up = mul.inputs[0] == act ? mul.inputs[1] : mul.inputs[0];
    if ((mul.inputs[0] != act && mul.inputs[1] != act) || gate == up || p.n[0] != p.n[1]) return refused("the group is not activation(gate) * up");
    if (gate == ValueId{products[1], 0} && up == ValueId{products[0], 0}) std::swap(group.w[0], group.w[1]);
    else if (gate != ValueId{products[0], 0} || up != ValueId{products[1], 0}) return refused("the gate is not of the two products");
    p.gated = true;
    group.out[0] = 0;
  } else {
    if (activation >= 0 || body.outputs().size() != products.size()) return refused("something follows the products");
    for (std::size_t i = 0; i < products.size(); ++i)
      for (const GraphOutput& output : body.outputs())
        if (output.value == ValueId{products[i], 0}) group.out[i] = std::stoi(output.name);
    for (int i = 0; i < p.parts; ++i)
      if (group.out[i] < 0) return refused("a product is no result");
  }
  p.out_dtype = r.out[0].dtype;
  for (const Type& type : r.out)
    if (type.dtype != p.out_dtype) return refused("the results are not of one dtype");
  group.why_not = refuse_stream(p);
  return group;
}

void run(const void* params, const KernelArgs& args) {
  const auto& group = *static_cast<const ProductGroup*>(params);
  StreamProduct p = group.p;
  p.x = args.in[group.x];
  p.gamma = group.gamma < 0 ? nullptr : args.in[group.gamma];
  for (int i = 0; i < p.parts; ++i) {
    p.w[i] = args.in[group.w[i]];
    p.out[i] = group.out[i] < 0 ? nullptr : args.out[group.out[i]];
  }
  stream_matmul(p, args.stream);
}

Kernel prepare(const KernelRequest& request) {
  auto group = std::make_shared<ProductGroup>(group_of(request));
  const StreamProduct& p = group->p;
  std::string detail = fmt::format("{} products{}{} in one kernel", p.parts, group->gamma < 0 ? "" : " with their norm", p.gated ? " and their gate" : "");
  return {.run = run, .params = std::move(group), .detail = std::move(detail)};
}

}  // namespace

Candidate products_candidate() {
  return {"cuda.products.stream", [](const KernelRequest& r) { return group_of(r).why_not; }, prepare};
}

}  // namespace rhetor::gpu
