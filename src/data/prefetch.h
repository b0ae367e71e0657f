// The Prefetcher of data/batches.h. A template in a header, so that any pure function of an index can be prefetched.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "data/batches.h"

namespace rhetor {

template <class Batch>
struct Prefetcher<Batch>::Impl {
  std::function<Batch(std::uint64_t)> make;
  std::uint64_t index;
  std::size_t depth;
  mutable std::mutex mutex;
  std::condition_variable changed;
  std::deque<Batch> ready;
  std::exception_ptr error;  // of the batch after the last in `ready`
  bool stop = false;
  double waited = 0;
  std::thread worker;

  void work() {
    for (;;) {
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return stop || ready.size() < depth; });
        if (stop) return;
      }
      try {
        Batch batch = make(index++);
        std::lock_guard lock(mutex);
        ready.push_back(std::move(batch));
      } catch (...) {
        std::lock_guard lock(mutex);
        error = std::current_exception();
      }
      changed.notify_all();
      if (error) return;  // written by this thread only
    }
  }
};

template <class Batch>
Prefetcher<Batch>::Prefetcher(std::function<Batch(std::uint64_t)> make, std::uint64_t first_index, int depth) : impl_(new Impl) {
  impl_->make = std::move(make);
  impl_->index = first_index;
  impl_->depth = static_cast<std::size_t>(depth < 1 ? 1 : depth);
  impl_->worker = std::thread([impl = impl_.get()] { impl->work(); });
}

template <class Batch>
Prefetcher<Batch>::~Prefetcher() {
  {
    std::lock_guard lock(impl_->mutex);
    impl_->stop = true;
  }
  impl_->changed.notify_all();
  impl_->worker.join();
}

template <class Batch>
Batch Prefetcher<Batch>::next() {
  std::unique_lock lock(impl_->mutex);
  if (impl_->ready.empty() && !impl_->error) {
    const auto from = std::chrono::steady_clock::now();
    impl_->changed.wait(lock, [&] { return !impl_->ready.empty() || impl_->error; });
    impl_->waited += std::chrono::duration<double>(std::chrono::steady_clock::now() - from).count();
  }
  if (impl_->ready.empty()) std::rethrow_exception(impl_->error);
  Batch batch = std::move(impl_->ready.front());
  impl_->ready.pop_front();
  lock.unlock();
  impl_->changed.notify_all();
  return batch;
}

template <class Batch>
double Prefetcher<Batch>::waited_seconds() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->waited;
}

}  // namespace rhetor
