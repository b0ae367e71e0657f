#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <numeric>
#include <thread>

#include "comm/self_check.h"
#include "comm/test_worlds.h"

namespace rhetor {
namespace {

std::vector<std::string> lines_of_rank_0(World run, int ranks, std::size_t segment) {
  std::vector<std::string> lines;
  run(ranks, [&](Communicator& c) {
    check_collectives(c, {1, 2, 5, 257, 2049}, [&](const std::string& line) { if (c.rank() == 0) lines.push_back(line); });
  }, {.segment_bytes = segment});
  return lines;
}

// check_collectives compares with the sum in rank order and with float64; here the backends are compared with each other.
TEST(Collectives, EveryKindAndDtypeIsRightAndTheSameOnLoopbackAndTcp) {
  for (int ranks = 1; ranks <= 5; ++ranks) {
    SCOPED_TRACE(ranks);
    const std::vector<std::string> loopback = lines_of_rank_0(run_loopback, ranks, 1 << 20);
    EXPECT_GT(loopback.size(), 100u);
    EXPECT_EQ(loopback, lines_of_rank_0(run_tcp, ranks, ranks % 2 ? 512 : 1000));
  }
}

TEST(Collectives, LongBuffersGoInSegments) {
  run_tcp(3, [](Communicator& c) { check_collectives(c, {10007}, [](const std::string&) {}); }, {.segment_bytes = 4000});
}

TEST(Collectives, NanAndInfinityAreKept) {
  run_loopback(3, [](Communicator& c) {
    const float inf = std::numeric_limits<float>::infinity(), nan = std::nanf("");
    for (const Reduce op : {Reduce::sum, Reduce::mean, Reduce::max, Reduce::min}) {
      std::vector<float> data{c.rank() == 1 ? nan : 1.0f, c.rank() == 0 ? nan : 1.0f, c.rank() == 2 ? nan : 1.0f, c.rank() == 2 ? inf : 3.0f};
      c.all_reduce(std::span(data), op, "odd");
      EXPECT_TRUE(std::isnan(data[0]) && std::isnan(data[1]) && std::isnan(data[2])) << name(op);
      EXPECT_EQ(data[3], op == Reduce::min ? 3.0f : inf) << name(op);
    }
  });
}

TEST(Collectives, NarrowFloatsAreSummedWide) {
  run_loopback(5, [](Communicator& c) {
    // 256 + 1 + 1 + 1 + 1: summed in bf16 (8 bits) every 1 is lost.
    bf16 value = bf16::from_float(c.rank() == 0 ? 256.0f : 1.0f);
    c.all_reduce({&value, DType::bf16, 1}, Reduce::sum, "wide");
    EXPECT_EQ(value.to_float(), 260.0f);
  });
}

TEST(Collectives, RefusesWhatHasNoMeaning) {
  run_loopback(2, [](Communicator& c) {
    std::vector<std::int32_t> ints(4);
    std::vector<float> floats(5);
    EXPECT_THROW(c.all_reduce(std::span(ints), Reduce::mean, "ids"), Error);
    EXPECT_THROW(c.all_gather(std::span(floats), std::span(floats), "w"), Error);
    EXPECT_THROW(c.all_to_all(std::span(floats), std::span(floats), "w"), Error);
    EXPECT_THROW(c.broadcast(std::span(floats), 2, "w"), Error);
    EXPECT_THROW(c.send(std::span(floats), c.rank(), "w"), Error);
    c.barrier("still usable");
  });
}

TEST(Collectives, StartedOnesRunInOrderBehindTheCaller) {
  for (const World& run : {World(run_loopback), World(run_tcp)})
    run(3, [](Communicator& c) {
      std::vector<std::vector<float>> buckets(20, std::vector<float>(3000, static_cast<float>(c.rank() + 1)));
      std::vector<Pending> pending;
      for (std::size_t b = 0; b < buckets.size(); ++b)
        pending.push_back(c.start_all_reduce(std::span(buckets[b]), Reduce::sum, "bucket " + std::to_string(b)));
      float last = 1;
      c.all_reduce(std::span(&last, 1), Reduce::sum, "after the buckets");
      for (Pending& one : pending) {
        EXPECT_TRUE(one.done());   // the blocking one came after them
        one.wait();
      }
      for (const auto& bucket : buckets) EXPECT_EQ(bucket[2999], 6.0f);
      EXPECT_EQ(last, 3.0f);
    }, {});
}

TEST(Collectives, SplitMakesIndependentGroups) {
  for (const World& run : {World(run_loopback), World(run_tcp)})
    run(5, [](Communicator& c) {
      // Even and odd ranks, in reversed order; rank 4 in no second group.
      const auto parity = c.split(c.rank() % 2, -c.rank());
      ASSERT_EQ(parity->size(), c.rank() % 2 ? 2 : 3);
      EXPECT_EQ(parity->rank(), (parity->size() - 1) - c.rank() / 2);
      const auto low = c.split(c.rank() == 4 ? -1 : c.rank() / 2, 0);
      EXPECT_EQ(low == nullptr, c.rank() == 4);
      // Collectives of different groups are under way at once, started in an order of each rank's own.
      float world = 1, of_parity = static_cast<float>(c.rank()), of_low = static_cast<float>(c.rank());
      std::vector<Pending> pending;
      const auto first = [&] { pending.push_back(parity->start_all_reduce(std::span(&of_parity, 1), Reduce::sum, "parity")); };
      const auto second = [&] { if (low) pending.push_back(low->start_all_reduce(std::span(&of_low, 1), Reduce::sum, "low")); };
      if (c.rank() % 2) first(), second();
      else second(), first();
      c.all_reduce(std::span(&world, 1), Reduce::sum, "world");
      for (Pending& one : pending) one.wait();
      EXPECT_EQ(world, 5.0f);
      EXPECT_EQ(of_parity, c.rank() % 2 ? 4.0f : 6.0f);
      if (low) {
        EXPECT_EQ(of_low, c.rank() / 2 ? 5.0f : 1.0f);
      }
      const auto inner = parity->split(0, parity->rank());
      float of_inner = 1;
      inner->all_reduce(std::span(&of_inner, 1), Reduce::sum, "inner");
      EXPECT_EQ(of_inner, static_cast<float>(parity->size()));
    }, {});
}

TEST(Collectives, SlicesCoverTheWholeInOrder) {
  for (const std::int64_t count : {0, 1, 5, 6, 7, 1000})
    for (int ranks = 1; ranks < 9; ++ranks) {
      std::int64_t end = 0;
      for (int r = 0; r < ranks; ++r) {
        EXPECT_EQ(slice_of(count, ranks, r).begin, end);
        end = slice_of(count, ranks, r).end;
      }
      EXPECT_EQ(end, count);
    }
}

TEST(Collectives, TheSlowRankIsNamed) {
  run_loopback(3, [](Communicator& c) {
    for (int step = 0; step < 10; ++step) {
      if (c.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(10));
      c.barrier("step " + std::to_string(step));
    }
    const WaitStats stats = gather_waits(c);
    EXPECT_GT(stats.ranks[1].seconds, 0.08);
    EXPECT_LT(stats.ranks[0].seconds, stats.ranks[1].seconds);
    EXPECT_THAT(slow_rank(stats, 0.2), testing::StartsWith("rank 1 is slow"));
    EXPECT_EQ(slow_rank(stats, 1000), "");
  });
}

}  // namespace
}  // namespace rhetor
