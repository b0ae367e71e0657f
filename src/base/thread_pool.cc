#include "base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"

namespace rhetor {
namespace {

// Workers spin this many times before sleeping: a decode step issues hundreds of short kernels back to
// back, and a futex round trip costs more than most of them.
constexpr int kSpins = 20000;

inline void relax() { __builtin_ia32_pause(); }

}  // namespace

// One run is a generation. The ticket packs generation, number of tasks and next task into one word, so a task is claimed by one
// compare-and-swap that cannot succeed on a stale generation: a worker that wakes late, or is kept off its core, holds nobody up.
// `task` and `context` change only when every task of the generation before has been claimed and done.
struct ThreadPool::Impl {
  static constexpr int kMaxTasks = 0xffff;

  std::vector<std::thread> workers;
  std::atomic<bool> owned{false};  // a caller uses the workers
  std::mutex sleep_mutex;
  std::condition_variable wake;
  std::atomic<int> sleepers{0};
  std::atomic<bool> stop{false};

  std::atomic<std::uint64_t> ticket{0};  // generation << 32 | tasks << 16 | next task
  std::atomic<Task> task{nullptr};
  std::atomic<void*> context{nullptr};
  std::atomic<int> done{0};

  static std::uint64_t generation(std::uint64_t t) { return t >> 32; }

  // Claims and runs tasks of the current generation until none is left.
  void drain() {
    std::uint64_t t = ticket.load(std::memory_order_acquire);
    for (;;) {
      const auto next = static_cast<int>(t & 0xffff), tasks = static_cast<int>(t >> 16 & 0xffff);
      if (next >= tasks) return;
      const Task run = task.load(std::memory_order_relaxed);
      void* const argument = context.load(std::memory_order_relaxed);
      if (!ticket.compare_exchange_weak(t, t + 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
      run(argument, next);
      done.fetch_add(1, std::memory_order_release);
      t = ticket.load(std::memory_order_acquire);
    }
  }

  void work() {
    std::uint64_t seen = 0;
    for (;;) {
      std::uint64_t now = generation(ticket.load(std::memory_order_acquire));
      for (int spin = 0; now == seen && spin < kSpins; ++spin) {
        relax();
        now = generation(ticket.load(std::memory_order_acquire));
      }
      if (now == seen) {
        std::unique_lock lock(sleep_mutex);
        sleepers.fetch_add(1);
        wake.wait(lock, [&] { return generation(ticket.load()) != seen; });
        sleepers.fetch_sub(1);
        now = generation(ticket.load());
      }
      seen = now;
      if (stop.load(std::memory_order_acquire)) return;
      drain();
    }
  }

  void publish(int tasks) {
    const std::uint64_t next = (generation(ticket.load(std::memory_order_relaxed)) + 1) & 0xffffffffu;
    ticket.store(next << 32 | static_cast<std::uint64_t>(tasks) << 16);
    if (sleepers.load() > 0) {
      std::lock_guard lock(sleep_mutex);
      wake.notify_all();
    }
  }
};

ThreadPool::ThreadPool(int threads) : impl_(std::make_unique<Impl>()), threads_(threads) {
  if (threads < 1 || threads > 1024) fail("threads must be between 1 and 1024, not {}", threads);
  for (int i = 1; i < threads; ++i) impl_->workers.emplace_back([impl = impl_.get()] { impl->work(); });
}

ThreadPool::~ThreadPool() {
  impl_->stop.store(true, std::memory_order_release);
  impl_->publish(0);
  for (auto& worker : impl_->workers) worker.join();
}

void ThreadPool::run(int tasks, Task task, void* context) {
  Impl& impl = *impl_;
  // Also the way out for a task that calls run() itself: the pool is owned, by this very thread.
  if (tasks <= 1 || tasks > Impl::kMaxTasks || threads_ == 1 || impl.owned.exchange(true, std::memory_order_acquire)) {
    for (int i = 0; i < tasks; ++i) task(context, i);
    return;
  }
  impl.task.store(task, std::memory_order_relaxed);
  impl.context.store(context, std::memory_order_relaxed);
  impl.done.store(0, std::memory_order_relaxed);
  impl.publish(tasks);
  impl.drain();
  for (int spin = 0; impl.done.load(std::memory_order_acquire) != tasks; ++spin) {
    if (spin < kSpins) relax(); else std::this_thread::yield();
  }
  impl.owned.store(false, std::memory_order_release);
}

int available_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  std::ifstream quota("/sys/fs/cgroup/cpu.max");  // "max 100000" or "200000 100000" (cgroup v2)
  std::string limit;
  double period = 0;
  if (quota >> limit >> period && limit != "max" && period > 0) {
    cores = std::min(cores, std::max(1, static_cast<int>(std::stod(limit) / period + 0.5)));
  }
  return std::max(1, cores);
}

namespace {
std::mutex default_mutex;
std::unique_ptr<ThreadPool> default_instance;
std::atomic<ThreadPool*> default_pointer{nullptr};
}  // namespace

ThreadPool& default_pool() {
  if (ThreadPool* pool = default_pointer.load(std::memory_order_acquire)) return *pool;
  std::lock_guard lock(default_mutex);
  if (!default_instance) default_instance = std::make_unique<ThreadPool>(available_cores());
  default_pointer.store(default_instance.get(), std::memory_order_release);
  return *default_instance;
}

void set_default_threads(int threads) {
  std::lock_guard lock(default_mutex);
  default_pointer.store(nullptr, std::memory_order_release);
  default_instance = std::make_unique<ThreadPool>(threads);
  default_pointer.store(default_instance.get(), std::memory_order_release);
}

}  // namespace rhetor
