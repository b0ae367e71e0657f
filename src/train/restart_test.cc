// What a start may not destroy: the finished model, the checkpoints of another start, and the reason why something failed.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/error.h"
#include "train/checkpoint.h"
#include "train/test_runs.h"

namespace rhetor::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

TrainOptions fresh() { return {.fresh = true, .quiet = true}; }

std::string error_of(const Recipe& recipe, const TrainOptions& options, ErrorKind* kind = nullptr) {
  try {
    train(recipe, options);
  } catch (const Error& error) {
    if (kind) *kind = error.kind();
    return error.what();
  }
  return "no error";
}

std::size_t checkpoints(const Recipe& recipe) {
  std::size_t count = 0;
  for (const auto& entry : fs::directory_iterator(fs::path(recipe.folder) / "checkpoints")) count += entry.is_directory();
  return count;
}

TEST(Restart, TheFinishedModelStaysUntilTheNewOneIsDone) {
  ScratchFolder scratch;
  Recipe recipe = toy_recipe(scratch.path());
  train(recipe, quiet());
  const std::string weights = weight_bytes(recipe.folder), tokenizer = load_model(recipe.folder)->tokenizer->to_json();
  recipe.vocab = 280;  // another tokenizer, and weights of other shapes
  const TrainResult part = train(recipe, {.fresh = true, .quiet = true, .stop_after_steps = 7});
  EXPECT_TRUE(part.stopped);
  EXPECT_EQ(weight_bytes(recipe.folder), weights);
  EXPECT_EQ(load_model(recipe.folder)->tokenizer->to_json(), tokenizer);
  EXPECT_TRUE(train(recipe, quiet()).resumed);
  const ModelPtr model = load_model(recipe.folder);
  EXPECT_EQ(model->config.vocab, 280);
  EXPECT_EQ(model->tokenizer->to_json(), load_tokenizer(run_tokenizer_path(recipe.folder))->to_json());
}

TEST(Restart, ARunOfAnEarlierVersionGoesOn) {
  ScratchFolder a, b;
  Recipe whole = toy_recipe(a.path()), old = toy_recipe(b.path());
  train(whole, quiet());
  train(old, {.quiet = true, .stop_after_steps = 7});
  fs::rename(run_tokenizer_path(old.folder), fs::path(old.folder) / "tokenizer.json");  // where it used to be
  EXPECT_TRUE(train(old, quiet()).resumed);
  EXPECT_EQ(weight_bytes(whole.folder), weight_bytes(old.folder));
}

TEST(Restart, FreshRemovesNothingBeforeItCanTrain) {
  ScratchFolder scratch;
  const Recipe recipe = toy_recipe(scratch.path());
  train(recipe, {.quiet = true, .stop_after_steps = 12});
  const std::size_t before = checkpoints(recipe);
  ASSERT_GT(before, 0u);
  Recipe no_text = recipe;
  no_text.files = {(scratch.path() / "missing.txt").string()};
  EXPECT_THAT(error_of(no_text, fresh()), HasSubstr("missing.txt"));
  Recipe no_model = recipe;
  no_model.hidden = 33;
  EXPECT_THAT(error_of(no_model, fresh()), HasSubstr("33"));
  Recipe too_long = recipe;
  too_long.context = 1 << 20;
  EXPECT_THAT(error_of(too_long, fresh()), HasSubstr("fewer than one sequence"));
  Recipe too_big = recipe;
  too_big.batch = 1 << 20;
  too_big.hidden = 1024;  // terabytes, so that no machine has them
  EXPECT_THAT(error_of(too_big, fresh()), HasSubstr("out of memory"));
  EXPECT_EQ(checkpoints(recipe), before);
  EXPECT_TRUE(train(recipe, quiet()).resumed);
  EXPECT_FALSE(train(recipe, fresh()).resumed);
}

TEST(Restart, OutOfMemoryNamesTheWayOut) {
  ScratchFolder scratch;
  Recipe recipe = toy_recipe(scratch.path());
  recipe.batch = 1 << 20;
  recipe.hidden = 1024;
  ErrorKind kind{};
  const std::string message = error_of(recipe, quiet(), &kind);
  EXPECT_EQ(kind, ErrorKind::resource);
  for (const char* part : {"out of memory: a training step needs", "with train.accumulation = ", "train.batch (it is 1048576", "train.memory_budget"}) EXPECT_THAT(message, HasSubstr(part));
}

TEST(Restart, SizesAreRefusedBeforeTheTextIsRead) {
  ScratchFolder scratch;
  Recipe recipe = toy_recipe(scratch.path());
  recipe.hidden = recipe.heads = 0;
  recipe.layers = 1000;
  recipe.files = {"nobody-looks-for-this.txt"};
  EXPECT_THAT(error_of(recipe, quiet()), HasSubstr("model.layers is 1000; the size dial goes from 1 to 256"));
  EXPECT_FALSE(fs::exists(recipe.folder));
}

