// A save killed at any of its steps: what loads afterwards is the old model or the new one, whole.
#include <gmock/gmock.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <optional>

#include "base/file.h"
#include "models/test_models.h"
#include "tensor/safetensors.h"

namespace rhetor::testing {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

TokenizerPtr tokenizer_of(const std::string& text) {
  bool given = false;
  BpeTrainOptions options;
  options.vocab_size = 275;
  return train_byte_bpe(
      [&](std::string& document) {
        document = text;
        return !std::exchange(given, true);
      },
      options);
}

// Two models of equal shapes: nothing but their content tells a mixture from a model.
class SaveKill : public ::testing::Test {
 protected:
  SaveKill() {
    folder_ = fs::path(::testing::TempDir()) /
              fmt::format("save-kill-{}-{}", ::getpid(), ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(folder_);
    for (int i = 0; i < 2; ++i) {
      Model& m = models_[i];
      m.config = tiny("gpt2");
      m.config.vocab = 300;
      m.config.norm_eps = i == 0 ? 1e-5 : 1e-6;
      m.tokenizer = tokenizer_of(i == 0 ? "the sea the sea the sea and the lamp" : "one ship two ships three ships");
      m.weights = lively_weights(build_model(m.config, {}), i == 0 ? 1 : 2);
    }
  }
  ~SaveKill() override { fs::remove_all(folder_); }

  bool is(const Model& loaded, const Model& expected) const {
    if (loaded.config.to_json() != expected.config.to_json()) return false;
    if (!loaded.tokenizer != !expected.tokenizer) return false;
    if (expected.tokenizer && loaded.tokenizer->to_json() != expected.tokenizer->to_json()) return false;
    for (const auto& [name, tensor] : expected.weights)
      if (std::memcmp(tensor.raw(), loaded.weights.at(name).raw(), tensor.bytes()) != 0) return false;
    return loaded.weights.size() == expected.weights.size();
  }
  // Nothing but the model's files and `others`.
  std::size_t entries() const { return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder_), {})); }

  fs::path folder_;
  Model models_[2];
};

enum class End { killed, finished, not_traced };

// Runs `body` in a child that is killed when it is about to make its `fatal`th system call.
End run_until(const std::function<void()>& body, int fatal) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) ::_exit(3);
    ::raise(SIGSTOP);
    try {
      body();
    } catch (...) {
      ::_exit(2);
    }
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  if (WIFEXITED(status)) return End::not_traced;
  ::ptrace(PTRACE_SETOPTIONS, pid, nullptr, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
  for (int calls = 0;;) {
    ::ptrace(PTRACE_SYSCALL, pid, nullptr, nullptr);
    ::waitpid(pid, &status, 0);
    if (WIFEXITED(status)) {
      EXPECT_EQ(WEXITSTATUS(status), 0);
      return End::finished;
    }
    if (!WIFSTOPPED(status)) return End::not_traced;
    __ptrace_syscall_info info{};
    if (::ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, &info) <= 0) {
      ::kill(pid, SIGKILL);
      ::waitpid(pid, &status, 0);
      return End::not_traced;
    }
    if (info.op != PTRACE_SYSCALL_INFO_ENTRY || ++calls < fatal) continue;
    ::kill(pid, SIGKILL);
    ::waitpid(pid, &status, 0);
    return End::killed;
  }
}

TEST_F(SaveKill, AtEveryStepTheOldOrTheNewModelIsThere) {
  int old_ones = 0, new_ones = 0;
  End end = End::killed;
  for (int step = 1; end == End::killed; ++step) {
    SCOPED_TRACE(step);
    fs::remove_all(folder_);
    fs::create_directories(folder_ / "checkpoints");  // a run folder holds more than the model
    save_model(folder_, models_[0]);
    end = run_until([&] { save_model(folder_, models_[1]); }, step);
    if (end == End::not_traced) GTEST_SKIP() << "this system lets no process trace another";
    const ModelPtr loaded = load_model(folder_);
    const bool before = is(*loaded, models_[0]), after = is(*loaded, models_[1]);
    ASSERT_TRUE(before || after);
    (before ? old_ones : new_ones)++;
    // The next save ends what was begun and leaves no rubbish.
    save_model(folder_, models_[step % 2]);
    ASSERT_TRUE(is(*load_model(folder_), models_[step % 2]));
    ASSERT_EQ(entries(), 4u);
  }
  EXPECT_GT(old_ones, 10);
  EXPECT_GT(new_ones, 5);
}

