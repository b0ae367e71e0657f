// matmul by AMX tiles (cpu/tiles.h) of two operands that change at every run: training. What costs beside the arithmetic is re-laying
// both and moving the copies: a copy of f32 is 1.5 times as large. So the smaller operand is re-laid once a pass over k, by all threads
// together, and every thread re-lays its share of the larger one in groups that stay in its second-level cache while the smaller one
// passes by, forth and back.
// Compute-bound: 2 m n k operations (times 6 for f32 in three parts); bytes: both operands, c, and per group the smaller operand's copy.
#include <immintrin.h>

#include <algorithm>

#include "base/error.h"
#include "cpu/amx.h"
#include "cpu/panels.h"
#include "cpu/product.h"
#include "cpu/tiles.h"

namespace rhetor {
namespace {

// Of a second-level cache of 2 MiB, that two hyper-threads may share: a group of the larger operand.
constexpr std::int64_t kGroupBytes = 768 << 10;
// Steps of 32 along k of one pass. Longer passes leave fewer blocks in a group, shorter ones park sums more often.
constexpr std::int64_t kPassSteps = 64, kPassStepsF32 = 24;

// Memory that will be needed next, fetched bit by bit.
struct Ahead {
  const std::byte *at, *end;
  std::int64_t lines;  // a step
};

// c [32, 32] = from + a b over `steps` of k; `half`: only the upper 16 rows exist.
template <int parts, bool half>
void square(const std::byte* a, const std::byte* b, std::int64_t steps, const float* from, float* c, std::int64_t stride, Ahead& ahead) {
  if (from) {
    amx::load<0>(from, kTileBlock * 4);
    amx::load<1>(from + 16, kTileBlock * 4);
    if constexpr (!half) {
      amx::load<2>(from + 16 * kTileBlock, kTileBlock * 4);
      amx::load<3>(from + 16 * kTileBlock + 16, kTileBlock * 4);
    }
  } else {
    amx::zero<0>();
    amx::zero<1>();
    amx::zero<2>();
    amx::zero<3>();
  }
  const auto multiply = [] {
    amx::multiply_bf16<0, 4, 6>();
    amx::multiply_bf16<1, 4, 7>();
    if constexpr (!half) {
      amx::multiply_bf16<2, 5, 6>();
      amx::multiply_bf16<3, 5, 7>();
    }
  };
  const auto left = [&](int part) {
    amx::load<4>(a + 2 * part * kTileBytes);
    if constexpr (!half) amx::load<5>(a + (2 * part + 1) * kTileBytes);
  };
  const auto right = [&](int part) {
    amx::load<6>(b + 2 * part * kTileBytes);
    amx::load<7>(b + (2 * part + 1) * kTileBytes);
  };
  for (std::int64_t s = 0; s < steps; ++s, a += 2 * parts * kTileBytes, b += 2 * parts * kTileBytes) {
    left(0);
    right(0);
    multiply();
    if constexpr (parts == 3) {  // the pairs of parts (i, j) with i + j <= 2
      right(1);
      multiply();
      right(2);
      multiply();
      left(1);
      right(1);
      multiply();
      right(0);
      multiply();
      left(2);
      multiply();
    }
    if (ahead.at < ahead.end) {
      for (std::int64_t i = 0; i < ahead.lines; ++i) _mm_prefetch(ahead.at + 64 * i, _MM_HINT_T1);
      ahead.at += 64 * ahead.lines;
    }
  }
  amx::store<0>(c, stride);
  amx::store<1>(c + 16, stride);
  if constexpr (!half) {
    auto* low = reinterpret_cast<std::byte*>(c) + 16 * stride;
    amx::store<2>(low, stride);
    amx::store<3>(low + 64, stride);
  }
}

class FreshProduct final : public Product {
 public:
  FreshProduct(const ProductRequest& r, const MatmulProblem& p)
      : problem_(p), kind_(p.a == DType::f32 ? TileKind::f32 : TileKind::bf16), c_dtype_(r.out.dtype), takes_sums_(r.takes_sums) {
    const TileShape whole(kind_, p.k, p.n);
    const std::int64_t row_blocks = (p.m + kTileBlock - 1) / kTileBlock, most = kind_ == TileKind::f32 ? kPassStepsF32 : kPassSteps;
    streams_b_ = p.n > p.m;
    held_ = streams_b_ ? row_blocks : whole.panels;
    streamed_ = streams_b_ ? whole.panels : row_blocks;
    passes_ = (whole.steps + most - 1) / most;
    pass_steps_ = (whole.steps + passes_ - 1) / passes_;
    passes_ = (whole.steps + pass_steps_ - 1) / pass_steps_;
    block_bytes_ = pass_steps_ * whole.step_bytes;
    slices = static_cast<int>(std::min<std::int64_t>(r.threads, streamed_));
    const std::int64_t share = (streamed_ + slices - 1) / slices, fit = std::max<std::int64_t>(1, kGroupBytes / block_bytes_);
    group_ = (share + (share + fit - 1) / fit - 1) / ((share + fit - 1) / fit);
    held_bytes_ = held_ * block_bytes_;
    group_bytes_ = group_ * block_bytes_;
    const std::int64_t parked = passes_ > 1 ? held_ * streamed_ * kTileFloats * 4 : 0;
    scratch_bytes = static_cast<std::uint64_t>(held_bytes_ + group_bytes_ * slices + parked);
    leaves_sums = takes_sums_;
    absorbed.assign(r.in.size(), false);
    detail = fmt::format("AMX {}, {} re-laid once, {} in groups of {} columns{}{}", kind_ == TileKind::f32 ? "3 x bf16" : "bf16",
                         streams_b_ ? "a" : "b", streams_b_ ? "b" : "a", group_ * kTileBlock,
                         passes_ > 1 ? fmt::format(", {} passes over k", passes_) : "", slices > 1 ? fmt::format(", split in {}", slices) : "");
  }

