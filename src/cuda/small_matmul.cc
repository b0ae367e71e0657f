// Products of few rows: matmul in 16 bits, matmul_i8 and matmul_i4, with the epilogue inside.
#include "cuda/small_matmul.h"

#include "base/error.h"
#include "cpu/matmul_plan.h"
#include "cuda/families.h"
#include "cuda/matmul_contraction.h"
#include "cuda/small_matmul_stream.h"

namespace rhetor::gpu {
namespace {

SmallProduct product_of(const ContractionRequest& r, std::int64_t m, std::int64_t n, std::int64_t k) {
  return {.m = m,
          .n = n,
          .k = k,
          .in = r.in[0].dtype,
          .out = r.out.dtype,
          .processors = r.device.processors,
          .clusters = r.device.compute >= 90};
}
MatmulProblem problem_of(const ContractionRequest& r) {
  return matmul_problem(r.in[0], r.in[1], r.out, r.attrs.b("transpose_a"), r.attrs.b("transpose_b"));
}
SmallProduct rows_product(const ContractionRequest& r) {
  return product_of(r, rows_of(r.in[0]), r.out.shape.last(), r.in[0].shape.last());
}

std::string refuse_shape(const ContractionRequest& r, std::int64_t m, std::int64_t n, std::int64_t k) {
  if (r.device.compute < 80) return "needs the matrix units of sm_80";
  if (m * n * k == 0) return "an operand is empty";
  if (m > kSmallRows) return fmt::format("{} rows: made for at most {}", m, kSmallRows);
  if (r.out.dtype == DType::f64 || byte_size(r.out.dtype) == 1) return fmt::format("writes no {}", name(r.out.dtype));
  return "";
}

// ---- bf16 and f16 --------------------------------------------------------------------------------
std::string refuse_small(const ContractionRequest& r) {
  const MatmulProblem p = problem_of(r);
  if (p.a != DType::bf16 && p.a != DType::f16) return fmt::format("made for bf16 and f16, not {}", name(p.a));
  if (p.batch != 1) return "has no batch of weights";
  if (p.transpose_a && p.m > 1) return "a is stored transposed";
  if (std::string why = refuse_shape(r, p.m, p.n, p.k); !why.empty()) return why;
  if (p.transpose_b && p.k % 8 != 0) return fmt::format("k is {}, not a multiple of 8", p.k);
  if (!p.transpose_b && (p.n % 8 != 0 || p.k % 4 != 0)) return fmt::format("[{}, {}] is not made of blocks of 4 by 8", p.k, p.n);
  return "";
}

class SmallMatmul final : public Contraction {
 public:
  explicit SmallMatmul(const ContractionRequest& r) : by_rows_(problem_of(r).transpose_b), epilogue_(r.epilogue) {
    const MatmulProblem p = problem_of(r);
    p_ = product_of(r, p.m, p.n, p.k);
    detail = fmt::format("weights [{}] read once", by_rows_ ? "n, k" : "k, n");
  }
  void enqueue(const ContractionCall& call) const override {
    const Finish f = finish_of(epilogue_, call);
    if (by_rows_)
      small_matmul_rows(p_, call.in[0], call.in[1], nullptr, nullptr, f, call.out, call.stream);
    else
      small_matmul_cols(p_, call.in[0], call.in[1], f, call.out, call.stream);
  }

 private:
  SmallProduct p_;
  bool by_rows_;
  Epilogue epilogue_;
};

// ---- a row, or a few, in 16 bits -----------------------------------------------------------------
StreamProduct stream_of(const ContractionRequest& r) {
  const MatmulProblem p = problem_of(r);
  return {.m = p.m, .k = p.k, .n = {p.n}, .early = r.constants[1] != nullptr, .in = p.a, .out_dtype = r.out.dtype,
          .processors = r.device.processors, .overlaps = r.device.compute >= 90};
}
std::string refuse_stream_matmul(const ContractionRequest& r) {
  if (std::string why = refuse_small(r); !why.empty()) return why;
  if (!problem_of(r).transpose_b) return "the weights are not [n, k]";
  return refuse_stream(stream_of(r));
}

class StreamMatmul final : public Contraction {
 public:
  explicit StreamMatmul(const ContractionRequest& r) : p_(stream_of(r)), epilogue_(r.epilogue) {
    detail = p_.early && p_.overlaps ? "weights read once, from before its turn" : "weights read once";
  }
  void enqueue(const ContractionCall& call) const override {
    StreamProduct p = p_;
    p.x = call.in[0];
    p.w[0] = call.in[1];
    p.out[0] = call.out;
    p.finish = finish_of(epilogue_, call);
    stream_matmul(p, call.stream);
  }

 private:
  StreamProduct p_;
  Epilogue epilogue_;
};

// ---- int8 and int4 -------------------------------------------------------------------------------
std::string refuse_small_i8(const ContractionRequest& r) {
  const SmallProduct p = rows_product(r);
  if (std::string why = refuse_shape(r, p.m, p.n, p.k); !why.empty()) return why;
  return p.k % 16 == 0 ? "" : fmt::format("k is {}, not a multiple of 16", p.k);
}
std::string refuse_small_i4(const ContractionRequest& r) {
  const SmallProduct p = rows_product(r);
  return refuse_shape(r, p.m, p.n, p.k);
}

class SmallRows final : public Contraction {
 public:
  SmallRows(const ContractionRequest& r, bool int4) : p_(rows_product(r)), int4_(int4), epilogue_(r.epilogue) {
    detail = int4 ? "int4 weights read once, dp4a" : "int8 weights read once";
  }
  void enqueue(const ContractionCall& call) const override {
    const Finish f = finish_of(epilogue_, call);
    if (int4_)
      small_matmul_i4(p_, call.in[0], call.in[1], call.in[2], call.in[3], f, call.out, call.stream);
    else
      small_matmul_rows(p_, call.in[0], call.in[2], static_cast<const float*>(call.in[1]), static_cast<const float*>(call.in[3]),
                        f, call.out, call.stream);
  }

 private:
  SmallProduct p_;
  bool int4_;
  Epilogue epilogue_;
};

}  // namespace

const ContractionMaker kMatmulSmall{
    refuse_small, [](const ContractionRequest& r) -> std::unique_ptr<Contraction> { return std::make_unique<SmallMatmul>(r); }};
const ContractionMaker kMatmulStream{refuse_stream_matmul, [](const ContractionRequest& r) -> std::unique_ptr<Contraction> {
                                       return std::make_unique<StreamMatmul>(r);
                                     }};
const ContractionMaker kMatmulI8Small{refuse_small_i8, [](const ContractionRequest& r) -> std::unique_ptr<Contraction> {
                                        return std::make_unique<SmallRows>(r, false);
                                      }};
const ContractionMaker kMatmulI4Small{refuse_small_i4, [](const ContractionRequest& r) -> std::unique_ptr<Contraction> {
                                        return std::make_unique<SmallRows>(r, true);
                                      }};

Candidate products_candidate();  // small_matmul_group.cc

std::vector<KernelRow> small_matmul_rows() {
  return {{"matmul", {contraction_candidate<kMatmulStream>("cuda.small_matmul.stream")}},
          {"matmul_i8", {contraction_candidate<kMatmulI8Small>("cuda.small_matmul_i8")}},
          {"matmul_i4", {contraction_candidate<kMatmulI4Small>("cuda.small_matmul_i4")}},
          {"fused", {products_candidate()}},
          {"fused", fused_small_candidates()}};
}

}  // namespace rhetor::gpu
