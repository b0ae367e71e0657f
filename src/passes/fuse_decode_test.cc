// Decoding steps: what becomes one kernel, and that the caches stay where they are.
#include "passes/fuse_decode.h"

#include <gtest/gtest.h>

#include "passes/memory.h"
#include "passes/test_graphs.h"

namespace rhetor {
namespace {

using namespace rhetor::testing;

// One block of a decoder with rotary positions, as models write it, after the precision pass.
struct DecodeBlock {
  explicit DecodeBlock(std::int64_t batch, std::int64_t seq = 1) {
    const std::int64_t heads = 4, d = 8, hidden = heads * d, ffn = 48, capacity = 12;
    const auto param = [&](const std::string& name, Shape shape) { return g.input(name, {DType::bf16, shape}, InputKind::param); };
    const auto linear = [&](Value x, const std::string& name, std::int64_t out) {
      return matmul(x, param(name, {out, x.shape().last()}), false, true, DType::bf16);
    };
    const auto split = [&](Value x) { return reshape(x, {batch, seq, heads, d}); };
    const Value x = g.input("x", {DType::bf16, {batch, seq, hidden}}), start = g.input("start", {DType::i32, {batch}});
    const Value places = add(iota(g, {DType::i32, {batch, seq}}, 1), reshape(start, {batch, 1}));
    const Value rows = rms_norm(x, param("norm", {hidden}));
    const Value q = rope(split(linear(rows, "q", hidden)), places), k = rope(split(linear(rows, "k", hidden)), places);
    const Value v = split(linear(rows, "v", hidden));
    const auto append = [&](const char* name, Value fresh) {
      const Value cache = g.input(name, {DType::bf16, {batch, capacity, heads, d}}, InputKind::state, "zeros");
      const Value next = cache_write(cache, fresh, start);
      g.set_update(cache, next);
      return next;
    };
    AttentionOptions options{.causal = true};
    options.offsets = start;
    const Value keys = append("keys", k), o = attention(q, keys, append("values", v), options);
    const Value y = add(x, linear(reshape(o, {batch, seq, hidden}), "o", hidden));
    const Value last = rms_norm(y, param("norm2", {hidden}));
    const Value act = silu(linear(last, "gate", ffn));
    g.output("y", add(y, linear(mul(act, linear(last, "up", ffn)), "down", hidden)));
  }
  Graph g;
};

Graph grouped(const Graph& g, int few_rows) { return only(g, "fuse", {.target = {.few_rows = few_rows}}).graph; }
std::map<std::string, int> groups_in(const Graph& g) {
  std::map<std::string, int> out;
  for (std::int32_t i = 0; i < g.size(); ++i)
    if (g.node(i).op->name == "fused") ++out[g.node(i).attrs.s("anchor")];
  return out;
}

TEST(FuseDecode, ABlockIsFiveKernels) {
  const DecodeBlock block(2);
  const Graph fused = grouped(block.g, 8);
  EXPECT_EQ(groups_in(fused), (std::map<std::string, int>{{"products", 2}, {"attention_step", 1}, {"matmul", 2}}));
  Inputs inputs = random_inputs(block.g);
  inputs["start"] = Tensor::of<std::int32_t>(Shape{2}, {3, 11});
  EXPECT_LT(worst_difference(evaluate(block.g, inputs), evaluate(fused, inputs)), 1e-14);
}

TEST(FuseDecode, CachesAreWrittenInPlace) {
  const Graph fused = grouped(DecodeBlock(1).g, 8);
  const MemoryPlan plan = plan_memory(fused, {});
  EXPECT_TRUE(state_copies(fused, plan).empty());
  ASSERT_EQ(fused.updates().size(), 2u);
  for (const StateUpdate& update : fused.updates()) {
    const auto place = [&](ValueId v) { return plan.places[static_cast<std::size_t>(v.node)][static_cast<std::size_t>(v.output)]; };
    EXPECT_EQ(place(update.value).place, Place::state);
    EXPECT_EQ(place(update.value).slot, place({update.state, 0}).slot);
  }
}

TEST(FuseDecode, ManyRowsAndDevicesWithoutSuchKernelsKeepTheirNodes) {
  const std::map<std::string, int> prefill = groups_in(grouped(DecodeBlock(1, 9).g, 8)), none = groups_in(grouped(DecodeBlock(1).g, 0));
  for (const char* anchor : {"products", "attention_step"}) {
    EXPECT_FALSE(prefill.contains(anchor));
    EXPECT_FALSE(none.contains(anchor));
  }
}

TEST(FuseDecode, RowsThatOthersReadStay) {
  DecodeBlock block(1);
  for (std::int32_t i = 0; i < block.g.size(); ++i)
    if (block.g.node(i).op->name == "cache_write") {
      block.g.output("cache", block.g.value({i, 0}));
      break;
    }
  EXPECT_LT(worst_difference(evaluate(block.g, random_inputs(block.g)), evaluate(grouped(block.g, 8), random_inputs(block.g))), 1e-14);
}

}  // namespace
}  // namespace rhetor
