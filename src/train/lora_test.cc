// Training of adapters.
#include "models/lora.h"

#include <gmock/gmock.h>

#include <cmath>

#include "base/error.h"
#include "train/test_runs.h"

namespace rhetor::testing {
namespace {

namespace fs = std::filesystem;

// A base that knows its text, and a recipe that adapts it to another one of the same words. What a base has not learnt its frozen
// embeddings keep an adapter from learning.
Recipe adapting(const fs::path& folder, const std::string& family, std::int64_t base_steps = 10) {
  Recipe base = toy_recipe(folder, family);
  base.folder = (folder / "base").string();
  base.steps = base_steps;
  if (!fs::exists(fs::path(base.folder) / "config.json")) train(base, quiet());
  Recipe recipe = toy_recipe(folder, family);
  std::string other;
  Rng rng(6);
  const char* words[] = {"The cat", "sees", "the boat", "a lamp", "A sailor", "paints"};
  for (int i = 0; i < 1500; ++i) {
    const auto a = rng.below(3);
    other += fmt::format("{} {} {} {}.\n", words[a], words[a + 3], words[a], words[(a + 1) % 3]);
    if (i % 20 == 19) other += "<|endoftext|>\n";
  }
  write_file_atomic(folder / "other.txt", other);
  recipe.files = {(folder / "other.txt").string()};
  recipe.from = base.folder;
  recipe.layers = recipe.hidden = recipe.heads = recipe.context = 0;
  recipe.lora_rank = 4;
  recipe.lora_targets = {"all"};
  recipe.lr = 1e-2;
  recipe.weight_decay = 0;
  return recipe;
}

std::string adapter_bytes(const Recipe& recipe) { return read_file(fs::path(recipe.folder) / "adapter_model.safetensors"); }

TEST(LoraTraining, TheLossFallsTheBaseStaysAndTheAdapterIsTheModel) {
  for (const char* family : {"gpt2", "llama", "bert"}) {
    SCOPED_TRACE(family);
    ScratchFolder scratch;
    Recipe recipe = adapting(scratch.path(), family, 120);
    recipe.steps = 60;
    const std::string before = weight_bytes(recipe.from);
    const TrainResult result = train(recipe, quiet());
    // 60 steps of masked tokens teach an adapter of so small an encoder nothing that shows; its task head below is another matter.
    if (family != std::string("bert")) {
      EXPECT_LT(result.last_loss, 0.7 * result.first_loss);
    }
    EXPECT_EQ(weight_bytes(recipe.from), before);
    EXPECT_FALSE(fs::exists(fs::path(recipe.folder) / "model.safetensors"));
    EXPECT_LT(result.parameters, load_model(recipe.from)->config.parameters());
    // Training goes on from the merged model with the validation loss where it was.
    Recipe next = recipe;
    next.from = recipe.folder;
    next.folder = (scratch.path() / "next").string();
    next.steps = 1;
    next.lr = 1e-12;
    EXPECT_NEAR(train(next, quiet()).validation_loss, result.validation_loss, 1e-4);
  }
}

TEST(LoraTraining, AStoppedRunGoesOnBitForBit) {
  ScratchFolder scratch;
  Recipe whole = adapting(scratch.path(), "gpt2"), pieces = whole;
  whole.lora_dropout = pieces.lora_dropout = 0.2;
  whole.accumulation = pieces.accumulation = 2;
  pieces.folder = (scratch.path() / "pieces").string();
  train(whole, quiet());
  for (int i = 0; i < 3; ++i) train(pieces, {.quiet = true, .stop_after_steps = 7});
  EXPECT_EQ(adapter_bytes(whole), adapter_bytes(pieces));
  EXPECT_EQ(metrics_without_timings(whole.folder + "/metrics.jsonl"), metrics_without_timings(pieces.folder + "/metrics.jsonl"));
  // Checkpoints hold adapters and their moments only.
  std::uintmax_t checkpoint = 0;
  for (const auto& entry : fs::recursive_directory_iterator(fs::path(whole.folder) / "checkpoints"))
    if (entry.path().filename() == "state.safetensors") checkpoint = entry.file_size();
  EXPECT_LT(checkpoint, 4 * adapter_bytes(whole).size());
}

TEST(LoraTraining, ATaskHeadIsTrainedWhole) {
  ScratchFolder scratch;
  std::string table = "text\tlabel\n";
  for (int i = 0; i < 300; ++i) table += fmt::format("{} {}\t{}\n", i % 2 ? "the cat sees the boat" : "the harbour and a lamp", i, i % 2 ? "cat" : "sea");
  write_file_atomic(scratch.path() / "table.tsv", table);
  Recipe recipe = adapting(scratch.path(), "bert", 120);
  recipe.files = {(scratch.path() / "table.tsv").string()};
  recipe.task = "classification";
  recipe.steps = 500;
  recipe.lr = 5e-3;
  recipe.lora_rank = 16;
  recipe.validation = 0.2;
  recipe.keep = "best";
  const TrainResult result = train(recipe, quiet());
  EXPECT_LT(result.last_loss, 0.7 * result.first_loss);
  EXPECT_THAT(read_file(fs::path(recipe.folder) / "adapter_config.json"), ::testing::HasSubstr("\"classifier\""));
  const ModelPtr model = load_model(recipe.folder);
  EXPECT_EQ(model->config.task, "classification");
  EXPECT_EQ(model->config.label_names.size(), 2u);
  EXPECT_TRUE(model->weights.contains("classifier.weight"));
}

TEST(LoraTraining, MistakesAreNamed) {
  ScratchFolder scratch;
  Recipe recipe = toy_recipe(scratch.path());
  recipe.lora_rank = 4;
  EXPECT_THROW(recipe.validate(), Error);  // no train.from
  recipe = adapting(scratch.path(), "gpt2");
  recipe.folder = recipe.from;  // over a whole model
  EXPECT_THROW(train(recipe, quiet()), Error);
  recipe = adapting(scratch.path(), "gpt2");
  recipe.steps = 6;
  train(recipe, {.quiet = true, .stop_after_steps = 3});
  // The base is trained further: the adapter's run cannot go on.
  Recipe base = toy_recipe(scratch.path());
  base.folder = recipe.from;
  base.seed = 2;
  base.steps = 2;
  train(base, {.fresh = true, .quiet = true});
  EXPECT_THROW(train(recipe, quiet()), Error);
}

}  // namespace
}  // namespace rhetor::testing
