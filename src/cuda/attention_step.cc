// A decoding step's attention as one kernel: fused nodes called "attention_step" (passes/fuse_decode.h), with rope, the writes into the
// caches and the attention over them.
#include "cuda/attention_mma.h"
#include "cuda/attention_rows.h"
#include "passes/fuse_decode.h"

namespace rhetor::gpu {
namespace {

// Where rows of heads come from: columns of an operand of the node, perhaps turned.
struct Source {
  int operand = -1;
  std::int64_t begin = 0, token = 0;   // elements: the first column, and from a sequence's token to the next one's
  std::int32_t rope = -1;              // its node
};

struct Step {
  std::string why_not;
  AttentionProblem problem;
  AttentionSplit split;
  Source q, k, v;
  int k_cache = -1, v_cache = -1, offsets = -1, positions = -1;   // operands
  int o = -1, k_result = -1, v_result = -1;
  double theta = 0;
  std::uint64_t cache_bytes = 0;
  std::shared_ptr<void> frequency;
};

Step refused(std::string why) {
  Step step;
  step.why_not = std::move(why);
  return step;
}

int operand(const Graph& body, ValueId v) { return v.valid() && body.is_input(v.node) ? std::stoi(body.input_name(v.node)) : -1; }
int result_of(const Graph& body, ValueId v) {
  for (const GraphOutput& output : body.outputs())
    if (output.value == v) return std::stoi(output.name);
  return -1;
}

Source source_of(const Graph& body, ValueId v) {
  const std::int64_t width = body.type(v).shape[2] * body.type(v).shape[3];
  Source s{.token = width};
  while (!body.is_input(v.node)) {
    const Node& node = body.node(v);
    if (node.op->name == "rope" && s.rope < 0) {
      s.rope = v.node;
    } else if (node.op->name == "slice" && node.outputs[0].shape.last() == width && s.token == width) {
      s.begin = node.attrs.i("begin");
      s.token = body.type(node.inputs[0]).shape.last();
      if (s.begin < 0) return {};
    } else if (!node.op->traits.alias) {
      return {};
    }
    v = node.inputs[0];
  }
  s.operand = operand(body, v);
  return s;
}

Step step_of(const KernelRequest& r) {
  if (r.node.attrs.s("anchor") != kStepAnchor) return refused("the group is no attention over a cache that it writes");
  if (r.device->compute < 80) return refused("needs compute capability 8.0");
  if (r.device->shared_bytes < 98304) return refused("needs 96 KiB of shared memory a block");
  const Graph& body = *r.node.attrs.graph("body");
  std::int32_t anchor = -1;
  for (std::int32_t i = 0; i < body.size(); ++i)
    if (body.node(i).op->name == "attention") anchor = i;
  if (anchor < 0) return refused("the body has no attention");
  const Node& node = body.node(anchor);
  const ValueId keys = node.inputs[1], values = node.inputs[2];
  if (node.inputs.size() < 5 || node.inputs[3].valid() || !node.inputs[4].valid()) return refused("wants offsets and no lengths");
  if (body.node(keys).op->name != "cache_write" || body.node(values).op->name != "cache_write") return refused("keys and values are not written here");
  Step step;
  AttentionProblem& a = step.problem;
  a = describe_attention(node.attrs, body.type(node.inputs[0]), body.type(keys));
  if (a.dtype != DType::f16 && a.dtype != DType::bf16) return refused("works in f16 and bf16");
  if (a.s != 1) return refused("a sequence has more than one token");
  if (a.d % 16 != 0 || a.d > 128 || a.d == 0) return refused("the head size is not a multiple of 16 up to 128");
  if (a.h / a.g > 16) return refused("more than 16 query heads share a key head");
  if (!(a.scale > 0)) return refused("the scale is not positive");
  if (!node.attrs.b("causal")) return refused("the attention is not causal");
  const Node &k_write = body.node(keys), &v_write = body.node(values);
  step.q = source_of(body, node.inputs[0]);
  step.k = source_of(body, k_write.inputs[1]);
  step.v = source_of(body, v_write.inputs[1]);
  step.k_cache = operand(body, k_write.inputs[0]);
  step.v_cache = operand(body, v_write.inputs[0]);
  step.offsets = operand(body, node.inputs[4]);
  step.cache_bytes = body.type(keys).bytes();
  for (const Source* s : {&step.q, &step.k, &step.v}) {
    if (s->operand < 0) return refused("query, key or value is made in another way than by slicing columns and turning them");
    if (s->begin % 8 != 0 || s->token % 8 != 0) return refused("a row does not begin at a multiple of 16 bytes");
  }
  if (step.k_cache < 0 || step.v_cache < 0 || step.offsets < 0) return refused("a cache or the offsets are made here");
  if (k_write.inputs[2] != node.inputs[4] || v_write.inputs[2] != node.inputs[4] || body.type(node.inputs[4]).dtype != DType::i32)
    return refused("the places in the caches are not the offsets in i32");
  if ((step.q.rope < 0) != (step.k.rope < 0) || step.v.rope >= 0) return refused("query and key are not both turned");
  if (step.q.rope >= 0) {
    const Node &q_rope = body.node(step.q.rope), &k_rope = body.node(step.k.rope);
    step.positions = operand(body, q_rope.inputs[1]);
    step.theta = q_rope.attrs.f("theta");
    if (k_rope.inputs[1] != q_rope.inputs[1] || k_rope.attrs.f("theta") != step.theta || q_rope.attrs.b("inverse") || k_rope.attrs.b("inverse"))
      return refused("query and key are not turned alike");
    if (step.positions < 0 || body.type(q_rope.inputs[1]).dtype != DType::i32) return refused("the positions are not an operand in i32");
  }
  a.q_token = step.q.token;
  step.o = result_of(body, {anchor, 0});
  step.k_result = result_of(body, keys);
  step.v_result = result_of(body, values);
  if (step.o < 0 || step.k_result < 0 || step.v_result < 0 || result_of(body, {anchor, 1}) >= 0)
    return refused("the results are not attention's and the caches");
  const bool clusters = r.device->compute >= 90;
  step.split = attention_split_of(a, r.device->processors, clusters ? 8 : 32);
  step.split.cluster = clusters && step.split.splits > 1;
  step.split.early = clusters;
  return step;
}

void run(const void* params, const KernelArgs& args) {
  const auto& s = *static_cast<const Step*>(params);
  const auto columns = [&](const Source& from) -> const void* {
    return static_cast<const char*>(args.in[from.operand]) + from.begin * static_cast<std::int64_t>(byte_size(s.problem.dtype));
  };
  // Caches that are not written in place become copies first.
  const auto cache = [&](int operand, int result) {
    if (args.out[result] != args.in[operand])
      require(cudaMemcpyAsync(args.out[result], args.in[operand], s.cache_bytes, cudaMemcpyDeviceToDevice, stream(args.stream)), "cudaMemcpyAsync");
    return args.out[result];
  };
  void *k = cache(s.k_cache, s.k_result), *v = cache(s.v_cache, s.v_result);
  const AttentionStep step{.k = columns(s.k),
                           .v = columns(s.v),
                           .k_cache = k,
                           .v_cache = v,
                           .positions = s.positions < 0 ? nullptr : static_cast<const std::int32_t*>(args.in[s.positions]),
                           .frequency = static_cast<const double*>(s.frequency.get()),
                           .k_token = s.k.token,
                           .v_token = s.v.token};
  attention_step(s.problem, {.q = columns(s.q), .k = k, .v = v, .offsets = static_cast<const std::int32_t*>(args.in[s.offsets]), .o = args.out[s.o]},
                 step, s.split, args.scratch, args.stream);
}

Kernel prepare(const KernelRequest& request) {
  auto step = std::make_shared<Step>(step_of(request));
  if (step->q.rope >= 0) step->frequency = rope_frequency(*request.device, step->theta, step->problem.d);
  const std::uint64_t scratch = attention_split_scratch(step->problem, step->split);
  std::string detail = fmt::format("{}cache, keys in {} parts", step->q.rope >= 0 ? "rope, " : "", step->split.splits);
  return {.run = run, .params = std::move(step), .scratch_bytes = scratch, .detail = std::move(detail)};
}

}  // namespace

std::vector<KernelRow> attention_step_rows() {
  return {{"fused", {{"cuda.attention_step", [](const KernelRequest& r) { return step_of(r).why_not; }, prepare}}}};
}

}  // namespace rhetor::gpu
