// matmul: our panels for few rows with constant weights, AMX tiles for more, oneDNN for the rest, and f16 (and bf16 before AVX512_BF16) by widening
// to f32.
#include <algorithm>

#include "base/error.h"
#include "cpu/families.h"
#include "cpu/panels.h"
#include "cpu/product.h"
#include "cpu/onednn.h"

namespace rhetor {
namespace {

// Up to this many rows the weights' bytes, not the arithmetic, set the time, and our panels read them best.
constexpr std::int64_t kMaxPanelRows = 4;
// Weights a thread should at least read to be worth waking.
constexpr std::uint64_t kMinSliceBytes = 64 << 10;

std::uint64_t aligned(std::uint64_t bytes) { return (bytes + 63) / 64 * 64; }

MatmulProblem problem_of(const ProductRequest& r) {
  return matmul_problem(r.in[0], r.in[1], r.out, r.attrs.b("transpose_a"), r.attrs.b("transpose_b"));
}

// ---- few rows -------------------------------------------------------------------------------------
class PanelProduct final : public Product {
 public:
  explicit PanelProduct(const ProductRequest& r) : problem_(problem_of(r)), c_dtype_(r.out.dtype), a_dtype_(r.in[0].dtype) {
    const MatmulProblem& p = problem_;
    shape_ = panel_shape(a_dtype_ == DType::bf16 ? PanelKind::bf16 : PanelKind::f32, p.k, p.n);
    weights_ = shared_panels(shape_, *r.constants[1], p.transpose_b ? 1 : p.n, p.transpose_b ? p.k : 1);
    slices = static_cast<int>(std::clamp<std::uint64_t>(
        shape_.bytes() / kMinSliceBytes, 1, static_cast<std::uint64_t>(std::min<std::int64_t>(r.threads, shape_.panels))));
    scratch_bytes = a_dtype_ == DType::f32 ? 0 : aligned(static_cast<std::uint64_t>(p.m * p.k) * 4);
    packed_bytes = shape_.bytes();
    absorbed = {false, true};
    detail = fmt::format("{} panels of {} {} columns{}", shape_.panels, shape_.cols, name(a_dtype_),
                         slices > 1 ? fmt::format(", split in {}", slices) : "");
  }

  void run(const void* const* in, void* c, void* scratch, ThreadPool& pool, Epilogue epilogue,
           const void* context) const override {
    const void* a = in[0];
    if (a_dtype_ != DType::f32) {
      widen(a_dtype_, a, static_cast<float*>(scratch), problem_.m * problem_.k);
      a = scratch;
    }
    struct Job {
      PanelRun run;
      int slices;
      Epilogue epilogue;
      const void* context;
    } job{{.shape = &shape_,
           .weights = weights_.get(),
           .a = a,
           .m = problem_.m,
           .c = c,
           .c_dtype = c_dtype_,
           .x_scale = nullptr,
           .w_scale = nullptr,
           .sums = nullptr},
          slices,
          epilogue,
          context};
    pool.run(
        slices,
        [](void* opaque, int i) {
          const auto& j = *static_cast<const Job*>(opaque);
          const PanelShape& s = *j.run.shape;
          const std::int64_t begin = s.panels * i / j.slices, end = s.panels * (i + 1) / j.slices;
          run_panels(j.run, begin, end);
          if (j.epilogue) j.epilogue(j.context, i, {0, j.run.m, begin * s.cols, std::min(s.n, end * s.cols)});
        },
        &job);
  }

