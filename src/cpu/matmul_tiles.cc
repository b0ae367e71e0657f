// matmul, matmul_i8 and matmul_w4 by AMX tiles (cpu/tiles.h), for more rows than the panels take. Constant weights are packed once;
// the other operands at each run, by the thread that will use them or, where all threads need the same rows, by all of them together.
// int4 weights stay as the few-row kernels pack them (cpu/int4.h); a thread widens a piece of a panel whenever it comes to it.
#include <algorithm>

#include "base/error.h"
#include "cpu/int4.h"
#include "cpu/product.h"
#include "cpu/tiles.h"

namespace rhetor {
namespace {

// Fewer rows are left to the kernels that read weights without re-laying the other operand.
constexpr std::int64_t kMinRows = 9;
// f32 weights as three parts take half as much memory again; cutting both operands at run time costs what a side of some hundred
// repays. Measured against oneDNN: 16 rows of constant weights 0.9 x, 128 rows 1.7 x; 128 x 128 results of two variables 0.9 x,
// 512 x 768 1.0 to 1.3 x.
constexpr std::int64_t kMinRowsF32 = 32;
constexpr std::int64_t kMinSideF32 = 256;
// With this many blocks of rows a thread, threads share the rows, else the columns: less of b is read twice then.
constexpr std::int64_t kBlocksToSplitRows = 6;
// Below this much work (operations on the unit) a second thread costs more than it saves.
constexpr double kMinFlopsPerSlice = 4e6;

class TileProduct final : public Product {
 public:
  // weight: which operand. int4: and its scales follow.
  TileProduct(const ProductRequest& r, const MatmulProblem& p, TileKind kind, int weight, bool int4 = false)
      : problem_(p), shape_(kind, p.k, p.n), int4_{.n = p.n, .groups = int4 ? p.k / 32 : 0}, weight_(weight), c_dtype_(r.out.dtype),
        tiles_(r.takes_sums) {
    blocks_ = (p.m + kTileBlock - 1) / kTileBlock;
    absorbed.assign(r.in.size(), false);
    if (int4) {
      weights_ = shared_i4_panels(int4_, *r.constants[1], *r.constants[2]);
      packed_bytes = int4_.bytes();
      absorbed = {false, true, true};
    } else if (const Tensor* w = r.constants[static_cast<std::size_t>(weight)]) {
      weights_ = shared_tile_panels(shape_, *w, b_source(w->raw()));
      packed_bytes = shape_.bytes();
      absorbed[static_cast<std::size_t>(weight)] = true;
    }
    const double work = p.flops() * (kind == TileKind::f32 ? 6 : 1);
    const auto parts = std::clamp<std::int64_t>(static_cast<std::int64_t>(work / kMinFlopsPerSlice), 1, r.threads);
    by_rows_ = parts == 1 || shape_.panels < parts || (!int4 && blocks_ >= kBlocksToSplitRows * parts);
    slices = static_cast<int>(std::min(parts, by_rows_ ? blocks_ : shape_.panels));
    leaves_sums = tiles_;

    const std::int64_t most_blocks = by_rows_ ? (blocks_ + slices - 1) / slices : blocks_;
    const std::int64_t pass = int4 ? tile_fill_steps(shape_) : tile_k_steps(shape_);
    group_ = tile_row_blocks(shape_, most_blocks, pass);
    const auto panel_bytes = static_cast<std::uint64_t>(shape_.panel_bytes());
    const std::int64_t panels = by_rows_ ? shape_.panels : (shape_.panels + slices - 1) / slices;
    in_place_ = tiles_in_place(shape_, a_source(nullptr));
    a_bytes_ = in_place_ ? 0 : panel_bytes * static_cast<std::uint64_t>(by_rows_ ? group_ : blocks_);
    partial_bytes_ = static_cast<std::uint64_t>(tile_partial_floats(shape_, group_, panels, pass)) * 4;
    fill_bytes_ = int4 ? tile_fill_bytes(shape_) : 0;
    b_bytes_ = weights_ ? 0 : shape_.bytes();
    scratch_bytes = b_bytes_ + a_bytes_ * static_cast<std::uint64_t>(by_rows_ ? slices : 1) +
                    (partial_bytes_ + fill_bytes_) * static_cast<std::uint64_t>(slices);
    detail =
        fmt::format("AMX {}, {} panels of {} columns{}{}{}",
                    kind == TileKind::f32    ? "3 x bf16"
                    : kind == TileKind::bf16 ? "bf16"
                                             : "int8",
                    shape_.panels, kTileBlock, slices > 1 ? fmt::format(", {} split in {}", by_rows_ ? "m" : "n", slices) : "",
                    in_place_ ? ", a in place" : "", int4 ? ", int4 weights widened on the way" : weights_ ? ", weights packed" : ", b packed at each run");
  }

