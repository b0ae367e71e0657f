#include "runtime/tune.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "ops/ops.h"
#include "runtime/executable.h"

namespace rhetor {
namespace {

namespace fs = std::filesystem;

class Tune : public ::testing::Test {
 protected:
  fs::path folder_ = fs::temp_directory_path() / fmt::format("rhetor-tune-{}", ::getpid());
  fs::path file_ = folder_ / "ways.txt";
  void TearDown() override { fs::remove_all(folder_); }
};

TEST_F(Tune, WaysComeBackFromTheFile) {
  TuneCache first(file_);
  TunedWay way;
  EXPECT_FALSE(first.find(7, way));
  first.put(7, {.kernel = "cpu.a/b", .threads = 1, .default_us = 12.5, .best_us = 3.25});
  first.put(~0ull, {.kernel = "cpu.c", .threads = 0, .default_us = 1, .best_us = 1});
  TuneCache second(file_);
  ASSERT_TRUE(second.find(7, way));
  EXPECT_EQ(way.kernel, "cpu.a/b");
  EXPECT_EQ(way.threads, 1);
  EXPECT_EQ(way.default_us, 12.5);
  EXPECT_EQ(way.best_us, 3.25);
  EXPECT_TRUE(second.find(~0ull, way));
  EXPECT_FALSE(second.find(8, way));
  // What another process wrote meanwhile is kept.
  TuneCache third(file_), fourth(file_);
  EXPECT_FALSE(third.find(9, way) || fourth.find(9, way));
  third.put(9, {.kernel = "cpu.d"});
  fourth.put(10, {.kernel = "cpu.e"});
  TuneCache fifth(file_);
  EXPECT_TRUE(fifth.find(9, way) && fifth.find(10, way) && fifth.find(7, way));
}

TEST_F(Tune, ADamagedFileIsBuiltAnew) {
  TunedWay way;
  TuneCache(file_).put(7, {.kernel = "cpu.a", .threads = 1});
  const std::string whole = read_file(file_);
  for (const std::size_t cut : {std::size_t{0}, std::size_t{5}, whole.size() / 2, whole.size() - 1}) {
    write_file_atomic(file_, whole.substr(0, cut));
    TuneCache cache(file_);
    EXPECT_FALSE(cache.find(7, way)) << cut;
    cache.put(8, {.kernel = "cpu.b"});
    EXPECT_TRUE(TuneCache(file_).find(8, way)) << cut;
  }
  for (std::size_t at = 0; at < whole.size(); ++at) {
    std::string flipped = whole;
    flipped[at] = static_cast<char>(flipped[at] ^ 4);
    write_file_atomic(file_, flipped);
    EXPECT_FALSE(TuneCache(file_).find(7, way)) << at;
  }
  TuneCache nowhere(folder_ / "ways.txt" / "below a file");
  nowhere.put(1, {.kernel = "cpu.a"});  // a note, no failure
  EXPECT_TRUE(nowhere.find(1, way));
}

TEST_F(Tune, TheSameBitsByEveryWay) {
  Graph g;
  const Value q = g.input("q", {DType::bf16, {1, 200, 2, 32}}), k = g.input("k", {DType::bf16, {1, 200, 2, 32}});
  g.output("o", attention(q, k, k, {.causal = true}));
  const Node& node = g.node(g.outputs()[0].value);
  const Type type{DType::bf16, {1, 200, 2, 32}};
  ThreadPool pool(2);
  KernelRequest request{.graph = g, .node = node, .in = {type, type, type}, .out = node.outputs, .constants = {nullptr, nullptr, nullptr}, .threads = 2};
  TuneCache cache(file_);
  const ChosenKernel plain = choose_kernel(request);
  EXPECT_EQ(tuned(request, plain, pool, Tuning::off, cache).kernel.detail, plain.kernel.detail);
  EXPECT_EQ(tuned(request, plain, pool, Tuning::cached, cache).kernel.detail, plain.kernel.detail);  // nothing known
  const ChosenKernel measured = tuned(request, plain, pool, Tuning::measure, cache);
  EXPECT_NE(measured.kernel.detail.find("tuned"), std::string::npos) << measured.kernel.detail;
  const ChosenKernel again = tuned(request, plain, pool, Tuning::cached, cache);
  EXPECT_EQ(again.kernel.detail, measured.kernel.detail);

  // Whatever is chosen, by hand too, gives the same bits.
  Tensor input = Tensor::uninitialized(type);
  for (std::int64_t i = 0; i < input.elements(); ++i) input.set(i, static_cast<double>(i * 37 % 101) / 50 - 1);
  const auto run = [&](const Kernel& kernel) {
    Tensor o = Tensor::uninitialized(node.outputs[0]), lse = Tensor::uninitialized(node.outputs[1]);
    Tensor scratch = Tensor::uninitialized({DType::u8, Shape{static_cast<std::int64_t>(kernel.scratch_bytes)}});
    const void* in[] = {input.raw(), input.raw(), input.raw()};
    void* out[] = {o.raw(), lse.raw()};
    kernel.run(kernel.params.get(), {.in = in, .out = out, .scratch = scratch.raw(), .pool = pool});
    return std::string(static_cast<const char*>(o.raw()), o.bytes()) + std::string(static_cast<const char*>(lse.raw()), lse.bytes());
  };
  const std::string expected = run(plain.kernel);
  EXPECT_EQ(run(measured.kernel), expected);
  for (const KernelRow& row : kernel_table())
    for (const Candidate& candidate : row.candidates) {
      if (row.op != "attention" || !candidate.name.starts_with(plain.name + "/") || !candidate.refuse(request).empty()) continue;
      EXPECT_EQ(run(candidate.prepare(request)), expected) << candidate.name;
    }
}

TEST_F(Tune, BothFlagsContradict) { EXPECT_THROW(set_tuning_flags(true, true), Error); }

}  // namespace
}  // namespace rhetor
