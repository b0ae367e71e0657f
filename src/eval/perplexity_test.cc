#include "eval/perplexity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>

#include "base/error.h"
#include "base/file.h"
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

}  // namespace
}  // namespace rhetor