  void run(const void* const* in, void* c, void* scratch, ThreadPool& pool, Epilogue epilogue,
           const void* context) const override {
    Job job{
        this,     in,     tiles_ ? nullptr : c, static_cast<std::byte*>(scratch), static_cast<const std::byte*>(weights_.get()),
        epilogue, context};
    if (!job.b) {
      job.b = job.space;
      pool.run(
          static_cast<int>(std::min<std::int64_t>(slices, shape_.panels)),
          [](void* opaque, int i) {
            const auto& j = *static_cast<const Job*>(opaque);
            const TileProduct& t = *j.self;
            const std::int64_t parts = std::min<std::int64_t>(t.slices, t.shape_.panels);
            pack_tile_panels(t.shape_, t.b_source(j.in[t.weight_]), t.shape_.panels * i / parts,
                             t.shape_.panels * (i + 1) / parts, j.space);
          },
          &job);
    }
    if (!by_rows_ && !in_place_) {
      pool.run(
          static_cast<int>(std::min<std::int64_t>(slices, blocks_)),
          [](void* opaque, int i) {
            const auto& j = *static_cast<const Job*>(opaque);
            const TileProduct& t = *j.self;
            const std::int64_t parts = std::min<std::int64_t>(t.slices, t.blocks_), begin = t.blocks_ * i / parts;
            pack_tile_rows(t.shape_, t.a_source(j.in[0]), begin, t.blocks_ * (i + 1) / parts,
                           t.rows_at(j, 0) + begin * t.shape_.panel_bytes());
          },
          &job);
    }
    pool.run(
        slices,
        [](void* opaque, int i) {
          const auto& j = *static_cast<const Job*>(opaque);
          j.self->run_slice(j, i);
        },
        &job);
  }

 private:
  struct Job {
    const TileProduct* self;
    const void* const* in;
    void* c;
    std::byte* space;    // b packed at this run, rows packed, sums parked
    const std::byte* b;  // packed
    Epilogue epilogue;
    const void* context;
  };

  TileSource a_source(const void* a) const {
    return {a, problem_.m, problem_.k, problem_.transpose_a ? problem_.m : problem_.k, !problem_.transpose_a};
  }
  TileSource b_source(const void* b) const {
    return {b, problem_.n, problem_.k, problem_.transpose_b ? problem_.k : problem_.n, problem_.transpose_b};
  }
  std::byte* rows_at(const Job& j, int slice) const {
    return j.space + b_bytes_ + (by_rows_ ? a_bytes_ * static_cast<std::uint64_t>(slice) : 0);
  }

  void run_slice(const Job& j, int i) const {
    const bool i8 = shape_.kind == TileKind::i8;
    std::byte* const rows = rows_at(j, i);
    std::byte* const parked = j.space + b_bytes_ + a_bytes_ * static_cast<std::uint64_t>(by_rows_ ? slices : 1) +
                              (partial_bytes_ + fill_bytes_) * static_cast<std::uint64_t>(i);
    struct Int4 {
      const I4Shape* shape;
      const std::byte* panels;
    } const int4{&int4_, j.b};
    TileRun run{.shape = &shape_,
                .a = {},
                .b = fill_bytes_ ? reinterpret_cast<const std::byte*>(&int4) : j.b,
                .fill = nullptr,
                .filled = parked + partial_bytes_,
                .m = problem_.m,
                .block_begin = 0,
                .block_end = 0,
                .panel_begin = by_rows_ ? 0 : shape_.panels * i / slices,
                .panel_end = by_rows_ ? shape_.panels : shape_.panels * (i + 1) / slices,
                .partial = partial_bytes_ ? reinterpret_cast<float*>(parked) : nullptr,
                .c = j.c,
                .c_dtype = c_dtype_,
                .x_scale = i8 ? static_cast<const float*>(j.in[1]) : nullptr,
                .w_scale = i8 ? static_cast<const float*>(j.in[3]) : nullptr,
                .epilogue = j.epilogue,
                .context = j.context,
                .slice = i};
    if (fill_bytes_)
      run.fill = [](const void* source, std::int64_t panel, std::int64_t from, std::int64_t steps, std::byte* to) {
        const auto& s = *static_cast<const Int4*>(source);
        const auto* at = reinterpret_cast<const std::uint8_t*>(s.panels) + panel * s.shape->panel_bytes() + from * kI4GroupBytes;
        i4_to_tiles(at, steps, to);
      };
    const std::int64_t begin = by_rows_ ? blocks_ * i / slices : 0, end = by_rows_ ? blocks_ * (i + 1) / slices : blocks_;
    for (std::int64_t block = begin; block < end; block += group_) {
      run.block_begin = block;
      run.block_end = std::min(end, block + group_);
      if (in_place_) {
        run.a = tile_rows_in_place(shape_, a_source(j.in[0]), block);
      } else {
        if (by_rows_) pack_tile_rows(shape_, a_source(j.in[0]), run.block_begin, run.block_end, rows);
        run.a = packed_tile_rows(shape_, by_rows_ ? rows : rows + block * shape_.panel_bytes());
      }
      run_tiles(run);
    }
  }

