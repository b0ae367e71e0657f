#include "compress/compress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>

#include "base/error.h"
#include "base/file.h"
#include "base/rng.h"
#include "data/batches.h"
#include "generate/generator.h"
#include "ops/ops.h"
#include "passes/grad.h"
#include "runtime/plan.h"

namespace rhetor {
namespace {

namespace fs = std::filesystem;

// A small gpt2 trained for a moment on a text with a rule (plain gradient descent: the training room is not below this one).
class Compress : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    std::string text;
    Rng rng(2);
    for (int i = 0; i < 300; ++i)
      text += fmt::format("{} and {} meet. ", rng.below(2) ? "the cat" : "a sailor", rng.below(2) ? "the sea" : "a lamp");
    folder_ = fs::temp_directory_path() / fmt::format("rhetor-compress-{}", ::getpid());
    fs::create_directories(folder_);
    text_ = folder_ / "text.txt";
    write_file_atomic(text_, text);
    auto model = std::make_shared<Model>();
    bool given = false;
    model->tokenizer = train_byte_bpe(
        [&](std::string& d) {
          d = text;
          return !std::exchange(given, true);
        },
        {.vocab_size = 290});
    ModelConfig& c = model->config;
    c = size_dial("gpt2", 2, model->tokenizer->vocab_size());
    c.hidden = 64, c.heads = c.kv_heads = 4, c.ffn = 256, c.context = 32;
    model->name = "toy";
    train(*model, model->tokenizer->encode(text));
    model_ = model;
    save_model(folder_ / "full", *model_);
  }
  static void TearDownTestSuite() {
    model_ = nullptr;
    fs::remove_all(folder_);
  }

  static void train(Model& model, const std::vector<TokenId>& tokens) {
    Graph g = build_model(model.config, {.task = BuildSpec::Task::loss, .batch = 8, .seq = 32, .weights = InputKind::state});
    std::vector<Value> weights;
    for (const std::int32_t i : g.input_nodes()) {
      if (g.input_kind(i) == InputKind::state) weights.push_back(g.value({i, 0}));
    }
    const auto grads = gradients(g.value(g.find_output("loss")), weights);
    const Value lr = g.input("lr", {DType::f32, {}}), one = scalar(g, DType::f32, 1.0);
    for (std::size_t i = 0; i < weights.size(); ++i) g.set_update(weights[i], sgd(weights[i], grads[i], lr, one));
    model.weights = init_weights(build_model(model.config, {}), 1);
    Session session(compile(g, {}));
    for (const auto& [name, tensor] : model.weights) std::memcpy(session.state(name).raw(), tensor.raw(), tensor.bytes());
    session.input("lr").data<float>()[0] = 0.3f;
    for (std::uint64_t i = 0; i < 60; ++i) {
      const LmBatch batch = lm_batch(tokens, 8, 32, 1, i);
      std::memcpy(session.input("tokens").raw(), batch.inputs.raw(), batch.inputs.bytes());
      std::memcpy(session.input("targets").raw(), batch.targets.raw(), batch.targets.bytes());
      session.run();
    }
    for (auto& [name, tensor] : model.weights) tensor = session.state(name).clone();
  }

  static inline fs::path folder_, text_;
  static inline ModelPtr model_;
};

TEST_F(Compress, AQuarterOfTheSizeAndNearlyTheLoss) {
  const CompressReport report = compress_int8(folder_ / "full", folder_ / "int8", text_);
  EXPECT_LT(report.loss_before, 3.5);  // it has learnt something: ln 290 is 5.7
  EXPECT_NEAR(report.loss_after, report.loss_before, 0.03);
  EXPECT_NE(report.loss_after, report.loss_before);
  // Matrices are a quarter and a scale a row; positions, biases and norms stay.
  const double ratio = static_cast<double>(report.bytes_after) / static_cast<double>(report.bytes_before);
  EXPECT_GT(ratio, 0.25);
  EXPECT_LT(ratio, 0.36);
  EXPECT_GT(report.tokens_per_s_before, 0);
  EXPECT_GT(report.latency_ms_after, 0);

  // What was written loads, and generates.
  const ModelPtr small = load_model(folder_ / "int8");
  EXPECT_EQ(small->config.quantization, "int8");
  const auto language = make_language_model(small);
  const auto prompt = model_->tokenizer->encode("the cat and");
  const Generation after = generate(*language, prompt, {.temperature = 0, .max_tokens = 12});
  const Generation before = generate(*make_language_model(model_), prompt, {.temperature = 0, .max_tokens = 12});
  EXPECT_EQ(after.tokens.size(), before.tokens.size());
  EXPECT_LT(language->weight_bytes(), report.bytes_before / 2);
}

