// Messages that wait for their receive, and receives that wait for their message, of one pair of ranks: for transports whose bytes
// arrive when they please.
#pragma once

#include <cstring>
#include <deque>
#include <map>
#include <vector>

#include "comm/transport.h"

namespace rhetor {

// Not thread-safe: the transport's lock is held around every call.
class Mailbox {
 public:
  struct Wanted {
    Exchange* exchange = nullptr;
    Incoming* message = nullptr;
  };

  // A receive was posted. True if its message was here already.
  bool want(Exchange& exchange, Incoming& message) {
    Lane& lane = lanes_[exchange.channel];
    lane.wanted.push_back({&exchange, &message});
    return settle(lane);
  }
  // The receive that the next message of the channel is for, taken out; null when none waits.
  Wanted take(std::uint32_t channel) {
    Lane& lane = lanes_[channel];
    if (lane.wanted.empty()) return {};
    const Wanted wanted = lane.wanted.front();
    lane.wanted.pop_front();
    return wanted;
  }
  // A message nobody had waited for when it began to arrive. True if somebody does now.
  bool keep(std::uint32_t channel, std::vector<std::byte> bytes, CommClock::time_point arrived) {
    Lane& lane = lanes_[channel];
    kept_bytes_ += bytes.size();
    lane.kept.push_back({std::move(bytes), arrived});
    return settle(lane);
  }
  static void complete(const Wanted& wanted, CommClock::time_point arrived) {
    wanted.message->arrived = arrived;
    wanted.message->data = wanted.message->into.data();
    wanted.message->done = true;
    --wanted.exchange->receiving;
  }
  void forget(const Exchange& exchange) {
    std::erase_if(lanes_[exchange.channel].wanted, [&](const Wanted& w) { return w.exchange == &exchange; });
  }
  bool anything_wanted() const {
    for (const auto& [channel, lane] : lanes_)
      if (!lane.wanted.empty()) return true;
    return false;
  }
  std::size_t kept_bytes() const { return kept_bytes_; }
  // A message had another length than its receive: the program's fault.
  bool mismatch() const { return mismatch_; }

 private:
  struct Kept {
    std::vector<std::byte> bytes;
    CommClock::time_point arrived;
  };
  struct Lane {
    std::deque<Wanted> wanted;
    std::deque<Kept> kept;
  };
  bool settle(Lane& lane) {
    bool settled = false;
    while (!lane.wanted.empty() && !lane.kept.empty()) {
      const Wanted wanted = lane.wanted.front();
      const Kept kept = std::move(lane.kept.front());
      lane.wanted.pop_front();
      lane.kept.pop_front();
      kept_bytes_ -= kept.bytes.size();
      if (kept.bytes.size() != wanted.message->into.size()) {
        mismatch_ = true;
        return settled;
      }
      std::memcpy(wanted.message->into.data(), kept.bytes.data(), kept.bytes.size());
      complete(wanted, kept.arrived);
      settled = true;
    }
    return settled;
  }
  std::map<std::uint32_t, Lane> lanes_;
  std::size_t kept_bytes_ = 0;
  bool mismatch_ = false;
};

}  // namespace rhetor