  void run(const void* const* in, void* c, void* scratch, ThreadPool& pool, Epilogue epilogue, const void* context) const override {
    Job job{this, in, takes_sums_ ? nullptr : c, static_cast<std::byte*>(scratch), epilogue, context, 0};
    for (; job.pass < passes_; ++job.pass) {
      pool.run(
          static_cast<int>(std::min<std::int64_t>(slices, held_)),
          [](void* opaque, int i) {
            const auto& j = *static_cast<const Job*>(opaque);
            const FreshProduct& t = *j.self;
            const std::int64_t parts = std::min<std::int64_t>(t.slices, t.held_), begin = t.held_ * i / parts;
            t.relay(j, !t.streams_b_, begin, t.held_ * (i + 1) / parts - begin, j.space + begin * t.block_bytes_);
          },
          &job);
      pool.run(
          slices,
          [](void* opaque, int i) {
            const auto& j = *static_cast<const Job*>(opaque);
            j.self->kind_ == TileKind::f32 ? j.self->run_slice<3>(j, i) : j.self->run_slice<1>(j, i);
          },
          &job);
    }
  }

 private:
  struct Job {
    const FreshProduct* self;
    const void* const* in;
    void* c;
    std::byte* space;  // the held operand's pass, a group a slice, parked sums
    Epilogue epilogue;
    const void* context;
    std::int64_t pass;
  };

  std::int64_t steps_of(std::int64_t pass) const {
    return std::min(pass_steps_, TileShape(kind_, problem_.k, 1).steps - pass * pass_steps_);
  }

  // Blocks [first, first + count) of b (or of a), the k of this pass, one behind the other.
  void relay(const Job& j, bool b, std::int64_t first, std::int64_t count, std::byte* to) const {
    const MatmulProblem& p = problem_;
    const bool k_contiguous = b ? p.transpose_b : !p.transpose_a;
    const std::int64_t rows = b ? p.n : p.m, stride = k_contiguous ? p.k : rows, size = kind_ == TileKind::f32 ? 4 : 2;
    const auto from = [&](std::int64_t block, std::int64_t k) {
      const std::int64_t row = block * kTileBlock;
      return TileSource{static_cast<const std::byte*>(j.in[b ? 1 : 0]) + (k_contiguous ? row * stride + k : k * stride + row) * size, rows - row,
                        p.k - k, stride, k_contiguous};
    };
    const std::int64_t k = j.pass * pass_steps_ * 32, steps = steps_of(j.pass);
    const auto pack = [&](const TileSource& source, std::int64_t of_k, std::byte* at) {
      const TileShape shape(kind_, of_k, kTileBlock);
      b ? pack_tile_panels(shape, source, 0, 1, at) : pack_tile_rows(shape, source, 0, 1, at);
    };
    if (k_contiguous) {
      for (std::int64_t i = 0; i < count; ++i) pack(from(first + i, k), std::min(steps * 32, p.k - k), to + i * block_bytes_);
      return;
    }
    // Lines of memory run across blocks: each is read through before the next.
    const std::int64_t step_bytes = block_bytes_ / pass_steps_;
    for (std::int64_t s = 0; s < steps; ++s)
      for (std::int64_t i = 0; i < count; ++i)
        pack(from(first + i, k + 32 * s), std::min<std::int64_t>(32, p.k - k - 32 * s), to + i * block_bytes_ + s * step_bytes);
  }

