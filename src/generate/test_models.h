// Tiny language models for the tests of this room.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "base/rng.h"
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

class ScratchFolder {
 public:
  ScratchFolder() {
    static int count = 0;
    path_ = std::filesystem::temp_directory_path() / fmt::format("rhetor-generate-{}-{}", ::getpid(), count++);
    std::filesystem::create_directories(path_);
  }
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace rhetor::testing
