// Several ranks must train what one rank trains.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "train/checkpoint.h"
#include "train/metrics.h"
#include "train/test_runs.h"

namespace rhetor {
namespace {

using ::testing::HasSubstr;
using testing::quiet;
using testing::toy_recipe;

std::vector<CurvePoint> curve_of(const Recipe& recipe) {
  return read_metrics(std::filesystem::path(recipe.folder) / "metrics.jsonl", 1u << 20).train;
}

Recipe dense_recipe(const std::filesystem::path& folder, const std::string& name) {
  Recipe recipe = toy_recipe(folder);
  recipe.folder = (folder / name).string();
  return recipe;
}

double farthest(const std::vector<CurvePoint>& found, const std::vector<CurvePoint>& expected) {
  double most = 0;
  for (std::size_t i = 0; i < std::min(found.size(), expected.size()); ++i)
    most = std::max(most, std::abs(found[i].loss - expected[i].loss) / expected[i].loss);
  return most;
}

// How far the curve of one rank moves when nothing but the order of its sums changes: the same batches in micro-batches of 2 and
// of 1.
double spread_of(const Recipe& recipe, const std::vector<CurvePoint>& curve) {
  double most = 0;
  for (const std::int64_t micro : {2, 1}) {
    Recipe other = recipe;
    other.accumulation = recipe.accumulation * recipe.batch / micro;
    other.batch = micro;
    other.folder += fmt::format("-by-{}", micro);
    train(other, quiet());
    most = std::max(most, farthest(curve_of(other), curve));
  }
  return most;
}

void expect_close(const Recipe& recipe, const std::vector<CurvePoint>& expected, double spread) {
  const std::vector<CurvePoint> found = curve_of(recipe);
  ASSERT_EQ(found.size(), expected.size()) << recipe.folder;
  EXPECT_LE(farthest(found, expected), 3 * spread) << recipe.folder;
}

TEST(Ranks, TrainWhatOneRankTrains) {
  const testing::ScratchFolder folder;
  for (const std::int64_t accumulation : {1, 2}) {
    Recipe one = dense_recipe(folder.path(), fmt::format("one-{}", accumulation));
    one.accumulation = accumulation;
    train(one, quiet());
    const std::vector<CurvePoint> curve = curve_of(one);
    const double spread = spread_of(one, curve);
    EXPECT_LT(spread, 1e-3) << "rounding alone";
    for (const char* strategy : {"ddp", "zero1", "zero2", "zero3"})
      for (const int ranks : {2, 4}) {
        Recipe several = one;
        several.strategy = strategy;
        several.folder = (folder.path() / fmt::format("{}-{}-{}", strategy, ranks, accumulation)).string();
        train_on_threads(several, quiet(), ranks);
        expect_close(several, curve, spread);
        RecordProperty(fmt::format("{}_{}_{}", strategy, ranks, accumulation),
                       fmt::format("{:.2e} of {:.2e}", farthest(curve_of(several), curve), spread));
      }
  }
}

TEST(Ranks, SameBitsRunToRun) {
  const testing::ScratchFolder folder;
  for (const char* strategy : {"ddp", "zero3"}) {
    std::string first;
    for (const char* name : {"a", "b"}) {
      Recipe recipe = dense_recipe(folder.path(), fmt::format("{}-{}", strategy, name));
      recipe.strategy = strategy;
      recipe.dropout = 0.1;
      train_on_threads(recipe, quiet(), 2);
      const std::string bytes = testing::weight_bytes(recipe.folder);
      if (first.empty()) first = bytes;
      EXPECT_TRUE(bytes == first) << strategy;
    }
  }
}

TEST(Ranks, ResumeOnTheSameAndOnAnotherNumber) {
  const testing::ScratchFolder folder;
  Recipe whole = dense_recipe(folder.path(), "whole");
  whole.strategy = "zero2";
  train_on_threads(whole, quiet(), 2);
  const std::vector<CurvePoint> curve = curve_of(whole);
  Recipe one = whole;
  one.folder = (folder.path() / "one").string();
  const double spread = spread_of(one, curve);
  TrainOptions stop = quiet();
  stop.stop_after_steps = 10;
  for (const int ranks : {2, 4, 1}) {
    Recipe halves = whole;
    halves.folder = (folder.path() / fmt::format("halves-{}", ranks)).string();
    train_on_threads(halves, stop, 2);
    ASSERT_TRUE(load_newest_checkpoint(halves.folder));
    EXPECT_EQ(load_newest_checkpoint(halves.folder)->state.step, 10);
    if (ranks == 1)
      train(halves, quiet());
    else
      train_on_threads(halves, quiet(), ranks);
    expect_close(halves, curve, spread);
    if (ranks == 2) EXPECT_TRUE(testing::weight_bytes(halves.folder) == testing::weight_bytes(whole.folder));
  }
}

// One rank's moments, whatever wrote them.
TEST(Ranks, ACheckpointHoldsTheSameStateHoweverItIsCut) {
  const testing::ScratchFolder folder;
  Recipe recipe = dense_recipe(folder.path(), "cut");
  recipe.strategy = "zero3";
  TrainOptions stop = quiet();
  stop.stop_after_steps = 10;
  train_on_threads(recipe, stop, 4);
  const auto before = load_newest_checkpoint(recipe.folder);
  ASSERT_TRUE(before);
  std::map<std::string, Tensor> kept;
  for (const auto& [name, tensor] : before->tensors) kept[name] = tensor.clone();
  CheckpointParts alone;
  write_checkpoint(folder.path() / "again", before->state, kept, 1, alone);
  const auto after = load_newest_checkpoint(folder.path() / "again");
  ASSERT_TRUE(after);
  for (const auto& [name, tensor] : kept)
    EXPECT_EQ(0, std::memcmp(tensor.raw(), after->tensors.at(name).raw(), tensor.bytes())) << name;
}

// Looser than rounding: this looks for an input that is cut or normalised wrongly, which moves the loss in its first three
// digits. The mean over masked tokens is of the whole batch, so micro-batches of one rank are no yardstick here.
TEST(Ranks, EveryFamily) {
  const testing::ScratchFolder folder;
  for (const char* family : {"llama", "bert", "t5"}) {
    Recipe one = toy_recipe(folder.path(), family);
    one.folder = (folder.path() / family).string();
    train(one, quiet());
    for (const char* strategy : {"ddp", "zero3"}) {
      Recipe several = one;
      several.strategy = strategy;
      several.folder += fmt::format("-{}", strategy);
      train_on_threads(several, quiet(), 2);
      expect_close(several, curve_of(one), 1e-4);
    }
  }
}

TEST(Ranks, ABatchThatDoesNotDivide) {
  const testing::ScratchFolder folder;
  Recipe recipe = dense_recipe(folder.path(), "odd");
  EXPECT_THAT([&] { train_on_threads(recipe, quiet(), 3); },
              ::testing::ThrowsMessage<Error>(HasSubstr("train.batch is 4, which does not divide among 3 ranks")));
}

}  // namespace
}  // namespace rhetor
