// Executables of one model share what their kernels pack: decode, prefill buckets and plans do not multiply the weights.
#include <gtest/gtest.h>
#include <unistd.h>

#include "cpu/pack_cache.h"
#include "models/test_models.h"
#include "runtime/plan.h"

namespace rhetor {
namespace {

using testing::lively_weights;
using testing::tiny;
using Task = BuildSpec::Task;

std::uint64_t in_use() { return pack_cache_use().bytes; }

std::vector<double> logits(const ExecutablePtr& exe, std::int64_t vocab) {
  Session session(exe);
  Tensor& tokens = session.input("tokens");
  testing::fill(tokens, testing::random_ids(tokens.shape(), vocab, 5));
  session.run();
  return session.output("logits").to_doubles();
}

TEST(SharedWeights, TwoExecutablesHoldWhatOneHolds) {
  for (const char* family : {"gpt2", "llama"}) {
    for (const char* precision : {"f32", "bf16", "int8"}) {
      for (const std::int64_t seq : {1, 16}) {
        SCOPED_TRACE(fmt::format("{} {} seq {}", family, precision, seq));
        const ModelConfig config = tiny(family);
        const Graph graph = build_model(config, {.task = Task::cached, .batch = 1, .seq = seq});
        CompileOptions options;
        if (precision == std::string("bf16")) options.passes.compute = DType::bf16;
        options.passes.int8 = precision == std::string("int8");
        const std::uint64_t before = in_use();
        const ExecutablePtr one = compile(graph, lively_weights(graph), options);
        const std::uint64_t alone = in_use() - before;
        EXPECT_GT(one->report().packed_bytes, 0u);
        EXPECT_LE(one->report().packed_bytes, alone);  // `alone` holds folded constants too
        // The second has weights of its own: equal numbers elsewhere in memory, as from a second load of the file.
        const ExecutablePtr two = compile(graph, lively_weights(graph), options);
        EXPECT_EQ(in_use() - before, alone);
        EXPECT_EQ(two->report().packed_bytes, one->report().packed_bytes);
        EXPECT_EQ(logits(one, config.vocab), logits(two, config.vocab));
        // Other weights share nothing of the matrices, and change nothing.
        const ExecutablePtr other = compile(graph, lively_weights(graph, 2), options);
        EXPECT_GE(in_use() - before, alone + one->report().packed_bytes);
        EXPECT_NE(logits(other, config.vocab), logits(one, config.vocab));
        EXPECT_EQ(logits(one, config.vocab), logits(two, config.vocab));
      }
    }
  }
}

TEST(SharedWeights, NothingStaysBehind) {
  const std::uint64_t before = in_use();
  const Graph graph = build_model(tiny("gpt2"), {.task = Task::cached, .batch = 1, .seq = 16});
  compile(graph, lively_weights(graph));
  EXPECT_EQ(in_use(), before);
}

TEST(SharedWeights, AcrossBatchesAndPlans) {
  const ModelConfig config = tiny("gpt2");
  const auto graph = [&](std::int64_t batch) { return build_model(config, {.task = Task::cached, .batch = batch, .seq = 1}); };
  const Weights weights = lively_weights(graph(1));
  const std::uint64_t before = in_use();
  const CompileOptions options{.keep_weights = true};
  Plan plan{.executables = {{"one", compile(graph(1), weights, options)}}, .blobs = {}};
  const std::uint64_t alone = in_use() - before;
  // Up to four rows are one kind of kernel with one layout.
  for (const std::int64_t batch : {2, 3, 4}) plan.executables[fmt::format("b{}", batch)] = compile(graph(batch), weights, options);
  EXPECT_EQ(in_use() - before, alone);
  const auto path = std::filesystem::temp_directory_path() / fmt::format("rhetor-shared-{}.plan", ::getpid());
  save_plan(path, plan);
  const Plan loaded = load_plan(path);
  EXPECT_EQ(in_use() - before, alone);
  EXPECT_EQ(logits(loaded.executables.at("b3"), config.vocab), logits(plan.executables.at("b3"), config.vocab));
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace rhetor
