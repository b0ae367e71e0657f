#include "eval/perplexity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>

#include "base/error.h"
#include "base/file.h"
#include "generate/plan_model.h"
#include "graph/interpreter.h"

namespace rhetor {
namespace {

namespace fs = std::filesystem;

class Perplexity : public ::testing::Test {
 protected:
  Perplexity() {
    path_ = fs::temp_directory_path() / fmt::format("rhetor-eval-{}.txt", ::getpid());
    bool given = false;
    BpeTrainOptions options;
    options.vocab_size = 280;
    model_.tokenizer = train_byte_bpe(
        [&](std::string& d) {
          d = text_;
          return !std::exchange(given, true);
        },
        options);
    ModelConfig& c = model_.config;
    c = size_dial("gpt2", 1, model_.tokenizer->vocab_size());
    c.hidden = 32, c.heads = c.kv_heads = 2, c.ffn = 64, c.context = 16;
    model_.weights = init_weights(build_model(c, {}), 1);
    model_.name = "toy";
  }
  ~Perplexity() override { fs::remove(path_); }
  PerplexityResult run(const std::string& text, std::int64_t max_tokens = 0, int threads = 0) {
    write_file_atomic(path_, text);
    return perplexity(model_, path_, max_tokens, threads);
  }

  std::string text_ = "The lamp turns and the sea answers, wave after wave, until the morning comes and the keeper sleeps.";
  fs::path path_;
  Model model_;
};

// A head of zeros gives every token the probability 1/V, whatever the text.
TEST_F(Perplexity, AUniformModelHasThePerplexityOfItsVocabulary) {
  for (auto& [name, tensor] : model_.weights) std::memset(tensor.raw(), 0, tensor.bytes());
  const PerplexityResult r = run(text_);
  EXPECT_NEAR(r.perplexity, static_cast<double>(model_.config.vocab), 1e-2);
  EXPECT_NEAR(r.bits_per_byte, r.loss * static_cast<double>(r.tokens) / std::log(2.0) / static_cast<double>(r.bytes), 1e-9);
}

// Each token but the first is scored once, given its window: compared with the float64 oracle, window by window.
TEST_F(Perplexity, EqualsTheOracle) {
  const PerplexityResult r = run(text_);
  auto ids = model_.tokenizer->encode(text_);
  ids.push_back(model_.tokenizer->special("<|endoftext|>"));
  const auto total = static_cast<std::int64_t>(ids.size());
  EXPECT_EQ(r.tokens, total - 1);
  // The first token and the end-of-text mark have no scored bytes.
  EXPECT_EQ(r.bytes, static_cast<std::int64_t>(text_.size() - model_.tokenizer->token_bytes(ids[0]).size()));
  double sum = 0;
  for (std::int64_t at = 0; at < total - 1; at += 16) {
    const std::int64_t length = std::min<std::int64_t>(16, total - 1 - at);
    std::map<std::string, Tensor> inputs(model_.weights.begin(), model_.weights.end());
    inputs["tokens"] = Tensor::of<std::int32_t>(Shape{1, length}, {ids.begin() + at, ids.begin() + at + length});
    inputs["targets"] = Tensor::of<std::int32_t>(Shape{1, length}, {ids.begin() + at + 1, ids.begin() + at + 1 + length});
    const auto result = evaluate(build_model(model_.config, {.task = BuildSpec::Task::loss, .batch = 1, .seq = length}), inputs);
    sum += result.outputs.at("loss").at(0) * static_cast<double>(length);
  }
  EXPECT_NEAR(r.loss, sum / static_cast<double>(total - 1), 1e-4);
}

TEST_F(Perplexity, LimitsAndThreads) {
  EXPECT_EQ(run(text_, 10).tokens, 9);
  EXPECT_NEAR(run(text_, 0, 1).loss, run(text_, 0, 2).loss, 1e-5);
}

TEST_F(Perplexity, ErrorsNameTheReason) {
  try {
    run(text_, 1);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("at least 2"));
  }
  model_.tokenizer = nullptr;
  EXPECT_THROW(run(text_), Error);
  model_.config = model_preset("bert-tiny");
  EXPECT_THROW(run(text_), Error);
}

// Token by token through the cache, several windows at a time, the last of them cut short: the same number.
TEST_F(Perplexity, ThroughTheCacheItIsTheSame) {
  for (const std::int64_t limit : {0, 10, 17, 18, 40}) {
    SCOPED_TRACE(limit);
    const PerplexityResult whole = run(text_, limit);
    const PerplexityResult cached = perplexity(*make_language_model(std::make_shared<Model>(model_)), path_, limit);
    EXPECT_NEAR(cached.loss, whole.loss, 1e-4);
    EXPECT_EQ(cached.tokens, whole.tokens);
    EXPECT_EQ(cached.bytes, whole.bytes);
  }
}

TEST_F(Perplexity, PlansAndFoldersByTheirPath) {
  const fs::path folder = path_.string() + ".model", plan = path_.string() + ".plan";
  const double expected = run(text_).loss;
  save_model(folder, model_);
  compile_to_plan(folder, plan, {}, {1, 2});
  EXPECT_NEAR(perplexity(folder, path_, 0, 1).loss, expected, 1e-4);
  EXPECT_NEAR(perplexity(plan, path_, 0, 1).loss, expected, 1e-4);
  EXPECT_THROW(perplexity(path_, path_), Error);  // a text is no plan
  fs::remove_all(folder);
  fs::remove(plan);
}

TEST_F(Perplexity, DamagedWeightsAreAnError) {
  model_.weights.at("ln_f.weight").data<float>()[3] = std::nanf("");
  try {
    run(text_);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("not a finite number"));
  }
}

TEST_F(Perplexity, MaskedLossOfAnUntrainedBertIsThatOfChance) {
  write_file_atomic(path_, text_ + text_ + text_);
  EXPECT_THROW(masked_loss(model_, path_), Error);  // a gpt2
  ModelConfig& c = model_.config;
  c = model_preset("bert-tiny");
  c.vocab = model_.tokenizer->vocab_size();
  c.context = 32;
  model_.weights = init_weights(build_model(c, {.task = BuildSpec::Task::pretrain}), 1);
  const MaskedLossResult r = masked_loss(model_, path_);
  EXPECT_NEAR(r.loss, std::log(static_cast<double>(c.vocab)), 0.5);
  EXPECT_GT(r.tokens, 32);
  EXPECT_EQ(masked_loss(model_, path_).loss, r.loss);
}

}  // namespace
}  // namespace rhetor