TEST_F(Compress, EveryValueIsWithinHalfAStep) {
  const Model small = quantize_int8(*model_);
  int matrices = 0;
  for (const auto& [name, q] : small.weights) {
    if (!name.ends_with(".int8")) continue;
    const std::string base = name.substr(0, name.size() - 5);
    const Tensor& w = model_->weights.at(base);
    const auto scale = small.weights.at(base + ".scale").data<float>();
    const auto values = q.data<std::int8_t>();
    const std::int64_t n = q.shape()[0], k = q.shape()[1];
    const bool transposed = base == "wte.weight";  // gpt2 stores its linear layers [in,out], the embedding [out,in]
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = 0; j < k; ++j) {
        const double exact = w.at(transposed ? i * k + j : j * n + i), step = scale[static_cast<std::size_t>(i)];
        ASSERT_LE(std::fabs(exact - step * values[static_cast<std::size_t>(i * k + j)]), 0.5001 * step)
            << name << " " << i << " " << j;
      }
    }
    ++matrices;
  }
  EXPECT_EQ(matrices, 9);  // four a layer and the tied embedding
}

TEST_F(Compress, StoredInt8EqualsInt8QuantisedAtCompileTime) {
  CompileOptions late;
  late.passes.int8 = true;
  const Graph graph = build_model(model_->config, {.task = BuildSpec::Task::logits, .batch = 1, .seq = 8});
  const Model small = quantize_int8(*model_);
  Session a(compile(graph, model_->weights, late)), b(compile(graph, small.weights, compile_options_for(small.config)));
  for (Session* s : {&a, &b}) {
    for (int i = 0; i < 8; ++i) s->input("tokens").data<std::int32_t>()[static_cast<std::size_t>(i)] = 40 + i;
    s->run();
  }
  const Tensor &x = a.output("logits"), &y = b.output("logits");
  for (std::int64_t i = 0; i < x.elements(); ++i) ASSERT_NEAR(x.at(i), y.at(i), 2e-2) << i;
}

TEST_F(Compress, RefusesWhatItCannotDo) {
  EXPECT_THROW(compress_int8(folder_ / "full", folder_ / "full", ""), Error);
  EXPECT_THROW(quantize_int8(quantize_int8(*model_)), Error);
  EXPECT_THROW(compress_int8(folder_ / "none", folder_ / "int8", ""), Error);
}

TEST_F(Compress, Int4IsSmallerAndLosesLittle) {
  const auto reduce = [&](const char* name, const std::function<Model(const Model&)>& quantize) {
    return compress(folder_ / "full", folder_ / name, text_, quantize);
  };
  const CompressReport eight = reduce("eight", quantize_int8);
  const CompressReport four = reduce("four", [](const Model& m) { return quantize_int4(m); });
  const CompressReport head = reduce("four-head", [](const Model& m) { return quantize_int4(m, true); });
  EXPECT_LT(four.bytes_after, eight.bytes_after * 3 / 4);  // 4.5 bits of 8, but for the table, positions, biases and norms
  EXPECT_LT(head.bytes_after, four.bytes_after);
  EXPECT_NEAR(four.loss_after, four.loss_before, 0.1);
  EXPECT_NEAR(head.loss_after, head.loss_before, 0.3);
  EXPECT_NE(four.loss_after, head.loss_after);
  const ModelPtr small = load_model(folder_ / "four");
  EXPECT_EQ(small->config.quantization, "int4");
  EXPECT_TRUE(small->weights.contains("wte.weight.int8"));
  EXPECT_TRUE(load_model(folder_ / "four-head")->weights.contains("wte.weight.int4"));
  const Generation answer =
      generate(*make_language_model(small), model_->tokenizer->encode("the cat and"), {.temperature = 0, .max_tokens = 12});
  EXPECT_GT(answer.tokens.size(), 0u);
}

TEST_F(Compress, Int4GroupsAreNearTheirBestScale) {
  const Model small = quantize_int4(*model_, true);
  int matrices = 0;
  for (const auto& [name, q] : small.weights) {
    if (!name.ends_with(".int4")) continue;
    const std::string base = name.substr(0, name.size() - 5);
    const Tensor &w = model_->weights.at(base), &scale = small.weights.at(base + ".scale");
    const std::int64_t n = q.shape()[0], k = 2 * q.shape()[1];
    const bool transposed = base == "wte.weight";
    double error = 0, plain = 0;
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t g = 0; g < k / 32; ++g) {
        const auto exact = [&](std::int64_t j) { return w.at(transposed ? i * k + g * 32 + j : (g * 32 + j) * n + i); };
        double greatest = 0;
        for (std::int64_t j = 0; j < 32; ++j) greatest = std::max(greatest, std::fabs(exact(j)));
        for (std::int64_t j = 0; j < 32; ++j) {
          const auto byte = static_cast<unsigned>(q.at((i * k + g * 32 + j) / 2));
          const double value = (static_cast<int>(byte >> (j % 2 * 4) & 15u) - 8) * scale.at(i * (k / 32) + g);
          error += (value - exact(j)) * (value - exact(j));
          const double step = greatest / 7, nearest = std::nearbyint(exact(j) / step) * step;
          plain += (nearest - exact(j)) * (nearest - exact(j));
        }
      }
    EXPECT_LT(error, 0.9 * plain) << name;  // than the scale that just covers the greatest weight
    ++matrices;
  }
  EXPECT_EQ(matrices, 9);
}

