// Pre-training beside the next token: masked tokens without padding, spans, two phases.
#include <gmock/gmock.h>

#include <cmath>

#include "base/error.h"
#include "train/test_runs.h"

namespace rhetor::testing {
namespace {

using ::testing::HasSubstr;

// Documents of a sentence or two: most rows end before the sequence does.
Recipe short_texts(const std::filesystem::path& folder) {
  std::string text;
  const std::string all = toy_text(1200);
  int lines = 0;
  for (std::size_t at = 0; at < all.size();) {
    const std::size_t end = all.find('\n', at) + 1;
    if (all[at] != '<') text += all.substr(at, end - at) + (++lines % 3 == 0 ? "<|endoftext|>\n" : "");
    at = end;
  }
  write_file_atomic(folder / "short.txt", text);
  Recipe recipe = toy_recipe(folder, "bert");
  recipe.files = {(folder / "short.txt").string()};
  recipe.context = recipe.seq = 64;
  recipe.batch = 8;
  return recipe;
}

TEST(Unpadded, TrainsOnFewerPlacesAndGoesOnBitForBit) {
  ScratchFolder a, b;
  Recipe padded = short_texts(a.path()), whole = short_texts(a.path()), pieces = short_texts(b.path());
  padded.folder = (a.path() / "padded").string();
  whole.packing = pieces.packing = "unpadded";
  for (Recipe* recipe : {&padded, &whole, &pieces}) recipe->accumulation = 2, recipe->dropout = 0.1, recipe->masking = "words";
  const TrainResult rows = train(padded, quiet()), flat = train(whole, quiet());
  EXPECT_LT(flat.tokens, 0.8 * static_cast<double>(rows.tokens));
  EXPECT_NEAR(flat.first_loss, rows.first_loss, 0.1 * rows.first_loss);
  EXPECT_LT(flat.last_loss, flat.first_loss);
  EXPECT_TRUE(std::isfinite(flat.validation_loss));
  for (int i = 0; i < 3; ++i) train(pieces, {.quiet = true, .stop_after_steps = 7});
  EXPECT_EQ(weight_bytes(whole.folder), weight_bytes(pieces.folder));
  Recipe wrong = toy_recipe(a.path());
  wrong.packing = "unpadded";
  wrong.folder = (a.path() / "wrong").string();
  EXPECT_THROW(train(wrong, quiet()), Error);
}

TEST(Spans, LossFallsAndARunGoesOnBitForBit) {
  ScratchFolder a, b;
  Recipe whole = toy_recipe(a.path(), "t5"), pieces = toy_recipe(b.path(), "t5");
  for (Recipe* recipe : {&whole, &pieces}) recipe->dropout = 0.05, recipe->accumulation = 2, recipe->steps = 60;
  const TrainResult result = train(whole, quiet());
  EXPECT_LT(result.last_loss, 0.8 * result.first_loss);
  EXPECT_TRUE(std::isfinite(result.validation_loss));
  const ModelPtr model = load_model(result.model_folder);
  EXPECT_EQ(model->config.vocab, model->tokenizer->vocab_size() + 100);
  for (int i = 0; i < 3; ++i) train(pieces, {.quiet = true, .stop_after_steps = 25});
  EXPECT_EQ(weight_bytes(whole.folder), weight_bytes(pieces.folder));
  Recipe wrong = toy_recipe(a.path(), "t5");
  wrong.packing = "whole";
  wrong.folder = (a.path() / "wrong").string();
  EXPECT_THROW(train(wrong, quiet()), Error);
}

TEST(TwoPhases, TheSecondGoesOnWhereTheFirstEnded) {
  ScratchFolder scratch;
  Recipe first = short_texts(scratch.path());
  first.seq = 16;
  first.optimizer = "lamb";
  first.schedule = "polynomial";
  first.power = 0.5;
  first.min_lr_ratio = 0;
  first.packing = "unpadded";
  first.steps = 60;
  first.lr = 2e-2;
  first.folder = (scratch.path() / "first").string();
  const TrainResult before = train(first, quiet());
  Recipe second = first;
  second.from = first.folder;
  second.layers = second.hidden = second.heads = second.context = 0;
  second.seq = 64;
  second.steps = 30;
  second.lr = 1e-2;
  second.folder = (scratch.path() / "second").string();
  const TrainResult after = train(second, quiet());
  // It begins with what was learnt, and its later positions, unseen so far, are no obstacle for long.
  EXPECT_LT(after.first_loss, 0.5 * (before.first_loss + before.last_loss));
  EXPECT_LT(after.last_loss, after.first_loss);
  EXPECT_LT(before.last_loss, before.first_loss);
}

}  // namespace
}  // namespace rhetor::testing
