// matmul_i8: exact i32 sums of int8 products, scaled to floats. Our panels for few rows and for processors without VNNI (whose
// oneDNN sums saturate), AMX tiles or oneDNN (VNNI) for many rows.
#include <algorithm>

#include "base/error.h"
#include "cpu/families.h"
#include "cpu/onednn.h"
#include "cpu/panels.h"
#include "cpu/product.h"
#include "cpu/quantize.h"

namespace rhetor {

MatmulProblem matmul_i8_problem(const ProductRequest& r) {
  const Shape &x = r.in[0].shape, &w = r.in[2].shape;
  MatmulProblem p;
  p.k = x.last();
  p.m = p.k ? x.elements() / p.k : 0;
  p.n = w[0];
  p.transpose_b = true;
  p.a = p.b = DType::i8;
  p.c = DType::i32;
  return p;
}

namespace {

constexpr std::int64_t kMaxPanelRows = 8;
constexpr std::uint64_t kMinSliceBytes = 64 << 10;

std::uint64_t aligned(std::uint64_t bytes) { return (bytes + 63) / 64 * 64; }

class PanelProductI8 final : public Product {
 public:
  explicit PanelProductI8(const ProductRequest& r) : problem_(matmul_i8_problem(r)), c_dtype_(r.out.dtype) {
    const MatmulProblem& p = problem_;
    shape_ = panel_shape(cpu_isa() >= Isa::avx512_bf16 ? PanelKind::i8_quads : PanelKind::i8_pairs, p.k, p.n);
    sums_bytes_ = aligned(static_cast<std::uint64_t>(shape_.panels * shape_.cols) * 4);
    rows_bytes_ = aligned(static_cast<std::uint64_t>(p.m * i8_row_bytes(shape_)));
    scratch_bytes = rows_bytes_;
    absorbed = {false, false, r.constants[2] != nullptr, false};
    if (r.constants[2]) {
      weights_ = shared_panels(shape_, *r.constants[2], 1, p.k, sums_bytes_);
      packed_bytes = aligned(shape_.bytes()) + sums_bytes_;
    } else {
      scratch_bytes += aligned(shape_.bytes()) + sums_bytes_;  // packed at every run
    }
    const std::uint64_t work = std::max<std::uint64_t>(1, static_cast<std::uint64_t>(p.m) / 8) * shape_.bytes();
    const int parts =
        static_cast<int>(std::clamp<std::uint64_t>(work / kMinSliceBytes, 1, static_cast<std::uint64_t>(r.threads)));
    by_rows_ = shape_.panels < parts;
    slices = by_rows_ ? static_cast<int>(std::min<std::int64_t>(parts, (p.m + 3) / 4)) : parts;
    detail = fmt::format("{} panels of {} int8 columns, {}{}{}", shape_.panels, shape_.cols,
                         shape_.kind == PanelKind::i8_quads ? "vnni" : "i16 pairs",
                         slices > 1 ? fmt::format(", {} split in {}", by_rows_ ? "m" : "n", slices) : "",
                         r.constants[2] ? ", weights packed" : "");
  }

  void run(const void* const* in, void* c, void* scratch, ThreadPool& pool, Epilogue epilogue,
           const void* context) const override {
    auto* rows = static_cast<std::byte*>(scratch);
    const void* weights = weights_.get();
    const std::uint64_t sums_at = aligned(shape_.bytes());  // behind the panels
    const auto* sums = weights ? reinterpret_cast<const std::int32_t*>(static_cast<const std::byte*>(weights) + sums_at) : nullptr;
    if (!weights) {
      std::byte* packed = rows + rows_bytes_;
      auto* fresh = reinterpret_cast<std::int32_t*>(packed + sums_at);
      pool.parallel_for(shape_.panels, 1, [&](std::int64_t begin, std::int64_t end) {
        pack_panels(shape_, in[2], 1, problem_.k, begin, end, packed, fresh);
      });
      weights = packed;
      sums = fresh;
    }
    const auto* x = static_cast<const std::int8_t*>(in[0]);
    pool.parallel_for(problem_.m, 32,
                      [&](std::int64_t begin, std::int64_t end) { prepare_i8_rows(shape_, x, begin, end, rows); });
    struct Job {
      const PanelProductI8* self;
      PanelRun run;
      Epilogue epilogue;
      const void* context;
    } job{this,
          {.shape = &shape_,
           .weights = weights,
           .a = rows,
           .m = problem_.m,
           .c = c,
           .c_dtype = c_dtype_,
           .x_scale = static_cast<const float*>(in[1]),
           .w_scale = static_cast<const float*>(in[3]),
           .sums = sums},
          epilogue,
          context};
    pool.run(
        slices,
        [](void* opaque, int i) {
          const auto& j = *static_cast<const Job*>(opaque);
          j.self->run_slice(j.run, i, j.epilogue, j.context);
        },
        &job);
  }

