// The one pool of worker threads that kernels share.
//
// Thread-safety: `run` may be called from any number of threads. One caller at a time gets the workers;
// a caller that finds them busy runs its tasks itself, so concurrent requests never wait for each other
// and never oversubscribe the cores. Tasks must not throw. No allocation in `run`.
#pragma once

#include <cstdint>
#include <memory>

namespace rhetor {

class ThreadPool {
 public:
  // `threads` counts the calling thread: a pool of 1 has no workers. REQUIRES: threads >= 1.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  using Task = void (*)(void* context, int task);
  // Calls task(context, i) once for every i in [0, tasks) and returns when all are done. Results must
  // not depend on which thread runs which task.
  void run(int tasks, Task task, void* context);

  // Calls body(begin, end) over disjoint ranges that cover [0, count); each range but the last is a
  // multiple of `grain`. At most threads() ranges: the split is a pure function of (count, grain, threads).
  template <class Body>
  void parallel_for(std::int64_t count, std::int64_t grain, Body&& body) {
    if (count <= 0) return;
    if (grain < 1) grain = 1;
    const std::int64_t chunks = (count + grain - 1) / grain;
    const int tasks = static_cast<int>(chunks < threads_ ? chunks : threads_);
    if (tasks <= 1) {
      body(std::int64_t{0}, count);
      return;
    }
    struct Context {
      std::remove_reference_t<Body>* body;
      std::int64_t count, grain, chunks;
      int tasks;
    } context{&body, count, grain, chunks, tasks};
    run(tasks, [](void* opaque, int i) {
      const auto& c = *static_cast<Context*>(opaque);
      const std::int64_t begin = c.chunks * i / c.tasks * c.grain;
      std::int64_t end = c.chunks * (i + 1) / c.tasks * c.grain;
      if (end > c.count) end = c.count;
      (*c.body)(begin, end);
    }, &context);
  }

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
  int threads_;
};

// Cores this process may use (affinity mask and cgroup quota respected), at least 1.
int available_cores();

// The process-wide pool; made at first use with available_cores() threads. `set_default_threads` must be
// called before work starts (it replaces the pool).
ThreadPool& default_pool();
void set_default_threads(int threads);

}  // namespace rhetor
