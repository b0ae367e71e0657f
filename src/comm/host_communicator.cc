#include "comm/host_communicator.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>
#include <numeric>
#include <thread>

#include "comm/check_in.h"
#include "comm/collectives.h"
#include "comm/reduce.h"

namespace rhetor {
namespace {

class StartedState final : public Pending::State {
 public:
  bool done() override {
    const std::lock_guard lock(mutex_);
    return done_;
  }
  void wait() override {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return done_; });
    if (error_) std::rethrow_exception(error_);
  }
  void wait_on(void*) override { wait(); }
  void finish(std::exception_ptr error) {
    const std::lock_guard lock(mutex_);
    error_ = std::move(error);
    done_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
  std::exception_ptr error_;
};

class HostCommunicator final : public Communicator {
 public:
  explicit HostCommunicator(Group group)
      : Communicator(group.rank, group.size()), group_(std::move(group)), exceptions_(std::uncaught_exceptions()) {
    waits_.ranks.resize(group_.members.size());
    calls_between_two_.resize(group_.members.size());
  }

  // Leaves in the middle of an error: the others should hear of it now, not at their deadline.
  ~HostCommunicator() override {
    if (std::uncaught_exceptions() > exceptions_) abort("an error ended its work");
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
      changed_.notify_all();
    }
    if (worker_.joinable()) worker_.join();
  }

  std::string_view backend() const override { return group_.transport->backend(); }

  // Here if nothing is before it, which saves two thread switches; else after what was started.
  void run(const Collective& collective) override {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return jobs_.empty() && !busy_; });
      busy_ = true;
    }
    const Busy busy(*this);
    execute(collective);
  }

  Pending start(const Collective& collective) override {
    auto state = std::make_shared<StartedState>();
    const std::lock_guard lock(mutex_);
    if (!worker_.joinable()) worker_ = std::thread([this] { work(); });
    jobs_.push_back({collective, state});
    changed_.notify_all();
    return Pending(state);
  }

  std::unique_ptr<Communicator> split(int color, int key) override {
    // What a rank wants and the channel it would take next.
    struct Wish {
      std::int64_t color, key, channel;
    };
    std::vector<Wish> wishes(group_.members.size());
    Wish& mine = wishes[static_cast<std::size_t>(rank())];
    mine = {color, key, group_.transport->next_channel()};
    run({.kind = CollectiveKind::all_gather, .name = "split", .in = &mine, .out = wishes.data(), .dtype = DType::i64,
         .count = static_cast<std::int64_t>(3 * wishes.size())});
    std::int64_t channel = 0;
    for (const Wish& wish : wishes) channel = std::max(channel, wish.channel);
    group_.transport->take_channel(static_cast<std::uint32_t>(channel));
    if (color < 0) return nullptr;
    std::vector<int> ranks(wishes.size());
    std::iota(ranks.begin(), ranks.end(), 0);
    std::erase_if(ranks, [&](int r) { return wishes[static_cast<std::size_t>(r)].color != color; });
    std::stable_sort(ranks.begin(), ranks.end(),
                     [&](int a, int b) { return wishes[static_cast<std::size_t>(a)].key < wishes[static_cast<std::size_t>(b)].key; });
    Group part{.transport = group_.transport, .channel = static_cast<std::uint32_t>(channel)};
    for (const int r : ranks) {
      if (r == rank()) part.rank = static_cast<int>(part.members.size());
      part.members.push_back(group_.members[static_cast<std::size_t>(r)]);
    }
    return std::make_unique<HostCommunicator>(std::move(part));
  }

  void abort(std::string_view why) override {
    const int self = group_.transport->rank();
    group_.transport->fail_all({self, fmt::format("{} gave up: {}", group_.transport->label(self), why)});
  }

  WaitStats waits() const override {
    const std::lock_guard lock(mutex_);
    return waits_;
  }

 private:
  struct Job {
    Collective collective;
    std::shared_ptr<StartedState> state;
  };
  struct Busy {
    explicit Busy(HostCommunicator& c) : communicator(c) {}
    ~Busy() {
      const std::lock_guard lock(communicator.mutex_);
      communicator.busy_ = false;
      communicator.changed_.notify_all();
    }
    HostCommunicator& communicator;
  };

  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return !busy_ && (ending_ || !jobs_.empty()); });
      if (jobs_.empty()) return;
      const Job job = std::move(jobs_.front());
      jobs_.pop_front();
      busy_ = true;
      lock.unlock();
      {
        const Busy busy(*this);   // until the job is known as done: what runs next comes after it
        std::exception_ptr error;
        try {
          execute(job.collective);
        } catch (const std::exception&) {
          error = std::current_exception();
        }
        job.state->finish(error);
      }
      lock.lock();
    }
  }

  // REQUIRES: busy_ is set by the caller.
  void execute(const Collective& what) {
    const bool reduces = what.kind == CollectiveKind::all_reduce || what.kind == CollectiveKind::reduce_scatter;
    if (reduces) check_reducible(what.op, what.dtype, what.name);
    const bool pair = what.kind == CollectiveKind::send || what.kind == CollectiveKind::recv;
    std::uint64_t& calls = pair ? calls_between_two_[static_cast<std::size_t>(what.peer)] : calls_;
    const CommClock::time_point now = CommClock::now();
    const double seconds = what.deadline > 0 ? what.deadline : group_.transport->options().deadline;
    const Running running{.group = group_, .what = what, .call = ++calls, .entered = now, .deadline = now + comm_seconds(seconds)};
    if (size() == 1) return alone(what, reduces);
    if (group_.transport->failure()) running.fail_with_known();
    const Arrivals arrivals = check_in(running);
    {
      const std::lock_guard lock(mutex_);
      add_arrivals(arrivals, what.name, waits_);
    }
    run_collective(running);
  }

  static void alone(const Collective& what, bool reduces) {
    const std::size_t bytes = static_cast<std::size_t>(what.count) * byte_size(what.dtype);
    if (what.kind == CollectiveKind::barrier || bytes == 0) return;
    const auto* in = static_cast<const std::byte*>(what.in);
    auto* out = static_cast<std::byte*>(what.out);
    if (reduces) reduce_ranks(what.op, what.dtype, std::span(&in, 1), out, what.count);
    else if (in != out) std::memmove(out, in, bytes);
  }

  Group group_;
  int exceptions_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> jobs_;
  bool busy_ = false, ending_ = false;
  std::thread worker_;
  std::uint64_t calls_ = 0;
  std::vector<std::uint64_t> calls_between_two_;
  WaitStats waits_;
};

}  // namespace

std::unique_ptr<Communicator> world_of(std::shared_ptr<Transport> transport) {
  Group group{.transport = transport, .rank = transport->rank()};
  group.members.resize(static_cast<std::size_t>(transport->size()));
  std::iota(group.members.begin(), group.members.end(), 0);
  return std::make_unique<HostCommunicator>(std::move(group));
}

}  // namespace rhetor
