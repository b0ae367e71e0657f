// attention backward by AMX tiles, bf16 or f32 in three bf16 parts (cpu/tiles.h): of 32 keys and up to 128 queries P and dS exist at a time,
// recomputed from lse. Everything is kept turned, keys by queries, so that a register holds 16 queries and P and dS come out as the tiles
// that the next products take:
//   S' = K Q', dP' = V dO', P = exp(scale S - lse), dS = P (dP - delta), dV += P' dO, dK += dS' Q, dQ' += K' dS'.
// Compute-bound: five products, 10 D operations a visible pair (times 6 in three parts), and some 25 instructions of 16 pairs between
// them. One task owns a key head of one batch row, so sums do not depend on the threads.
#include <immintrin.h>

#include <cstring>

#include "cpu/amx.h"
#include "cpu/attention_grad_tiles.h"
#include "cpu/attention_internal.h"
#include "cpu/kernel_util.h"
#include "cpu/tiles.h"

namespace rhetor {
namespace {

constexpr std::int64_t kBlockQueries = 128, kBlockKeys = 128;
constexpr std::int64_t kLeastHead = 32, kMostHead = 256;

struct GradParams {
  AttentionShape shape;
  TileKind kind;
  std::uint64_t scratch;                                                                  // bytes a task
  int parts() const { return kind == TileKind::f32 ? 3 : 1; }
  std::int64_t step() const { return 2 * kTileBytes * parts(); }  // 32 x 32 elements as tiles
  std::int64_t width() const { return (shape.d + 31) / 32; }                              // of a head, in steps
};

// Of one task. All but sums are tiles: block by block of 32 rows (or columns), in a block the steps along what is summed over.
struct Workspace {
  std::byte *k, *v, *k_turned;                        // keys by d, keys by d, d by keys
  std::byte *q, *d_o, *q_turned, *do_turned;          // d by queries, d by queries, queries by d, queries by d
  std::byte *p, *ds, *ds_turned;                      // 32 keys by queries, the same, keys by queries
  float *s, *dp, *dk, *dv, *dq;                       // squares [queries / 32], squares, [T, d], [T, d], [d, queries] in squares
  float *lse, *delta;
  std::int32_t* end;                                  // keys that a query sees
};
std::uint64_t workspace(const GradParams& g, void* at, Workspace* w) {
  std::uint64_t bytes = 0;
  const auto take = [&](auto*& pointer, std::int64_t size) {
    if (at) pointer = reinterpret_cast<std::decay_t<decltype(pointer)>>(static_cast<std::byte*>(at) + bytes);
    bytes += round_up(static_cast<std::uint64_t>(size));
  };
  const std::int64_t keys = (g.shape.t + 31) / 32, queries = kBlockQueries / 32, d = g.width(), step = g.step(), square = kTileFloats * 4;
  for (std::byte** p : {&w->k, &w->v, &w->k_turned}) take(*p, keys * d * step);
  for (std::byte** p : {&w->q, &w->d_o, &w->q_turned, &w->do_turned}) take(*p, queries * d * step);
  take(w->p, queries * step);
  take(w->ds, queries * step);
  take(w->ds_turned, queries * (kBlockKeys / 32) * step);
  take(w->s, queries * square);
  take(w->dp, queries * square);
  take(w->dk, keys * d * square);
  take(w->dv, keys * d * square);
  take(w->dq, queries * d * square);
  take(w->lse, kBlockQueries * 4);
  take(w->delta, kBlockQueries * 4);
  take(w->end, kBlockQueries * 4);
  return bytes;
}

// A matrix of a head, rows `stride` elements apart, as rows by d or d by rows.
TileSource rows_of(const void* data, std::int64_t rows, std::int64_t d, std::int64_t stride) { return {data, rows, d, stride, true}; }
TileSource turned(const void* data, std::int64_t rows, std::int64_t d, std::int64_t stride) { return {data, d, rows, stride, false}; }

class Head {
 public:
  Head(const GradParams& g, const KernelArgs& args, const Workspace& w) : g_(g), a_(g.shape), args_(args), w_(w) {
    pointers_ = {args.in[1], args.in[2], args.in[3], a_.lengths ? static_cast<const std::int32_t*>(args.in[6]) : nullptr,
                 a_.offsets ? static_cast<const std::int32_t*>(args.in[7]) : nullptr};
  }