 private:
  MatmulProblem problem_;
  DType c_dtype_, a_dtype_;
  PanelShape shape_;
  std::shared_ptr<void> weights_;
};

std::string refuse_panels(const ProductRequest& r) {
  const MatmulProblem p = problem_of(r);
  const DType type = r.in[0].dtype;
  if (type != DType::f32 && type != DType::bf16) return fmt::format("made for f32 and bf16, not {}", name(type));
  if (r.out.dtype == DType::f64) return "writes no f64";
  if (!r.constants[1]) return "the weights are not known at compile time";
  if (!MatmulPlan::can_pack(p)) return "b is not one matrix for all rows of a";
  if (p.m > kMaxPanelRows) return fmt::format("{} rows: made for at most {}", p.m, kMaxPanelRows);
  if (p.transpose_a && p.m > 1) return "a is stored transposed";
  if (p.m * p.n * p.k == 0) return "an operand is empty";
  return "";
}
std::unique_ptr<Product> make_panels(const ProductRequest& r) { return std::make_unique<PanelProduct>(r); }

// ---- oneDNN ---------------------------------------------------------------------------------------
class OneDnnProduct final : public Product {
 public:
  explicit OneDnnProduct(const ProductRequest& r) : plan_(problem_of(r), r.constants[1], r.threads, r.blocked) {
    slices = plan_.slices();
    scratch_bytes = plan_.scratch_bytes();
    packed_bytes = plan_.packed_bytes();
    absorbed = {false, r.constants[1] != nullptr && MatmulPlan::can_pack(problem_of(r))};
    detail = plan_.detail();
  }
  void run(const void* const* in, void* c, void* scratch, ThreadPool& pool, Epilogue epilogue,
           const void* context) const override {
    plan_.run(in[0], absorbed[1] ? nullptr : in[1], c, scratch, pool, epilogue, context);
  }

 private:
  MatmulPlan plan_;
};

std::string refuse_onednn(const ProductRequest& r) { return MatmulPlan::refuse(problem_of(r)); }
std::unique_ptr<Product> make_onednn(const ProductRequest& r) { return std::make_unique<OneDnnProduct>(r); }

// ---- widened to f32 -------------------------------------------------------------------------------
ProductRequest widened_request(const ProductRequest& r) {
  ProductRequest w = r;
  for (Type& type : w.in) type.dtype = DType::f32;
  w.out.dtype = DType::f32;
  return w;
}

void widen_in_parallel(ThreadPool& pool, DType from, const void* x, float* y, std::int64_t n) {
  pool.parallel_for(n, 4096, [&](std::int64_t begin, std::int64_t end) {
    widen(from, static_cast<const std::byte*>(x) + begin * static_cast<std::int64_t>(byte_size(from)), y + begin, end - begin);
  });
}

class WidenedProduct final : public Product {
 public:
  explicit WidenedProduct(const ProductRequest& r) : a_(r.in[0]), b_(r.in[1]), c_(r.out) {
    ProductRequest wide = widened_request(r);
    Tensor b;
    if (r.constants[1]) {
      b = r.constants[1]->cast(DType::f32);
      wide.constants[1] = &b;
    }
    inner_ = make_onednn(wide);
    slices = inner_->slices;
    absorbed = inner_->absorbed;
    packed_bytes = inner_->packed_bytes;
    a_bytes_ = a_.dtype == DType::f32 ? 0 : aligned(static_cast<std::uint64_t>(a_.elements()) * 4);
    b_bytes_ = b_.dtype == DType::f32 || absorbed[1] ? 0 : aligned(static_cast<std::uint64_t>(b_.elements()) * 4);
    c_bytes_ = c_.dtype == DType::f32 ? 0 : aligned(static_cast<std::uint64_t>(c_.elements()) * 4);
    scratch_bytes = a_bytes_ + b_bytes_ + c_bytes_ + inner_->scratch_bytes;
    detail = fmt::format("widened to f32, {}", inner_->detail);
  }

