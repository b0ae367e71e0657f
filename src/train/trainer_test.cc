#include "train/trainer.h"

#include <gmock/gmock.h>

#include <cmath>
#include <csignal>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "train/step.h"
#include "train/test_runs.h"

namespace rhetor::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

TEST(Trainer, LossFallsAndTheModelFolderLoads) {
  for (const char* family : {"gpt2", "llama", "bert"}) {
    SCOPED_TRACE(family);
    ScratchFolder scratch;
    Recipe recipe = toy_recipe(scratch.path(), family);
    recipe.steps = 50;
    const TrainResult result = train(recipe, quiet());
    EXPECT_EQ(result.steps, 50);
    // A bert's loss also holds the two-way next-sentence loss, which such a text hardly teaches.
    EXPECT_LT(result.last_loss, (family == std::string("bert") ? 0.85 : 0.75) * result.first_loss);
    EXPECT_TRUE(std::isfinite(result.validation_loss));
    const ModelPtr model = load_model(result.model_folder);
    EXPECT_EQ(model->config.family, family);
    EXPECT_EQ(model->config.vocab, model->tokenizer->vocab_size());
    EXPECT_THAT(read_file(result.curve_file), HasSubstr("</svg>"));
  }
}

TEST(Trainer, AStoppedRunGoesOnBitForBit) {
  ScratchFolder a, b;
  Recipe whole = toy_recipe(a.path()), pieces = toy_recipe(b.path());
  whole.dropout = pieces.dropout = 0.1;
  train(whole, quiet());
  for (int i = 0; i < 3; ++i) {
    const TrainResult part = train(pieces, {.quiet = true, .stop_after_steps = 7});
    EXPECT_EQ(part.stopped, i < 2);
    EXPECT_EQ(part.resumed, i > 0);
  }
  EXPECT_EQ(weight_bytes(whole.folder), weight_bytes(pieces.folder));
  EXPECT_EQ(metrics_without_timings(whole.folder + "/metrics.jsonl"), metrics_without_timings(pieces.folder + "/metrics.jsonl"));
  // Finished: running it again changes nothing.
  const TrainResult again = train(pieces, quiet());
  EXPECT_TRUE(again.resumed);
  EXPECT_EQ(again.steps, 20);
  EXPECT_EQ(weight_bytes(whole.folder), weight_bytes(pieces.folder));
}

TEST(Trainer, TheSameSeedGivesTheSameBits) {
  ScratchFolder a, b, c;
  Recipe first = toy_recipe(a.path()), second = toy_recipe(b.path()), other = toy_recipe(c.path());
  first.dropout = second.dropout = other.dropout = 0.1;
  other.seed = 2;
  for (const Recipe* recipe : {&first, &second, &other}) train(*recipe, quiet());
  const auto losses = [](const Recipe& recipe) { return metrics_without_timings(recipe.folder + "/metrics.jsonl"); };
  const auto saved = [](const Recipe& recipe) { return read_file(recipe.folder + "/checkpoints/step-20/state.safetensors"); };
  EXPECT_EQ(losses(first), losses(second));
  EXPECT_EQ(saved(first), saved(second));
  EXPECT_NE(losses(first), losses(other));
  EXPECT_NE(saved(first), saved(other));
}

TEST(Trainer, AnInterruptSavesAndStops) {
  ScratchFolder a, b;
  Recipe whole = toy_recipe(a.path()), cut = toy_recipe(b.path());
  whole.accumulation = cut.accumulation = 2;
  whole.dropout = cut.dropout = 0.1;
  train(whole, quiet());
  TrainOptions options;
  options.progress = [](const TrainProgress& p) {
    if (p.step == 8) std::raise(SIGTERM);
  };
  const TrainResult part = train(cut, options);
  EXPECT_TRUE(part.stopped);
  EXPECT_EQ(part.steps, 8);
  train(cut, quiet());
  EXPECT_EQ(weight_bytes(whole.folder), weight_bytes(cut.folder));
}

TEST(Trainer, AnotherRecipeOrTextIsNotContinued) {
  ScratchFolder scratch;
  Recipe recipe = toy_recipe(scratch.path());
  train(recipe, {.quiet = true, .stop_after_steps = 6});
  Recipe other = recipe;
  other.lr = 1e-2;
  try {
    train(other, quiet());
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("train.lr is 0.005 there and 0.01 here"));
  }
  EXPECT_EQ(train(other, {.fresh = true, .quiet = true}).resumed, false);
  write_file_atomic(recipe.files[0], toy_text(1201));
  try {
    train(other, quiet());
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("has changed since"));
  }
}

