#include "graph/verify.h"

#include <gtest/gtest.h>

#include "graph/op.h"
#include "ops/ops.h"

namespace rhetor {
namespace {

// Breaks a graph the way a faulty pass would: behind the back of Graph::add.
Node& node_of(Graph& g, std::int32_t i) { return const_cast<Node&>(g.node(i)); }

Graph small() {
  Graph g;
  const Value x = g.input("x", {DType::f32, {2, 3}}), s = g.input("s", {DType::f32, {3}}, InputKind::state);
  auto scope = g.scope("layer");
  const Value y = reduce_sum(relu(x), {0});
  g.output("y", y);
  g.set_update(s, y);
  return g;
}

void expect_broken(const Graph& g, const std::string& what) {
  try {
    verify(g, "fuse");
    FAIL() << "accepted; expected: " << what;
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::internal);
    EXPECT_NE(std::string(error.what()).find(what), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("after fuse"), std::string::npos) << error.what();
  }
}

TEST(Verify, AcceptsALegalGraph) { EXPECT_NO_THROW(verify(small())); }

TEST(Verify, FindsEveryBrokenInvariant) {
  Graph g = small();
  node_of(g, 2).inputs[0].node = 3;
  expect_broken(g, "not an earlier node");
  g = small();
  node_of(g, 2).inputs[0].output = 1;
  expect_broken(g, "which has 1");
  g = small();
  node_of(g, 2).inputs.clear();
  expect_broken(g, "operand 0 ('x') is missing");
  g = small();
  node_of(g, 2).inputs.push_back({0, 0});
  expect_broken(g, "at most 1");
  g = small();
  node_of(g, 2).outputs[0].dtype = DType::bf16;
  expect_broken(g, "relu in layer: result 0 is recorded as bf16[2,3], its op gives f32[2,3]");
  g = small();
  node_of(g, 3).attrs.set("axes", std::int64_t{0});
  expect_broken(g, "'axes' has the wrong kind");
  g = small();
  node_of(g, 3).attrs.set("axes", std::vector<std::int64_t>{7});
  expect_broken(g, "axis 7");
  g = small();
  node_of(g, 3).attrs.set("more", true);
  expect_broken(g, "does not know");
  g = small();
  node_of(g, 1).attrs.set("kind", std::string("param"));
  expect_broken(g, "no state");
  g = small();
  node_of(g, 1).attrs.set("name", std::string("x"));
  expect_broken(g, "second input called 'x'");
  g = small();
  node_of(g, 1).outputs[0].shape = {4};
  expect_broken(g, "but its update is f32[3]");
}

TEST(Verify, LooksIntoSubGraphs) {
  Graph body;
  body.output("0", relu(body.input("0", {DType::f32, {2}})));
  node_of(body, 1).inputs[0].node = 1;
  Graph g;
  fused(g, {g.input("x", {DType::f32, {2}})}, std::make_shared<const Graph>(std::move(body)), "");
  expect_broken(g, "body of %1 fused");
}

}  // namespace
}  // namespace rhetor
