#include "train/step_memory.h"

#include <gmock/gmock.h>

namespace rhetor::testing {
namespace {

using ::testing::HasSubstr;

TEST(StepMemory, TheLargestMicroBatchThatFitsIsFound) {
  // 100 bytes of states, 40 more for gradient sums, 10 an example.
  int asked = 0;
  const auto need = [&](std::int64_t batch, std::int64_t accumulation) {
    ++asked;
    return static_cast<std::uint64_t>(100 + (accumulation > 1 ? 40 : 0) + 10 * batch);
  };
  EXPECT_EQ(what_fits(48, 1, 1, 300, need), "train.batch = 16 with train.accumulation = 3 makes the same step in 300 bytes");
  EXPECT_EQ(what_fits(48, 2, 1, 299, need), "train.batch = 12 with train.accumulation = 8 makes the same step in 260 bytes");
  EXPECT_EQ(what_fits(48, 1, 6, 259, need), "train.batch = 6 with train.accumulation = 8 makes the same step in 200 bytes");
  EXPECT_EQ(what_fits(48, 1, 1, 149, need), "even train.batch = 1 needs 150");
  EXPECT_THAT(what_fits(1, 1, 1, 100, need), HasSubstr("no smaller micro-batch"));
  asked = 0;
  what_fits(1 << 20, 1, 1, 1000, need);
  EXPECT_LE(asked, 5);
}

TEST(StepMemory, ThisMachineHasSome) {
  const MemoryHere here = memory_here(nullptr);
  EXPECT_GT(here.bytes, std::uint64_t{1} << 26);
  EXPECT_THAT(here.what, HasSubstr("has"));
}

}  // namespace
}  // namespace rhetor::testing
