#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace rhetor {
namespace {

TEST(ThreadPool, RunsEveryTaskOnce) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (const int tasks : {0, 1, 2, 7, 100}) {
      std::vector<std::atomic<int>> runs(static_cast<std::size_t>(tasks));
      pool.run(tasks, [](void* c, int i) { ++(*static_cast<std::vector<std::atomic<int>>*>(c))[static_cast<std::size_t>(i)]; }, &runs);
      for (const auto& count : runs) EXPECT_EQ(count, 1);
    }
  }
}

TEST(ThreadPool, ParallelForCoversTheRangeInGrains) {
  ThreadPool pool(4);
  for (const std::int64_t count : {0, 1, 5, 64, 1000, 1001}) {
    std::vector<std::atomic<int>> seen(static_cast<std::size_t>(count));
    pool.parallel_for(count, 8, [&](std::int64_t begin, std::int64_t end) {
      EXPECT_EQ(begin % 8, 0);
      EXPECT_TRUE(end % 8 == 0 || end == count);
      for (std::int64_t i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
    });
    for (const auto& times : seen) EXPECT_EQ(times, 1);
  }
}

TEST(ThreadPool, SeveralCallersAndNestedCallsFinish) {
  ThreadPool pool(3);
  std::atomic<std::int64_t> total = 0;
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c)
    callers.emplace_back([&] {
      for (int round = 0; round < 200; ++round)
        pool.parallel_for(10, 1, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t i = begin; i < end; ++i)
            pool.parallel_for(3, 1, [&](std::int64_t b, std::int64_t e) { total += e - b; });
        });
    });
  for (auto& caller : callers) caller.join();
  EXPECT_EQ(total, 4 * 200 * 10 * 3);
}

TEST(ThreadPool, DefaultPoolFollowsTheMachine) {
  EXPECT_GE(available_cores(), 1);
  EXPECT_GE(default_pool().threads(), 1);
}

}  // namespace
}  // namespace rhetor
