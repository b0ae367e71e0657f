// What transports with a thread of their own share: one lock, the waits on it, and the first failure.
#pragma once

#include <condition_variable>
#include <mutex>

#include "comm/transport.h"

namespace rhetor {

class WaitingTransport : public Transport {
 public:
  Progress arrive(Exchange& exchange, CommClock::time_point until) override { return wait_for(exchange.receiving, until); }
  Progress finish(Exchange& exchange, CommClock::time_point until) override { return wait_for(exchange.sending, until); }
  std::vector<int> missing(const Exchange& exchange) override {
    const std::lock_guard lock(mutex_);
    std::vector<int> ranks;
    for (const Incoming& message : exchange.in)
      if (!message.done) ranks.push_back(message.from);
    if (ranks.empty())
      for (const Outgoing& message : exchange.out)
        if (!message.done) ranks.push_back(message.to);
    return ranks;
  }
  std::optional<CommFailure> failure() override {
    const std::lock_guard lock(mutex_);
    return failure_;
  }

 protected:
  using Transport::Transport;
  Progress wait_for(const int& count, CommClock::time_point until) {
    std::unique_lock lock(mutex_);
    const bool in_time = changed_.wait_until(lock, until, [&] { return count == 0 || failure_; });
    return failure_ ? Progress::failed : in_time ? Progress::done : Progress::late;
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<CommFailure> failure_;   // guarded by mutex_
};

}  // namespace rhetor
