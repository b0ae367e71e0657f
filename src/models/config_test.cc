#include <gmock/gmock.h>

#include "base/test_util.h"
#include "models/test_models.h"

namespace rhetor::testing {
namespace {

using ::testing::HasSubstr;
using Task = BuildSpec::Task;

TEST(Config, ParameterCountsAreThePublishedOnes) {
  EXPECT_EQ(model_preset("gpt2-124m").parameters(), 124'439'808);
  EXPECT_EQ(model_preset("gpt2").parameters(), 124'439'808);
  EXPECT_EQ(model_preset("gpt2-350m").parameters(), 354'823'168);
  EXPECT_EQ(model_preset("gpt2-774m").parameters(), 774'030'080);
  EXPECT_EQ(model_preset("gpt2-1.5b").parameters(), 1'557'611'200);
  EXPECT_EQ(model_preset("llama-7b").parameters(), 6'738'415'616);
  // BertModel has 109,482,240; the two pre-training heads add 624,188.
  EXPECT_EQ(model_preset("bert-base").parameters(), 110'106'428);
  EXPECT_EQ(model_preset("bert-large").parameters(), 336'226'108);
}

TEST(Config, JsonRoundTrip) {
  for (const std::string& preset : model_preset_names()) {
    const ModelConfig a = model_preset(preset), b = ModelConfig::from_json(a.to_json(), "x");
    EXPECT_EQ(a.to_json(), b.to_json());
  }
}

TEST(Config, BadJsonIsOneClearSentence) {
  const auto parse = [](const char* text) { return error_of([&] { ModelConfig::from_json(text, "c.json"); }); };
  EXPECT_THAT(parse("{"), HasSubstr("c.json is not a JSON object"));
  EXPECT_THAT(parse("[1]"), HasSubstr("c.json is not a JSON object"));
  EXPECT_THAT(parse("{}"), HasSubstr("\"family\" is missing"));
  EXPECT_THAT(parse(R"({"family":"gpt2","layer":3})"), HasSubstr("did you mean 'layers'"));
  EXPECT_THAT(parse(R"({"family":"gpt2","layers":"3"})"), HasSubstr("must be a whole number"));
  EXPECT_THAT(parse(R"({"family":"gtp2"})"), HasSubstr("did you mean 'gpt2'"));
  EXPECT_THAT(parse(R"({"family":"gpt2","vocab":10,"layers":1,"hidden":10,"heads":3,"ffn":4,"context":8})"), HasSubstr("not divisible"));
  EXPECT_THAT(parse(R"({"family":"gpt2","vocab":10,"layers":1000,"hidden":131072,"heads":1,"ffn":4,"context":8})"), HasSubstr("parameters"));
  EXPECT_THAT(parse(R"({"family":"gpt2","vocab":-4})"), HasSubstr("\"vocab\" is -4"));
}

TEST(Config, UnknownPresetNamesTheNearest) {
  EXPECT_THAT(error_of([] { model_preset("bert-bas"); }), HasSubstr("did you mean 'bert-base'"));
}

TEST(Config, SizeDialGivesLegalModels) {
  for (const char* family : {"gpt2", "llama", "bert"}) {
    std::int64_t before = 0;
    for (const std::int64_t layers : {1, 2, 3, 4, 6, 8, 12, 24, 36, 48}) {
      const ModelConfig c = size_dial(family, layers, 1000);
      EXPECT_EQ(c.layers, layers);
      EXPECT_GT(c.hidden * c.layers, before);
      before = c.hidden * c.layers;
    }
  }
  EXPECT_EQ(size_dial("gpt2", 12, 50257).parameters(), 124'439'808);
}

TEST(Config, BuildRefusesWhatTheFamilyLacks) {
  const ModelConfig gpt = tiny("gpt2");
  EXPECT_THAT(error_of([&] { build_model(gpt, {.task = Task::pretrain}); }), HasSubstr("gpt2 model cannot be built for the task 'pretrain'"));
  EXPECT_THAT(error_of([&] { build_model(gpt, {.task = Task::logits, .seq = 25}); }), HasSubstr("longer than the model's context of 24"));
  ModelConfig bert = tiny("bert");
  bert.labels = 0;
  EXPECT_THAT(error_of([&] { build_model(bert, {.task = Task::classify}); }), HasSubstr("at least 2 labels"));
}

TEST(Init, IsAPureFunctionOfNameAndSeed) {
  const ModelConfig c = tiny("gpt2");
  const Weights a = init_weights(build_model(c, {.task = Task::logits}), 7);
  const Weights b = init_weights(build_model(c, {.task = Task::loss, .batch = 2, .seq = 3, .weights = InputKind::state}), 7);
  const Weights other = init_weights(build_model(c, {.task = Task::logits}), 8);
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, tensor] : a) EXPECT_EQ(compare(tensor, b.at(name)).max_abs, 0) << name;
  EXPECT_GT(compare(a.at("wte.weight"), other.at("wte.weight")).max_abs, 0);
}

TEST(Init, HasTheStatedDeviations) {
  const Weights w = init_weights(build_model(size_dial("gpt2", 2, 500), {.task = Task::logits}), 1);
  const auto deviation = [&](const char* name) {
    double sum = 0;
    for (const float x : w.at(name).data<float>()) sum += static_cast<double>(x) * x;
    return std::sqrt(sum / static_cast<double>(w.at(name).elements()));
  };
  EXPECT_NEAR(deviation("wte.weight"), 0.02, 5e-4);
  EXPECT_NEAR(deviation("h.1.mlp.c_proj.weight"), 0.01, 5e-4);  // 0.02 / sqrt(2 * 2 layers)
  EXPECT_EQ(w.at("h.0.ln_1.weight").at(3), 1.0);
  EXPECT_EQ(w.at("h.0.ln_1.bias").at(3), 0.0);
}

}  // namespace
}  // namespace rhetor::testing