TEST_F(Compress, AnInt4PlanGivesTheSameBits) {
  const Model small = quantize_int4(*model_);
  const Graph graph = build_model(small.config, {.task = BuildSpec::Task::logits, .batch = 1, .seq = 8});
  Plan plan;
  plan.executables["logits"] = compile(graph, small.weights, compile_options_for(small.config, {.keep_weights = true}));
  save_plan(folder_ / "int4.plan", plan);
  const auto logits = [](const Plan& p) {
    Session s(p.executables.at("logits"));
    for (int i = 0; i < 8; ++i) s.input("tokens").data<std::int32_t>()[static_cast<std::size_t>(i)] = 40 + i;
    s.run();
    return s.output("logits").to_doubles();
  };
  EXPECT_EQ(logits(load_plan(folder_ / "int4.plan")), logits(plan));
}

TEST_F(Compress, Int4RefusesWhatItCannotDo) {
  EXPECT_THROW(quantize_int4(quantize_int4(*model_)), Error);
  Model narrow;
  narrow.config = size_dial("gpt2", 1, 64);
  narrow.config.hidden = 24, narrow.config.heads = narrow.config.kv_heads = 2, narrow.config.ffn = 48;
  narrow.name = "narrow";
  narrow.weights = init_weights(build_model(narrow.config, {}), 1);
  try {
    quantize_int4(narrow);
    ADD_FAILURE() << "took rows of 24";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("groups of 32"));
  }
}

TEST_F(Compress, BertFoldersLoadAfterwards) {
  Model bert;
  bert.config = model_preset("bert-tiny");
  bert.config.vocab = 300;
  bert.weights = init_weights(build_model(bert.config, {.task = BuildSpec::Task::pretrain}), 1);
  bert.name = "bert";
  save_model(folder_ / "bert", bert);
  const CompressReport report = compress_int8(folder_ / "bert", folder_ / "bert8", text_);
  EXPECT_TRUE(std::isnan(report.loss_before));
  EXPECT_EQ(report.loss_note, "the model has no tokenizer");
  EXPECT_TRUE(report.encoder);
  EXPECT_EQ(report.run_tokens, 128);
  for (const double value : {report.latency_ms_before, report.latency_ms_after, report.tokens_per_s_before, report.tokens_per_s_after})
    EXPECT_GT(value, 0);
  const ModelPtr small = load_model(folder_ / "bert8");
  for (const auto task : {BuildSpec::Task::hidden, BuildSpec::Task::pretrain}) {
    Session session(compile(build_model(small->config, {.task = task, .batch = 1, .seq = 8}), small->weights,
                            compile_options_for(small->config)));
    session.run();
  }
}

TEST_F(Compress, ABertIsScoredByItsMaskedTokens) {
  Model bert;
  bert.config = model_preset("bert-tiny");
  bert.config.vocab = model_->tokenizer->vocab_size();
  bert.config.context = 64;
  bert.tokenizer = model_->tokenizer;
  bert.weights = init_weights(build_model(bert.config, {.task = BuildSpec::Task::pretrain}), 1);
  bert.name = "bert";
  save_model(folder_ / "scored", bert);
  const CompressReport report = compress_int8(folder_ / "scored", folder_ / "scored8", text_);
  EXPECT_EQ(report.loss_note, "");
  EXPECT_NEAR(report.loss_before, std::log(static_cast<double>(bert.config.vocab)), 0.5);  // untrained: nothing is likelier than another
  EXPECT_NEAR(report.loss_after, report.loss_before, 0.05);
  EXPECT_NE(report.loss_after, report.loss_before);
  // Without the head there is no loss, but the rest is told.
  std::erase_if(bert.weights, [](const auto& item) { return item.first.starts_with("cls."); });
  save_model(folder_ / "headless", bert);
  const CompressReport headless = compress_int8(folder_ / "headless", folder_ / "headless8", text_);
  EXPECT_TRUE(std::isnan(headless.loss_before));
  EXPECT_THAT(headless.loss_note, ::testing::HasSubstr("masked-token head"));
  EXPECT_GT(headless.latency_ms_after, 0);
}

TEST_F(Compress, WithoutATextTheReasonIsGiven) {
  const CompressReport report = compress_int8(folder_ / "full", folder_ / "untold", "");
  EXPECT_TRUE(std::isnan(report.loss_before) && std::isnan(report.loss_after));
  EXPECT_EQ(report.loss_note, "no text was given");
  EXPECT_FALSE(report.encoder);
}

}  // namespace
}  // namespace rhetor
