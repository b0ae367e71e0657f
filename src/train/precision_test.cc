// Training in f16, FP8 and with weights in bf16: what is kept, what an overflow changes, and that a stopped run goes on bit for bit.
#include <gmock/gmock.h>

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "train/step.h"
#include "train/test_runs.h"

namespace rhetor::testing {
namespace {

using ::testing::HasSubstr;

struct Way {
  const char *precision, *storage;
};
constexpr Way kWays[] = {{"f16", "f32"}, {"fp8", "f32"}, {"bf16", "bf16"}, {"f32", "bf16"}};

TEST(Precision, TrainsCloseToF32) {
  ScratchFolder a;
  Recipe exact = toy_recipe(a.path());
  exact.steps = 40;
  const double full = train(exact, quiet()).validation_loss;
  for (const Way& way : kWays) {
    SCOPED_TRACE(fmt::format("{} on {}", way.precision, way.storage));
    ScratchFolder b;
    Recipe narrow = toy_recipe(b.path());
    narrow.steps = 40;
    narrow.precision = way.precision;
    narrow.storage = way.storage;
    const TrainResult result = train(narrow, quiet());
    EXPECT_NEAR(result.validation_loss, full, 0.15 * full);
    const ModelPtr model = load_model(result.model_folder);
    for (const auto& [name, tensor] : model->weights) EXPECT_EQ(tensor.dtype(), DType::f32) << name;
  }
}

TEST(Precision, AStoppedRunGoesOnBitForBit) {
  for (const Way& way : kWays) {
    SCOPED_TRACE(fmt::format("{} on {}", way.precision, way.storage));
    ScratchFolder a, b;
    Recipe whole = toy_recipe(a.path()), pieces = toy_recipe(b.path());
    for (Recipe* recipe : {&whole, &pieces}) {
      recipe->precision = way.precision;
      recipe->storage = way.storage;
      recipe->dropout = 0.1;
      recipe->accumulation = 2;
      recipe->batch = 2;
      recipe->loss_scale = 1 << 20;      // overflows first
      recipe->loss_scale_growth = 3;     // and grows between the stops
      recipe->steps = 16;
    }
    const TrainResult result = train(whole, quiet());
    EXPECT_EQ(result.skipped > 0, std::string(way.precision) == "f16");
    for (const int stop : {5, 6, 0}) train(pieces, {.quiet = true, .stop_after_steps = stop});
    EXPECT_EQ(weight_bytes(whole.folder), weight_bytes(pieces.folder));
    EXPECT_EQ(metrics_without_timings(whole.folder + "/metrics.jsonl"), metrics_without_timings(pieces.folder + "/metrics.jsonl"));
  }
}

StepSpec small_spec() {
  ModelConfig config = size_dial("gpt2", 1, 300);
  config.hidden = 32, config.heads = config.kv_heads = 2, config.ffn = 64, config.context = 16;
  return {.config = config, .batch = 4, .seq = 16, .adamw = {.weight_decay = 0.1}};
}
NamedTensors small_batch(std::uint64_t stream) {
  Rng rng(11, stream);
  Tensor tokens(Type{DType::i32, {4, 16}}), targets(Type{DType::i32, {4, 16}});
  for (std::int64_t i = 0; i < tokens.elements(); ++i) {
    tokens.set(i, static_cast<double>(rng.below(300)));
    targets.set(i, static_cast<double>(rng.below(300)));
  }
  return {{"tokens", tokens}, {"targets", targets}};
}
bool same_bits(const Tensor& a, const Tensor& b) { return a.type() == b.type() && std::memcmp(a.raw(), b.raw(), a.bytes()) == 0; }

TEST(LossScale, AnOverflowHalvesItAndChangesNothingElse) {
  StepSpec spec = small_spec();
  spec.loss_scale = {.initial = kGreatestLossScale, .growth = 2};
  CompileOptions options;
  options.passes.compute = DType::f16;
  Stepper stepper(spec, options);
  stepper.initialize(3);
  double scale = kGreatestLossScale;
  int overflows = 0, grown = 0;
  std::int64_t updates = 0;
  for (int step = 0; step < 24; ++step) {
    const auto before = stepper.snapshot();
    EXPECT_EQ(before.at(kLossScaleState).at(0), scale);
    const Stepper::Outcome outcome = stepper.run(small_batch(static_cast<std::uint64_t>(step)), 1e-3, updates + 1, 0);
    EXPECT_EQ(outcome.loss_scale, scale);
    EXPECT_EQ(outcome.overflow, !outcome.applied);
    const auto after = stepper.snapshot();
    if (!outcome.applied) {
      ++overflows;
      for (const auto& [name, tensor] : after) {
        if (name.starts_with(kLossScaleState)) continue;
        EXPECT_TRUE(same_bits(tensor, before.at(name))) << name;
      }
      EXPECT_EQ(after.at(kLossScaleState).at(0), scale / 2);
      EXPECT_EQ(after.at(kLossScaleState).at(1), 0);
    } else {
      ++updates;
      const bool due = before.at(kLossScaleState).at(1) == 1;
      grown += due;
      EXPECT_EQ(after.at(kLossScaleState).at(0), due ? 2 * scale : scale);
      EXPECT_LT(outcome.grad_norm, 100) << "the norm is that of unscaled gradients";
    }
    scale = after.at(kLossScaleState).at(0);
  }
  EXPECT_GT(overflows, 0);
  EXPECT_GT(grown, 0);
}

TEST(LossScale, ScalingByAPowerOfTwoRoundsNothing) {
  StepSpec plain = small_spec(), scaled = plain;
  scaled.loss_scale = {.initial = 1024, .growth = 1000};
  Stepper a(plain, {}), b(scaled, {});
  for (Stepper* s : {&a, &b}) {
    s->initialize(3);
    for (std::uint64_t step = 0; step < 3; ++step) s->run(small_batch(step), 1e-2, static_cast<std::int64_t>(step) + 1, 0);
  }
  const auto expected = a.snapshot(), found = b.snapshot();
  for (const auto& [name, tensor] : expected) EXPECT_TRUE(same_bits(tensor, found.at(name))) << name;
}

TEST(Storage, SmallUpdatesMoveWeightsInBf16OnAverage) {
  StepSpec exact = small_spec(), narrow = exact;
  narrow.storage = DType::bf16;
  Stepper a(exact, {}), b(narrow, {});
  // Updates far below half a unit of bf16: rounded to nearest, most weights would stay for ever.
  for (Stepper* s : {&a, &b}) {
    s->initialize(3);
    for (std::uint64_t step = 0; step < 20; ++step) s->run(small_batch(0), 2e-5, static_cast<std::int64_t>(step) + 1, step);
  }
  const auto states = b.snapshot();
  for (const auto& [name, tensor] : states) EXPECT_EQ(tensor.dtype(), DType::bf16) << name;
  StepSpec again = narrow;
  Stepper first(again, {});
  first.initialize(3);
  const Weights begin = first.weight_copies(), moved = b.weight_copies(), ideal = a.weight_copies();
  double along = 0, length = 0;   // the way in bf16, projected on the way in f32
  for (const auto& [name, tensor] : ideal)
    for (std::int64_t i = 0; i < tensor.elements(); ++i) {
      const double way = tensor.at(i) - begin.at(name).at(i);
      along += way * (moved.at(name).at(i) - begin.at(name).at(i));
      length += way * way;
    }
  EXPECT_NEAR(along / length, 1, 0.35);
}

TEST(Precision, RecipesSayWhatIsWrong) {
  ScratchFolder scratch;
  const auto error = [&](auto change) -> std::string {
    Recipe recipe = toy_recipe(scratch.path());
    change(recipe);
    try {
      train(recipe, quiet());
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  };
  EXPECT_THAT(error([](Recipe& r) { r.precision = "fp16"; }), HasSubstr("one of f32, bf16, f16, fp8"));
  EXPECT_THAT(error([](Recipe& r) { r.precision = "f16", r.loss_scale = 1000; }), HasSubstr("power of two"));
  EXPECT_THAT(error([](Recipe& r) { r.fp8_wide_layers = 1; }), HasSubstr("is for fp8"));
  EXPECT_THAT(error([](Recipe& r) { r.precision = "fp8", r.fp8_wide_layers = 1; }), HasSubstr("none of the 1 layers in FP8"));
  EXPECT_THAT(error([](Recipe& r) { r.storage = "f16"; }), HasSubstr("one of f32, bf16"));
}

}  // namespace
}  // namespace rhetor::testing
