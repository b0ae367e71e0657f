#include "passes/pipeline.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <unistd.h>

#include <filesystem>

#include "base/file.h"
#include "graph/op.h"
#include "graph/text.h"
#include "ops/registry.h"
#include "passes/memory.h"
#include "passes/test_graphs.h"

namespace rhetor {
namespace {

using namespace rhetor::testing;
using ::testing::HasSubstr;

std::uint64_t peak(const Graph& g) { return plan_memory(g, {}).lower_bound; }

// All passes on; switching each off in turn must not change the results. bf16 casts do not round in the float64 oracle, int8 does
// (so it has its own test).
void check_each_off(const Graph& graph, const char* what) {
  PassOptions options{.verify = true, .compute = DType::bf16, .memory_budget = peak(graph) / 2};
  const Inputs inputs = random_inputs(graph);
  const EvalResult expected = evaluate(graph, inputs);
  std::vector<std::string> off{""};
  for (const Pass& pass : all_passes()) off.emplace_back(pass.name);
  for (const std::string& name : off) {
    options.off.clear();
    if (!name.empty()) options.off.insert(name);
    const PipelineResult result = run_passes(graph, options);
    EXPECT_LT(worst_difference(expected, evaluate(result.graph, inputs)), 1e-9) << what << " without '" << name << "'";
    ASSERT_EQ(result.records.size(), all_passes().size());
    for (const PassRecord& record : result.records) EXPECT_EQ(record.skipped, record.name == name);
  }
}

TEST(Pipeline, EachPassOffLeavesResultsEqual) {
  check_each_off(inference_graph(), "inference");
  check_each_off(training_graph(), "training");
  check_each_off(training_graph({.dropout = 0.2}), "training with dropout");
}

TEST(Pipeline, UnknownPassNamesTheNearest) {
  try {
    run_passes(Graph(), {.off = {"simplyfy"}});
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("did you mean 'simplify'"));
    EXPECT_THAT(error.what(), HasSubstr("schedule"));
  }
}

TEST(Pipeline, DumpsParseBack) {
  const std::filesystem::path folder = std::filesystem::temp_directory_path() / fmt::format("rhetor-passes-{}", ::getpid());
  const PipelineResult result = run_passes(training_graph(), {.verify = true, .dump_dir = folder.string()});
  std::string last;
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string text = read_file(entry.path());
    EXPECT_EQ(to_text(parse_graph(text, all_ops())), text) << entry.path();
    if (entry.path().filename().string().ends_with("-schedule.txt")) last = text;
    ++files;
  }
  EXPECT_EQ(files, 1 + static_cast<int>(all_passes().size()));
  EXPECT_EQ(last, to_text(result.graph));
  std::filesystem::remove_all(folder);
}

TEST(Pipeline, RecordsSayWhatHappened) {
  const PipelineResult result = run_passes(inference_graph(), {.int8 = true});
  for (const PassRecord& record : result.records) {
    EXPECT_GE(record.milliseconds, 0);
    EXPECT_GT(record.nodes_after, 0);
    for (const Refusal& refusal : record.refusals) EXPECT_FALSE(refusal.reason.empty() || refusal.candidate.empty());
  }
  EXPECT_THAT(record(result, "quantize").note, HasSubstr("int8"));
}

}  // namespace
}  // namespace rhetor
