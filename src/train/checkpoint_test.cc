#include "train/checkpoint.h"

#include <gmock/gmock.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <chrono>
#include <csignal>
#include <thread>

#include "base/error.h"
#include "train/test_runs.h"

namespace rhetor::testing {
namespace {

namespace fs = std::filesystem;

TEST(Checkpoint, WritesReadsAndKeepsTheNewest) {
  ScratchFolder scratch;
  const std::map<std::string, Tensor> tensors = {{"w", Tensor::of<float>(Shape{2}, {1.5f, -2.0f})}};
  TrainerState state;
  state.recipe = "x";
  state.data_hash = 0xfedcba9876543210u;
  state.smooth_loss = 1.0 / 3.0;
  for (const std::int64_t step : {5, 10, 100}) {
    state.step = step;
    write_checkpoint(scratch.path(), state, tensors, 2);
  }
  EXPECT_FALSE(fs::exists(scratch.path() / "checkpoints/step-5"));
  EXPECT_TRUE(fs::exists(scratch.path() / "checkpoints/step-10"));
  const auto found = load_newest_checkpoint(scratch.path());
  ASSERT_TRUE(found);
  EXPECT_EQ(found->state.step, 100);
  EXPECT_EQ(found->state.smooth_loss, state.smooth_loss);  // to the last bit
  EXPECT_EQ(found->state.data_hash, state.data_hash);
  EXPECT_TRUE(std::isnan(found->state.validation_loss));
  EXPECT_EQ(found->tensors.at("w").data<float>()[1], -2.0f);
}

// Clocks of several hosts disagree: the newest one is the one of the highest step, whatever the times of the files say.
TEST(Checkpoint, TimesOfFilesDecideNothing) {
  ScratchFolder scratch;
  TrainerState state;
  state.recipe = "x";
  const auto now = fs::file_time_type::clock::now();
  for (const std::int64_t step : {5, 10, 15, 20}) {
    state.step = step;
    write_checkpoint(scratch.path(), state, {{"w", Tensor::scalar<float>(1)}}, 3);
    const fs::path folder = scratch.path() / fmt::format("checkpoints/step-{}", step);
    // The later the step, the older the files; those of step 5 lie in the future.
    for (const auto& entry : fs::directory_iterator(folder)) fs::last_write_time(entry.path(), now + std::chrono::hours(24 * (7 - step)));
    fs::last_write_time(folder, now + std::chrono::hours(24 * (7 - step)));
  }
  EXPECT_FALSE(fs::exists(scratch.path() / "checkpoints/step-5"));
  EXPECT_EQ(load_newest_checkpoint(scratch.path())->state.step, 20);
}

// A disk without room: the writer says how much it wanted, keeps what is there, and succeeds when there is room again.
TEST(Checkpoint, AFullDiskIsToldInBytesAndTriedAgain) {
  ScratchFolder scratch;
  const std::map<std::string, Tensor> tensors = {{"w", Tensor(DType::f32, Shape{50'000})}};
  TrainerState state;
  state.recipe = "x";
  CheckpointWriter writer(scratch.path(), 2);
  const auto write = [&](std::int64_t step) {
    state.step = step;
    writer.write(state, tensors);
    writer.wait();
    return writer.failure();
  };
  EXPECT_EQ(write(1), "");
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);   // the write then fails, as one to a full disk does
  const rlimit small{100'000, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string problem = write(2);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_THAT(problem, ::testing::HasSubstr("it needs 200000 bytes"));
  EXPECT_THAT(problem, ::testing::HasSubstr("are free there"));
  EXPECT_EQ(load_newest_checkpoint(scratch.path())->state.step, 1);
  EXPECT_EQ(write(3), "");
  EXPECT_EQ(load_newest_checkpoint(scratch.path())->state.step, 3);
}

// Whatever is wrong with the newest one, the one before it is used and the end result is the same.
TEST(Checkpoint, ADamagedOneIsPassedOver) {
  ScratchFolder whole;
  Recipe reference = toy_recipe(whole.path());
  train(reference, quiet());
  using Damage = void (*)(const fs::path&);
  const Damage damages[] = {
      [](const fs::path& p) { fs::resize_file(p / "state.safetensors", fs::file_size(p / "state.safetensors") / 2); },
      [](const fs::path& p) {
        std::string bytes = read_file(p / "state.safetensors");
        bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 4);
        write_file_atomic(p / "state.safetensors", bytes);
      },
      [](const fs::path& p) { write_file_atomic(p / "trainer.json", "{\"step\": 10"); },
      [](const fs::path& p) {
        std::string text = read_file(p / "trainer.json");
        text.replace(text.find("\"step\": 10"), 10, "\"step\": 11");
        write_file_atomic(p / "trainer.json", text);
      },
      [](const fs::path& p) { fs::remove(p / "trainer.json"); },
      [](const fs::path& p) { fs::remove(p / "state.safetensors"); },
  };
  int number = 0;
  for (const Damage damage : damages) {
    SCOPED_TRACE(number++);
    ScratchFolder scratch;
    Recipe recipe = toy_recipe(scratch.path());
    train(recipe, {.quiet = true, .stop_after_steps = 10});
    damage(fs::path(recipe.folder) / "checkpoints/step-10");
    const auto checkpoint = load_newest_checkpoint(recipe.folder);
    ASSERT_TRUE(checkpoint);
    EXPECT_EQ(checkpoint->state.step, 5);
    EXPECT_TRUE(train(recipe, quiet()).resumed);
    EXPECT_EQ(weight_bytes(recipe.folder), weight_bytes(reference.folder));
    EXPECT_EQ(metrics_without_timings(recipe.folder + "/metrics.jsonl"),
              metrics_without_timings(reference.folder + "/metrics.jsonl"));
  }
}

// ---- real kills ----------------------------------------------------------------------------------
constexpr std::int64_t kChildSteps = 100;

// A child is this test program again, running only the test below: after fork() alone the worker threads would be missing.
Recipe child_recipe(const fs::path& folder) {
  Recipe recipe = toy_recipe(folder);
  recipe.hidden = 64;  // a checkpoint of some hundred kilobytes, one a step: most of the time is spent writing one
  recipe.steps = kChildSteps;
  recipe.checkpoint_every = 1;
  recipe.dropout = 0.1;
  return recipe;
}

TEST(TrainChild, DISABLED_Run) {
  const char* folder = std::getenv("RHETOR_TRAIN_CHILD");
  ASSERT_NE(folder, nullptr);
  if (const char* limit = std::getenv("RHETOR_TRAIN_FILE_LIMIT")) {
    std::signal(SIGXFSZ, SIG_IGN);  // a write beyond the limit then fails with EFBIG, as one to a full disk does with ENOSPC
    const rlimit bytes{static_cast<rlim_t>(std::atoll(limit)), RLIM_INFINITY};
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &bytes), 0);
  }
  train(child_recipe(folder), {.fresh = std::getenv("RHETOR_TRAIN_FRESH") != nullptr, .quiet = true});
}

pid_t start_child(const fs::path& folder, const char* file_limit = nullptr, bool fresh = false) {
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  ::setenv("RHETOR_TRAIN_CHILD", folder.c_str(), 1);
  if (file_limit) ::setenv("RHETOR_TRAIN_FILE_LIMIT", file_limit, 1);
  if (fresh) ::setenv("RHETOR_TRAIN_FRESH", "1", 1);
  std::freopen("/dev/null", "w", stdout);
  std::freopen("/dev/null", "w", stderr);
  ::execl("/proc/self/exe", "train_test", "--gtest_filter=TrainChild.DISABLED_Run", "--gtest_also_run_disabled_tests", nullptr);
  ::_exit(127);
}

bool finished_well(pid_t pid) {
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

std::int64_t newest_step(const fs::path& folder) {
  std::int64_t newest = 0;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder / "run/checkpoints", ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.find('.') == std::string::npos) newest = std::max<std::int64_t>(newest, std::atoll(name.c_str() + 5));
  }
  return newest;
}

TEST(Kill, AtAnyMomentTheRunGoesOnBitForBit) {
  ScratchFolder whole, cut;
  train(child_recipe(whole.path()), quiet());
  Rng rng(11);
  int killed = 0;
  for (int i = 0; i < 10; ++i) {
    const std::int64_t before = newest_step(cut.path());
    const pid_t pid = start_child(cut.path());
    int status = 0;
    bool exited = false;
    // The first kills fall anywhere, start-up included; the others while steps are made and checkpoints written.
    while (i >= 3 && newest_step(cut.path()) == before && !exited) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      exited = ::waitpid(pid, &status, WNOHANG) == pid;
    }
    if (!exited) {
      std::this_thread::sleep_for(std::chrono::microseconds(rng.below(i < 3 ? 200'000 : 10'000)));
      ::kill(pid, SIGKILL);
      ::waitpid(pid, &status, 0);
    }
    killed += WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    if (exited || newest_step(cut.path()) == kChildSteps) break;  // a fast machine came to the end
  }
  EXPECT_GE(killed, 4);
  EXPECT_GE(newest_step(cut.path()), killed - 3);  // every late child got on by a step at least
  ASSERT_TRUE(finished_well(start_child(cut.path())));
  const fs::path a = whole.path() / "run", b = cut.path() / "run";
  EXPECT_EQ(weight_bytes(a), weight_bytes(b));
  const auto newest = [](const fs::path& run) { return run / fmt::format("checkpoints/step-{}/state.safetensors", kChildSteps); };
  EXPECT_EQ(read_file(newest(a)), read_file(newest(b)));
  EXPECT_EQ(metrics_without_timings(a / "metrics.jsonl"), metrics_without_timings(b / "metrics.jsonl"));
  for (const auto& entry : fs::directory_iterator(b / "checkpoints")) {
    EXPECT_NE(entry.path().extension(), ".tmp") << entry.path();
    EXPECT_NE(entry.path().extension(), ".damaged") << entry.path();
  }
}

// A finished model is trained anew and killed on the way: it stays what it was, and the new run goes on.
TEST(Kill, TrainingAnewLeavesTheFinishedModelUsable) {
  ScratchFolder scratch;
  const Recipe recipe = child_recipe(scratch.path());
  train(recipe, quiet());
  const std::string weights = weight_bytes(recipe.folder), tokenizer = load_model(recipe.folder)->tokenizer->to_json();
  Rng rng(4);
  for (int i = 0; i < 6; ++i) {
    const pid_t pid = start_child(scratch.path(), nullptr, true);
    std::this_thread::sleep_for(std::chrono::milliseconds(20 + rng.below(250)));
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    ASSERT_EQ(load_model(recipe.folder)->tokenizer->to_json(), tokenizer);
    ASSERT_EQ(weight_bytes(recipe.folder), weights);
  }
  ASSERT_TRUE(finished_well(start_child(scratch.path())));
  EXPECT_EQ(weight_bytes(recipe.folder), weights);  // the same recipe gives the same model
  EXPECT_EQ(load_model(recipe.folder)->tokenizer->to_json(), tokenizer);
}

TEST(Kill, AFullDiskKeepsTheOldCheckpoint) {
  ScratchFolder whole, full;
  train(child_recipe(whole.path()), quiet());
  Recipe recipe = child_recipe(full.path());
  train(recipe, {.quiet = true, .stop_after_steps = 10});
  // 64 KiB hold the metrics but no checkpoint: training goes on to its end, where the model cannot be saved and that is an error.
  EXPECT_FALSE(finished_well(start_child(full.path(), "65536")));
  const auto checkpoint = load_newest_checkpoint(recipe.folder);
  ASSERT_TRUE(checkpoint);
  EXPECT_EQ(checkpoint->state.step, 10);
  const std::string metrics = read_file(recipe.folder + "/metrics.jsonl");
  EXPECT_NE(metrics.find("{\"step\":100,"), std::string::npos);
  // With room again the run goes on from there.
  ASSERT_TRUE(finished_well(start_child(full.path())));
  EXPECT_EQ(weight_bytes(whole.path() / "run"), weight_bytes(recipe.folder));
}

}  // namespace
}  // namespace rhetor::testing
