#include "passes/index.h"
#include "passes/memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "graph/op.h"
#include "passes/test_graphs.h"

namespace rhetor {
namespace {

using namespace rhetor::testing;
using ::testing::HasSubstr;

// What memory holds, checked by running the plan: every byte remembers the value written there last; a reader must find its own.
// Independent of the planner's reasoning about lifetimes.
void replay(const Graph& g, const MemoryPlan& plan, const std::vector<std::uint64_t>& scratch) {
  std::map<std::pair<int, int>, std::vector<ValueId>> memory;  // (place, slot) -> writer by byte
  const auto bytes_of = [&](ValueId v) { return plan.places[at(v.node)][at(v.output)]; };
  const auto key = [](const ValuePlace& p) { return std::pair(static_cast<int>(p.place), p.place == Place::arena ? 0 : p.slot); };
  const auto write = [&](ValueId v) {
    const ValuePlace p = bytes_of(v);
    ASSERT_EQ(p.bytes, g.type(v).bytes());
    auto& cells = memory[key(p)];
    if (p.place == Place::arena) {
      ASSERT_EQ(p.offset % 64, 0u);
      ASSERT_LE(p.offset + p.bytes, plan.arena_bytes);
    }
    if (cells.size() < p.offset + p.bytes) cells.resize(p.offset + p.bytes);
    std::fill_n(cells.begin() + static_cast<std::ptrdiff_t>(p.offset), p.bytes, v);
  };
  std::map<ValueId, ValueId> alias;  // a reshape holds what its operand wrote
  const auto expect_holds = [&](ValueId v, const std::string& who) {
    const ValuePlace p = bytes_of(v);
    while (alias.contains(v)) v = alias[v];
    auto& cells = memory[key(p)];
    for (std::uint64_t b = 0; b < p.bytes; ++b)
      ASSERT_EQ(cells[p.offset + b], v) << who << " reads %" << v.node << " overwritten by %" << cells[p.offset + b].node;
  };
  for (std::int32_t i = 0; i < g.size(); ++i) {
    const Node& node = g.node(i);
    for (const ValueId v : node.inputs)
      if (v.valid()) expect_holds(v, std::string(node.op->name));
    if (!scratch.empty() && scratch[at(i)]) {
      auto& cells = memory[{static_cast<int>(Place::arena), 0}];
      ASSERT_LE(plan.scratch_offset[at(i)] + scratch[at(i)], plan.arena_bytes);
      if (cells.size() < plan.arena_bytes) cells.resize(plan.arena_bytes);
      std::fill_n(cells.begin() + static_cast<std::ptrdiff_t>(plan.scratch_offset[at(i)]), scratch[at(i)], ValueId{-2, 0});
      for (const ValueId v : node.inputs)  // scratch must not lie over an operand
        if (v.valid()) expect_holds(v, "scratch of " + std::string(node.op->name));
    }
    for (std::int32_t k = 0; k < static_cast<std::int32_t>(node.outputs.size()); ++k) {
      if (node.op->traits.alias && k == 0) alias[{i, 0}] = node.inputs[0];
      else write({i, k});
    }
    for (std::int32_t k = 0; k < static_cast<std::int32_t>(node.outputs.size()); ++k) expect_holds({i, k}, "its own node");
  }
  for (const GraphOutput& output : g.outputs()) expect_holds(output.value, "output " + output.name);
  for (const StateUpdate& update : g.updates()) expect_holds(update.value, "update of " + g.input_name(update.state));
}

TEST(Memory, NoTwoLiveValuesOverlap) {
  for (const bool in_place : {true, false})
    for (const Graph& given : {inference_graph(), training_graph(), training_graph({.dropout = 0.1})})
      for (const bool optimised : {false, true}) {
        const Graph g = optimised ? run_passes(given, {}).graph : given;
        std::vector<std::uint64_t> scratch(at(g.size()));
        for (std::int32_t i = 0; i < g.size(); ++i)
          if (g.node(i).op->traits.kind == OpKind::contraction) scratch[at(i)] = 100 + static_cast<std::uint64_t>(i);
        const MemoryPlan plan = plan_memory(g, scratch, in_place);
        replay(g, plan, scratch);
        EXPECT_GE(plan.arena_bytes, plan.lower_bound);
        if (!in_place) {
          EXPECT_EQ(plan.in_place, 0);
        }
      }
}

TEST(Memory, ArenaIsNearTheLowerBound) {
  const TransformerSpec spec{.batch = 2, .seq = 64, .hidden = 64, .heads = 4, .vocab = 512, .layers = 4};
  for (const Graph& given : {inference_graph(spec), training_graph(spec)}) {
    for (const bool optimised : {false, true}) {
      const Graph g = optimised ? run_passes(given, {}).graph : given;
      const MemoryPlan plan = plan_memory(g, {});
      RecordProperty("ratio", std::to_string(plan.ratio()));
      EXPECT_LE(plan.ratio(), 1.1);
      EXPECT_GT(plan.in_place, 0);
    }
  }
}

TEST(Memory, StatesAreUpdatedInPlaceWhenNobodyReadsTheOldValue) {
  const Graph training = run_passes(training_graph(), {}).graph;
  EXPECT_TRUE(state_copies(training, plan_memory(training, {})).empty());
  EXPECT_EQ(state_copies(training, plan_memory(training, {}, false)).size(), training.updates().size());

  Graph g;  // the old value is an output: it must survive the run
  const Value s = g.input("s", {DType::f32, {100}}, InputKind::state);
  g.set_update(s, add(s, 1));
  g.output("old", s);
  const MemoryPlan plan = plan_memory(g, {});
  EXPECT_EQ(state_copies(g, plan).size(), 1u);
  EXPECT_EQ(output_copies(g, plan), (std::vector<std::int32_t>{0}));
  replay(g, plan, {});
}

TEST(Memory, StateCopiesReadBeforeTheyOverwrite) {
  Graph g;  // a <- b, b <- c, c <- 2 c
  const Value a = g.input("a", {DType::f32, {4}}, InputKind::state), b = g.input("b", {DType::f32, {4}}, InputKind::state),
              c = g.input("c", {DType::f32, {4}}, InputKind::state);
  g.set_update(c, mul(c, 2));
  g.set_update(b, c);
  g.set_update(a, b);
  const std::vector<StateUpdate> copies = state_copies(g, plan_memory(g, {}));
  ASSERT_EQ(copies.size(), 3u);
  EXPECT_EQ(g.input_name(copies[0].state), "a");
  EXPECT_EQ(g.input_name(copies[1].state), "b");
  EXPECT_EQ(g.input_name(copies[2].state), "c");
}

TEST(Memory, OutputsHaveTheirOwnBuffers) {
  Graph g;
  const Value x = g.input("x", {DType::f32, {8, 8}});
  const Value y = exp(x);
  g.output("y", y);
  g.output("same", y);
  g.output("flat", reshape(tanh(y), {64}));
  const MemoryPlan plan = plan_memory(g, {});
  EXPECT_EQ(plan.arena_bytes, 0u);
  EXPECT_EQ(output_copies(g, plan), (std::vector<std::int32_t>{1}));
  EXPECT_EQ(plan.places[at(y.id().node)][0].place, Place::output);
  replay(g, plan, {});
}

// Tags closed in order, attributes quoted, no bare markup character in text: what an XML reader insists on (of the XML we write).
void expect_well_formed(std::string_view xml) {
  std::vector<std::string> open;
  std::size_t at = 0;
  while (at < xml.size()) {
    if (xml[at] == '&') {
      const std::string_view entity = xml.substr(at, xml.find(';', at) - at);
      ASSERT_TRUE(entity == "&lt" || entity == "&gt" || entity == "&amp" || entity == "&quot") << entity;
    }
    ASSERT_FALSE(static_cast<unsigned char>(xml[at]) < ' ' && xml[at] != '\n');
    if (xml[at++] != '<') {
      ASSERT_NE(xml[at - 1], '>');
      continue;
    }
    const std::size_t end = xml.find('>', at);
    ASSERT_NE(end, xml.npos);
    std::string_view tag = xml.substr(at, end - at);
    ASSERT_EQ(tag.find('<'), tag.npos);
    ASSERT_EQ(std::count(tag.begin(), tag.end(), '"') % 2, 0) << tag;
    at = end + 1;
    if (tag[0] == '/') {
      ASSERT_FALSE(open.empty());
      ASSERT_EQ(open.back(), tag.substr(1));
      open.pop_back();
    } else if (tag.back() != '/') {
      open.emplace_back(tag.substr(0, tag.find(' ')));
    }
  }
  EXPECT_TRUE(open.empty());
}

std::size_t count_of(std::string_view text, std::string_view part) {
  std::size_t n = 0;
  for (std::size_t p = text.find(part); p != text.npos; p = text.find(part, p + 1)) ++n;
  return n;
}

TEST(Memory, PictureShowsEveryBufferAndEveryScratch) {
  const Graph g = run_passes(inference_graph(), {}).graph;
  std::vector<std::uint64_t> scratch(at(g.size()));
  std::size_t scratches = 0, roots = 0, inputs = 0;
  for (std::int32_t i = 0; i < g.size(); ++i) {
    inputs += g.is_input(i);
    if (g.node(i).op->traits.kind != OpKind::contraction) continue;
    scratch[at(i)] = 1000;
    ++scratches;
  }
  const MemoryPlan plan = plan_memory(g, scratch);
  EXPECT_EQ(plan.scratch_bytes, scratch);
  const std::string svg = memory_map_svg(g, plan);
  expect_well_formed(svg);
  EXPECT_THAT(svg, HasSubstr("<svg xmlns"));
  EXPECT_THAT(svg, HasSubstr("lower bound"));
  EXPECT_THAT(svg, HasSubstr(">scratch</text>"));
  EXPECT_THAT(svg, ::testing::EndsWith("</svg>\n"));
  for (std::int32_t i = 0; i < g.size(); ++i)
    for (std::size_t k = 0; k < plan.places[at(i)].size(); ++k)
      roots += plan.places[at(i)][k].place == Place::arena && plan.places[at(i)][k].root == ValueId{i, static_cast<std::int32_t>(k)};
  EXPECT_GT(scratches, 0u);
  EXPECT_EQ(count_of(svg, "<title>scratch of"), scratches);
  EXPECT_EQ(count_of(svg, "fill-opacity"), roots + scratches);

  // The axis counts what runs; the parameters before it take no room, so a box starts at the left edge.
  ASSERT_GT(inputs, 5u);
  EXPECT_THAT(svg, ::testing::Not(HasSubstr(fmt::format("text-anchor=\"middle\">{}</text>", g.size()))));
  EXPECT_THAT(svg, HasSubstr("<rect x=\"70.00\""));
}

TEST(Memory, PictureOfNothingAndOfAwkwardNames) {
  expect_well_formed(memory_map_svg(Graph(), plan_memory(Graph(), {})));
  Graph g;
  const auto scope = g.scope("a<b>&\"c\"\x01");
  g.output("y", exp(tanh(g.input("x", {DType::f32, {8, 8}}))));
  g.output("z", relu(tanh(matmul(g.input("p", {DType::f32, {8, 8}}), g.input("q", {DType::f32, {8, 8}})))));
  expect_well_formed(memory_map_svg(g, plan_memory(g, {}, false)));
}

}  // namespace
}  // namespace rhetor