  // Key head `group` of batch row `b`.
  void run(std::int64_t b, std::int64_t group) {
    const std::int64_t keys = (a_.t + 31) / 32, d = g_.width(), stride = a_.g * a_.d, at = (b * a_.t * a_.g + group) * a_.d;
    const TileShape by_d(g_.kind, a_.d, a_.t), by_keys(g_.kind, a_.t, a_.d);
    pack_tile_rows(by_d, rows_of(element(args_.in[2], at), a_.t, a_.d, stride), 0, keys, w_.k);
    pack_tile_rows(by_d, rows_of(element(args_.in[3], at), a_.t, a_.d, stride), 0, keys, w_.v);
    pack_tile_rows(by_keys, turned(element(args_.in[2], at), a_.t, a_.d, stride), 0, d, w_.k_turned);
    std::memset(w_.dk, 0, static_cast<std::size_t>(keys * d * kTileFloats * 4));
    std::memset(w_.dv, 0, static_cast<std::size_t>(keys * d * kTileFloats * 4));
    const std::int64_t heads = a_.h / a_.g;
    for (std::int64_t h = group * heads; h < (group + 1) * heads; ++h)
      for (std::int64_t first = 0; first < a_.s; first += kBlockQueries) block(b, h, first, std::min(kBlockQueries, a_.s - first));
    for (std::int64_t i = 0; i < keys; ++i)
      for (std::int64_t j = 0; j < d; ++j) {
        const std::int64_t rows = std::min<std::int64_t>(32, a_.t - 32 * i), cols = std::min<std::int64_t>(32, a_.d - 32 * j);
        const std::int64_t to = at + 32 * i * stride + 32 * j;
        grad_write(w_.dk + (i * d + j) * kTileFloats, a_.scale, a_.dtype, element(args_.out[1], to), stride, rows, cols);
        grad_write(w_.dv + (i * d + j) * kTileFloats, 1.0f, a_.dtype, element(args_.out[2], to), stride, rows, cols);
      }
  }

 private:
  const std::byte* element(const void* data, std::int64_t i) const {
    return static_cast<const std::byte*>(data) + i * static_cast<std::int64_t>(byte_size(a_.dtype));
  }
  std::byte* element(void* data, std::int64_t i) const { return static_cast<std::byte*>(data) + i * static_cast<std::int64_t>(byte_size(a_.dtype)); }

  // One square c = or += a b over `steps`; a and b: the first tile of their block.
  void multiply(const std::byte* a, const std::byte* b, std::int64_t steps, float* c, bool accumulate) const {
    grad_square(g_.parts(), a, b, steps, c, accumulate);
  }

  // Queries [first, first + rows) of head h.
  void block(std::int64_t b, std::int64_t h, std::int64_t first, std::int64_t rows) {
    const std::int64_t d = g_.width(), step = g_.step(), stride = a_.h * a_.d, at = ((b * a_.s + first) * a_.h + h) * a_.d;
    const std::int64_t queries = (rows + 31) / 32;
    const std::byte *q = element(args_.in[1], at), *d_o = element(args_.in[0], at);
    const TileShape by_d(g_.kind, a_.d, rows), by_rows(g_.kind, rows, a_.d);
    pack_tile_panels(by_d, rows_of(q, rows, a_.d, stride), 0, queries, w_.q);
    pack_tile_panels(by_d, rows_of(d_o, rows, a_.d, stride), 0, queries, w_.d_o);
    pack_tile_panels(by_rows, turned(q, rows, a_.d, stride), 0, d, w_.q_turned);
    pack_tile_panels(by_rows, turned(d_o, rows, a_.d, stride), 0, d, w_.do_turned);
    grad_delta(a_.dtype, d_o, element(args_.in[4], at), stride, rows, a_.d, w_.delta);
    std::int64_t most = 0;
    for (std::int64_t i = 0; i < queries * 32; ++i) {
      const std::int64_t end = i < rows ? visible_end(a_, pointers_, b, first + i) : 0;
      w_.end[i] = static_cast<std::int32_t>(end);
      w_.lse[i] = i < rows ? static_cast<const float*>(args_.in[5])[(b * a_.h + h) * a_.s + first + i] : 0.0f;
      if (i >= rows) w_.delta[i] = 0;
      most = std::max(most, end);
    }
    std::memset(w_.dq, 0, static_cast<std::size_t>(queries * d * kTileFloats * 4));
    for (std::int64_t key = 0; key < most; key += kBlockKeys) {
      const std::int64_t parts = std::min(kBlockKeys / 32, (most - key + 31) / 32);
      // Later queries see no fewer keys: those that see nothing of 32 keys come first.
      std::int64_t begin[kBlockKeys / 32] = {};
      for (std::int64_t part = 0; part < parts; ++part) {
        begin[part] = part ? begin[part - 1] : 0;
        while (sees(begin[part], rows) <= key + 32 * part) ++begin[part];
        keys(key + 32 * part, begin[part], queries, part);
      }
      for (std::int64_t n = begin[0]; n < queries; ++n) {
        std::int64_t steps = parts;
        while (begin[steps - 1] > n) --steps;
        for (std::int64_t j = 0; j < d; ++j)
          multiply(w_.k_turned + (j * ((a_.t + 31) / 32) + key / 32) * step, w_.ds_turned + n * (kBlockKeys / 32) * step, steps,
                   w_.dq + (j * queries + n) * kTileFloats, true);
      }
    }
    for (std::int64_t n = 0; n < queries; ++n)
      for (std::int64_t j = 0; j < d; ++j)
        grad_write_turned(w_.dq + (j * queries + n) * kTileFloats, a_.scale, a_.dtype, element(args_.out[0], at + 32 * n * stride + 32 * j), stride,
                          std::min<std::int64_t>(32, rows - 32 * n), std::min<std::int64_t>(32, a_.d - 32 * j));
  }

