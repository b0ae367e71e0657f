// attention on matrix units: what it takes, and in which form.
#include "cuda/attention_mma.h"

#include "cuda/attention_rows.h"

namespace rhetor::gpu {
std::string refuse_matrix_units(const KernelRequest& request, const AttentionProblem& a) {
  if (request.device->compute < 80) return "needs compute capability 8.0";
  if (a.dtype != DType::f16 && a.dtype != DType::bf16) return "works in f16 and bf16";
  if (a.d % 8 != 0 || a.d > 128 || a.d == 0) return "the head size is not a multiple of 8 up to 128";
  if (!(a.scale > 0)) return "the scale is not positive";
  if (request.device->shared_bytes < 98304) return "needs 96 KiB of shared memory a block";
  return "";
}

namespace {

// ---- forward -------------------------------------------------------------------------------------
struct ForwardParams {
  AttentionProblem problem;
  int processors = 0;
  AttentionSplit split;
};

std::string refuse_mma(const KernelRequest& request) { return refuse_matrix_units(request, attention_problem(request, 0)); }

Kernel prepare_mma(const KernelRequest& request) {
  auto p = std::make_shared<ForwardParams>();
  p->problem = attention_problem(request, 0);
  p->processors = request.device->processors;
  return {.run =
              [](const void* params, const KernelArgs& args) {
                const auto& f = *static_cast<const ForwardParams*>(params);
                attention_mma(f.problem, attention_pointers(args, f.problem), f.processors, args.stream);
              },
          .params = p,
          .detail = "tiles of 64 keys in shared memory, P in registers"};
}

std::string refuse_wgmma(const KernelRequest& request) {
  if (request.device->compute != 90) return "needs the matrix units of sm_90a";
  const AttentionProblem a = attention_problem(request, 0);
  if (std::string why = refuse_matrix_units(request, a); !why.empty()) return why;
  return a.d > 32 ? "" : "the head is no longer than 32";
}
Kernel prepare_wgmma(const KernelRequest& request) {
  return {.run =
              [](const void* params, const KernelArgs& args) {
                const auto& a = *static_cast<const AttentionProblem*>(params);
                attention_wgmma(a, attention_pointers(args, a), args.stream);
              },
          .params = std::make_shared<AttentionProblem>(attention_problem(request, 0)),
          .detail = "warpgroups of 64 queries, tiles of 64 keys"};
}

// Few blocks of 64 queries, or few queries for a key head: the processors would not all have work, or read keys more than once.
std::string refuse_split(const KernelRequest& request) {
  const AttentionProblem a = attention_problem(request, 0);
  if (std::string why = refuse_matrix_units(request, a); !why.empty()) return why;
  const std::int64_t blocks = static_cast<std::int64_t>(a.b) * a.h * ((a.s + 63) / 64);
  if (a.s * (a.h / a.g) > 16 && blocks >= request.device->processors) return "there are queries enough for tiles of 64";
  return "";
}
std::string refuse_cluster(const KernelRequest& request) {
  if (request.device->compute < 90) return "needs clusters of blocks (compute capability 9.0)";
  if (std::string why = refuse_split(request); !why.empty()) return why;
  const AttentionProblem a = attention_problem(request, 0);
  const int all = attention_split_of(a, request.device->processors, 32).splits;
  if (all == 1) return "one block for all keys is enough";
  return all > 8 && a.t >= 4096 ? "more than 8 blocks should share the keys" : "";
}

void run_split(const void* params, const KernelArgs& args) {
  const auto& f = *static_cast<const ForwardParams*>(params);
  attention_split(f.problem, attention_pointers(args, f.problem), f.split, args.scratch, args.stream);
}
Kernel prepare_split_of(const KernelRequest& request, bool cluster) {
  auto p = std::make_shared<ForwardParams>();
  p->problem = attention_problem(request, 0);
  p->processors = request.device->processors;
  p->split = attention_split_of(p->problem, p->processors, cluster ? 8 : 32);
  p->split.cluster = cluster && p->split.splits > 1;
  p->split.early = request.device->compute >= 90;
  return {.run = run_split,
          .params = p,
          .scratch_bytes = attention_split_scratch(p->problem, p->split),
          .detail = fmt::format("keys in {} parts, joined {}", p->split.splits,
                                p->split.cluster ? "in a cluster" : "by a second kernel")};
}
Kernel prepare_cluster(const KernelRequest& request) { return prepare_split_of(request, true); }
Kernel prepare_split(const KernelRequest& request) { return prepare_split_of(request, false); }

}  // namespace

// The same over columns of wider tensors.
template <std::string (*refuse)(const KernelRequest&)>
std::string refuse_columns(const KernelRequest& request) {
  if (std::string why = refuse_fused_attention(request); !why.empty()) return why;
  if (std::string why = refuse(request); !why.empty()) return why;
  const AttentionProblem a = attention_problem(request, 0);
  for (const std::int64_t elements : {a.q_token, a.k_token, a.v_token, a.q_begin, a.k_begin, a.v_begin})
    if (elements % 8 != 0) return "a row does not begin at a multiple of 16 bytes";
  return "";
}

std::vector<KernelRow> attention_mma_rows() {
  return {{"attention",
           {{"cuda.attention.decode_cluster", refuse_cluster, prepare_cluster},
            {"cuda.attention.decode", refuse_split, prepare_split},
            {"cuda.attention.wgmma", refuse_wgmma, prepare_wgmma},
            {"cuda.attention.mma", refuse_mma, prepare_mma}}},
          {"fused",
           {{"cuda.fused_attention.decode_cluster", refuse_columns<refuse_cluster>, prepare_cluster},
            {"cuda.fused_attention.decode", refuse_columns<refuse_split>, prepare_split},
            {"cuda.fused_attention.wgmma", refuse_columns<refuse_wgmma>, prepare_wgmma},
            {"cuda.fused_attention.mma", refuse_columns<refuse_mma>, prepare_mma}}}};
}

}  // namespace rhetor::gpu
