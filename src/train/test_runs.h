// Tiny runs for the tests of this room.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "base/file.h"
#include "base/rng.h"
#include "base/test_util.h"
#include "tensor/safetensors.h"
#include "train/trainer.h"

namespace rhetor::testing {

// Sentences that follow a rule a small model can learn.
inline std::string toy_text(int sentences) {
  const char* who[] = {"The cat", "A sailor", "The old keeper", "My sister"};
  const char* what[] = {"sees", "paints", "repairs", "sings to"};
  const char* whom[] = {"the boat", "a lamp", "the grey sea", "the harbour"};
  Rng rng(5);
  std::string out;
  for (int i = 0; i < sentences; ++i) {
    const auto a = rng.below(4), b = rng.below(4);
    out += fmt::format("{} {} {}.\n", who[a], what[b], whom[(a + b) % 4]);
    if (i % 20 == 19) out += "<|endoftext|>\n";
  }
  return out;
}

inline TrainOptions quiet() { return {.quiet = true}; }

// One layer, 32 wide: a step takes about a millisecond.
inline Recipe toy_recipe(const std::filesystem::path& folder, const std::string& family = "gpt2") {
  const auto text = folder / "text.txt";
  if (!std::filesystem::exists(text)) write_file_atomic(text, toy_text(1200));
  Recipe recipe;
  recipe.family = family;
  recipe.layers = 1;
  recipe.hidden = 32;
  recipe.heads = 2;
  recipe.context = 32;
  recipe.vocab = 300;
  recipe.files = {text.string()};
  recipe.steps = 20;
  recipe.batch = 4;
  recipe.lr = 5e-3;
  recipe.validate_every = 10;
  recipe.validation_batches = 2;
  recipe.checkpoint_every = 5;
  recipe.folder = (folder / "run").string();
  return recipe;
}

// The bytes of the trained weights.
inline std::string weight_bytes(const std::filesystem::path& model_folder) {
  return read_file(model_folder / "model.safetensors");
}

// metrics.jsonl without its timings.
inline std::string metrics_without_timings(const std::filesystem::path& file) {
  const std::string text = read_file(file);
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = text.find('\n', at);
    const std::string line = text.substr(at, end - at);
    out += line.substr(0, line.find(",\"seconds\"")) + "\n";
    at = end + 1;
  }
  return out;
}

}  // namespace rhetor::testing