  // The most keys that a query of the 32 at 32 n sees: its last one does.
  std::int64_t sees(std::int64_t n, std::int64_t rows) const { return w_.end[std::min(rows, 32 * n + 32) - 1]; }

  // 32 keys against the queries from 32 `begin` on; dS goes to place `part` of ds_turned as well.
  void keys(std::int64_t key, std::int64_t begin, std::int64_t queries, std::int64_t part) {
    const std::int64_t d = g_.width(), step = g_.step(), block = key / 32;
    for (std::int64_t n = begin; n < queries; ++n) {
      multiply(w_.k + block * d * step, w_.q + n * d * step, d, w_.s + n * kTileFloats, false);
      multiply(w_.v + block * d * step, w_.d_o + n * d * step, d, w_.dp + n * kTileFloats, false);
    }
    for (std::int64_t n = begin; n < queries; ++n) {
      const GradSquare square{.s = w_.s + n * kTileFloats, .dp = w_.dp + n * kTileFloats, .lse = w_.lse + 32 * n, .delta = w_.delta + 32 * n,
                              .end = w_.end + 32 * n, .key = key, .scale = a_.scale, .p = w_.p + n * step, .ds = w_.ds + n * step,
                              .ds_turned = w_.ds_turned + (n * (kBlockKeys / 32) + part) * step};
      grad_probabilities(g_.parts(), square);
    }
    for (std::int64_t j = 0; j < d; ++j) {
      multiply(w_.p + begin * step, w_.do_turned + (j * queries + begin) * step, queries - begin, w_.dv + (block * d + j) * kTileFloats, true);
      multiply(w_.ds + begin * step, w_.q_turned + (j * queries + begin) * step, queries - begin, w_.dk + (block * d + j) * kTileFloats, true);
    }
  }

  const GradParams& g_;
  const AttentionShape& a_;
  const KernelArgs& args_;
  const Workspace& w_;
  AttentionPointers pointers_{};
};

void run_grad(const void* opaque, const KernelArgs& args) {
  const auto& g = *static_cast<const GradParams*>(opaque);
  const std::int64_t items = g.shape.b * g.shape.g, tasks = std::min<std::int64_t>(items, args.pool.threads());
  run_tasks(args.pool, tasks, [&](int task) {
    Workspace w{};
    workspace(g, static_cast<std::byte*>(args.scratch) + static_cast<std::uint64_t>(task) * g.scratch, &w);
    const amx::Tiles tiles;
    Head head(g, args, w);
    for (std::int64_t i = task; i < items; i += tasks) head.run(i / g.shape.g, i % g.shape.g);
  });
}

std::string refuse(const KernelRequest& r) {
  if (cpu_isa() < Isa::amx) return "needs AMX";
  const Type& q = r.in[1];
  if (q.dtype != DType::bf16 && q.dtype != DType::f32) return fmt::format("made for f32 and bf16, not {}", name(q.dtype));
  if (q.shape[3] < kLeastHead || q.shape[3] > kMostHead)
    return fmt::format("heads of {}: made for {} to {}", q.shape[3], kLeastHead, kMostHead);
  return q.elements() > 0 && r.in[2].elements() > 0 ? "" : "an operand is empty";
}

Kernel prepare(const KernelRequest& r) {
  auto g = std::make_shared<GradParams>();
  g->shape = attention_shape(r, 1, 6);
  g->kind = g->shape.dtype == DType::f32 ? TileKind::f32 : TileKind::bf16;
  Workspace unused{};
  g->scratch = round_up(workspace(*g, nullptr, &unused));
  Kernel kernel;
  kernel.run = run_grad;
  kernel.scratch_bytes = g->scratch * static_cast<std::uint64_t>(r.threads);
  kernel.detail = fmt::format("{} queries by 32 keys, AMX tiles{}", kBlockQueries, g->kind == TileKind::f32 ? ", 3 x bf16" : "");
  kernel.params = std::move(g);
  return kernel;
}

}  // namespace

Candidate attention_grad_amx_candidate() { return {"cpu.attention_grad.amx", refuse, prepare}; }

}  // namespace rhetor
