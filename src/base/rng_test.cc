#include "base/rng.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

namespace rhetor {
namespace {

// The known-answer vectors of Salmon et al.'s Random123 for Philox4x32-10.
TEST(Rng, PhiloxGivesThePublishedNumbers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, 0), (Philox{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, 0xffffffffffffffff),
            (Philox{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0x299f31d0a4093822),
            (Philox{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Rng, SequenceIsTheCounterFunction) {
  Rng rng(42, 7);
  for (std::uint64_t i = 0; i < 37; ++i) EXPECT_EQ(rng.u32(), random_u32(42, 7, i));
  Rng later(42, 7, rng.position());
  for (int i = 0; i < 9; ++i) EXPECT_EQ(later.u32(), rng.u32()) << "the position is the whole state";
  EXPECT_NE(random_u32(42, 7, 0), random_u32(42, 8, 0));
  EXPECT_NE(random_u32(42, 7, 0), random_u32(43, 7, 0));
}

TEST(Rng, RangesAndMoments) {
  Rng rng(1);
  std::vector<int> counts(7);
  double sum = 0, squares = 0;
  for (int i = 0; i < 70000; ++i) {
    const float u = rng.uniform();
    ASSERT_TRUE(u >= 0 && u < 1);
    ++counts[rng.below(7)];
    const double z = rng.normal();
    sum += z;
    squares += z * z;
  }
  for (const int count : counts) EXPECT_NEAR(count, 10000, 500);  // 5 sigma
  EXPECT_NEAR(sum / 70000, 0, 0.02);
  EXPECT_NEAR(squares / 70000, 1, 0.03);
  EXPECT_LT(to_uniform(0xffffffff), 1.0f);
}

}  // namespace
}  // namespace rhetor
