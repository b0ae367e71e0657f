#include "parallel/strategy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace rhetor {
namespace {

constexpr StateBytes kMixed{.parameter = 2, .gradient = 2, .master = 4, .moments = 8};

// The numbers of the ZeRO paper (figure 1): 7.5 B parameters, 64 ranks, mixed precision with Adam (there 12 bytes of state).
TEST(Strategy, MemoryAsPublished) {
  const std::int64_t parameters = 7'500'000'000;
  const auto gb = [&](Strategy s) { return memory_per_rank(row(s), kMixed, parameters, 0, 64).total() / 1e9; };
  EXPECT_NEAR(gb(Strategy::data_parallel), 120, 0.1);
  EXPECT_NEAR(gb(Strategy::zero1), 31.4, 0.1);
  EXPECT_NEAR(gb(Strategy::zero2), 16.6, 0.1);
  EXPECT_NEAR(gb(Strategy::zero3), 1.9, 0.1);
}

TEST(Strategy, OneRankShardsNothing) {
  for (const StrategyRow& one : strategies())
    EXPECT_DOUBLE_EQ(memory_per_rank(one, kMixed, 1000, 100, 1).total(), 16000) << one.name;
}

TEST(Strategy, WhatIsSentFollowsTheMoves) {
  // In units of the gradients' bytes over many ranks: 2 for data parallel and ZeRO-1 and -2, 3 for ZeRO-3.
  const auto sent = [](Strategy s, int micro) { return bytes_sent(row(s), kMixed, 1'000'000, 1'000'000, micro) / 2e6; };
  EXPECT_NEAR(sent(Strategy::data_parallel, 1), 2, 1e-3);
  EXPECT_NEAR(sent(Strategy::zero1, 1), 2, 1e-3);
  EXPECT_NEAR(sent(Strategy::zero2, 1), 2, 1e-3);
  EXPECT_NEAR(sent(Strategy::zero3, 1), 3, 1e-3);
  // Accumulation: whole gradients need one journey a step, sharded ones one a micro-batch.
  EXPECT_NEAR(sent(Strategy::zero1, 4), 2, 1e-3);
  EXPECT_NEAR(sent(Strategy::zero2, 4), 5, 1e-3);
  EXPECT_NEAR(sent(Strategy::zero3, 4), 12, 1e-3);
  for (const StrategyRow& one : strategies()) EXPECT_EQ(bytes_sent(one, kMixed, 1000, 1, 1), 0) << one.name;
}

TEST(Strategy, TheFirstThatFitsCommunicatesLeast) {
  const std::int64_t parameters = 1'500'000'000;
  EXPECT_EQ(first_that_fits(100e9, 0, kMixed, parameters, 0, 8)->strategy, Strategy::data_parallel);
  EXPECT_EQ(first_that_fits(10e9, 0, kMixed, parameters, 0, 8)->strategy, Strategy::zero1);
  EXPECT_EQ(first_that_fits(10e9, 4e9, kMixed, parameters, 0, 8)->strategy, Strategy::zero2);
  EXPECT_EQ(first_that_fits(1e9, 0, kMixed, parameters, 0, 8), nullptr);
  EXPECT_THAT(memory_table(kMixed, parameters, 0, 8), testing::HasSubstr("zero3 3.00 GB"));
}

TEST(Strategy, NamesRoundTripAndUnknownOnesListThem) {
  for (const StrategyRow& one : strategies()) EXPECT_EQ(parse_strategy(one.name), one.strategy);
  EXPECT_THAT([] { parse_strategy("zero4"); }, testing::ThrowsMessage<Error>(testing::HasSubstr("ddp, zero1, zero2, zero3")));
}

}  // namespace
}  // namespace rhetor