TEST_F(SaveKill, AtRandomMomentsWhileOthersRead) {
  save_model(folder_, models_[0]);
  Rng rng(3);
  for (int round = 0; round < 20; ++round) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      for (int i = 0;; ++i) save_model(folder_, models_[i % 2]);
    }
    const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(3000 + rng.below(20'000));
    while (std::chrono::steady_clock::now() < end) {
      const ModelPtr loaded = load_model(folder_);  // while the writer is at work
      ASSERT_TRUE(is(*loaded, models_[0]) || is(*loaded, models_[1]));
    }
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    const ModelPtr loaded = load_model(folder_);
    ASSERT_TRUE(is(*loaded, models_[0]) || is(*loaded, models_[1]));
  }
  save_model(folder_, models_[1]);
  EXPECT_EQ(entries(), 3u);
}

// Each state between the commit and its end, also where a reader may not tidy up.
TEST_F(SaveKill, EveryIntermediateStateLoads) {
  const char* const order[] = {"tokenizer.json", "model.safetensors", "config.json"};
  for (int moved = 0; moved <= 3; ++moved) {
    for (const bool locked : {false, true}) {
      SCOPED_TRACE(fmt::format("{} files moved, locked {}", moved, locked));
      fs::remove_all(folder_);
      save_model(folder_, models_[0]);
      save_model(folder_ / ".saved", models_[1]);
      for (int i = 0; i < moved; ++i) fs::rename(folder_ / ".saved" / order[i], folder_ / order[i]);
      {
        std::optional<FolderGuard> reader;
        if (locked) reader.emplace(folder_, FolderGuard::Mode::shared);
        EXPECT_TRUE(is(*load_model(folder_), models_[1]));
        EXPECT_EQ(fs::exists(folder_ / ".saved"), locked);
      }
      EXPECT_TRUE(is(*load_model(folder_), models_[1]));
      EXPECT_EQ(entries(), 3u);
    }
  }
}

TEST_F(SaveKill, AModelWithoutTokenizerDoesNotInheritOne) {
  save_model(folder_, models_[0]);
  Model bare = models_[1];
  bare.tokenizer = nullptr;
  save_model(folder_, bare);
  EXPECT_TRUE(is(*load_model(folder_), bare));
  EXPECT_EQ(entries(), 2u);
}

TEST_F(SaveKill, ADamagedByteIsFound) {
  save_model(folder_, models_[0]);
  const fs::path file = folder_ / "model.safetensors";
  const std::string bytes = read_file(file);
  for (const std::size_t back : {std::size_t{1}, bytes.size() / 3}) {
    std::string damaged = bytes;
    damaged[bytes.size() - back] = static_cast<char>(damaged[bytes.size() - back] ^ 1);
    write_file_atomic(file, damaged);
    try {
      load_model(folder_);
      ADD_FAILURE() << back;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("the checksum of the weights is"));
    }
  }
  // Files of others hold no checksum and load.
  save_safetensors(file, models_[0].weights);
  EXPECT_TRUE(is(*load_model(folder_), models_[0]));
}

TEST_F(SaveKill, AFolderThatIsNoModelIsCalledSo) {
  fs::create_directories(folder_);
  try {
    load_model(folder_);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::not_found);
    EXPECT_THAT(error.what(), HasSubstr("is no model folder"));
    EXPECT_THAT(error.what(), HasSubstr("config.json"));
  }
}

}  // namespace
}  // namespace rhetor::testing
