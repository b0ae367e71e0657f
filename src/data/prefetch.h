// The Prefetcher of data/batches.h. A template in a header, so that any pure function of an index can be prefetched.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "data/batches.h"

namespace rhetor {

template <class Batch>
struct Prefetcher<Batch>::Impl {
  // A batch on its way: made by one worker, taken in order.
  struct Slot {
    Batch batch{};
    std::exception_ptr error;
    bool ready = false;
  };
  std::function<Batch(std::uint64_t)> make;
  std::uint64_t next_taken, next_made;  // indices
  std::vector<Slot> slots;              // batch i waits in slot i mod depth
  mutable std::mutex mutex;
  std::condition_variable taken, made;
  bool stop = false;
  double waited = 0;
  std::vector<std::thread> workers;

  Slot& slot(std::uint64_t index) { return slots[index % slots.size()]; }

  void work() {
    for (;;) {
      std::uint64_t index;
      {
        std::unique_lock lock(mutex);
        taken.wait(lock, [&] { return stop || next_made < next_taken + slots.size(); });
        if (stop) return;
        index = next_made++;
      }
      Slot result;
      try {
        result.batch = make(index);
      } catch (...) {
        result.error = std::current_exception();
      }
      result.ready = true;
      {
        std::lock_guard lock(mutex);
        slot(index) = std::move(result);
      }
      made.notify_one();
    }
  }
};

template <class Batch>
Prefetcher<Batch>::Prefetcher(std::function<Batch(std::uint64_t)> make, std::uint64_t first_index, int depth, int workers) : impl_(new Impl) {
  workers = std::max(1, workers);
  impl_->make = std::move(make);
  impl_->next_taken = impl_->next_made = first_index;
  impl_->slots.resize(static_cast<std::size_t>(std::max({1, depth, workers})));
  for (int i = 0; i < workers; ++i) impl_->workers.emplace_back([impl = impl_.get()] { impl->work(); });
}

template <class Batch>
Prefetcher<Batch>::~Prefetcher() {
  {
    std::lock_guard lock(impl_->mutex);
    impl_->stop = true;
  }
  impl_->taken.notify_all();
  for (std::thread& worker : impl_->workers) worker.join();
}

template <class Batch>
Batch Prefetcher<Batch>::next() {
  std::unique_lock lock(impl_->mutex);
  auto& slot = impl_->slot(impl_->next_taken);
  if (!slot.ready) {
    const auto from = std::chrono::steady_clock::now();
    impl_->made.wait(lock, [&] { return slot.ready; });
    impl_->waited += std::chrono::duration<double>(std::chrono::steady_clock::now() - from).count();
  }
  if (slot.error) std::rethrow_exception(slot.error);
  Batch batch = std::move(slot.batch);
  slot.ready = false;
  ++impl_->next_taken;
  lock.unlock();
  impl_->taken.notify_one();
  return batch;
}

template <class Batch>
double Prefetcher<Batch>::waited_seconds() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->waited;
}

}  // namespace rhetor
