// matmul_w4: floating activations with int4 weights, for many rows. AMX widens weights to bf16 tiles on the way; elsewhere a panel of 32 columns
// is widened to f32 once and all rows go over it.
#include <immintrin.h>

#include <algorithm>

#include "cpu/families.h"
#include "cpu/int4.h"
#include "cpu/kernel_util.h"
#include "cpu/panels.h"
#include "cpu/product.h"
#include "ops/ops.h"

namespace rhetor {

MatmulProblem matmul_w4_problem(const ProductRequest& r) {
  MatmulProblem p;
  p.k = r.in[0].shape.last();
  p.m = p.k ? r.in[0].elements() / p.k : 0;
  p.n = r.in[1].shape[0];
  p.transpose_b = true;
  p.a = p.b = r.in[0].dtype;
  p.c = r.out.dtype;
  return p;
}

namespace {

// sums[32] = sum_k x[k] w[k][32]
__attribute__((target("avx2,fma"))) void one_row(const float* x, const float* w, std::int64_t k_size, float* sums) {
  __m256 s[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
  for (std::int64_t k = 0; k < k_size; ++k, w += kI4Columns) {
    const __m256 v = _mm256_set1_ps(x[k]);
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) s[c] = _mm256_fmadd_ps(v, _mm256_loadu_ps(w + 8 * c), s[c]);
  }
  for (int c = 0; c < 4; ++c) _mm256_storeu_ps(sums + 8 * c, s[c]);
}

class WideningProduct final : public Product {
 public:
  explicit WideningProduct(const ProductRequest& r) : problem_(matmul_w4_problem(r)) {
    shape_ = {.n = problem_.n, .groups = problem_.k / kInt4Group};
    weights_ = shared_i4_panels(shape_, *r.constants[1], *r.constants[2]);
    packed_bytes = shape_.bytes();
    absorbed = {false, true, true};
    slices = static_cast<int>(std::min<std::int64_t>(r.threads, shape_.panels()));
    x_bytes_ = problem_.a == DType::f32 ? 0 : round_up(static_cast<std::uint64_t>(problem_.m * problem_.k) * 4);
    panel_bytes_ = static_cast<std::uint64_t>(problem_.k * kI4Columns) * 4;
    scratch_bytes = x_bytes_ + panel_bytes_ * static_cast<std::uint64_t>(slices);
    detail = fmt::format("{} panels of {} int4 columns, widened to f32", shape_.panels(), kI4Columns);
  }

  void run(const void* const* in, void* c, void* scratch, ThreadPool& pool, Epilogue epilogue, const void* context) const override {
    const auto* x = static_cast<const float*>(in[0]);
    if (x_bytes_) {
      const auto size = static_cast<std::int64_t>(byte_size(problem_.a));
      pool.parallel_for(problem_.m * problem_.k, 4096, [&](std::int64_t begin, std::int64_t end) {
        widen(problem_.a, static_cast<const std::byte*>(in[0]) + begin * size, static_cast<float*>(scratch) + begin, end - begin);
      });
      x = static_cast<const float*>(scratch);
    }
    run_tasks(pool, slices, [&](int i) {
      auto* const panel = reinterpret_cast<float*>(static_cast<std::byte*>(scratch) + x_bytes_ + panel_bytes_ * static_cast<std::uint64_t>(i));
      const std::int64_t begin = part_begin(shape_.panels(), slices, i), end = part_begin(shape_.panels(), slices, i + 1);
      for (std::int64_t p = begin; p < end; ++p) run_panel(p, x, panel, c);
      if (epilogue) epilogue(context, i, {0, problem_.m, begin * kI4Columns, std::min(shape_.n, end * kI4Columns)});
    });
  }

 private:
  void run_panel(std::int64_t index, const float* x, float* panel, void* c) const {
    const MatmulProblem& p = problem_;
    i4_to_floats(static_cast<const std::uint8_t*>(weights_.get()) + index * shape_.panel_bytes(), shape_.groups, panel);
    if (p.a != DType::f32)  // the operand has the dtype of x
      for (std::int64_t i = 0; i < p.k * kI4Columns; ++i)
        panel[i] = p.a == DType::bf16 ? bf16::from_float(panel[i]).to_float() : f16::from_float(panel[i]).to_float();
    const std::int64_t first = index * kI4Columns, cols = std::min(kI4Columns, p.n - first), size = static_cast<std::int64_t>(byte_size(p.c));
    alignas(64) float sums[kI4Columns];
    for (std::int64_t row = 0; row < p.m; ++row) {
      one_row(x + row * p.k, panel, p.k, sums);
      narrow(sums, p.c, static_cast<std::byte*>(c) + (row * p.n + first) * size, cols);
    }
  }

  MatmulProblem problem_;
  I4Shape shape_;
  std::shared_ptr<void> weights_;
  std::uint64_t x_bytes_ = 0, panel_bytes_ = 0;
};

std::string refuse_widening(const ProductRequest& r) {
  for (const DType type : {r.in[0].dtype, r.out.dtype})
    if (!is_fast_float(type)) return fmt::format("made for f32, bf16 and f16, not {}", name(type));
  if (!r.constants[1] || !r.constants[2]) return "the weights are not known at compile time";
  if (r.in[0].elements() * r.in[1].elements() == 0) return "an operand is empty";
  return "";
}
std::unique_ptr<Product> make_widening(const ProductRequest& r) { return std::make_unique<WideningProduct>(r); }

}  // namespace

const std::vector<ProductMaker>& matmul_w4_makers() {
  static const std::vector<ProductMaker> makers = {{"cpu.matmul_w4.tiles", refuse_tiles_w4, make_tiles_w4},
                                                   {"cpu.matmul_w4.widening", refuse_widening, make_widening}};
  return makers;
}

KernelRow matmul_w4_row() {
  return {"matmul_w4",
          {product_candidate<refuse_tiles_w4, make_tiles_w4>("cpu.matmul_w4.tiles"),
           product_candidate<refuse_widening, make_widening>("cpu.matmul_w4.widening")}};
}

}  // namespace rhetor
