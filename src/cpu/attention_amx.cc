// attention forward in bf16: o = softmax(scale q k^T) v with both products by AMX tiles, sums and softmax in f32, the probabilities rounded
// to bf16 for the second product. Keys are taken 128 at a time with a running maximum and sum; no S x T matrix.
// Bound: 4 D flops a visible pair at a thousand a cycle, and about 1.5 cycles a pair for the softmax, which is what counts.
// The same with AVX512_BF16 in place of tiles was measured no faster than the f32 blocks of attention.cc: those two do as many
// multiply-adds a cycle.
#include <cstring>

#include "cpu/amx.h"
#include "cpu/attention_internal.h"
#include "cpu/attention_tiles.h"
#include "cpu/kernel_util.h"

namespace rhetor {
namespace {

constexpr float kLog2e = 1.44269504089f, kLn2 = 0.693147180560f;
constexpr std::int64_t kMaxHead = 256;

struct TileParams {
  AttentionShape shape;
  std::int64_t queries;  // of one item: a multiple of kTileRows; keys are packed once for all of them
  std::uint64_t scratch; // bytes a task
};

// Scratch of a task. Queries of an item: rows padded with zeros.
struct Workspace {
  std::uint32_t *q, *k, *v, *p;  // [queries, d/2] pairs, packed keys and values, probabilities [32, kTileKeys/2] pairs
  float *s, *o, *top, *sum;      // [32, kTileKeys], [queries, d], [queries]
};
std::uint64_t workspace(const TileParams& t, void* at, Workspace* w) {
  std::uint64_t bytes = 0;
  const auto take = [&](auto*& pointer, std::int64_t elements) {
    if (at) pointer = reinterpret_cast<std::decay_t<decltype(pointer)>>(static_cast<std::byte*>(at) + bytes);
    bytes += round_up(static_cast<std::uint64_t>(elements) * 4);
  };
  const std::int64_t d = t.shape.d, n = t.queries;
  take(w->q, n * d / 2);
  take(w->k, kTileKeys * d / 2);
  take(w->v, kTileKeys * d / 2);
  take(w->p, kTileRows * kTileKeys / 2);
  take(w->s, kTileRows * kTileKeys);
  take(w->o, n * d);
  take(w->top, n);
  take(w->sum, n);
  return bytes;
}

// Queries [first, first + rows) of head h of batch b.
void run_item(const TileParams& t, const AttentionPointers& p, std::int64_t b, std::int64_t h, std::int64_t first, std::int64_t rows, bf16* o,
              float* lse, const Workspace& w) {
  const AttentionShape& a = t.shape;
  const std::int64_t d = a.d, stride = a.g * d, padded = (rows + kTileRows - 1) / kTileRows * kTileRows;
  const std::int64_t query = ((b * a.s + first) * a.h + h) * d, head = (b * a.t * a.g + h / (a.h / a.g)) * d;
  for (std::int64_t i = 0; i < padded; ++i) {
    auto* row = w.q + i * d / 2;
    if (i < rows) std::memcpy(row, static_cast<const bf16*>(p.q) + query + i * a.h * d, static_cast<std::size_t>(2 * d));
    else std::memset(row, 0, static_cast<std::size_t>(2 * d));
  }
  std::fill(w.o, w.o + padded * d, 0.0f);
  std::fill(w.top, w.top + padded, -HUGE_VALF);
  std::fill(w.sum, w.sum + padded, 0.0f);
  std::int64_t most = 0;
  for (std::int64_t i = 0; i < rows; ++i) most = std::max(most, visible_end(a, p, b, first + i));
  for (std::int64_t key = 0; key < most; key += kTileKeys) {
    const std::int64_t keys = std::min(kTileKeys, most - key), wide = (keys + 31) / 32 * 32;
    pack_keys(static_cast<const bf16*>(p.k) + head + key * stride, stride, keys, d, w.k);
    pack_values(static_cast<const bf16*>(p.v) + head + key * stride, stride, keys, d, w.v);
    for (std::int64_t at = 0; at < rows; at += kTileRows) {
      const std::int64_t block = std::min(kTileRows, rows - at);
      if (visible_end(a, p, b, first + at + block - 1) <= key) continue;  // its last query sees the most
      float* out = w.o + at * d;
      tile_product(w.q + at * d / 2, d / 2, w.k, kTileKeys, w.s, kTileKeys, d / 2, wide, false);
      std::int32_t visible[kTileRows];
      for (std::int64_t i = 0; i < block; ++i)
        visible[i] = static_cast<std::int32_t>(std::clamp<std::int64_t>(visible_end(a, p, b, first + at + i) - key, 0, keys));
      // Rows past the block keep what they hold: nobody reads their results.
      softmax_rows(w.s, visible, block, wide, a.scale * kLog2e, w.top + at, w.sum + at, reinterpret_cast<bf16*>(w.p), out, d);
      tile_product(w.p, kTileKeys / 2, w.v, d, out, d, wide / 2, d, true);
    }
  }
  for (std::int64_t i = 0; i < rows; ++i) {
    const float sum = w.sum[i];
    finish_row(w.o + i * d, sum > 0 || sum != sum ? 1.0f / sum : 0.0f, o + query + i * a.h * d, d);
    if (lse) lse[(b * a.h + h) * a.s + first + i] = w.top[i] == -HUGE_VALF && sum == 0 ? -HUGE_VALF : w.top[i] * kLn2 + std::log(sum);
  }
}

void run_tiles(const void* opaque, const KernelArgs& args) {
  const auto& t = *static_cast<const TileParams*>(opaque);
  const AttentionShape& a = t.shape;
  const AttentionPointers p{args.in[0], args.in[1], args.in[2], a.lengths ? static_cast<const std::int32_t*>(args.in[3]) : nullptr,
                            a.offsets ? static_cast<const std::int32_t*>(args.in[4]) : nullptr};
  const std::int64_t blocks = (a.s + t.queries - 1) / t.queries, items = a.b * a.h * blocks;
  const std::int64_t tasks = std::min<std::int64_t>(items, args.pool.threads());
  run_tasks(args.pool, tasks, [&](int task) {
    Workspace w{};
    workspace(t, static_cast<std::byte*>(args.scratch) + static_cast<std::uint64_t>(task) * t.scratch, &w);
    const amx::Tiles tiles;
    for (std::int64_t item = task; item < items; item += tasks) {
      // A later causal block costs more: the direction alternates by head, so that no task gets all the long ones.
      const std::int64_t head = item / blocks, position = item % blocks, block = head % 2 ? blocks - 1 - position : position;
      const std::int64_t first = block * t.queries;
      run_item(t, p, head / a.h, head % a.h, first, std::min(t.queries, a.s - first), static_cast<bf16*>(args.out[0]),
               static_cast<float*>(args.out[1]), w);
    }
  });
}

std::string refuse(const KernelRequest& r) {
  if (cpu_isa() < Isa::amx) return "needs AMX";
  const Type& q = r.in[0];
  if (q.dtype != DType::bf16) return fmt::format("made for bf16, not {}", name(q.dtype));
  if (q.shape[3] % 32 != 0 || q.shape[3] > kMaxHead) return fmt::format("heads of {}: made for multiples of 32 up to {}", q.shape[3], kMaxHead);
  return "";
}

// queries: of an item; 0: as many as leave every thread something to do.
Kernel prepare(const KernelRequest& r, std::int64_t queries) {
  auto t = std::make_shared<TileParams>();
  t->shape = attention_shape(r, 0, 3);
  const AttentionShape& a = t->shape;
  // Many queries share one packing of keys; but every thread wants something to do, four items for balance where blocks are unequal.
  const std::int64_t heads = std::max<std::int64_t>(1, a.b * a.h), wanted = r.threads == 1 ? 1 : 4 * r.threads;
  const std::int64_t blocks = std::max<std::int64_t>({1, (a.s + 255) / 256, (wanted + heads - 1) / heads});
  t->queries = queries ? queries : std::max<std::int64_t>(1, ((a.s + blocks - 1) / blocks + kTileRows - 1) / kTileRows) * kTileRows;
  Workspace unused{};
  t->scratch = round_up(workspace(*t, nullptr, &unused));
  Kernel kernel;
  kernel.run = run_tiles;
  kernel.scratch_bytes = t->scratch * static_cast<std::uint64_t>(r.threads);
  kernel.detail = fmt::format("{} queries by {} keys, AMX tiles", t->queries, kTileKeys);
  kernel.params = std::move(t);
  return kernel;
}

template <std::int64_t queries>
std::string refuse_fewer(const KernelRequest& r) {
  if (std::string why = refuse(r); !why.empty()) return why;
  return r.in[0].shape[1] > queries / 2 ? "" : fmt::format("only {} queries a head", r.in[0].shape[1]);
}
template <std::int64_t queries>
Candidate variant(std::string_view name) {
  return {name, refuse_fewer<queries>, [](const KernelRequest& r) { return prepare(r, queries); }};
}

}  // namespace

// The tuner may take a variant (runtime/tune.h): another number of queries that share packed keys; every query's sums are the same.
std::vector<Candidate> attention_amx_candidates() {
  return {{"cpu.attention.amx", refuse, [](const KernelRequest& r) { return prepare(r, 0); }},
          variant<64>("cpu.attention.amx/q64"),
          variant<128>("cpu.attention.amx/q128"),
          variant<512>("cpu.attention.amx/q512")};
}

}  // namespace rhetor
