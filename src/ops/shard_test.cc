#include "ops/shard.h"

#include <gtest/gtest.h>

#include "ops/op_matrix.h"
#include "ops/registry.h"

namespace rhetor {
namespace {

ShardRule rule_of(const char* op, const std::vector<Shape>& shapes, const Attrs& attrs) {
  std::vector<Type> types;
  for (const Shape& shape : shapes) types.push_back({DType::f32, shape});
  const Graph g = case_graph(all_ops().at(op), types, std::vector<bool>(types.size()), attrs);
  const Node& node = g.node(g.size() - 1);
  return shard_rule(*node.op, types, node.outputs, node.attrs);
}
using Dims = std::vector<int>;
using Ints = std::vector<std::int64_t>;

TEST(Shard, ContractionSharesAndSums) {
  const ShardRule r = rule_of("matmul", {{2, 3, 4}, {4, 5}}, {{"out", DType::f32}});
  ASSERT_EQ(r.summed.size(), 1u);
  EXPECT_EQ(r.operands[0][2], r.summed[0]);
  EXPECT_EQ(r.operands[1][0], r.summed[0]);
  EXPECT_EQ(r.results[0][0], r.operands[0][0]) << "batch";
  EXPECT_EQ(r.results[0][2], r.operands[1][1]);
  const ShardRule t = rule_of("matmul", {{4, 3}, {5, 4}}, {{"transpose_a", true}, {"transpose_b", true}, {"out", DType::f32}});
  EXPECT_EQ(t.operands[0][0], t.summed[0]);
  EXPECT_EQ(t.operands[1][1], t.summed[0]);
}

TEST(Shard, AttributesDecide) {
  const ShardRule sum = rule_of("reduce_sum", {{2, 3, 4}}, {{"axes", Ints{1}}, {"keep_dims", true}});
  EXPECT_EQ(sum.summed, (Dims{sum.operands[0][1]}));
  EXPECT_EQ(sum.results[0], (Dims{sum.operands[0][0], -1, sum.operands[0][2]}));
  const ShardRule turn = rule_of("transpose", {{2, 3, 4}}, {{"perm", Ints{2, 0, 1}}});
  EXPECT_EQ(turn.results[0], (Dims{turn.operands[0][2], turn.operands[0][0], turn.operands[0][1]}));
  const ShardRule cut = rule_of("slice", {{2, 6}}, {{"axis", std::int64_t{-1}}, {"begin", std::int64_t{0}}, {"end", std::int64_t{3}}});
  EXPECT_EQ(cut.operands[0][1], -1);
  EXPECT_EQ(cut.results[0][0], cut.operands[0][0]);
  const ShardRule frame = rule_of("pad", {{2, 6}}, {{"before", Ints{0, 1}}, {"after", Ints{0, 0}}});
  EXPECT_EQ(frame.results[0], (Dims{frame.operands[0][0], -1}));
}

TEST(Shard, ReshapeKeepsTheOuterDimOfEachGroup) {
  const ShardRule split = rule_of("reshape", {{4, 8, 12}}, {{"shape", Ints{4, 8, 3, 4}}});
  EXPECT_EQ(split.results[0], (Dims{split.operands[0][0], split.operands[0][1], split.operands[0][2], -1}));
  const ShardRule join = rule_of("reshape", {{4, 8, 12}}, {{"shape", Ints{32, 12}}});
  EXPECT_EQ(join.operands[0][1], -1);
  EXPECT_EQ(join.results[0], (Dims{join.operands[0][0], join.operands[0][2]}));
}

TEST(Shard, BroadcastDimsAreNotSplit) {
  const ShardRule r = rule_of("broadcast_to", {{1, 6}}, {{"shape", Ints{2, 4, 6}}});
  EXPECT_EQ(r.operands[0][0], -1);
  EXPECT_EQ(r.operands[0][1], r.results[0][2]);
  EXPECT_GE(r.results[0][1], 0) << "each rank repeats for its own part";
}

TEST(Shard, AMisdescribedOpIsNamed) {
  OpDef op = all_ops().at("matmul");
  const std::vector<Type> in{{DType::f32, {2, 3}}, {DType::f32, {3, 4}}}, out{{DType::f32, {2, 4}}};
  for (const std::string_view rule : {"m k, k n", "m k, n k -> m n", "m, k n -> m n", "m k, k n -> m n, m n", "...!none k, k n -> m n"}) {
    op.shard = rule;
    EXPECT_THROW(shard_rule(op, in, out, {}), Error) << rule;
  }
}

}  // namespace
}  // namespace rhetor