  template <int parts>
  void run_slice(const Job& j, int slice) const {
    std::byte* const group = j.space + held_bytes_ + group_bytes_ * slice;
    const std::int64_t begin = streamed_ * slice / slices, end = streamed_ * (slice + 1) / slices, steps = steps_of(j.pass);
    const amx::Tiles tiles;
    bool backwards = false;
    for (std::int64_t first = begin; first < end; first += group_, backwards = !backwards) {
      const std::int64_t count = std::min(group_, end - first);
      relay(j, streams_b_, first, count, group);
      for (std::int64_t i = 0; i < held_; ++i) {
        const std::int64_t held = backwards ? held_ - 1 - i : i;
        const std::byte* const at = j.space + held * block_bytes_;
        Ahead ahead{at, at, (block_bytes_ / 64 + count * steps - 1) / (count * steps)};
        if (i + 1 < held_) {
          ahead.at = backwards ? at - block_bytes_ : at + block_bytes_;
          ahead.end = ahead.at + steps * (block_bytes_ / pass_steps_);
        }
        for (std::int64_t s = 0; s < count; ++s)
          streams_b_ ? run_square<parts>(j, slice, held, first + s, at, group + s * block_bytes_, steps, ahead)
                     : run_square<parts>(j, slice, first + s, held, group + s * block_bytes_, at, steps, ahead);
      }
    }
  }

  template <int parts>
  void run_square(const Job& j, int slice, std::int64_t block, std::int64_t panel, const std::byte* a, const std::byte* b, std::int64_t steps,
                  Ahead& ahead) const {
    const std::int64_t row = block * kTileBlock, rows = std::min(kTileBlock, problem_.m - row), n = problem_.n;
    const std::int64_t col = panel * kTileBlock, cols = std::min(kTileBlock, n - col);
    const bool first = j.pass == 0, last = j.pass + 1 == passes_;
    alignas(64) float local[kTileFloats];
    float* const parked = passes_ > 1 ? reinterpret_cast<float*>(j.space + held_bytes_ + group_bytes_ * slices) +
                                            (streams_b_ ? panel * held_ + block : block * held_ + panel) * kTileFloats
                                      : local;
    float* sum = parked;
    std::int64_t stride = kTileBlock * 4;
    // A whole square of a plain f32 product goes where it belongs at once.
    const bool straight = last && j.c && c_dtype_ == DType::f32 && cols == kTileBlock && (rows == kTileBlock || rows == 16);
    if (straight) {
      sum = static_cast<float*>(j.c) + row * n + col;
      stride = n * 4;
    }
    if (rows <= 16) square<parts, true>(a, b, steps, first ? nullptr : parked, sum, stride, ahead);
    else square<parts, false>(a, b, steps, first ? nullptr : parked, sum, stride, ahead);
    if (!last) return;
    Region region{row, row + rows, col, col + cols};
    if (!j.c) {
      region.sums = sum;
    } else if (!straight) {
      const auto size = static_cast<std::int64_t>(byte_size(c_dtype_));
      for (std::int64_t r = 0; r < rows; ++r)
        narrow(sum + r * kTileBlock, c_dtype_, static_cast<std::byte*>(j.c) + ((row + r) * n + col) * size, cols);
    }
    if (j.epilogue) j.epilogue(j.context, slice, region);
  }

  MatmulProblem problem_;
  TileKind kind_;
  DType c_dtype_;
  bool takes_sums_, streams_b_ = false;
  std::int64_t held_ = 0, streamed_ = 0, group_ = 1;          // blocks of 32 rows of a or columns of b
  std::int64_t passes_ = 1, pass_steps_ = 0;                  // over k
  std::int64_t block_bytes_ = 0, held_bytes_ = 0, group_bytes_ = 0;
};

MatmulProblem problem_of_fresh(const ProductRequest& r) {
  return matmul_problem(r.in[0], r.in[1], r.out, r.attrs.b("transpose_a"), r.attrs.b("transpose_b"));
}

}  // namespace

std::string refuse_fresh(const ProductRequest& r) {
  if (r.constants[0] || r.constants[1]) return "an operand is constant";
  if (std::string why = refuse_tiles(r); !why.empty()) return why;
  const MatmulProblem p = problem_of_fresh(r);
  // Tiles of such a need no copy at all; measured 0.9 x.
  if (p.a == DType::bf16 && !p.transpose_a && p.n <= p.m) return "a is read where it lies";
  return "";
}
std::unique_ptr<Product> make_fresh(const ProductRequest& r) {
  return std::make_unique<FreshProduct>(r, problem_of_fresh(r));
}

}  // namespace rhetor
