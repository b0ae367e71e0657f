#include "comm/loopback.h"

#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>

#include "comm/host_communicator.h"

namespace rhetor {
namespace {

struct Sent {
  Exchange* exchange;
  Outgoing* message;
  CommClock::time_point when;
};
struct Wanted {
  Exchange* exchange;
  Incoming* message;
};
// What is under way from one rank to another on one channel: at most one of the two lists holds anything.
struct Lane {
  std::deque<Sent> sent;
  std::deque<Wanted> wanted;
};

struct Fabric {
  explicit Fabric(int ranks) : left(static_cast<std::size_t>(ranks)) {}
  std::mutex mutex;
  std::condition_variable changed;
  std::map<std::tuple<std::uint32_t, int, int>, Lane> lanes;   // (channel, from, to)
  std::map<const Incoming*, Sent> loans;                       // bytes that a receiver reads in the sender's memory
  std::optional<CommFailure> failure;
  std::vector<char> left;

  // The rest: REQUIRES the mutex is held.
  void match(const Sent& sent, const Wanted& wanted) {
    if (sent.message->bytes.size() != wanted.message->into.size() && !failure)
      failure = {-1, fmt::format("internal error: a message of {} bytes meets a receive of {}", sent.message->bytes.size(),
                                 wanted.message->into.size())};
    wanted.message->data = sent.message->bytes.data();
    wanted.message->arrived = sent.when;
    loans[wanted.message] = sent;
    if (wanted.message->view) received(wanted);
  }
  void received(const Wanted& wanted) {
    wanted.message->done = true;
    --wanted.exchange->receiving;
  }
  void give_back(const Incoming& message) {
    const auto loan = loans.find(&message);
    if (loan == loans.end()) return;
    loan->second.message->done = true;
    --loan->second.exchange->sending;
    loans.erase(loan);
  }
  void check_left(int from) {
    if (failure || !left[static_cast<std::size_t>(from)]) return;
    for (const auto& [key, lane] : lanes)
      if (std::get<1>(key) == from && !lane.wanted.empty()) failure = {from, fmt::format("rank {} has left", from)};
  }
};

class LoopbackTransport final : public Transport {
 public:
  LoopbackTransport(std::shared_ptr<Fabric> fabric, int rank, int size, const CommOptions& options)
      : Transport(rank, size, options), fabric_(std::move(fabric)) {}
  ~LoopbackTransport() override {
    const std::lock_guard lock(fabric_->mutex);
    fabric_->left[static_cast<std::size_t>(rank())] = 1;
    fabric_->check_left(rank());
    fabric_->changed.notify_all();
  }
  std::string_view backend() const override { return "loopback"; }
  // Nothing is copied into scratch memory, so nothing bounds a message.
  std::size_t segment_bytes() const override { return std::size_t{1} << 40; }
  bool lends() const override { return true; }

  void post(Exchange& exchange) override {
    const std::lock_guard lock(fabric_->mutex);
    exchange.sending = static_cast<int>(exchange.out.size());
    exchange.receiving = static_cast<int>(exchange.in.size());
    const CommClock::time_point now = CommClock::now();
    for (Outgoing& message : exchange.out) {
      Lane& lane = fabric_->lanes[{exchange.channel, rank(), message.to}];
      const Sent sent{&exchange, &message, now};
      if (lane.wanted.empty()) {
        lane.sent.push_back(sent);
      } else {
        const Wanted wanted = lane.wanted.front();
        lane.wanted.pop_front();
        fabric_->match(sent, wanted);
      }
    }
    for (Incoming& message : exchange.in) {
      Lane& lane = fabric_->lanes[{exchange.channel, message.from, rank()}];
      const Wanted wanted{&exchange, &message};
      if (lane.sent.empty()) {
        lane.wanted.push_back(wanted);
        fabric_->check_left(message.from);
      } else {
        const Sent sent = lane.sent.front();
        lane.sent.pop_front();
        fabric_->match(sent, wanted);
      }
    }
    fabric_->changed.notify_all();
  }

