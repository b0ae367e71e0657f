#include <gmock/gmock.h>

#include "base/error.h"
#include "train/recipe_reference.h"
#include "train/test_runs.h"

namespace rhetor::testing {
namespace {

using ::testing::HasSubstr;

std::string error_of(const std::string& toml, const std::vector<std::string>& overrides = {}) {
  try {
    Recipe::parse(toml, "r.toml", overrides);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

const std::string kFiles = "[data]\nfiles = [\"a.txt\"]\n";

TEST(Recipe, ReadsEveryKindOfValue) {
  const Recipe r =
      Recipe::parse(kFiles + "[model]\nfamily = \"llama\"\nlayers = 2\n[train]\nlr = 1\nsteps = 7\nprecision = \"bf16\"\n",
                    "r.toml", {"train.lr=3e-4", "output.folder=runs/x", "data.files=b.txt", "train.seed=9"});
  EXPECT_EQ(r.family, "llama");
  EXPECT_EQ(r.layers, 2);
  EXPECT_EQ(r.steps, 7);
  EXPECT_EQ(r.lr, 3e-4);
  EXPECT_EQ(r.folder, "runs/x");
  EXPECT_EQ(r.files, std::vector<std::string>{"b.txt"});
  EXPECT_EQ(r.seed, 9u);
}

TEST(Recipe, WritesWhatItReads) {
  Recipe r = Recipe::parse(kFiles, "r.toml", {"train.lr=0.00012345678901234", "train.clip=2"});
  r.separator = "a \"quoted\" \\ line\n";
  const std::string text = r.to_toml();
  const Recipe again = Recipe::parse(text, "r.toml");
  EXPECT_EQ(again.to_toml(), text);
  EXPECT_EQ(again.lr, r.lr);
  EXPECT_EQ(again.separator, r.separator);
  EXPECT_EQ(recipe_difference(r, again), "");
}

TEST(Recipe, PathsAreRelativeToTheRecipe) {
  ScratchFolder scratch;
  write_file_atomic(scratch.path() / "r.toml", kFiles);
  EXPECT_EQ(Recipe::load(scratch.path() / "r.toml").files[0], (scratch.path() / "a.txt").string());
  EXPECT_EQ(Recipe::load(scratch.path() / "r.toml", {"data.files=[\"c.txt\"]"}).files[0], "c.txt");
}

TEST(Recipe, ErrorsNameKeyExpectedAndFound) {
  EXPECT_THAT(error_of(kFiles + "[train]\nlearning_rte = 1\n"), HasSubstr("train.learning_rte"));
  EXPECT_THAT(error_of(kFiles + "[train]\nstep = 1\n"), HasSubstr("did you mean train.steps?"));
  EXPECT_THAT(error_of(kFiles + "[train]\nfolder = \"x\"\n"), HasSubstr("did you mean output.folder?"));
  EXPECT_THAT(error_of(kFiles + "[trian]\nlr = 1\n"), HasSubstr("did you mean [train]?"));
  EXPECT_THAT(error_of("lr = 1\n" + kFiles), HasSubstr("write it under [train]"));
  EXPECT_THAT(error_of(kFiles + "[train]\nlr = \"fast\"\n"), HasSubstr("train.lr must be a number, found the text \"fast\""));
  EXPECT_THAT(error_of(kFiles + "[train]\nsteps = 2.5\n"), HasSubstr("train.steps must be a whole number, found 2.5"));
  EXPECT_THAT(error_of(kFiles + "[train]\nbatch = 0\n"), HasSubstr("train.batch must be from 1"));
  EXPECT_THAT(error_of(kFiles + "[train]\nlr = nan\n"), HasSubstr("train.lr must be"));
  EXPECT_THAT(error_of(kFiles + "[train]\nprecision = \"fp4\"\n"), HasSubstr("one of f32, bf16, f16, fp8, found \"fp4\""));
  EXPECT_THAT(error_of(kFiles + "[model]\nfamily = \"gtp2\"\n"), HasSubstr("did you mean \"gpt2\"?"));
  EXPECT_THAT(error_of("[train]\nlr = 1e-3\n"), HasSubstr("data.files is empty"));
  EXPECT_THAT(error_of("[train\nlr = 1e-3\n"), HasSubstr("line "));
  EXPECT_THAT(error_of(kFiles, {"train.lr"}), HasSubstr("section.key=value"));
  EXPECT_THAT(error_of(kFiles, {"train.lrr=1"}), HasSubstr("did you mean train.lr?"));
  EXPECT_THAT(error_of(kFiles + "[model]\ncontext = 64\n[train]\nseq = 128\n"), HasSubstr("cannot be longer"));
}

TEST(Recipe, MalformedKeysAreErrorsNotAssertions) {
  EXPECT_THROW(Recipe::parse("[!a]\nb = 1\n", "r"), Error);
  EXPECT_THROW(Recipe::parse(std::string_view("[\0a]\nb = 1\n", 11), "r"), Error);
}

TEST(Recipe, DifferenceNamesTheKeyThatChangesTheResult) {
  const Recipe a = Recipe::parse(kFiles, "r.toml");
  EXPECT_EQ(recipe_difference(a, Recipe::parse(kFiles, "r.toml", {"output.keep_checkpoints=5", "output.folder=z"})), "");
  EXPECT_THAT(recipe_difference(a, Recipe::parse(kFiles, "r.toml", {"train.lr=0.5"})),
              HasSubstr("train.lr is 0.001 there and 0.5 here"));
}

TEST(Recipe, TheModelFollowsTheDialAndTheOverrides) {
  Recipe r = Recipe::parse(kFiles, "r.toml", {"model.hidden=96", "model.context=48"});
  const ModelConfig c = r.model_config(500);
  EXPECT_EQ(c.layers, 4);
  EXPECT_EQ(c.hidden, 96);
  EXPECT_EQ(c.hidden % c.heads, 0);
  EXPECT_EQ(c.ffn, 384);
  EXPECT_EQ(c.vocab, 500);
  EXPECT_EQ(r.sequence(c), 48);
  r.family = "bert-tiny";
  EXPECT_EQ(r.model_config(500).family, "bert");
}

TEST(Recipe, TheReferenceNamesEveryKey) {
  const std::string page = recipe_reference();
  for (const char* key : {"`lr`", "`files`", "`keep_checkpoints`", "`rollback`", "## [output]"})
    EXPECT_THAT(page, HasSubstr(key));
}

}  // namespace
}  // namespace rhetor::testing
