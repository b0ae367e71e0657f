#include "runtime/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/file.h"
#include "base/rng.h"
#include "ops/ops.h"

namespace rhetor {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

// Two layers; "fast" and "slow" share the weights.
Graph network(std::int64_t rows) {
  Graph g;
  const Value x = g.input("x", {DType::f32, Shape{Dim{rows, "batch"}, 16}});
  const Value w = g.input("w", {DType::f32, Shape{16, 32}}, InputKind::param), b = g.input("b", {DType::f32, Shape{32}}, InputKind::param);
  const Value v = g.input("v", {DType::f32, Shape{32, 16}}, InputKind::param);
  const Value count = g.input("count", {DType::f32, Shape{}}, InputKind::state);
  const Value next = add(count, 1.0);
  g.set_update(count, next);
  g.output("y", mul(softmax(matmul(gelu(add(matmul(x, w), b)), v)), next));
  return g;
}

class PlanTest : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = fs::path(::testing::TempDir()) / ("plan_" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
    Rng rng(3);
    for (const auto& [name, shape] : std::initializer_list<std::pair<const char*, Shape>>{{"w", {16, 32}}, {"b", {32}}, {"v", {32, 16}}}) {
      Tensor t(DType::f32, shape);
      for (float& f : t.data<float>()) f = static_cast<float>(rng.normal());
      weights_[name] = t;
    }
    for (const std::int64_t rows : {1, 5})
      plan_.executables["rows." + std::to_string(rows)] = compile(network(rows), weights_, {.keep_weights = true});
    plan_.blobs["config.json"] = "{}";
    plan_.blobs["empty"] = "";
    save_plan(path_, plan_);
    bytes_ = read_file(path_);
  }
  void TearDown() override { fs::remove(path_); }

  std::string load_error(const std::string& bytes) {
    std::ofstream(path_, std::ios::binary) << bytes;  // thousands of files: no flush to the disk
    try {
      load_plan(path_);
    } catch (const Error& error) {
      EXPECT_NE(error.kind(), ErrorKind::internal) << error.what();
      return error.what();
    }
    return "no error";
  }
  // Replaces a text by another of the same length and makes the checksum right again: a hostile file, not a damaged one.
  std::string forged(std::string_view from, std::string_view to) {
    EXPECT_EQ(from.size(), to.size());
    std::string out = bytes_;
    const std::size_t at = out.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    if (at == std::string::npos) return out;
    out.replace(at, to.size(), to);
    return sealed(out);
  }
  static std::string sealed(std::string out) {
    const std::uint64_t sum = hash64(std::string_view(out).substr(0, out.size() - 8));
    std::memcpy(out.data() + out.size() - 8, &sum, 8);
    return out;
  }
  static std::vector<double> run(const ExecutablePtr& executable) {
    Session session(executable);
    Tensor& x = session.input("x");
    for (std::int64_t i = 0; i < x.elements(); ++i) x.set(i, 0.1 * static_cast<double>(i % 17) - 0.7);
    session.run();
    session.run();
    return session.output("y").to_doubles();
  }

  fs::path path_;
  Weights weights_;
  Plan plan_;
  std::string bytes_;
};

TEST_F(PlanTest, LoadedPlanGivesTheSameBits) {
  const Plan loaded = load_plan(path_);
  ASSERT_EQ(loaded.executables.size(), 2u);
  for (const auto& [name, executable] : plan_.executables) EXPECT_EQ(run(executable), run(loaded.executables.at(name))) << name;
  EXPECT_EQ(loaded.blobs.at("config.json"), "{}");
  EXPECT_EQ(loaded.blobs.at("empty"), "");
  EXPECT_EQ(loaded.weight_bytes, (16 * 32 + 32 + 32 * 16) * sizeof(float));  // once, not twice
}

TEST_F(PlanTest, NeedsKeptWeights) {
  Plan plan;
  plan.executables["x"] = compile(network(1), weights_);
  EXPECT_THROW(save_plan(path_, plan), Error);
  EXPECT_EQ(read_file(path_), bytes_);  // the former plan is untouched
}

TEST_F(PlanTest, TruncationIsAlwaysACleanError) {
  for (std::size_t length = 0; length < bytes_.size(); length += 1 + length / 50)
    EXPECT_NE(load_error(bytes_.substr(0, length)), "no error") << length;
  EXPECT_NE(load_error(bytes_.substr(0, bytes_.size() - 1)), "no error");
  EXPECT_NE(load_error(bytes_ + "x"), "no error");
}

TEST_F(PlanTest, EveryFlippedBitIsNoticed) {
  for (std::size_t i = 0; i < bytes_.size(); i += 1 + bytes_.size() / 600) {
    std::string damaged = bytes_;
    damaged[i] = static_cast<char>(damaged[i] ^ (1 << i % 8));
    EXPECT_NE(load_error(damaged), "no error") << i;
  }
}

// With the checksum repaired anything may follow, an error or (where the flip is harmless) a plan, but no crash.
TEST_F(PlanTest, ForgedBytesNeverCrash) {
  const std::size_t header = 24 + 2500;
  Rng rng(5);
  for (int round = 0; round < 600; ++round) {
    std::string damaged = bytes_;
    const std::size_t span = round % 2 ? bytes_.size() - 8 : std::min(header, bytes_.size() - 8);
    for (int flips = 0; flips <= round % 3; ++flips) {
      const std::size_t at = rng.below(span);
      damaged[at] = round % 5 ? static_cast<char>(damaged[at] ^ (1 << rng.below(8))) : static_cast<char>(rng.below(256));
    }
    load_error(sealed(damaged));
  }
}

TEST_F(PlanTest, RefusalsGiveTheirReason) {
  EXPECT_THAT(load_error("hello, world: this is certainly no plan"), HasSubstr("is not a plan file"));
  std::string version = bytes_;
  version[8] = 9;
  EXPECT_THAT(load_error(sealed(version)), HasSubstr("has format version 9, this program reads version 1"));
  EXPECT_THAT(load_error(bytes_.substr(0, bytes_.size() / 2)), HasSubstr("truncated or damaged"));
  std::string isa = bytes_;
  isa.replace(isa.find("\"isa\":\"") + 7, 3, "zzz");
  EXPECT_THAT(load_error(sealed(isa)), HasSubstr("needs the unknown instruction set 'zzz"));
  EXPECT_THAT(load_error(forged("softmax", "softmix")), HasSubstr("softmix"));
  EXPECT_THAT(load_error(forged("\"tensors\"", "\"tensorz\"")), HasSubstr("without a proper \"tensors\""));
  const std::string kernel = "\"kernels\":[";
  ASSERT_NE(bytes_.find(kernel), std::string::npos);
  const std::size_t at = bytes_.find("cpu.");
  ASSERT_NE(at, std::string::npos);
  EXPECT_THAT(load_error(forged(bytes_.substr(at, 7), "gpu.zzz")), HasSubstr("gpu.zzz"));
}

TEST_F(PlanTest, NewerInstructionSetIsRefused) {
  if (cpu_isa() == Isa::amx) GTEST_SKIP() << "this machine runs every plan";
  std::string text = bytes_;
  const std::string field = "\"isa\":\"", wanted = "amx";
  const std::size_t at = text.find(field) + field.size();
  const std::size_t length = text.find('"', at) - at;
  if (length < wanted.size()) GTEST_SKIP();
  text.replace(at, length + 1, wanted + "\"" + std::string(length - wanted.size(), ' '));
  EXPECT_THAT(load_error(sealed(text)), HasSubstr("needs amx and this machine has"));
}

}  // namespace
}  // namespace rhetor