 private:
  void run_slice(const PanelRun& all, int i, Epilogue epilogue, const void* context) const {
    Region region{0, problem_.m, 0, problem_.n};
    PanelRun run = all;
    std::int64_t begin = 0, end = shape_.panels;
    if (by_rows_) {
      const std::int64_t groups = (problem_.m + 3) / 4;
      region.row_begin = groups * i / slices * 4;
      region.row_end = std::min(problem_.m, groups * (i + 1) / slices * 4);
      run.a = static_cast<const std::byte*>(run.a) + region.row_begin * i8_row_bytes(shape_);
      run.c = static_cast<std::byte*>(run.c) + region.row_begin * problem_.n * static_cast<std::int64_t>(byte_size(c_dtype_));
      run.x_scale += region.row_begin;
      run.m = region.row_end - region.row_begin;
    } else {
      begin = shape_.panels * i / slices;
      end = shape_.panels * (i + 1) / slices;
      region.col_begin = begin * shape_.cols;
      region.col_end = std::min(problem_.n, end * shape_.cols);
    }
    run_panels(run, begin, end);
    if (epilogue) epilogue(context, i, region);
  }

  MatmulProblem problem_;
  DType c_dtype_;
  PanelShape shape_;
  std::shared_ptr<void> weights_;  // panels, then sums
  std::uint64_t rows_bytes_ = 0, sums_bytes_ = 0;
  bool by_rows_ = false;
};

std::string refuse_any(const ProductRequest& r) {
  const MatmulProblem p = matmul_i8_problem(r);
  if (p.m * p.n * p.k == 0) return "an operand is empty";
  if (r.out.dtype != DType::f32 && r.out.dtype != DType::bf16 && r.out.dtype != DType::f16)
    return fmt::format("writes f32, bf16 and f16, not {}", name(r.out.dtype));
  return "";
}
std::string refuse_few(const ProductRequest& r) {
  if (std::string why = refuse_any(r); !why.empty()) return why;
  if (!r.constants[2]) return "the weights are not known at compile time";
  const std::int64_t m = matmul_i8_problem(r).m;
  return m <= kMaxPanelRows ? "" : fmt::format("{} rows: made for at most {}", m, kMaxPanelRows);
}
std::unique_ptr<Product> make_panels(const ProductRequest& r) { return std::make_unique<PanelProductI8>(r); }

class OneDnnProductI8 final : public Product {
 public:
  explicit OneDnnProductI8(const ProductRequest& r)
      : problem_(matmul_i8_problem(r)), c_dtype_(r.out.dtype), plan_(problem_, r.constants[2], r.threads, true) {
    slices = plan_.slices();
    sums_bytes_ = aligned(static_cast<std::uint64_t>(problem_.m * problem_.n) * 4);
    scratch_bytes = sums_bytes_ + plan_.scratch_bytes();
    packed_bytes = plan_.packed_bytes();
    absorbed = {false, false, r.constants[2] != nullptr, false};
    detail = plan_.detail();
  }

  void run(const void* const* in, void* c, void* scratch, ThreadPool& pool, Epilogue epilogue,
           const void* context) const override {
    struct Scaling {
      const OneDnnProductI8* self;
      const std::int32_t* sums;
      const float *x_scale, *w_scale;
      void* c;
      Epilogue epilogue;
      const void* context;
    } scaling{this,
              static_cast<const std::int32_t*>(scratch),
              static_cast<const float*>(in[1]),
              static_cast<const float*>(in[3]),
              c,
              epilogue,
              context};
    const auto scale = [](const void* opaque, int slice, const Region& region) {
      const auto& s = *static_cast<const Scaling*>(opaque);
      const std::int64_t n = s.self->problem_.n, size = static_cast<std::int64_t>(byte_size(s.self->c_dtype_));
      for (std::int64_t row = region.row_begin; row < region.row_end; ++row) {
        const std::int64_t first = row * n + region.col_begin;
        scale_sums(s.sums + first, s.x_scale[row], s.w_scale + region.col_begin, s.self->c_dtype_,
                   static_cast<std::byte*>(s.c) + first * size, region.col_end - region.col_begin);
      }
      if (s.epilogue) s.epilogue(s.context, slice, region);
    };
    plan_.run(in[0], absorbed[2] ? nullptr : in[2], scratch, static_cast<std::byte*>(scratch) + sums_bytes_, pool, scale,
              &scaling);
  }

 private:
  MatmulProblem problem_;
  DType c_dtype_;
  MatmulPlan plan_;
  std::uint64_t sums_bytes_ = 0;
};

std::string refuse_onednn(const ProductRequest& r) {
  if (std::string why = refuse_any(r); !why.empty()) return why;
  return MatmulPlan::refuse(matmul_i8_problem(r));
}
std::unique_ptr<Product> make_onednn(const ProductRequest& r) { return std::make_unique<OneDnnProductI8>(r); }

}  // namespace

const std::vector<ProductMaker>& matmul_i8_makers() {
  static const std::vector<ProductMaker> makers = {{"cpu.matmul_i8.few_rows", refuse_few, make_panels},
                                                   {"cpu.matmul_i8.tiles", refuse_tiles_i8, make_tiles_i8},
                                                   {"cpu.matmul_i8.onednn", refuse_onednn, make_onednn},
                                                   {"cpu.matmul_i8.panels", refuse_any, make_panels}};
  return makers;
}

std::vector<KernelRow> matmul_i8_rows() {
  return {{"matmul_i8",
           {product_candidate<refuse_few, make_panels>("cpu.matmul_i8.few_rows"),
            product_candidate<refuse_tiles_i8, make_tiles_i8>("cpu.matmul_i8.tiles"),
            product_candidate<refuse_onednn, make_onednn>("cpu.matmul_i8.onednn"),
            product_candidate<refuse_any, make_panels>("cpu.matmul_i8.panels")}}};
}

}  // namespace rhetor
