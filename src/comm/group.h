// The ranks of one communicator on a transport, and one step of a collective between them.
#pragma once

#include <memory>
#include <vector>

#include "comm/transport.h"

namespace rhetor {

struct Group {
  std::shared_ptr<Transport> transport;
  std::uint32_t channel = 0;
  std::vector<int> members;   // rank in the world of every rank of the group
  int rank = 0;               // this one's, in the group
  int size() const { return static_cast<int>(members.size()); }
};

// One collective while it runs: what errors have to say, and until when.
struct Running {
  const Group& group;
  const Collective& what;
  std::uint64_t call = 0;     // counts the collectives of this communicator from 1
  CommClock::time_point entered{}, deadline{};

  // "all_reduce of 'wte' (f32 x 768, call 12)"
  std::string str() const;
  // Fails the transport with `failure` unless it has failed already, and throws what it failed with.
  [[noreturn]] void fail_with(CommFailure failure) const;
  [[noreturn]] void fail_with_known() const;
};

// Messages that are posted, awaited and finished together. Ranks are the group's. The destructor cancels what is not finished.
class Step {
 public:
  explicit Step(const Running& running) : running_(&running) { exchange_.channel = running.group.channel; }
  Step(const Step&) = delete;
  Step& operator=(const Step&) = delete;
  ~Step();
  // Empty messages are not sent: both sides know the lengths.
  void send(int to, const std::byte* bytes, std::size_t length);
  void recv(int from, std::byte* into, std::size_t length, bool view = false);
  void post();
  // Both throw a CommError that names who has not come when the deadline passes.
  void arrive();
  void finish();
  // Waits only until `until`: false when it passes first.
  bool arrive_until(CommClock::time_point until);
  std::vector<int> missing() const { return running_->group.transport->missing(exchange_); }   // ranks of the world
  const std::vector<Incoming>& received() const { return exchange_.in; }

 private:
  [[noreturn]] void late() const;
  const Running* running_;
  Exchange exchange_;
  bool posted_ = false;
};

// "rank 2" or "ranks 1, 3", with what the transport knows of them.
std::string labels(const Transport& transport, const std::vector<int>& ranks);

}  // namespace rhetor
