#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>

#include "models/explain.h"
#include "models/test_models.h"
#include "runtime/plan.h"
#include "tensor/safetensors.h"

namespace rhetor::testing {
namespace {

using ::testing::HasSubstr;
using Task = BuildSpec::Task;
namespace fs = std::filesystem;

class Folder : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = fs::path(::testing::TempDir()) / ("folder_" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(path_);
  }
  void TearDown() override { fs::remove_all(path_); }

  Model model(const std::string& family = "gpt2") {
    Model m;
    m.config = tiny(family);
    m.weights = lively_weights(build_model(m.config, {.task = family == "bert" ? Task::pretrain : Task::logits}));
    return m;
  }
  std::string load_error() {
    try {
      load_model(path_);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }
  fs::path path_;
};

TEST_F(Folder, RoundTrip) {
  for (const char* family : {"gpt2", "llama", "bert"}) {
    const Model saved = model(family);
    save_model(path_, saved);
    const ModelPtr loaded = load_model(path_ / "");
    EXPECT_EQ(loaded->config.to_json(), saved.config.to_json());
    EXPECT_EQ(loaded->name, path_.filename().string());
    ASSERT_EQ(loaded->weights.size(), saved.weights.size());
    for (const auto& [name, tensor] : saved.weights) EXPECT_EQ(compare(tensor, loaded->weights.at(name)).max_abs, 0) << name;
  }
}

TEST_F(Folder, MissingFolderAndFiles) {
  EXPECT_THAT(load_error(), HasSubstr("there is no model folder"));
  save_model(path_, model());
  fs::remove(path_ / "model.safetensors");
  EXPECT_THAT(load_error(), HasSubstr("model.safetensors"));
  fs::remove(path_ / "config.json");
  EXPECT_THAT(load_error(), HasSubstr("config.json"));
}

TEST_F(Folder, WeightsAreCheckedByName) {
  const Model good = model();
  save_model(path_, good);
  Weights weights = good.weights;
  weights.erase("ln_f.bias");
  save_safetensors(path_ / "model.safetensors", weights);
  EXPECT_THAT(load_error(), HasSubstr("'ln_f.bias' (f32[hidden:32]) is missing"));
  weights = good.weights;
  weights["ln_f.bais"] = Tensor(DType::f32, Shape{4});
  save_safetensors(path_ / "model.safetensors", weights);
  EXPECT_THAT(load_error(), HasSubstr("did you mean 'ln_f.bias'"));
  weights = good.weights;
  weights["ln_f.bias"] = Tensor(DType::f32, Shape{4});
  save_safetensors(path_ / "model.safetensors", weights);
  EXPECT_THAT(load_error(), HasSubstr("'ln_f.bias' is f32[4], expected f32[hidden:32]"));
  weights["ln_f.bias"] = good.weights.at("ln_f.bias").cast(DType::bf16);
  save_safetensors(path_ / "model.safetensors", weights);
  EXPECT_THAT(load_error(), HasSubstr("'ln_f.bias' is bf16"));
}

TEST_F(Folder, BertMayLackHeads) {
  Model m = model("bert");
  std::erase_if(m.weights, [](const auto& item) { return item.first.starts_with("cls."); });
  save_model(path_, m);
  EXPECT_EQ(load_model(path_)->weights.size(), m.weights.size());
}

TEST_F(Folder, Int8FolderIsLoadedAndRuns) {
  const ModelConfig c = tiny("gpt2");
  Model m = model();
  const Weights original = m.weights;
  m.config.quantization = "int8";
  const auto expected = expected_weights(m.config);
  ASSERT_TRUE(expected.contains("h.0.mlp.c_fc.weight.int8"));
  for (const auto& [name, want] : expected) {
    if (!name.ends_with(".int8")) continue;
    const std::string base = name.substr(0, name.size() - 5);
    const Tensor w = m.weights.at(base);
    const std::int64_t n = want.type.shape[0], k = want.type.shape[1];
    const bool transposed = base.find(".c_") == std::string::npos;  // wte is [n,k] as it is
    Tensor q(want.type), scale(DType::f32, Shape{n});
    for (std::int64_t i = 0; i < n; ++i) {
      const auto at = [&](std::int64_t j) { return w.at(transposed ? i * k + j : j * n + i); };
      double largest = 0;
      for (std::int64_t j = 0; j < k; ++j) largest = std::max(largest, std::abs(at(j)));
      scale.set(i, largest / 127);
      for (std::int64_t j = 0; j < k; ++j) q.set(i * k + j, std::nearbyint(at(j) / scale.at(i)));
    }
    m.weights.erase(base);
    m.weights[name] = q;
    m.weights[base + ".scale"] = scale;
  }
  save_model(path_, m);
  const ModelPtr loaded = load_model(path_);
  const Graph g = build_model(c, {.task = Task::logits, .batch = 1, .seq = 8});
  Session exact(compile(g, original)), small(compile(g, loaded->weights, compile_options_for(loaded->config)));
  for (Session* s : {&exact, &small}) {
    fill(s->input("tokens"), random_ids(Shape{1, 8}, c.vocab, 2));
    s->run();
  }
  const Comparison difference = compare(small.output("logits"), exact.output("logits"));
  EXPECT_LT(difference.max_rel_to_scale, 0.1) << difference.str();
  EXPECT_GT(difference.max_abs, 0);
}

TEST_F(Folder, ExplainTellsEverything) {
  save_model(path_, model());
  const Explanation e = explain_model(path_, {.batch = 1, .seq = 4});
  for (const char* part : {"Graph before the passes", "Graph after the passes", "simplify", "Kernels", "lower bound"})
    EXPECT_THAT(e.text, HasSubstr(part));
  for (const char* part : {"<svg", "</html>", "Memory map"}) EXPECT_THAT(e.html, HasSubstr(part));
  // A plan of two executables makes one page.
  const Graph g = build_model(tiny("gpt2"), {.task = Task::cached});
  Plan plan;
  for (const char* name : {"one", "two"}) plan.executables[name] = compile(g, lively_weights(g), {.keep_weights = true});
  save_plan(path_ / "m.plan", plan);
  const std::string page = explain_model(path_ / "m.plan").html;
  EXPECT_THAT(page, HasSubstr("m.plan: two"));
  EXPECT_EQ(page.find("</html>"), page.rfind("</html>"));
  EXPECT_THAT(explain_model("bert-tiny", {.seq = 8, .dtype = "int8"}).text, HasSubstr("matmul_i8"));
}

}  // namespace
}  // namespace rhetor::testing
