// What carries the bytes of collectives between ranks: the narrow interface that loopback, TCP and MPI implement.
//
// Messages between two ranks on one channel arrive in the order they were posted and match the receives in the order those were
// posted; lengths must agree. Channels are independent of each other.
//
// Thread-safety: all members may be called from any thread. An Exchange belongs to one thread.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"

namespace rhetor {

using CommClock = std::chrono::steady_clock;

inline CommClock::duration comm_seconds(double seconds) {
  return std::chrono::duration_cast<CommClock::duration>(std::chrono::duration<double>(std::min(seconds, 1e8)));
}
inline double in_seconds(CommClock::duration duration) { return std::chrono::duration<double>(duration).count(); }

// A message to a rank.
struct Outgoing {
  int to = 0;
  std::span<const std::byte> bytes;
  bool done = false;
};

// A message from a rank. With `view`, the transport may leave the bytes where they are and point `data` at them until the exchange is
// finished; otherwise `data` is into.data().
struct Incoming {
  int from = 0;
  std::span<std::byte> into;
  bool view = false;
  const std::byte* data = nullptr;
  CommClock::time_point arrived{};
  bool done = false;
};

// A set of messages that are under way together. Neither it nor its buffers move between post() and finish() or cancel().
struct Exchange {
  std::uint32_t channel = 0;
  std::vector<Outgoing> out;
  std::vector<Incoming> in;
  int sending = 0, receiving = 0;   // messages not done; guarded by the transport
};

// Why nothing goes on. `rank`: who is at fault, or -1.
struct CommFailure {
  int rank = -1;
  std::string reason;
};

enum class Progress { done, late, failed };

class Transport {
 public:
  virtual ~Transport() = default;
  virtual std::string_view backend() const = 0;
  int rank() const { return rank_; }
  int size() const { return size_; }
  const CommOptions& options() const { return options_; }
  // The largest message a collective should post.
  virtual std::size_t segment_bytes() const { return options_.segment_bytes; }
  // Whether every view is of the sender's own memory: then receives with `view` need no memory of their own.
  virtual bool lends() const { return false; }

  virtual void post(Exchange& exchange) = 0;
  // Until all messages have come (views are then valid), the time is up, or the transport has failed.
  virtual Progress arrive(Exchange& exchange, CommClock::time_point until) = 0;
  // Gives views back, then waits until what was sent may be overwritten. REQUIRES: arrive() returned done.
  virtual Progress finish(Exchange& exchange, CommClock::time_point until) = 0;
  // Ends the exchange whatever its state; afterwards nothing touches its buffers.
  virtual void cancel(Exchange& exchange) = 0;
  // Ranks whose messages have not come; if none, ranks that have not taken theirs.
  virtual std::vector<int> missing(const Exchange& exchange) = 0;

  // Fails this rank, and tells the others. The first failure stands.
  virtual void fail_all(CommFailure failure) = 0;
  virtual std::optional<CommFailure> failure() = 0;
  // "rank 2", with host and process where they are known.
  virtual std::string label(int rank) const { return fmt::format("rank {}", rank); }
  // Seconds since the rank's last sign of life; negative: this transport knows no such thing.
  virtual double silent_for(int) { return -1; }

  // Channels: 0 is the world's. A group takes the largest number that one of its ranks would take next, so no pair of ranks meets a
  // number twice.
  std::uint32_t next_channel() const { return next_channel_; }
  void take_channel(std::uint32_t channel) { next_channel_ = channel + 1; }

 protected:
  Transport(int rank, int size, const CommOptions& options) : rank_(rank), size_(size), options_(options) {}

 private:
  int rank_, size_;
  CommOptions options_;
  std::atomic<std::uint32_t> next_channel_{1};
};

}  // namespace rhetor
