// A norm with a pointwise prologue, in one pass over memory: the residual sum (or any other pointwise group) of a block of rows is
// computed, kept in cache, and normalised. Memory-bound: the operands once, y and, if it is read elsewhere, the sum once.
#include "cpu/families.h"
#include "cpu/kernel_util.h"
#include "cpu/norm_internal.h"
#include "cpu/program.h"

namespace rhetor {
namespace {

constexpr std::int64_t kRowBlock = 8;  // rows of the sum kept in cache between prologue and norm

struct FusedNorm {
  NormParams norm;
  ProgramPtr prologue;
  int gamma = -1, beta = -1;                     // operands of the node
  int y = -1, mean = -1, rstd = -1, sum = -1;    // results of the node; -1: unread
  std::int64_t stride = 0;                       // floats in a padded row
  std::uint64_t scratch_each = 0;                // bytes a task: program tiles, a block of sums, a row
};

// Finds the parts of the body, or says why it is something else.
std::string analyse(const KernelRequest& request, FusedNorm& out) {
  const std::string& anchor = request.node.attrs.s("anchor");
  if (anchor != "layer_norm" && anchor != "rms_norm") return anchor.empty() ? "the group has no norm" : "the group is built around " + anchor;
  if (std::string why = refuse_wide_floats(request); !why.empty()) return why;
  const Graph& body = *request.node.attrs.graph("body");
  std::int32_t at = -1;
  for (std::int32_t i = 0; i < body.size(); ++i)
    if (body.node(i).op->name == anchor) at = i;
  if (at < 0) return "its body lacks the anchor";
  const Node& norm = body.node(at);
  out.norm.centered = anchor == "layer_norm";
  out.norm.eps = static_cast<float>(norm.attrs.f("eps"));
  const Type& x = body.type(norm.inputs[0]);
  out.norm.cols = x.shape.last();
  out.norm.rows = out.norm.cols ? x.elements() / out.norm.cols : 0;
  out.norm.x = out.norm.y = x.dtype;
  out.norm.gamma = body.type(norm.inputs[1]).dtype;
  std::vector<ValueId> inputs;
  for (std::size_t k = 0; k < request.in.size(); ++k) {
    inputs.push_back(body.find_input(fmt::format("{}", k)));
    if (inputs.back() == norm.inputs[1]) out.gamma = static_cast<int>(k);
    if (out.norm.centered && inputs.back() == norm.inputs[2]) out.beta = static_cast<int>(k);
  }
  if (out.gamma < 0 || (out.norm.centered && out.beta < 0)) return "gamma and beta must be operands of the group";
  for (std::size_t k = 0; k < request.out.size(); ++k) {
    const ValueId v = body.find_output(fmt::format("{}", k));
    if (v == norm.inputs[0]) out.sum = static_cast<int>(k);
    else if (v.node != at) return "it has a result that is neither the norm's nor the sum";
    else if (v.output == 0) out.y = static_cast<int>(k);
    else if (out.norm.centered && v.output == 1) out.mean = static_cast<int>(k);
    else out.rstd = static_cast<int>(k);
  }
  if (out.y < 0) return "the norm's result is not read";
  std::string why;
  out.prologue = compile_program(body, inputs, {norm.inputs[0]}, &why);
  return out.prologue ? "" : "its prologue is no pointwise program: " + why;
}

std::string refuse(const KernelRequest& request) {
  FusedNorm parts;
  return analyse(request, parts);
}

void run(const void* opaque, const KernelArgs& args) {
  const auto& f = *static_cast<const FusedNorm*>(opaque);
  const NormParams& p = f.norm;
  auto* gamma = static_cast<float*>(args.scratch);
  float* beta = f.beta >= 0 ? gamma + f.stride : nullptr;
  char* each = reinterpret_cast<char*>(gamma + 2 * f.stride);
  widen_to_f32(p.gamma, args.in[f.gamma], gamma, p.cols);
  if (beta) widen_to_f32(p.gamma, args.in[f.beta], beta, p.cols);
  const auto result = [&](int k) { return k < 0 ? nullptr : args.out[k]; };
  const std::int64_t tasks = task_count(args.pool, p.rows, static_cast<double>(p.cols));
  const auto row_bytes = static_cast<std::int64_t>(byte_size(p.x)) * p.cols;
  run_tasks(args.pool, tasks, [&](int i) {
    char* own = each + static_cast<std::uint64_t>(i) * f.scratch_each;
    auto* row = reinterpret_cast<float*>(own);
    char* block = own + f.stride * 4;
    char* tiles = block + kRowBlock * f.stride * 4;
    const std::int64_t end = part_begin(p.rows, tasks, i + 1);
    for (std::int64_t r = part_begin(p.rows, tasks, i); r < end; r += kRowBlock) {
      const std::int64_t last = std::min(r + kRowBlock, end);
      // Where row 0 of the sum would be, so that row r falls on the block.
      void* sum = f.sum >= 0 ? args.out[f.sum] : reinterpret_cast<void*>(reinterpret_cast<std::intptr_t>(block) - r * row_bytes);
      run_program(*f.prologue, args.in, &sum, r, last, tiles);
      norm_rows(p, sum, gamma, beta, args.out[f.y], static_cast<float*>(result(f.mean)), static_cast<float*>(result(f.rstd)), r, last,
                row);
    }
  });
}

Kernel prepare(const KernelRequest& request) {
  auto f = std::make_shared<FusedNorm>();
  const std::string why = analyse(request, *f);
  check(why.empty(), "a fused norm is prepared after it was refused");
  f->stride = static_cast<std::int64_t>(round_up(static_cast<std::uint64_t>(f->norm.cols) * 4)) / 4;
  const auto row = static_cast<std::uint64_t>(f->stride) * 4;
  f->scratch_each = row * (1 + kRowBlock) + round_up(program_scratch_bytes(*f->prologue));
  return {.run = run, .params = f, .scratch_bytes = 2 * row + f->scratch_each * static_cast<std::uint64_t>(request.threads),
          .detail = program_text(*f->prologue) + ", norm"};
}

}  // namespace

KernelRow fused_norm_row() { return {"fused", {{"cpu.norm_fused", refuse, prepare}}}; }

}  // namespace rhetor
