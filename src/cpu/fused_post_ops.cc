// A contraction whose whole epilogue oneDNN can do itself: sums [+ bias] [activation] [+ residual], as its bias, eltwise and
// binary post-ops. Rows are shared among the threads, since oneDNN's best code writes whole rows only.
#include <algorithm>

#include "base/error.h"
#include "cpu/fused_parts.h"
#include "cpu/kernel_util.h"
#include "cpu/onednn.h"
#include "cpu/pack_cache.h"
#include "cpu/program_internal.h"

namespace rhetor {
namespace {

using dnnl::memory;

constexpr std::int64_t kRowGrain = 16;
constexpr std::int64_t kBlockBytes = 1536 << 10;  // of a result: packed weights are read again for the next block of rows

std::optional<dnnl::algorithm> algorithm_of(Code code) {
  switch (code) {
    case Code::relu:
      return dnnl::algorithm::eltwise_relu;
    case Code::gelu:
      return dnnl::algorithm::eltwise_gelu_erf;
    case Code::gelu_tanh:
      return dnnl::algorithm::eltwise_gelu_tanh;
    case Code::silu:
      return dnnl::algorithm::eltwise_swish;
    case Code::tanh:
      return dnnl::algorithm::eltwise_tanh;
    default:
      return std::nullopt;
  }
}

struct Descs {
  memory::desc a, b, bias, c, residual;
};
Descs describe(const MatmulProblem& p, const Chain& chain, std::int64_t rows) {
  const auto matrix = [](std::int64_t m, std::int64_t n, DType type, bool turned) {
    return onednn::strided({m, n}, *onednn::data_type(type), turned ? memory::dims{1, m} : memory::dims{n, 1});
  };
  return {matrix(rows, p.k, p.a, false), matrix(p.k, p.n, p.b, p.transpose_b), matrix(1, p.n, chain.bias_dtype, false),
          matrix(rows, p.n, chain.out, false), matrix(rows, p.n, chain.residual_dtype, false)};
}

dnnl::matmul::primitive_desc make_pd(const Chain& chain, const Descs& d, const memory::desc& b) {
  onednn::stream();  // this thread's primitives are built for one thread
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  dnnl::post_ops after;
  if (const auto algorithm = algorithm_of(chain.activation))
    after.append_eltwise(1.0f, *algorithm, chain.activation == Code::silu ? 1.0f : 0.0f, 0.0f);
  if (chain.residual >= 0) after.append_binary(dnnl::algorithm::binary_add, d.residual);
  attr.set_post_ops(after);
  const auto desc = chain.bias >= 0 ? dnnl::matmul::desc(d.a, b, d.bias, d.c) : dnnl::matmul::desc(d.a, b, d.c);
  return dnnl::matmul::primitive_desc(desc, attr, onednn::engine(), true);
}

struct Block {
  std::shared_ptr<const onednn::Call> call;
  std::int64_t row;
};
struct PostOpsParams {
  std::vector<std::vector<Block>> slices;
  MatmulProblem problem;
  Chain chain;
  int a = 0, bias = -1, residual = -1;  // operands of the fused node
  std::uint64_t scratch_bytes = 0;      // a slice's
};

void run_post_ops(const void* opaque, const KernelArgs& args) {
  const auto& p = *static_cast<const PostOpsParams*>(opaque);
  run_tasks(args.pool, static_cast<std::int64_t>(p.slices.size()), [&](int i) {
    const auto at = [&](int operand, DType type, std::int64_t elements) -> void* {
      return static_cast<std::byte*>(const_cast<void*>(args.in[operand])) + elements * static_cast<std::int64_t>(byte_size(type));
    };
    for (const Block& block : p.slices[static_cast<std::size_t>(i)]) {
      void* pointers[6] = {
          at(p.a, p.problem.a, block.row * p.problem.k), nullptr,
          static_cast<std::byte*>(args.out[0]) + block.row * p.problem.n * static_cast<std::int64_t>(byte_size(p.chain.out)),
          static_cast<std::byte*>(args.scratch) + static_cast<std::uint64_t>(i) * p.scratch_bytes};
      int next = 4;
      if (p.bias >= 0) pointers[next++] = at(p.bias, p.chain.bias_dtype, 0);
      if (p.residual >= 0) pointers[next++] = at(p.residual, p.chain.residual_dtype, block.row * p.problem.n);
      block.call->run(pointers);
    }
  });
}

}  // namespace

std::string refuse_post_ops(const KernelRequest& r) {
  const FusedParts parts = take_apart(r, "matmul");
  if (!parts.why_not.empty()) return parts.why_not;
  const ProductRequest inner = inner_request(r, parts);
  const MatmulProblem p =
      matmul_problem(inner.in[0], inner.in[1], inner.out, inner.attrs.b("transpose_a"), inner.attrs.b("transpose_b"));
  if (!parts.program->chain)
    return fmt::format("the epilogue ({}) is not bias, activation and residual in this order", program_text(*parts.program));
  const Code activation = parts.program->chain->activation;
  // Measured on BERT's layers, 128 rows, one thread: with gelu 10 % (f32) to 15 % (bf16) slower than oneDNN's sums and our own
  // epilogue; with bias and residual alone 1 to 5 % faster.
  if (activation != Code::load && activation != Code::relu)
    return "oneDNN's post-op for this activation is slower than our own vectors";
  if (!inner.constants[1]) return "the weights are not known at compile time";
  if (!MatmulPlan::can_pack(p) || p.transpose_a) return "b is not one matrix for all rows of a";
  if (p.batch * p.m * p.n * p.k == 0) return "an operand is empty";
  for (const DType type : {p.a, p.b})
    if (!onednn::data_type(type)) return fmt::format("oneDNN has no {} on CPUs", name(type));
  try {
    const Chain& chain = *parts.program->chain;
    const Descs d = describe(p, chain, p.m);
    const auto pd = make_pd(chain, d, memory::desc({p.k, p.n}, *onednn::data_type(p.b), memory::format_tag::any));
    if (!pd || onednn::is_reference(pd.impl_info_str())) return "oneDNN has only its scalar implementation of this epilogue";
  } catch (const dnnl::error& e) {
    return fmt::format("oneDNN: {}", e.what());
  }
  return "";
}

Kernel prepare_post_ops(const KernelRequest& r) {
  const FusedParts parts = take_apart(r, "matmul");
  const ProductRequest inner = inner_request(r, parts);
  auto params = std::make_shared<PostOpsParams>();
  params->problem =
      matmul_problem(inner.in[0], inner.in[1], inner.out, inner.attrs.b("transpose_a"), inner.attrs.b("transpose_b"));
  params->chain = *parts.program->chain;
  const MatmulProblem& p = params->problem;
  const Chain& chain = params->chain;
  const auto operand = [&](int input) { return input < 0 ? -1 : parts.epilogue_operands[static_cast<std::size_t>(input) - 1]; };
  params->a = parts.anchor_operands[0];
  params->bias = operand(chain.bias);
  params->residual = operand(chain.residual);

  const Tensor& weights = *inner.constants[1];
  const Hash128 content = content_of(weights);
  std::shared_ptr<void> packed;
  memory::desc layout;
  std::uint64_t packed_bytes = 0;
  std::string implementation;
  const std::int64_t chunks = (p.m + kRowGrain - 1) / kRowGrain, parts_wanted = std::min<std::int64_t>(r.threads, chunks);
  const std::int64_t most = std::max<std::int64_t>(64, kBlockBytes / (p.n * 4) / kRowGrain * kRowGrain);
  for (std::int64_t i = 0; i < parts_wanted; ++i) {
    std::vector<Block> blocks;
    const std::int64_t end = std::min(p.m, chunks * (i + 1) / parts_wanted * kRowGrain);
    for (std::int64_t row = chunks * i / parts_wanted * kRowGrain; row < end; row += most) {
      const Descs d = describe(p, chain, std::min(most, end - row));
      dnnl::matmul::primitive_desc pd;
      if (packed) pd = make_pd(chain, d, layout);
      if (!pd || onednn::is_reference(pd.impl_info_str())) {  // the first block, or one for which oneDNN wants another layout
        pd = make_pd(chain, d, memory::desc({p.k, p.n}, *onednn::data_type(p.b), memory::format_tag::any));
        check(static_cast<bool>(pd), "oneDNN refused a slice of a product it accepts");
        layout = pd.weights_desc();
        packed = onednn::reordered(d.b, weights, content, 0, layout);
        packed_bytes += layout.get_size();
      }
      implementation = pd.impl_info_str();
      params->scratch_bytes = std::max<std::uint64_t>(params->scratch_bytes, (pd.scratchpad_desc().get_size() + 63) / 64 * 64);
      std::vector<onednn::Argument> arguments = {{DNNL_ARG_SRC, d.a},
                                                 {DNNL_ARG_WEIGHTS, layout, packed},
                                                 {DNNL_ARG_DST, d.c},
                                                 {DNNL_ARG_SCRATCHPAD, pd.scratchpad_desc()}};
      if (chain.bias >= 0) arguments.push_back({DNNL_ARG_BIAS, d.bias});
      const int nth = algorithm_of(chain.activation) ? 1 : 0;
      if (chain.residual >= 0) arguments.push_back({DNNL_ARG_ATTR_MULTIPLE_POST_OP(nth) | DNNL_ARG_SRC_1, d.residual});
      blocks.push_back({std::make_shared<onednn::Call>(dnnl::matmul(pd), std::move(arguments)), row});
    }
    params->slices.push_back(std::move(blocks));
  }

  Kernel kernel;
  kernel.run = run_post_ops;
  kernel.scratch_bytes = params->scratch_bytes * params->slices.size();
  kernel.packed_bytes = packed_bytes;
  kernel.absorbed.assign(r.in.size(), false);
  kernel.absorbed[static_cast<std::size_t>(parts.anchor_operands[1])] = true;
  for (const int k : parts.epilogue_operands) kernel.absorbed[static_cast<std::size_t>(k)] = false;
  kernel.absorbed[static_cast<std::size_t>(params->a)] = false;
  kernel.detail = fmt::format("oneDNN {}{}, weights packed; post-ops for {}", implementation,
                              params->slices.size() > 1 ? fmt::format(", m split in {}", params->slices.size()) : "",
                              program_text(*parts.program));
  kernel.params = std::move(params);
  return kernel;
}

}  // namespace rhetor
