// matmul in bf16 and f16, matmul_i8 and products of FP8 tensors on Hopper's matrix units, with any chain of bias, activation and residual inside.
#include "cuda/matmul_wgmma.h"

#include "base/error.h"
#include "cpu/matmul_plan.h"
#include "cuda/matmul_contraction.h"

namespace rhetor::gpu {
namespace {

std::int64_t tiles(std::int64_t m, std::int64_t n, std::int64_t size) {
  return ((m + size - 1) / size) * ((n + size - 1) / size);
}

WgmmaProduct product_of(const ContractionRequest& r, std::int64_t m, std::int64_t n, std::int64_t k, bool b_by_rows) {
  // Where large tiles would keep but half of the processors busy, or are too few to go in pairs, small ones are faster in spite
  // of reading the operands more often.
  return {.m = m,
          .n = n,
          .k = k,
          .in = r.in[0].dtype,
          .out = r.out.dtype,
          .b_by_rows = b_by_rows,
          .small_tiles = m <= 128 || 2 * tiles(m, n, 128) <= r.device.processors,
          .processors = r.device.processors};
}

std::string refuse_shape(const ContractionRequest& r, std::int64_t m, std::int64_t n, std::int64_t k) {
  if (r.device.compute != 90) return "needs the matrix units of sm_90";
  if (m * n * k == 0) return "an operand is empty";
  if (r.epilogue.activation == Activation::tanh) return "has no tanh";
  if (n % 2 != 0) return fmt::format("n is {}, which is odd", n);
  if (std::max({m, n, k}) >= 1ll << 31) return "a dim is beyond 32 bits";
  const std::int64_t block = 16 / static_cast<std::int64_t>(byte_size(r.in[0].dtype));
  if (k % block != 0) return fmt::format("k is {}, not a multiple of {}", k, block);
  return has_tensor_maps() ? "" : "the driver has no tensor maps";
}

// ---- bf16 and f16 --------------------------------------------------------------------------------
MatmulProblem problem_of(const ContractionRequest& r) {
  return matmul_problem(r.in[0], r.in[1], r.out, r.attrs.b("transpose_a"), r.attrs.b("transpose_b"));
}
WgmmaProduct float_product(const ContractionRequest& r) {
  const MatmulProblem p = problem_of(r);
  return product_of(r, p.m, p.n, p.k, p.transpose_b);
}
std::string refuse_wgmma(const ContractionRequest& r) {
  const MatmulProblem p = problem_of(r);
  if (p.a != DType::bf16 && p.a != DType::f16) return fmt::format("made for bf16 and f16, not {}", name(p.a));
  if (p.c != p.a) return fmt::format("the result is {}, not {}", name(p.c), name(p.a));
  if (p.batch != 1) return "has no batch of weights";
  if (p.transpose_a) return "a is stored transposed";
  if (std::string why = refuse_shape(r, p.m, p.n, p.k); !why.empty()) return why;
  return p.transpose_b || p.n % 8 == 0 ? "" : fmt::format("n is {}, not a multiple of 8", p.n);
}

// ---- int8 ----------------------------------------------------------------------------------------
WgmmaProduct i8_product(const ContractionRequest& r) {
  return product_of(r, rows_of(r.in[0]), r.out.shape.last(), r.in[0].shape.last(), true);
}
std::string refuse_i8(const ContractionRequest& r) {
  const WgmmaProduct p = i8_product(r);
  if (p.out != DType::bf16 && p.out != DType::f16) return fmt::format("writes bf16 and f16, not {}", name(p.out));
  return refuse_shape(r, p.m, p.n, p.k);
}

// ---- FP8: operands as take_f8() gives them -------------------------------------------------------
WgmmaProduct f8_product(const ContractionRequest& r) {
  const std::int64_t n = r.out.shape.last(), m = n ? r.out.elements() / n : 0;
  return product_of(r, m, n, m ? r.in[0].elements() / m : 0, true);
}
std::string refuse_f8(const ContractionRequest& r) {
  const WgmmaProduct p = f8_product(r);
  if (r.in[0].dtype != DType::f8e4m3 || r.in[2].dtype != DType::f8e4m3) return "multiplies e4m3 by e4m3";
  if (r.attrs.b("transpose_a") || !r.attrs.b("transpose_b")) return "an operand does not lie by rows";
  if (p.out == DType::f8e4m3 ? !r.epilogue.quantised : p.out != DType::bf16 && p.out != DType::f16)
    return fmt::format("writes bf16, f16 and e4m3, not {}", name(p.out));
  if (p.n % 16 != 0) return fmt::format("n is {}, not a multiple of 16", p.n);
  return refuse_shape(r, p.m, p.n, p.k);
}

class Wgmma final : public Contraction {
 public:
  Wgmma(const ContractionRequest& r, const WgmmaProduct& p)
      : p_(p), epilogue_(r.epilogue), scaled_(p.in == DType::i8 || p.in == DType::f8e4m3) {
    const int size = p.small_tiles ? 64 : 128;
    detail = fmt::format("wgmma, tiles of {} x {}", size, size);
  }
  void enqueue(const ContractionCall& call) const override {
    const auto scale = [&](int i) { return scaled_ ? static_cast<const float*>(call.in[i]) : nullptr; };
    wgmma_matmul(p_, call.in[0], call.in[scaled_ ? 2 : 1], scale(1), scale(3), finish_of(epilogue_, call), call.out, call.stream);
  }

 private:
  WgmmaProduct p_;
  Epilogue epilogue_;
  bool scaled_;
};

}  // namespace

const ContractionMaker kMatmulWgmma{refuse_wgmma, [](const ContractionRequest& r) -> std::unique_ptr<Contraction> {
                                      return std::make_unique<Wgmma>(r, float_product(r));
                                    }};
const ContractionMaker kMatmulI8Wgmma{refuse_i8, [](const ContractionRequest& r) -> std::unique_ptr<Contraction> {
                                        return std::make_unique<Wgmma>(r, i8_product(r));
                                      }};
const ContractionMaker kMatmulF8Wgmma{refuse_f8,
                                      [](const ContractionRequest& r) -> std::unique_ptr<Contraction> {
                                        return std::make_unique<Wgmma>(r, f8_product(r));
                                      },
                                      true};

}  // namespace rhetor::gpu