TEST(Restart, CheckpointsThatAreAllDamagedAreNotForgotten) {
  ScratchFolder scratch;
  const Recipe recipe = toy_recipe(scratch.path());
  train(recipe, {.quiet = true, .stop_after_steps = 12});
  const std::size_t count = checkpoints(recipe);
  for (const auto& entry : fs::directory_iterator(fs::path(recipe.folder) / "checkpoints"))
    if (entry.is_directory()) write_file_atomic(entry.path() / "trainer.json", "{}");
  for (int attempt = 0; attempt < 2; ++attempt) {  // the second one must not find an empty folder and start anew
    const std::string message = error_of(recipe, quiet());
    EXPECT_THAT(message, HasSubstr(fmt::format("none of the {} checkpoints", count)));
    EXPECT_THAT(message, HasSubstr("--fresh"));
  }
  EXPECT_EQ(checkpoints(recipe), count);
  EXPECT_FALSE(train(recipe, fresh()).resumed);
}

// Error kinds that say nothing about the content of a checkpoint leave it where it is.
TEST(Restart, OnlyDamageMovesACheckpointAside) {
  ScratchFolder scratch;
  const Recipe recipe = toy_recipe(scratch.path());
  train(recipe, {.quiet = true, .stop_after_steps = 12});
  const fs::path newest = fs::path(recipe.folder) / "checkpoints/step-12", meta = newest / "trainer.json";
  const std::string original = read_file(meta);

  // Too many open files.
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  std::vector<int> taken;
  const int base = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  const rlimit few{static_cast<rlim_t>(base) + 8, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
  for (int fd = base; fd >= 0; fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC)) taken.push_back(fd);
  try {
    load_newest_checkpoint(recipe.folder);
    ADD_FAILURE() << "an unreadable folder was taken for an empty one";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::io);
  }
  for (const int fd : taken) ::close(fd);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_TRUE(fs::exists(newest));

  // A file that the system refuses to open (a link to itself stands for rights and file handles).
  fs::remove(meta);
  fs::create_symlink("trainer.json", meta);
  try {
    load_newest_checkpoint(recipe.folder);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::io);
    EXPECT_THAT(error.what(), HasSubstr("nothing was changed"));
  }
  EXPECT_TRUE(fs::exists(newest));
  fs::remove(meta);
  write_file_atomic(meta, original);

  if (::geteuid() != 0) {  // root reads everything
    fs::permissions(meta, fs::perms::none);
    EXPECT_THROW(load_newest_checkpoint(recipe.folder), Error);
    fs::permissions(meta, fs::perms::owner_read | fs::perms::owner_write);
    EXPECT_TRUE(fs::exists(newest));
    const fs::path folder = newest.parent_path();
    fs::permissions(folder, fs::perms::none);
    EXPECT_THROW(load_newest_checkpoint(recipe.folder), Error);
    fs::permissions(folder, fs::perms::owner_all);
  }

  // A newer version's: whole, but not for this build.
  std::string newer = original;
  newer.replace(newer.find("\"format\": 1"), 11, "\"format\": 3");
  const std::size_t at = newer.find("\"checksum\": \"") + 13;
  // Its own checksum is over the compact text without the checksum line: recomputed by the writer of that version.
  std::string compact;
  {
    std::string rest = newer;
    const std::size_t line = rest.find(" \"checksum\"");
    rest.erase(line, rest.find('\n', line) - line + 1);
    bool in_text = false;
    for (std::size_t i = 0; i < rest.size(); ++i) {
      const char c = rest[i];
      if (c == '"' && (i == 0 || rest[i - 1] != '\\')) in_text = !in_text;
      if (in_text || (c != ' ' && c != '\n')) compact += c;
    }
  }
  newer.replace(at, 16, fmt::format("{:016x}", hash64(compact)));
  write_file_atomic(meta, newer);
  try {
    load_newest_checkpoint(recipe.folder);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::unsupported);
    EXPECT_THAT(error.what(), HasSubstr("checkpoint format 3"));
    EXPECT_THAT(error.what(), HasSubstr("--fresh"));
  }
  EXPECT_TRUE(fs::exists(newest));
  write_file_atomic(meta, original);
  EXPECT_EQ(load_newest_checkpoint(recipe.folder)->state.step, 12);
}

TEST(Restart, RubbishOfKilledRunsIsRemoved) {
  ScratchFolder scratch;
  const Recipe recipe = toy_recipe(scratch.path());
  train(recipe, {.quiet = true, .stop_after_steps = 2});
  // This process wrote no such file: one of the same number did, before.
  const fs::path rubbish = fs::path(recipe.folder) / fmt::format("model.safetensors.tmp.{}.987654", ::getpid());
  write_file_atomic(rubbish, "half a model");
  train(recipe, {.quiet = true, .stop_after_steps = 2});
  EXPECT_FALSE(fs::exists(rubbish));
}

}  // namespace
}  // namespace rhetor::testing
