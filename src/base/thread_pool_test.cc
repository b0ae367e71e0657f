#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <numeric>
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

// Many callers at once, of every size and nested: each task runs once, sees what its caller wrote before run() (plain memory, which
// ThreadSanitizer watches), and the caller sees what its tasks wrote.
TEST(ThreadPool, StressOfCallersSizesAndNesting) {
  struct Work {
    ThreadPool* pool;
    std::uint32_t seed;
    bool nested;
    std::uint32_t results[64];
  };
  static constexpr auto kMix = [](std::uint32_t seed, int i) { return (seed + static_cast<std::uint32_t>(i)) * 2654435761u; };
  static constexpr ThreadPool::Task kLeaf = [](void* context, int i) {
    auto& work = *static_cast<Work*>(context);
    work.results[i] += kMix(work.seed, i);
  };
  const ThreadPool::Task outer = [](void* context, int i) {
    auto& work = *static_cast<Work*>(context);
    work.results[i] += kMix(work.seed, i);
    if (!work.nested) return;
    Work inner{work.pool, work.seed + 7u * static_cast<std::uint32_t>(i), false, {}};
    const int tasks = 1 + i % 5;
    work.pool->run(tasks, kLeaf, &inner);
    for (int k = 0; k < tasks; ++k) work.results[i] += inner.results[k] - kMix(inner.seed, k);
  };
  for (const int threads : {2, 4, 9}) {
    ThreadPool pool(threads);
    std::atomic<int> wrong = 0;
    std::vector<std::thread> callers;
    for (std::uint32_t c = 0; c < 6; ++c)
      callers.emplace_back([&, c] {
        for (std::uint32_t round = 0; round < 320; ++round) {
          const int tasks = 1 + static_cast<int>((round * 11 + c) % 64);
          Work work{&pool, c * 1000 + round, round % 4 == 0, {}};
          pool.run(tasks, outer, &work);
          for (int i = 0; i < 64; ++i) wrong += work.results[i] != (i < tasks ? kMix(work.seed, i) : 0u);
        }
      });
    for (auto& caller : callers) caller.join();
    EXPECT_EQ(wrong, 0);
  }
}

// Workers that sleep are woken, and a pool may end while its workers spin, sleep or have never worked.
TEST(ThreadPool, SleepingWorkersWakeAndPoolsEnd) {
  for (int round = 0; round < 30; ++round) {
    ThreadPool pool(1 + round % 6);
    if (round % 3 == 0) continue;
    if (round % 3 == 1) std::this_thread::sleep_for(std::chrono::milliseconds(3));
    std::int64_t sums[8] = {};
    pool.run(8, [](void* context, int i) { static_cast<std::int64_t*>(context)[i] = i + 1; }, sums);
    EXPECT_EQ(std::accumulate(std::begin(sums), std::end(sums), std::int64_t{0}), 36);
  }
}

TEST(ThreadPool, DefaultPoolFollowsTheMachine) {
  EXPECT_GE(available_cores(), 1);
  EXPECT_GE(default_pool().threads(), 1);
}

}  // namespace
}  // namespace rhetor
