// matmul_i8, matmul_i4 and matmul_w4 for more than a few rows.
//
// int8: cuBLASLt's exact i32 sums, then one kernel for both scales and the epilogue (memory-bound: 4 bytes a sum written and
// read). int4 with floating activations: the weights are widened into scratch (k n / 2 bytes read, 2 k n written), then a product
// in their dtype.
#include "base/error.h"
#include "cuda/cublas.h"
#include "cuda/matmul.h"
#include "cuda/matmul_contraction.h"
#include "cuda/quantize.h"

namespace rhetor::gpu {
namespace {

RowsProduct rows_product(const ContractionRequest& r) {
  return {.m = rows_of(r.in[0]), .n = r.out.shape.last(), .k = r.in[0].shape.last(), .in = r.in[0].dtype, .out = r.out.dtype};
}
std::string refuse_epilogue(const ContractionRequest& r) { return r.epilogue.empty() ? "" : "computes no epilogue"; }

// ---- int8 ----------------------------------------------------------------------------------------
LtProblem i8_problem(const RowsProduct& p) {
  return {.m = p.m, .n = p.n, .k = p.k, .transpose_b = true, .shared_b = true, .a = DType::i8, .b = DType::i8, .out = DType::i32};
}

class LtI8 final : public Contraction {
 public:
  explicit LtI8(const ContractionRequest& r)
      : p_(rows_product(r)), epilogue_(r.epilogue), plan_(lt_plan(r.device, i8_problem(p_))) {
    sums_ = aligned(plan_->workspace_bytes());
    scratch_bytes = sums_ + static_cast<std::uint64_t>(p_.m * p_.n) * 4;
    detail = fmt::format("{}, then scales{}", plan_->text(), epilogue_.empty() ? "" : " and epilogue");
  }
  void enqueue(const ContractionCall& call) const override {
    void* sums = at(call.scratch, sums_);
    plan_->run({.a = call.in[0], .b = call.in[2], .out = sums}, call.scratch, call.stream);
    finish_product({.m = p_.m, .n = p_.n, .sums = DType::i32, .out = p_.out}, sums, static_cast<const float*>(call.in[1]),
                   static_cast<const float*>(call.in[3]), finish_of(epilogue_, call), call.out, call.stream);
  }

 private:
  RowsProduct p_;
  Epilogue epilogue_;
  std::shared_ptr<const LtPlan> plan_;
  std::uint64_t sums_ = 0;
};

std::string refuse_i8_lt(const ContractionRequest& r) {
  const RowsProduct p = rows_product(r);
  if (p.out == DType::f64) return "scales in f32, the result is f64";
  if (p.k % 16 != 0 || p.n % 4 != 0) return fmt::format("[{}, {}] is not made of blocks of 4 by 16", p.n, p.k);
  return lt_plan(r.device, i8_problem(p))->why_not();
}

// ---- plain tiles ---------------------------------------------------------------------------------
class SimpleRows final : public Contraction {
 public:
  enum class Kind { i8, i4, w4 };
  SimpleRows(const ContractionRequest& r, Kind kind) : p_(rows_product(r)), kind_(kind) {
    detail = "tiles of 64 x 64, no matrix units";
  }
  void enqueue(const ContractionCall& call) const override {
    const auto in = [&](int i) { return call.in[i]; };
    if (kind_ == Kind::i8)
      simple_matmul_i8(p_, in(0), in(1), in(2), in(3), call.out, call.stream);
    else if (kind_ == Kind::i4)
      simple_matmul_i4(p_, in(0), in(1), in(2), in(3), call.out, call.stream);
    else
      simple_matmul_w4(p_, in(0), in(1), in(2), call.out, call.stream);
  }

 private:
  RowsProduct p_;
  Kind kind_;
};
template <SimpleRows::Kind kind>
std::unique_ptr<Contraction> make_simple(const ContractionRequest& r) {
  return std::make_unique<SimpleRows>(r, kind);
}

// ---- int4 widened --------------------------------------------------------------------------------
LtProblem w4_problem(const ContractionRequest& r) {
  const RowsProduct p = rows_product(r);
  return {.m = p.m,
          .n = p.n,
          .k = p.k,
          .transpose_b = true,
          .shared_b = true,
          .a = p.in,
          .b = p.in,
          .out = p.out,
          .activation = r.epilogue.activation,
          .bias = r.epilogue.bias,
          .bias_dtype = r.epilogue.bias_dtype,
          .residual = r.epilogue.residual};
}

class LtW4 final : public Contraction {
 public:
  explicit LtW4(const ContractionRequest& r) : p_(rows_product(r)), plan_(lt_plan(r.device, w4_problem(r))) {
    workspace_ = aligned(static_cast<std::uint64_t>(p_.n * p_.k) * byte_size(p_.in));
    scratch_bytes = workspace_ + plan_->workspace_bytes();
    detail = fmt::format("weights widened to {}, {}", name(p_.in), plan_->text());
  }
  void enqueue(const ContractionCall& call) const override {
    dequantize_i4(p_.n * p_.k, p_.in, call.in[1], call.in[2], call.scratch, call.stream);
    plan_->run({.a = call.in[0], .b = call.scratch, .bias = call.bias, .residual = call.residual, .out = call.out},
               at(call.scratch, workspace_), call.stream);
  }

 private:
  RowsProduct p_;
  std::shared_ptr<const LtPlan> plan_;
  std::uint64_t workspace_ = 0;
};

std::string refuse_w4_lt(const ContractionRequest& r) {
  if (r.epilogue.residual && r.epilogue.residual_dtype != r.out.dtype) return "the residual has another dtype than the result";
  return lt_plan(r.device, w4_problem(r))->why_not();
}

}  // namespace

const ContractionMaker kMatmulI8Lt{
    refuse_i8_lt, [](const ContractionRequest& r) -> std::unique_ptr<Contraction> { return std::make_unique<LtI8>(r); }};
const ContractionMaker kMatmulI8Simple{refuse_epilogue, make_simple<SimpleRows::Kind::i8>};
const ContractionMaker kMatmulI4Simple{refuse_epilogue, make_simple<SimpleRows::Kind::i4>};
const ContractionMaker kMatmulW4Lt{
    refuse_w4_lt, [](const ContractionRequest& r) -> std::unique_ptr<Contraction> { return std::make_unique<LtW4>(r); }};
const ContractionMaker kMatmulW4Simple{refuse_epilogue, make_simple<SimpleRows::Kind::w4>};

}  // namespace rhetor::gpu
