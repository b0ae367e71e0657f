// Plans of whole models: what a loaded plan computes is, bit for bit, what the executable computed that was saved.
#include <filesystem>

#include "models/test_models.h"
#include "runtime/plan.h"

namespace rhetor::testing {
namespace {

using Task = BuildSpec::Task;

// Logits of a prefill of 8 tokens and of 4 decoded ones, on one cache.
std::vector<float> talk(const Plan& plan) {
  const auto states = std::make_shared<StateStore>();
  Session prefill(plan.executables.at("prefill"), states), decode(plan.executables.at("decode"), states);
  std::vector<float> out;
  const auto run = [&](Session& session, int position, int last) {
    Tensor& tokens = session.input("tokens");
    for (std::int64_t i = 0; i < tokens.elements(); ++i) tokens.set(i, static_cast<double>((7 * (position + i) + 1) % 61));
    session.input("positions").set(0, position);
    session.input("last").set(0, last);
    session.run();
    for (const float x : session.output("logits").data<float>()) out.push_back(x);
  };
  run(prefill, 0, 7);
  for (int position = 8; position < 12; ++position) run(decode, position, 0);
  return out;
}

TEST(ModelPlan, SavedAndLoadedGivesTheSameBits) {
  const std::filesystem::path path = std::filesystem::path(::testing::TempDir()) / "model_plan_test.plan";
  for (const char* family : {"gpt2", "llama"}) {
    for (const char* precision : {"f32", "bf16", "int8"}) {
      SCOPED_TRACE(std::string(family) + " " + precision);
      const ModelConfig c = tiny(family);
      CompileOptions options{.keep_weights = true};
      options.passes.int8 = precision == std::string("int8");
      if (precision == std::string("bf16")) options.passes.compute = DType::bf16;
      const Graph prefill = build_model(c, {.task = Task::cached, .seq = 8}), decode = build_model(c, {.task = Task::cached});
      const Weights weights = lively_weights(decode);
      Plan plan;
      plan.executables["prefill"] = compile(prefill, weights, options);
      plan.executables["decode"] = compile(decode, weights, options);
      save_plan(path, plan);
      EXPECT_EQ(talk(load_plan(path)), talk(plan));
    }
  }
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace rhetor::testing
