// Tiny language models for the tests of this room.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "base/rng.h"
#include "base/test_util.h"
#include "generate/generator.h"

namespace rhetor::testing {

// 256 bytes, the special tokens and a few merges.
inline TokenizerPtr toy_tokenizer() {
  int left = 3;
  BpeTrainOptions options;
  options.vocab_size = 290;
  return train_byte_bpe(
      [&left](std::string& document) {
        document = "The sea is wide and the ship is small. The sea is deep and the lamp is bright.";
        return left-- > 0;
      },
      options);
}

// Random weights, large enough that logits differ clearly from token to token.
inline std::shared_ptr<Model> toy_model(const std::string& family = "gpt2", std::uint64_t seed = 1, std::int64_t context = 48) {
  auto model = std::make_shared<Model>();
  model->tokenizer = toy_tokenizer();
  ModelConfig& c = model->config;
  c = size_dial(family, 2, model->tokenizer->vocab_size());
  c.hidden = 32, c.heads = 4, c.kv_heads = family == "llama" ? 2 : 4, c.ffn = 64, c.context = context;
  model->weights = init_weights(build_model(c, {}), seed);
  std::uint64_t stream = 0;
  for (auto& [name, tensor] : model->weights) {
    if (tensor.shape().rank() < 2) continue;
    Rng rng(seed, ++stream);
    for (float& x : tensor.data<float>()) x = static_cast<float>(0.25 * rng.normal());
  }
  model->name = "toy";
  return model;
}

inline std::vector<TokenId> random_prompt(std::uint64_t seed, std::size_t length) {
  Rng rng(seed);
  std::vector<TokenId> out(length);
  for (auto& id : out) id = static_cast<TokenId>(rng.below(250));
  return out;
}

// [V] after `ids` by a full forward pass without a cache, the reference of everything that has one.
inline std::vector<float> next_logits(const Model& model, const std::vector<TokenId>& ids) {
  const auto length = static_cast<std::int64_t>(ids.size());
  Session session(
      compile(build_model(model.config, {.task = BuildSpec::Task::logits, .batch = 1, .seq = length}), model.weights));
  std::copy(ids.begin(), ids.end(), session.input("tokens").data<std::int32_t>().begin());
  session.run();
  const auto logits = session.output("logits").data<float>();
  const auto width = static_cast<std::size_t>(model.config.vocab);
  const auto last = logits.subspan((ids.size() - 1) * width, width);
  return {last.begin(), last.end()};
}

// Weights that make token t be followed by script[t]: the head reads the token embedding alone.
inline std::shared_ptr<Model> scripted(const std::string& text) {
  auto model = toy_model();
  ModelConfig& c = model->config;
  c.hidden = 64, c.heads = c.kv_heads = 8, c.layers = 1, c.tied_embeddings = false;
  model->weights = init_weights(build_model(c, {}), 1);
  for (auto& [name, tensor] : model->weights) {
    if (name != "ln_f.weight") std::memset(tensor.raw(), 0, tensor.bytes());
  }
  // Position p holds a one at column p; the head sends column p to the p-th token of the text.
  const auto ids = model->tokenizer->encode(text);
  Tensor& places = model->weights.at("wpe.weight");
  Tensor& head = model->weights.at("lm_head.weight");
  const TokenId end = model->tokenizer->special("<|end|>");
  for (std::int64_t p = 0; p < c.context; ++p) {
    places.data<float>()[static_cast<std::size_t>(p * c.hidden + p)] = 1;
    const TokenId next = p < static_cast<std::int64_t>(ids.size()) ? ids[static_cast<std::size_t>(p)] : end;
    head.data<float>()[static_cast<std::size_t>(next * c.hidden + p)] = 1;
  }
  return model;
}

}  // namespace rhetor::testing