  MatmulProblem problem_;
  TileShape shape_;
  I4Shape int4_;  // no groups: weights are no int4
  int weight_;
  DType c_dtype_;
  bool tiles_, by_rows_ = false, in_place_ = false;
  std::shared_ptr<void> weights_;
  std::int64_t blocks_ = 0, group_ = 1;  // blocks of rows; how many are packed at a time
  std::uint64_t a_bytes_ = 0, b_bytes_ = 0, partial_bytes_ = 0, fill_bytes_ = 0;
};

std::string refuse_shape(const MatmulProblem& p, DType c) {
  if (cpu_isa() < Isa::amx) return "needs AMX";
  if (c != DType::f32 && c != DType::bf16 && c != DType::f16) return fmt::format("writes f32, bf16 and f16, not {}", name(c));
  if (p.batch * p.m * p.n * p.k == 0) return "an operand is empty";
  if (!MatmulPlan::can_pack(p)) return "b is not one matrix for all rows of a";
  if (p.m < kMinRows) return fmt::format("{} rows: made for at least {}", p.m, kMinRows);
  return "";
}

MatmulProblem plain_problem(const ProductRequest& r) {
  return matmul_problem(r.in[0], r.in[1], r.out, r.attrs.b("transpose_a"), r.attrs.b("transpose_b"));
}

}  // namespace

std::string refuse_tiles(const ProductRequest& r) {
  const DType a = r.in[0].dtype, b = r.in[1].dtype;
  if (a != b || (a != DType::bf16 && a != DType::f32))
    return fmt::format("made for f32 or bf16 on both sides, not {} and {}", name(a), name(b));
  const MatmulProblem p = plain_problem(r);
  if (a == DType::f32 && p.m < kMinRowsF32)
    return fmt::format("{} rows: reading weights as three parts is not repaid below {}", p.m, kMinRowsF32);
  if (a == DType::f32 && !r.constants[1] && std::min(p.m, p.n) < kMinSideF32)
    return fmt::format("{} x {} results do not repay cutting both operands into parts", p.m, p.n);
  return refuse_shape(p, r.out.dtype);
}
std::unique_ptr<Product> make_tiles(const ProductRequest& r) {
  return std::make_unique<TileProduct>(r, plain_problem(r), r.in[0].dtype == DType::f32 ? TileKind::f32 : TileKind::bf16, 1);
}

std::string refuse_tiles_i8(const ProductRequest& r) { return refuse_shape(matmul_i8_problem(r), r.out.dtype); }
std::unique_ptr<Product> make_tiles_i8(const ProductRequest& r) {
  return std::make_unique<TileProduct>(r, matmul_i8_problem(r), TileKind::i8, 2);
}

std::string refuse_tiles_w4(const ProductRequest& r) {
  if (r.in[0].dtype != DType::bf16) return fmt::format("made for bf16, not {}", name(r.in[0].dtype));
  if (!r.constants[1] || !r.constants[2]) return "the weights are not known at compile time";
  return refuse_shape(matmul_w4_problem(r), r.out.dtype);
}
std::unique_ptr<Product> make_tiles_w4(const ProductRequest& r) {
  return std::make_unique<TileProduct>(r, matmul_w4_problem(r), TileKind::bf16, 1, true);
}

}  // namespace rhetor
