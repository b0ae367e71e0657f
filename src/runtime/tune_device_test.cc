#include "runtime/tune_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>

#include "base/error.h"
#include "base/file.h"
#include "ops/ops.h"
#include "runtime/device_check.h"
#include "runtime/executable.h"

namespace rhetor {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

// Workers made of a shell: the way says what happens. Every request is written down.
class TuneDevice : public ::testing::Test {
 protected:
  fs::path folder_ = fs::temp_directory_path() / fmt::format("rhetor-tune-device-{}", ::getpid());
  fs::path file_ = folder_ / "ways.txt", asked_ = folder_ / "asked";
  std::vector<CudaWay> ways_ = {{"slow", "a"}, {"hang", "a"}, {"crash", "a"}, {"wrong", "a"}, {"other", "b"}, {"fast", "a"}, {"middle", "a"}};

  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }

  std::vector<std::string> command() const {
    return {"/bin/sh", "-c", fmt::format(R"(while read -r verb device way problem; do
      echo "$way" >> '{}'
      case $way in
        slow) echo done ab 100.0 ;;
        hang) exec sleep 60 ;;
        crash) kill -SEGV $$ ;;
        wrong) echo done cd 1.0 ;;
        other) echo done ab 1.0 ;;
        fast) echo done ab 50.0 ;;
        middle) echo done ab 70.0 ;;
        broken) echo failed it cannot ;;
      esac
    done)", asked_.string())};
  }
  std::string asked() const { return fs::exists(asked_) ? read_file(asked_) : ""; }
};

TEST_F(TuneDevice, TheFastestOfTheClassWithTheSameBitsWins) {
  TuneCache cache(file_);
  TuneWorker worker(command(), 0.5);
  EXPECT_EQ(choose_way(0, "lt 1", ways_, Tuning::measure, cache, &worker), 5);
  // `other` rounds in another way and was not even tried; the winner was tried again, beside the default.
  EXPECT_EQ(asked(), "slow\nhang\ncrash\nwrong\nfast\nmiddle\nslow\nfast\n");
}

TEST_F(TuneDevice, WhatIsKnownIsNotMeasuredAgain) {
  {
    TuneCache cache(file_);
    TuneWorker worker(command(), 0.5);
    choose_way(0, "lt 1", {{"slow", "a"}, {"fast", "a"}}, Tuning::measure, cache, &worker);
  }
  const std::string before = asked();
  TuneCache cache(file_);   // another process
  EXPECT_EQ(choose_way(0, "lt 1", ways_, Tuning::cached, cache, nullptr), 5);
  EXPECT_EQ(choose_way(0, "lt 2", ways_, Tuning::cached, cache, nullptr), 0);
  EXPECT_EQ(choose_way(0, "lt 1", ways_, Tuning::off, cache, nullptr), 0);
  EXPECT_EQ(asked(), before);
  // A way of that name that rounds in another way is another one.
  EXPECT_EQ(choose_way(0, "lt 1", {{"slow", "b"}, {"fast", "a"}}, Tuning::cached, cache, nullptr), 0);
}

TEST_F(TuneDevice, ADamagedFileIsBuiltAnew) {
  write_file_atomic(file_, "rhetor ways 1\nnonsense\n");
  TuneCache cache(file_);
  TuneWorker worker(command(), 0.5);
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(choose_way(0, "lt 1", {{"slow", "a"}, {"fast", "a"}}, Tuning::measure, cache, &worker), 1);
  EXPECT_THAT(::testing::internal::GetCapturedStderr(), HasSubstr("is damaged; it is built anew"));
  TuneCache again(file_);
  EXPECT_EQ(choose_way(0, "lt 1", {{"slow", "a"}, {"fast", "a"}}, Tuning::cached, again, nullptr), 1);
}

TEST_F(TuneDevice, ADefaultThatCannotBeMeasuredStaysAndIsNotKept) {
  TuneCache cache(file_);
  TuneWorker worker(command(), 0.5);
  EXPECT_EQ(choose_way(0, "lt 1", {{"crash", "a"}, {"fast", "a"}}, Tuning::measure, cache, &worker), 0);
  EXPECT_TRUE(cache.empty());
}

