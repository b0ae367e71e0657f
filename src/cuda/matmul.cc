// matmul: cuBLASLt, and plain tiles for the rest.
#include "cuda/matmul.h"

#include "base/error.h"
#include "cpu/matmul_plan.h"
#include "cuda/cublas.h"
#include "cuda/families.h"
#include "cuda/matmul_contraction.h"

namespace rhetor::gpu {
namespace {

MatmulProblem problem_of(const ContractionRequest& r) {
  return matmul_problem(r.in[0], r.in[1], r.out, r.attrs.b("transpose_a"), r.attrs.b("transpose_b"));
}

// ---- cuBLASLt ------------------------------------------------------------------------------------
LtProblem lt_problem(const ContractionRequest& r) {
  const MatmulProblem p = problem_of(r);
  return {.batch = p.batch,
          .m = p.m,
          .n = p.n,
          .k = p.k,
          .transpose_a = p.transpose_a,
          .transpose_b = p.transpose_b,
          .shared_b = p.shared_b,
          .a = p.a,
          .b = p.b,
          .out = p.c,
          .activation = r.epilogue.activation,
          .bias = r.epilogue.bias,
          .bias_dtype = r.epilogue.bias_dtype,
          .residual = r.epilogue.residual};
}

class LtMatmul final : public Contraction {
 public:
  explicit LtMatmul(const ContractionRequest& r) : plan_(lt_plan(r.device, lt_problem(r))) {
    scratch_bytes = plan_->workspace_bytes();
    detail = plan_->text();
  }
  void enqueue(const ContractionCall& call) const override {
    plan_->run({.a = call.in[0], .b = call.in[1], .bias = call.bias, .residual = call.residual, .out = call.out}, call.scratch,
               call.stream);
  }

 private:
  std::shared_ptr<const LtPlan> plan_;
};

std::string refuse_lt(const ContractionRequest& r) {
  if (r.epilogue.residual && r.epilogue.residual_dtype != r.out.dtype)
    return fmt::format("cuBLASLt adds a residual of the result's dtype, not {} to {}", name(r.epilogue.residual_dtype),
                       name(r.out.dtype));
  return lt_plan(r.device, lt_problem(r))->why_not();
}

// ---- plain tiles ---------------------------------------------------------------------------------
class SimpleMatmul final : public Contraction {
 public:
  explicit SimpleMatmul(const ContractionRequest& r) {
    const MatmulProblem p = problem_of(r);
    p_ = {.batch = p.batch,
          .m = p.m,
          .n = p.n,
          .k = p.k,
          .a_batch = p.m * p.k,
          .a_m = p.transpose_a ? 1 : p.k,
          .a_k = p.transpose_a ? p.m : 1,
          .b_batch = p.shared_b ? 0 : p.k * p.n,
          .b_k = p.transpose_b ? 1 : p.n,
          .b_n = p.transpose_b ? p.k : 1,
          .in = p.a,
          .out = p.c};
    detail = "tiles of 64 x 64, no matrix units";
  }
  void enqueue(const ContractionCall& call) const override { simple_matmul(p_, call.in[0], call.in[1], call.out, call.stream); }

 private:
  StridedProduct p_;
};

}  // namespace

const ContractionMaker kMatmulLt{
    refuse_lt, [](const ContractionRequest& r) -> std::unique_ptr<Contraction> { return std::make_unique<LtMatmul>(r); }};
const ContractionMaker kMatmulSimple{
    [](const ContractionRequest& r) -> std::string { return r.epilogue.empty() ? "" : "computes no epilogue"; },
    [](const ContractionRequest& r) -> std::unique_ptr<Contraction> { return std::make_unique<SimpleMatmul>(r); }};

// ---- what all contractions share -----------------------------------------------------------------
Finish finish_of(const Epilogue& epilogue, const ContractionCall& call) {
  return {.bias = call.bias,
          .residual = call.residual,
          .bias_dtype = epilogue.bias_dtype,
          .residual_dtype = epilogue.residual_dtype,
          .activation = epilogue.activation,
          .factor = call.factor,
          .factor_dtype = epilogue.factor_dtype};
}

ContractionRequest contraction_request(const KernelRequest& r) {
  return {.device = *r.device, .in = r.in, .constants = r.constants, .out = r.out[0], .attrs = r.node.attrs};
}

Kernel contraction_kernel(std::unique_ptr<Contraction> contraction, std::size_t operands) {
  Kernel kernel;
  kernel.scratch_bytes = contraction->scratch_bytes;
  kernel.packed_bytes = contraction->packed_bytes;
  kernel.absorbed = contraction->absorbed;
  kernel.absorbed.resize(operands, false);
  kernel.detail = contraction->detail;
  kernel.params = std::shared_ptr<const Contraction>(std::move(contraction));
  kernel.run = [](const void* params, const KernelArgs& args) {
    static_cast<const Contraction*>(params)->enqueue(
        {.in = args.in, .out = args.out[0], .scratch = args.scratch, .stream = args.stream});
  };
  return kernel;
}

std::vector<KernelRow> matmul_rows() {
  return {
      {"matmul",
       {contraction_candidate<kMatmulLt>("cuda.matmul.lt"), contraction_candidate<kMatmulSmall>("cuda.small_matmul"),
        contraction_candidate<kMatmulWgmma>("cuda.matmul.wgmma"),
        contraction_candidate<kMatmulSimple>("cuda.matmul.simple")}},
      {"matmul_i8",
       {contraction_candidate<kMatmulI8Lt>("cuda.matmul_i8.lt"), contraction_candidate<kMatmulI8Wgmma>("cuda.matmul_i8.wgmma"),
        contraction_candidate<kMatmulI8Simple>("cuda.matmul_i8.simple")}},
      {"matmul_i4", {contraction_candidate<kMatmulI4Simple>("cuda.matmul_i4.simple")}},
      {"matmul_w4",
       {contraction_candidate<kMatmulW4Lt>("cuda.matmul_w4.lt"),
        contraction_candidate<kMatmulW4Simple>("cuda.matmul_w4.simple")}},
      {"fused", fused_matmul_candidates()}};
}

}  // namespace rhetor::gpu