TEST(Trainer, OneTrainingAFolder) {
  ScratchFolder scratch;
  const Recipe recipe = toy_recipe(scratch.path());
  std::string message;
  TrainOptions options;
  options.stop_after_steps = 1;
  options.progress = [&](const TrainProgress&) {
    try {
      train(recipe, quiet());
    } catch (const Error& error) {
      message = error.what();
    }
  };
  train(recipe, options);
  EXPECT_THAT(message, HasSubstr("another training is writing to"));
}

TEST(Trainer, MinutesChooseTheNumberOfStepsOnce) {
  ScratchFolder scratch;
  Recipe recipe = toy_recipe(scratch.path());
  recipe.minutes = 0.045;
  recipe.checkpoint_every = 0;
  const TrainResult first = train(recipe, {.quiet = true, .stop_after_steps = 3});
  EXPECT_TRUE(first.stopped);
  const auto run = nlohmann::json::parse(read_file(fs::path(recipe.folder) / "run.json"));
  EXPECT_EQ(train(recipe, {.quiet = true}).steps, run.at("steps").get<std::int64_t>());
}

// ---- one step ------------------------------------------------------------------------------------
struct StepCase {
  ModelConfig config = [] {
    ModelConfig c = size_dial("gpt2", 1, 61);
    c.hidden = 32, c.heads = c.kv_heads = 2, c.ffn = 64, c.context = 16;
    return c;
  }();
  NamedTensors batch(std::int64_t rows, std::uint64_t seed) const {
    NamedTensors out;
    Rng rng(seed);
    for (const char* name : {"tokens", "targets"}) {
      std::vector<std::int32_t> ids(static_cast<std::size_t>(rows * 16));
      for (auto& id : ids) id = static_cast<std::int32_t>(rng.below(61));
      out.emplace_back(name, Tensor::of<std::int32_t>(Shape{rows, 16}, ids));
    }
    return out;
  }
  StepSpec spec(std::int64_t batch_rows, std::int64_t accumulation) const {
    return {.config = config,
            .batch = batch_rows,
            .seq = 16,
            .accumulation = accumulation,
            .adamw = {.beta2 = 0.95, .weight_decay = 0.1}};
  }
};

double largest_difference(const Weights& a, const Weights& b) {
  double out = 0;
  for (const auto& [name, tensor] : a) {
    for (std::int64_t i = 0; i < tensor.elements(); ++i) out = std::max(out, std::fabs(tensor.at(i) - b.at(name).at(i)));
  }
  return out;
}

TEST(Step, FourMicroBatchesOfTwoEqualABatchOfEight) {
  const StepCase c;
  Stepper whole(c.spec(8, 1), {}), parts(c.spec(2, 4), {});
  whole.initialize(3);
  parts.initialize(3);
  for (int step = 1; step <= 4; ++step) {
    const auto a = whole.run(c.batch(8, static_cast<std::uint64_t>(step)), 1e-2, step, 0);
    const auto b = parts.run(c.batch(8, static_cast<std::uint64_t>(step)), 1e-2, step, 0);
    EXPECT_NEAR(a.loss, b.loss, 1e-5);
    EXPECT_NEAR(a.grad_norm, b.grad_norm, 1e-5 * a.grad_norm);
  }
  // AdamW divides by the root of the second moment: a tiny gradient's rounding moves a weight by up to a share of lr.
  EXPECT_LT(largest_difference(whole.weight_copies(), parts.weight_copies()), 2e-3);
  const Weights trained = whole.weight_copies();
  whole.initialize(3);
  EXPECT_GT(largest_difference(trained, whole.weight_copies()), 1e-2);
}