TEST_F(TuneDevice, AWorkerSaysWhy) {
  TuneWorker worker(command(), 0.3);
  std::string why;
  EXPECT_FALSE(worker.ask(0, "broken", "p", why));
  EXPECT_EQ(why, "failed it cannot");
  EXPECT_FALSE(worker.ask(0, "crash", "p", why));
  EXPECT_THAT(why, HasSubstr("ended"));
  const auto start = std::chrono::steady_clock::now();
  EXPECT_FALSE(worker.ask(0, "hang", "p", why));
  EXPECT_THAT(why, HasSubstr("no answer in 0.3 s"));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
  const auto trial = worker.ask(0, "fast", "p", why);   // after all that
  ASSERT_TRUE(trial);
  EXPECT_EQ(trial->hash, 0xab);
  EXPECT_EQ(trial->us, 50);
  TuneWorker none({"/no/such/program"}, 0.3);
  EXPECT_FALSE(none.ask(0, "fast", "p", why));
}

TEST(DeviceErrors, TheDriverIsNamedWithBothVersions) {
  EXPECT_THAT(cuda_absence(0, 13000, 0, ""), HasSubstr("no NVIDIA driver"));
  EXPECT_THAT(cuda_absence(12040, 13020, 1, ""), HasSubstr("is for CUDA 12.4, but this program needs one for CUDA 13.0 or later (it was built with 13.2)"));
  EXPECT_THAT(cuda_absence(13000, 13020, 0, ""), HasSubstr("no NVIDIA GPU"));
  EXPECT_THAT(cuda_absence(13000, 13020, 0, "system not yet initialized"), HasSubstr("system not yet initialized"));
  EXPECT_EQ(cuda_absence(13000, 13020, 1, ""), "");   // an older minor version will do
}

std::string said(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(DeviceErrors, DevicesThatAreNot) {
  const std::vector<CudaDevice> one(1), three(3);
  EXPECT_EQ(find_device("cuda:0", one, ""), &one[0]);
  EXPECT_EQ(find_device("cuda:2", three, ""), &three[2]);
  EXPECT_THAT(said([&] { find_device("cuda:7", one, ""); }), HasSubstr("'cuda:7' does not exist: this machine has 1 GPU (cuda:0)"));
  EXPECT_THAT(said([&] { find_device("cuda:7", three, ""); }), HasSubstr("3 GPUs (cuda:0 to cuda:2)"));
  EXPECT_THAT(said([&] { find_device("gpu", one, ""); }), HasSubstr("there is no device 'gpu'"));
  EXPECT_THAT(said([&] { find_device("cuda", {}, "it is Sunday"); }), HasSubstr("it is Sunday; --device cpu runs everywhere"));
}

TEST(DeviceErrors, ADTypeWithoutUnitsIsRefusedBeforeCompiling) {
  const CudaDevice ampere{.name = "A100", .compute = 80};
  Graph g;
  const Value x = g.input("x", {DType::f32, {16, 16}});
  g.output("y", matmul(x, x));
  CompileOptions options;
  options.device = &ampere;
  options.passes.compute = DType::f8e4m3;
  EXPECT_THAT(said([&] { compile(g, {}, options); }), HasSubstr("A100 (sm_80) has no matrix units for f8e4m3, which begin with sm_89; use bf16, f16 or int8"));
  EXPECT_EQ(said([&] { require_supported(ampere, DType::bf16); }), "");
}

TEST(DeviceErrors, TheFirstReasonOfALostDeviceStays) {
  EXPECT_EQ(lost_device(), "");
  set_lost_device("first");
  set_lost_device("second");
  EXPECT_EQ(lost_device(), "first");
  set_lost_device("");
  EXPECT_EQ(lost_device(), "");
}

}  // namespace
}  // namespace rhetor
