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

struct ThreadPool::Impl {
  std::vector<std::thread> workers;
  std::mutex owner;  // held by the caller that uses the workers
  std::mutex sleep_mutex;
  std::condition_variable wake;
  std::atomic<std::uint64_t> generation{0};
  std::atomic<int> sleepers{0};
  std::atomic<bool> stop{false};

  Task task = nullptr;
  void* context = nullptr;
  int tasks = 0;
  std::atomic<int> next{0};
  std::atomic<int> busy{0};  // workers that have not finished the current generation

  void drain() {
    for (int i = next.fetch_add(1, std::memory_order_relaxed); i < tasks;
         i = next.fetch_add(1, std::memory_order_relaxed)) {
      task(context, i);
    }
  }

  void work() {
    std::uint64_t seen = 0;
    for (;;) {
      std::uint64_t now = generation.load(std::memory_order_acquire);
      for (int spin = 0; now == seen && spin < kSpins; ++spin) {
        relax();
        now = generation.load(std::memory_order_acquire);
      }
      if (now == seen) {
        std::unique_lock lock(sleep_mutex);
        sleepers.fetch_add(1);
        wake.wait(lock, [&] { return generation.load(std::memory_order_acquire) != seen; });
        sleepers.fetch_sub(1);
        now = generation.load(std::memory_order_acquire);
      }
      seen = now;
      if (stop.load(std::memory_order_acquire)) return;
      drain();
      busy.fetch_sub(1, std::memory_order_release);
    }
  }

  void publish() {
    generation.fetch_add(1);
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
  {
    std::lock_guard lock(impl_->sleep_mutex);
    impl_->generation.fetch_add(1);
    impl_->wake.notify_all();
  }
  for (auto& worker : impl_->workers) worker.join();
}

void ThreadPool::run(int tasks, Task task, void* context) {
  Impl& impl = *impl_;
  std::unique_lock owner(impl.owner, std::defer_lock);
  if (tasks <= 1 || threads_ == 1 || !owner.try_lock()) {
    for (int i = 0; i < tasks; ++i) task(context, i);
    return;
  }
  impl.task = task;
  impl.context = context;
  impl.tasks = tasks;
  impl.next.store(0, std::memory_order_relaxed);
  impl.busy.store(threads_ - 1, std::memory_order_relaxed);
  impl.publish();
  impl.drain();
  for (int spin = 0; impl.busy.load(std::memory_order_acquire) != 0; ++spin) {
    if (spin < kSpins) relax(); else std::this_thread::yield();
  }
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