  void run(const void* const* in, void* c, void* scratch, ThreadPool& pool, Epilogue epilogue,
           const void* context) const override {
    auto* next = static_cast<std::byte*>(scratch);
    const void* operands[2] = {in[0], in[1]};
    if (a_bytes_) {
      operands[0] = next;
      widen_in_parallel(pool, a_.dtype, in[0], reinterpret_cast<float*>(next), a_.elements());
      next += a_bytes_;
    }
    if (b_bytes_) {
      operands[1] = next;
      widen_in_parallel(pool, b_.dtype, in[1], reinterpret_cast<float*>(next), b_.elements());
      next += b_bytes_;
    }
    if (!c_bytes_) return inner_->run(operands, c, next, pool, epilogue, context);
    auto* wide = reinterpret_cast<float*>(next);
    struct Narrowing {
      const float* from;
      void* to;
      DType dtype;
      std::int64_t cols;
      Epilogue epilogue;
      const void* context;
    } narrowing{wide, c, c_.dtype, c_.shape.last(), epilogue, context};
    const auto finish = [](const void* opaque, int slice, const Region& region) {
      const auto& n = *static_cast<const Narrowing*>(opaque);
      for (std::int64_t row = region.row_begin; row < region.row_end; ++row) {
        const std::int64_t first = row * n.cols + region.col_begin;
        narrow(n.from + first, n.dtype, static_cast<std::byte*>(n.to) + first * static_cast<std::int64_t>(byte_size(n.dtype)),
               region.col_end - region.col_begin);
      }
      if (n.epilogue) n.epilogue(n.context, slice, region);
    };
    inner_->run(operands, wide, next + c_bytes_, pool, finish, &narrowing);
  }

 private:
  Type a_, b_, c_;
  std::unique_ptr<Product> inner_;
  std::uint64_t a_bytes_ = 0, b_bytes_ = 0, c_bytes_ = 0;
};

bool widens(DType type) { return type == DType::f32 || type == DType::bf16 || type == DType::f16; }

std::string refuse_widened(const ProductRequest& r) {
  bool any = false;
  for (const DType type : {r.in[0].dtype, r.in[1].dtype, r.out.dtype}) {
    if (!widens(type)) return fmt::format("{} does not widen to f32", name(type));
    any = any || type != DType::f32;
  }
  if (!any) return "nothing to widen";
  return refuse_onednn(widened_request(r));
}
std::unique_ptr<Product> make_widened(const ProductRequest& r) {
  // A narrowing epilogue follows, so the inner plan is blocked like one for a fused node.
  ProductRequest blocked = r;
  blocked.blocked = r.blocked || r.out.dtype != DType::f32;
  return std::make_unique<WidenedProduct>(blocked);
}

}  // namespace

ProductRequest product_request(const KernelRequest& r) {
  return {.in = r.in, .constants = r.constants, .out = r.out[0], .attrs = r.node.attrs, .threads = r.threads, .blocked = false};
}

Kernel product_kernel(const KernelRequest& request, std::unique_ptr<Product> product) {
  Kernel kernel;
  kernel.scratch_bytes = product->scratch_bytes;
  kernel.packed_bytes = product->packed_bytes;
  kernel.absorbed = product->absorbed;
  kernel.absorbed.resize(request.in.size(), false);
  kernel.detail = product->detail;
  kernel.params = std::shared_ptr<const Product>(std::move(product));
  kernel.run = [](const void* params, const KernelArgs& args) {
    static_cast<const Product*>(params)->run(args.in, args.out[0], args.scratch, args.pool, nullptr, nullptr);
  };
  return kernel;
}

const std::vector<ProductMaker>& matmul_makers() {
  static const std::vector<ProductMaker> makers = {{"cpu.matmul.panels", refuse_panels, make_panels},
                                                   {"cpu.matmul.tiles", refuse_tiles, make_tiles},
                                                   {"cpu.matmul.onednn", refuse_onednn, make_onednn},
                                                   {"cpu.matmul.widened", refuse_widened, make_widened},
                                                   {"cpu.matmul.fresh", refuse_fresh, make_fresh}};
  return makers;
}

std::vector<KernelRow> matmul_small_rows() {
  return {{"matmul", {product_candidate<refuse_panels, make_panels>("cpu.matmul.panels")}}};
}
std::vector<KernelRow> matmul_rows() {
  return {{"matmul",
           {product_candidate<refuse_fresh, make_fresh>("cpu.matmul.fresh"),
            product_candidate<refuse_tiles, make_tiles>("cpu.matmul.tiles"),
            product_candidate<refuse_onednn, make_onednn>("cpu.matmul.onednn"),
            product_candidate<refuse_widened, make_widened>("cpu.matmul.widened")}}};
}

}  // namespace rhetor