  Progress arrive(Exchange& exchange, CommClock::time_point until) override {
    std::unique_lock lock(fabric_->mutex);
    for (;;) {
      if (fabric_->failure) return Progress::failed;
      if (exchange.receiving == 0) return Progress::done;
      Incoming* ready = nullptr;
      for (Incoming& message : exchange.in)
        if (!message.done && message.data) ready = &message;
      if (ready) {
        lock.unlock();   // the loan keeps the sender's bytes in place
        std::memcpy(ready->into.data(), ready->data, ready->into.size());
        lock.lock();
        ready->data = ready->into.data();
        fabric_->received({&exchange, ready});
        fabric_->give_back(*ready);
        fabric_->changed.notify_all();
      } else if (fabric_->changed.wait_until(lock, until) == std::cv_status::timeout && exchange.receiving && !fabric_->failure) {
        return Progress::late;
      }
    }
  }

  Progress finish(Exchange& exchange, CommClock::time_point until) override {
    std::unique_lock lock(fabric_->mutex);
    give_back_views(exchange);
    const bool in_time = fabric_->changed.wait_until(lock, until, [&] { return exchange.sending == 0 || fabric_->failure; });
    return fabric_->failure ? Progress::failed : in_time ? Progress::done : Progress::late;
  }

  void cancel(Exchange& exchange) override {
    std::unique_lock lock(fabric_->mutex);
    give_back_views(exchange);
    for (auto& [key, lane] : fabric_->lanes) {
      for (const Sent& sent : lane.sent)
        if (sent.exchange == &exchange) --exchange.sending;
      std::erase_if(lane.sent, [&](const Sent& sent) { return sent.exchange == &exchange; });
      std::erase_if(lane.wanted, [&](const Wanted& wanted) { return wanted.exchange == &exchange; });
    }
    fabric_->changed.wait(lock, [&] { return exchange.sending == 0; });   // a borrower reads on, and gives back soon
  }

  std::vector<int> missing(const Exchange& exchange) override {
    const std::lock_guard lock(fabric_->mutex);
    std::vector<int> ranks;
    for (const Incoming& message : exchange.in)
      if (!message.done) ranks.push_back(message.from);
    if (ranks.empty())
      for (const Outgoing& message : exchange.out)
        if (!message.done) ranks.push_back(message.to);
    return ranks;
  }

  void fail_all(CommFailure failure) override {
    const std::lock_guard lock(fabric_->mutex);
    if (!fabric_->failure) fabric_->failure = std::move(failure);
    fabric_->changed.notify_all();
  }
  std::optional<CommFailure> failure() override {
    const std::lock_guard lock(fabric_->mutex);
    return fabric_->failure;
  }

 private:
  void give_back_views(Exchange& exchange) {
    for (const Incoming& message : exchange.in) fabric_->give_back(message);
    fabric_->changed.notify_all();
  }
  std::shared_ptr<Fabric> fabric_;
};

}  // namespace

std::vector<std::shared_ptr<Transport>> loopback_transports(int ranks, const CommOptions& options) {
  if (ranks < 1 || ranks > 1024) fail("{} ranks in one process are not possible; give 1 to 1024", ranks);
  const auto fabric = std::make_shared<Fabric>(ranks);
  std::vector<std::shared_ptr<Transport>> transports;
  for (int r = 0; r < ranks; ++r) transports.push_back(std::make_shared<LoopbackTransport>(fabric, r, ranks, options));
  return transports;
}

void run_loopback(int ranks, const std::function<void(Communicator&)>& body, const CommOptions& options) {
  std::vector<std::shared_ptr<Transport>> transports = loopback_transports(ranks, options);
  std::mutex mutex;
  std::exception_ptr first;
  std::vector<std::thread> threads;
  for (std::shared_ptr<Transport>& transport : transports) {
    threads.emplace_back([&, mine = std::move(transport)]() mutable {
      const std::unique_ptr<Communicator> communicator = world_of(std::move(mine));
      try {
        body(*communicator);
      } catch (const std::exception& error) {
        const std::lock_guard lock(mutex);
        if (!first) first = std::current_exception();
        communicator->abort(error.what());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  if (first) std::rethrow_exception(first);
}

}  // namespace rhetor
