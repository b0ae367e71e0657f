#include "cpu/matmul_plan.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "base/error.h"
#include "cpu/onednn.h"
#include "cpu/pack_cache.h"

namespace rhetor {
namespace {

using dnnl::memory;

// Below this much work a second thread costs more than it saves (a pool round trip is about a microsecond).
constexpr double kMinFlopsPerSlice = 1e5;
// A block of results that the epilogue finds in the second-level cache; smaller would read b too often.
constexpr std::int64_t kBlockBytes = 1536 << 10;
// From this many rows on, packing b at every run is repaid by the faster product.
constexpr std::int64_t kMinRowsToPack = 48;

std::uint64_t round_up(std::uint64_t bytes) { return (bytes + 63) / 64 * 64; }

struct Range {
  std::int64_t begin, end;
  std::int64_t size() const { return end - begin; }
};

// [0, count) in `parts` ranges, each but the last a multiple of `grain`.
std::vector<Range> divide(std::int64_t count, int parts, std::int64_t grain) {
  const std::int64_t chunks = (count + grain - 1) / grain;
  std::vector<Range> out;
  for (int i = 0; i < parts; ++i) {
    const Range r{chunks * i / parts * grain, std::min(count, chunks * (i + 1) / parts * grain)};
    if (r.size() > 0) out.push_back(r);
  }
  return out;
}

// How the pool shares a problem: ranges of batch, rows and columns for each slice.
struct Piece {
  Range batch, rows, cols;
};

// whole_rows: an epilogue follows, which sees several batches as one run of rows.
std::vector<Piece> split(const MatmulProblem& p, int threads, bool whole_rows) {
  const Range all_batch{0, p.batch}, all_rows{0, p.m}, all_cols{0, p.n};
  const int parts = std::min(threads, std::max(1, static_cast<int>(p.flops() / kMinFlopsPerSlice)));
  std::vector<Piece> out;
  if (parts > 1 && p.batch > 1 && (whole_rows || p.batch >= parts)) {
    for (const Range r : divide(p.batch, parts, 1)) out.push_back({r, all_rows, all_cols});
  } else if (parts > 1 && p.n >= 64 * parts && (p.n >= p.m || p.transpose_a)) {
    for (const Range r : divide(p.n, parts, 64)) out.push_back({all_batch, all_rows, r});
  } else if (parts > 1 && p.m >= 16 * parts) {
    for (const Range r : divide(p.m, parts, 16)) out.push_back({all_batch, r, all_cols});
  } else if (parts > 1 && p.n >= 16 * parts) {
    for (const Range r : divide(p.n, parts, 16)) out.push_back({all_batch, all_rows, r});
  } else {
    out.push_back({all_batch, all_rows, all_cols});
  }
  return out;
}

// Element strides of a [batch, rows, cols] operand in its whole tensor.
struct Strides {
  std::int64_t batch, row, col;
};
Strides a_strides(const MatmulProblem& p) { return p.transpose_a ? Strides{p.m * p.k, 1, p.m} : Strides{p.m * p.k, p.k, 1}; }
Strides b_strides(const MatmulProblem& p) {
  const std::int64_t batch = p.shared_b ? 0 : p.k * p.n;
  return p.transpose_b ? Strides{batch, 1, p.k} : Strides{batch, p.n, 1};
}

memory::desc describe(std::int64_t batch, std::int64_t rows, std::int64_t cols, DType dtype, const Strides& s, bool flat) {
  const auto type = *onednn::data_type(dtype);
  if (flat) return onednn::strided({rows, cols}, type, {s.row, s.col});
  return onednn::strided({batch, rows, cols}, type, {s.batch ? s.batch : rows * cols, s.row, s.col});
}

memory::desc any_layout(std::int64_t k, std::int64_t n, DType dtype) {
  return memory::desc({k, n}, *onednn::data_type(dtype), memory::format_tag::any);
}

dnnl::matmul::primitive_desc make_pd(const memory::desc& a, const memory::desc& b, const memory::desc& c) {
  onednn::stream();  // this thread's primitives are built for one thread
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return dnnl::matmul::primitive_desc(dnnl::matmul::desc(a, b, c), attr, onednn::engine(), true);
}

struct Descs {
  memory::desc a, b, c;
};
Descs piece_descs(const MatmulProblem& p, std::int64_t batch, std::int64_t rows, std::int64_t cols) {
  const bool flat = batch == 1;
  return {describe(batch, rows, p.k, p.a, a_strides(p), flat),
          describe(p.shared_b ? 1 : batch, p.k, cols, p.b, b_strides(p), flat),
          describe(batch, rows, cols, p.c, {p.m * p.n, p.n, 1}, flat)};
}

}  // namespace

MatmulProblem matmul_problem(const Type& a, const Type& b, const Type& out, bool transpose_a, bool transpose_b) {
  const int ra = a.shape.rank(), rb = b.shape.rank(), ro = out.shape.rank();
  MatmulProblem p;
  p.m = out.shape.dim(-2).size;
  p.n = out.shape.dim(-1).size;
  p.k = a.shape[transpose_a ? ra - 2 : ra - 1];
  p.batch = out.shape.elements(0, ro - 2);
  p.transpose_a = transpose_a;
  p.transpose_b = transpose_b;
  p.shared_b = rb == 2;
  p.a = a.dtype;
  p.b = b.dtype;
  p.c = out.dtype;
  if (p.shared_b && (!transpose_a || p.batch == 1)) {
    p.m *= p.batch;
    p.batch = 1;
  }
  return p;
}

std::string MatmulPlan::refuse(const MatmulProblem& p) {
  if (p.batch * p.m * p.n * p.k == 0) return "an operand is empty";
  for (const DType type : {p.a, p.b, p.c})
    if (!onednn::data_type(type)) return fmt::format("oneDNN has no {} on CPUs", name(type));
  if (p.a == DType::i8 && cpu_isa() < Isa::avx512_bf16) return "without VNNI oneDNN's int8 sums saturate: not exact";
  try {
    const Descs d = piece_descs(p, p.batch, p.m, p.n);
    const auto pd = make_pd(d.a, d.b, d.c);
    if (!pd) return fmt::format("oneDNN has no {} x {} -> {} product of this layout", name(p.a), name(p.b), name(p.c));
    if (onednn::is_reference(pd.impl_info_str())) return "oneDNN has only its scalar implementation here";
  } catch (const dnnl::error& e) {
    return fmt::format("oneDNN: {}", e.what());
  }
  return "";
}

MatmulPlan::MatmulPlan(const MatmulProblem& p, const Tensor* b, int threads, bool blocked) {
  const bool fixed = b != nullptr && can_pack(p);
  const bool pack_at_run = !fixed && can_pack(p) && p.m >= kMinRowsToPack;
  const auto size_a = static_cast<std::int64_t>(byte_size(p.a)), size_b = static_cast<std::int64_t>(byte_size(p.b)),
             size_c = static_cast<std::int64_t>(byte_size(p.c));
  c_size_ = size_c;
  c_row_bytes_ = p.n * size_c;
  const Strides sa = a_strides(p), sb = b_strides(p);
  struct Packed {
    memory::desc desc;
    std::shared_ptr<void> data;
  };
  const Hash128 content = fixed ? content_of(*b) : Hash128{};
  std::map<std::int64_t, Packed> packed;  // constant weights, by first column: shared by slices over rows
  struct Made {
    std::shared_ptr<const onednn::Call> call;
    std::uint64_t scratch = 0;
  };
  std::string implementation;
  const auto pieces = split(p, threads, blocked);

  for (const Piece& piece : pieces) {
    Slice slice;
    const bool cut_columns = piece.cols.size() < p.n;
    slice.dense = cut_columns && p.batch == 1;
    slice.pack_from = piece.cols.begin * sb.col * size_b;
    std::int64_t block = piece.rows.size();
    if (p.batch == 1 && !p.transpose_a && (blocked || slice.dense))  // rows of a transposed a lie apart: oneDNN would fall back
      block = std::min(block, std::max<std::int64_t>(64, kBlockBytes / (size_c * piece.cols.size()) / 64 * 64));

    std::map<std::int64_t, Made> made;  // by rows; slices do not share argument storage
    memory::desc run_packed;            // layout of b packed at run time, once the first block has chosen it
    std::uint64_t scratch = 0;
    const auto call_for = [&](const Range& rows) -> const Made& {
      Made& entry = made[rows.size()];
      if (entry.call) return entry;
      Descs d = piece_descs(p, piece.batch.size(), rows.size(), piece.cols.size());
      if (slice.dense) d.c = describe(1, rows.size(), piece.cols.size(), p.c, {0, piece.cols.size(), 1}, true);
      std::shared_ptr<void> data;
      dnnl::matmul::primitive_desc pd;
      if (fixed) {
        Packed& weights = packed[piece.cols.begin];
        if (weights.data) pd = make_pd(d.a, weights.desc, d.c);
        if (!pd || onednn::is_reference(pd.impl_info_str())) {
          // The first block of these columns, or a tail for which oneDNN wants another layout.
          pd = make_pd(d.a, any_layout(p.k, piece.cols.size(), p.b), d.c);
          check(static_cast<bool>(pd), "oneDNN refused a slice of a product it accepts");
          weights = {pd.weights_desc(), onednn::reordered(d.b, *b, content, slice.pack_from, pd.weights_desc())};
          packed_bytes_ += pd.weights_desc().get_size();
        }
        d.b = weights.desc;
        data = weights.data;
      } else if (pack_at_run) {
        const bool first = !slice.pack;
        pd = make_pd(d.a, first ? any_layout(p.k, piece.cols.size(), p.b) : run_packed, d.c);
        check(static_cast<bool>(pd), "oneDNN refused a slice of a product it accepts");
        if (first) {
          run_packed = pd.weights_desc();
          slice.pack = onednn::reorder_call(d.b, run_packed);
        }
        d.b = run_packed;
      } else {
        pd = make_pd(d.a, d.b, d.c);
        check(static_cast<bool>(pd), "oneDNN refused a slice of a product it accepts");
      }
      implementation = pd.impl_info_str();
      entry.scratch = round_up(pd.scratchpad_desc().get_size());
      entry.call = std::make_shared<onednn::Call>(dnnl::matmul(pd),
                                                  std::vector<onednn::Argument>{{DNNL_ARG_SRC, d.a},
                                                                                {DNNL_ARG_WEIGHTS, d.b, data},
                                                                                {DNNL_ARG_DST, d.c},
                                                                                {DNNL_ARG_SCRATCHPAD, pd.scratchpad_desc()}});
      return entry;
    };

    for (std::int64_t row = piece.rows.begin; row < piece.rows.end; row += block) {
      const Range rows{row, std::min(piece.rows.end, row + block)};
      const Made& use = call_for(rows);
      scratch = std::max(scratch, use.scratch);
      const std::int64_t batch = piece.batch.begin;
      // Several batches are one run of whole rows if an epilogue follows (see split).
      const Region region = p.batch == 1 ? Region{rows.begin, rows.end, piece.cols.begin, piece.cols.end}
                                         : Region{batch * p.m, piece.batch.end * p.m, 0, p.n};
      slice.blocks.push_back({.call = use.call,
                              .a_offset = (batch * sa.batch + rows.begin * sa.row) * size_a,
                              .b_offset = (batch * sb.batch + piece.cols.begin * sb.col) * size_b,
                              .c_offset = ((batch * p.m + rows.begin) * p.n + piece.cols.begin) * size_c,
                              .region = region});
    }
    slice.scratch = scratch_bytes_;
    slice.packed = slice.scratch + scratch;
    slice.results = slice.packed + (slice.pack ? round_up(run_packed.get_size()) : 0);
    scratch_bytes_ = slice.results + (slice.dense ? round_up(static_cast<std::uint64_t>(block * piece.cols.size() * size_c)) : 0);
    slices_.push_back(std::move(slice));
  }
  const char* axis = pieces.size() < 2                  ? ""
                     : pieces[0].batch.size() < p.batch ? "batch"
                     : pieces[0].rows.size() < p.m      ? "m"
                                                        : "n";
  detail_ = fmt::format("oneDNN {}{}{}", implementation, *axis ? fmt::format(", {} split in {}", axis, pieces.size()) : "",
                        fixed         ? ", weights packed"
                        : pack_at_run ? ", b packed at each run"
                                      : "");
}

void MatmulPlan::run_slice(int index, const void* a, const void* b, void* c, void* scratch, Epilogue epilogue,
                           const void* context) const {
  const Slice& slice = slices_[static_cast<std::size_t>(index)];
  auto* const space = static_cast<std::byte*>(scratch);
  auto* pa = static_cast<std::byte*>(const_cast<void*>(a));
  auto* pb = static_cast<std::byte*>(const_cast<void*>(b));
  if (slice.pack) {
    void* pointers[] = {pb + slice.pack_from, space + slice.packed};
    slice.pack->run(pointers);
  }
  for (const Block& block : slice.blocks) {
    std::byte* const result = static_cast<std::byte*>(c) + block.c_offset;
    void* pointers[] = {pa + block.a_offset,
                        slice.pack ? space + slice.packed
                        : pb       ? pb + block.b_offset
                                   : nullptr,
                        slice.dense ? space + slice.results : result, space + slice.scratch};
    block.call->run(pointers);
    if (slice.dense) {
      const auto bytes = static_cast<std::size_t>((block.region.col_end - block.region.col_begin) * c_size_);
      for (std::int64_t row = 0; row < block.region.row_end - block.region.row_begin; ++row)
        std::memcpy(result + row * c_row_bytes_, space + slice.results + static_cast<std::size_t>(row) * bytes, bytes);
    }
    if (epilogue) epilogue(context, index, block.region);
  }
}

void MatmulPlan::run(const void* a, const void* b, void* c, void* scratch, ThreadPool& pool, Epilogue epilogue,
                     const void* context) const {
  struct Context {
    const MatmulPlan* plan;
    const void *a, *b;
    void *c, *scratch;
    Epilogue epilogue;
    const void* context;
  } all{this, a, b, c, scratch, epilogue, context};
  pool.run(
      slices(),
      [](void* opaque, int i) {
        const auto& x = *static_cast<const Context*>(opaque);
        x.plan->run_slice(i, x.a, x.b, x.c, x.scratch, x.epilogue, x.context);
      },
      &all);
}

}  // namespace rhetor