TEST(Step, AGradientThatIsNotFiniteLeavesNoTrace) {
  const StepCase c;
  for (const std::int64_t accumulation : {1, 2}) {
    Stepper stepper(c.spec(4 / accumulation, accumulation), {});
    stepper.initialize(3);
    EXPECT_TRUE(stepper.run(c.batch(4, 1), 1e-2, 1, 0).applied);
    auto broken = stepper.snapshot();
    Tensor& table = broken.at("wte.weight");
    const float healthy = table.data<float>()[0];
    for (const float poison : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      table.data<float>()[0] = poison;
      stepper.restore(broken, "test");
      const auto outcome = stepper.run(c.batch(4, 2), 1e-2, 2, 0);
      EXPECT_FALSE(outcome.applied);
      for (const auto& [name, tensor] : stepper.snapshot()) {
        EXPECT_EQ(std::memcmp(tensor.raw(), broken.at(name).raw(), tensor.bytes()), 0) << name;
      }
    }
    // Cured, it trains on: nothing of the bad step is left in gradient sums or moments.
    table.data<float>()[0] = healthy;
    stepper.restore(broken, "test");
    EXPECT_TRUE(stepper.run(c.batch(4, 2), 1e-2, 2, 0).applied);
    for (const auto& [name, tensor] : stepper.snapshot()) {
      for (std::int64_t i = 0; i < tensor.elements(); ++i) ASSERT_TRUE(std::isfinite(tensor.at(i))) << name;
    }
  }
}

TEST(Step, WeightDecayTouchesMatricesOnly) {
  const StepCase c;
  StepSpec with = c.spec(4, 1), without = with;
  without.adamw.weight_decay = 0;
  Stepper a(with, {}), b(without, {});
  for (Stepper* s : {&a, &b}) {
    s->initialize(3);
    s->run(c.batch(4, 1), 1e-2, 1, 0);
  }
  const Weights wa = a.weight_copies(), wb = b.weight_copies();
  for (const auto& [name, tensor] : wa) {
    const bool same = std::memcmp(tensor.raw(), wb.at(name).raw(), tensor.bytes()) == 0;
    EXPECT_EQ(same, tensor.shape().rank() < 2) << name;
  }
}

TEST(Step, ClippingScalesTheGradientToTheNorm) {
  const StepCase c;
  StepSpec tight = c.spec(4, 1);
  tight.clip = 1e-3;
  Stepper stepper(tight, {});
  stepper.initialize(3);
  const auto outcome = stepper.run(c.batch(4, 1), 1e-2, 1, 0);
  EXPECT_GT(outcome.grad_norm, 0.1);  // reported before clipping
  double squares = 0;                 // m = (1 - beta1) g after the first step
  for (const auto& [name, tensor] : stepper.snapshot()) {
    if (!name.starts_with("adam.m.")) continue;
    for (std::int64_t i = 0; i < tensor.elements(); ++i) squares += tensor.at(i) * tensor.at(i);
  }
  EXPECT_NEAR(std::sqrt(squares) / 0.1, 1e-3, 1e-5);
}

TEST(Step, Bf16TrainsCloseToF32) {
  ScratchFolder a, b;
  Recipe exact = toy_recipe(a.path()), narrow = toy_recipe(b.path());
  exact.steps = narrow.steps = 40;
  narrow.precision = "bf16";
  const double full = train(exact, quiet()).validation_loss, half = train(narrow, quiet()).validation_loss;
  EXPECT_NEAR(full, half, 0.1 * full);
}

TEST(Trainer, OnNanStopRollbackAndSkip) {
  for (const char* mode : {"skip", "rollback", "stop"}) {
    SCOPED_TRACE(mode);
    ScratchFolder scratch;
    Recipe recipe = toy_recipe(scratch.path());
    recipe.on_nan = mode;
    recipe.clip = 0;
    recipe.lr = 100;  // diverges until the gradient overflows
    recipe.warmup = 0;
    recipe.steps = 60;
    recipe.weight_decay = 10;
    std::int64_t skipped = 0;
    try {
      skipped = train(recipe, quiet()).skipped;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("finite"));
      skipped = 1;
    }
    EXPECT_GT(skipped, 0) << "the learning rate is not high enough for this test";
    // Whatever happened, the newest checkpoint holds finite weights.
    const fs::path folder = fs::path(recipe.folder) / "checkpoints";
    for (const auto& entry : fs::directory_iterator(folder)) {
      if (!entry.is_directory()) continue;
      for (const auto& [name, tensor] : load_safetensors(entry.path() / "state.safetensors").tensors) {
        for (std::int64_t i = 0; i < tensor.elements(); ++i) ASSERT_TRUE(std::isfinite(tensor.at(i))) << name;
      }
    }
  }
}

}  // namespace
}  // namespace rhetor::testing
