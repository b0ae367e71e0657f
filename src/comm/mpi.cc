// One thread makes all MPI calls: it starts what was posted, tests what is under way, sends signs of life and misses those of the others.
// Data travels on tag kFirstDataTag + channel, straight between the buffers of the collectives.
#include "comm/mpi.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <deque>
#include <future>
#include <list>
#include <thread>

#include "comm/mpi_library.h"
#include "comm/rendezvous.h"
#include "comm/waiting.h"

namespace rhetor {
namespace {

enum : int { kWordTag = 1, kFirstDataTag = 2 };
constexpr std::size_t kHostName = 64, kReason = 2048;

enum class WordKind : std::int32_t { heartbeat = 1, abort, goodbye };
// What ranks tell each other beside data.
struct Word {
  WordKind kind = WordKind::heartbeat;
  std::int32_t rank = -1;      // abort: at fault
  std::int32_t length = 0;     // of the reason
  char reason[kReason];
};
constexpr int kShortWord = offsetof(Word, reason);

// Who a rank is. Processes with the same `space` see each other: their end is noticed at once.
struct Identity {
  char host[kHostName];
  std::uint64_t space;
  std::int32_t process;
};

// The number of the process namespace with the machine it is on.
std::uint64_t process_space() {
  struct stat facts {};
  if (::stat("/proc/self/ns/pid", &facts) != 0) return 0;
  char boot[40] = "";
  const int fd = ::open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
  if (fd >= 0) {
    [[maybe_unused]] const ssize_t n = ::read(fd, boot, sizeof boot - 1);
    ::close(fd);
  }
  std::uint64_t hash = facts.st_ino;
  for (const char c : boot) hash = hash * 0x100000001b3u ^ static_cast<unsigned char>(c);
  return hash;
}

constexpr double kOvertaking = 0.5;   // seconds

struct Peer {
  RankPlace place;
  int watch = -1;   // a descriptor that is readable once the process has ended; -1: not on this machine
  CommClock::time_point last_sign = CommClock::now();
  bool left = false;
  CommClock::time_point left_at;   // when it was heard to have left
};

// An MPI request and what it is for.
struct Flying {
  void* request = nullptr;
  Exchange* exchange = nullptr;
  Outgoing* out = nullptr;
  Incoming* in = nullptr;
};
struct SentWord {
  void* request = nullptr;
  Word word;
};

class MpiTransport final : public WaitingTransport {
 public:
  MpiTransport(const RhetorMpiApi& api, int rank, int size, const CommOptions& options)
      : WaitingTransport(rank, size, options), api_(api), peers_(static_cast<std::size_t>(size)) {
    std::promise<void> started;
    std::future<void> outcome = started.get_future();
    thread_ = std::thread([this, &started] { live(started); });
    try {
      outcome.get();
    } catch (...) {
      thread_.join();
      throw;
    }
  }
  ~MpiTransport() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      wake_.notify_all();
    }
    thread_.join();
    for (const Peer& peer : peers_)
      if (peer.watch >= 0) ::close(peer.watch);
  }

  std::string_view backend() const override { return "mpi"; }
  std::string label(int rank) const override {
    const RankPlace& place = peers_[static_cast<std::size_t>(rank)].place;
    return fmt::format("rank {} ({}, process {})", rank, place.host, place.process);
  }
  double silent_for(int rank) override {
    const std::lock_guard lock(mutex_);
    return in_seconds(CommClock::now() - peers_[static_cast<std::size_t>(rank)].last_sign);
  }

  void post(Exchange& exchange) override {
    const std::lock_guard lock(mutex_);
    exchange.sending = static_cast<int>(exchange.out.size());
    exchange.receiving = static_cast<int>(exchange.in.size());
    if (failure_) return;
    posted_.push_back(&exchange);
    wake_.notify_all();
  }

  void cancel(Exchange& exchange) override {
    // Only a failed transport has exchanges to cancel. Its last words may still move data that is under way: wait for them.
    std::unique_lock lock(mutex_);
    if (failure_) changed_.wait(lock, [&] { return ended_; });
    std::erase(posted_, &exchange);
    flying_.remove_if([&](const Flying& one) { return one.exchange == &exchange; });
  }

  void fail_all(CommFailure failure) override {
    const std::lock_guard lock(mutex_);
    fail_locked(std::move(failure));
    wake_.notify_all();
  }

 private:
  void fail_locked(CommFailure failure) {
    if (failure_) return;
    failure_ = std::move(failure);
    changed_.notify_all();
  }
  void lose(int rank, std::string_view how) { fail_locked({rank, fmt::format("{} {}", label(rank), how)}); }

  // ---- the thread that talks to MPI. REQUIRES for all that follow: the lock is held -------------------------------------------------

  bool ok(int error) {
    if (error) fail_locked({-1, fmt::format("MPI reports error {}", error)});
    return error == 0;
  }

  void start_posted() {
    while (!posted_.empty() && !failure_) {
      Exchange& exchange = *posted_.front();
      posted_.pop_front();
      const int tag = kFirstDataTag + static_cast<int>(exchange.channel);
      for (Incoming& message : exchange.in) {
        flying_.push_back({.exchange = &exchange, .in = &message});
        if (!ok(api_.irecv(message.into.data(), static_cast<int>(message.into.size()), message.from, tag, &flying_.back().request))) return;
      }
      for (Outgoing& message : exchange.out) {
        flying_.push_back({.exchange = &exchange, .out = &message});
        if (!ok(api_.isend(message.bytes.data(), static_cast<int>(message.bytes.size()), message.to, tag, &flying_.back().request))) return;
      }
    }
  }

  // True if something was done.
  bool test_flying() {
    bool any = false;
    for (auto one = flying_.begin(); one != flying_.end();) {
      int done = 0, count = 0, from = 0;
      if (!ok(api_.test(&one->request, &done, &count, &from))) return true;
      if (!done) {
        ++one;
        continue;
      }
      any = true;
      if (one->in) {
        if (static_cast<std::size_t>(count) != one->in->into.size()) {
          lose(one->in->from, "sent a message of another length than expected");
          return true;
        }
        one->in->arrived = peers_[static_cast<std::size_t>(one->in->from)].last_sign = CommClock::now();
        one->in->data = one->in->into.data();
        one->in->done = true;
        --one->exchange->receiving;
      } else {
        one->out->done = true;
        --one->exchange->sending;
      }
      one = flying_.erase(one);
    }
    if (any) changed_.notify_all();
    return any;
  }

  void say(int to, const Word& word) {
    said_.push_back({.word = word});
    const int bytes = kShortWord + word.length;
    if (api_.isend(&said_.back().word, bytes, to, kWordTag, &said_.back().request)) said_.pop_back();
  }
  void say_all(const Word& word) {
    for (int r = 0; r < size(); ++r)
      if (r != rank() && !peers_[static_cast<std::size_t>(r)].left) say(r, word);
  }

  void hear() {
    for (int turns = 0; turns < 2 * size() + 8; ++turns) {
      int done = 0, count = 0, from = 0;
      if (!ok(api_.test(&hearing_, &done, &count, &from)) || !done) return;
      Peer& peer = peers_[static_cast<std::size_t>(from)];
      peer.last_sign = CommClock::now();
      if (heard_.kind == WordKind::goodbye) {
        peer.left = true;
        peer.left_at = peer.last_sign;
      }
      if (heard_.kind == WordKind::abort && count >= kShortWord)
        fail_locked({heard_.rank, std::string(heard_.reason, static_cast<std::size_t>(count - kShortWord))});   // and passed on
      if (!ok(api_.irecv(&heard_, sizeof heard_, -1, kWordTag, &hearing_))) return;
    }
  }

  // Ranks that have ended, are silent, or left while they were waited for.
  void miss(CommClock::time_point now) {
    for (int r = 0; r < size() && !failure_; ++r) {
      const Peer& peer = peers_[static_cast<std::size_t>(r)];
      if (r == rank()) continue;
      if (peer.left) {
        // MPI orders messages of one tag only: a goodbye may overtake the data that was sent before it.
        if (in_seconds(now - peer.left_at) < kOvertaking) continue;
        for (const Flying& one : flying_)
          if (one.in && one.in->from == r) lose(r, "has left: its work ended before this");
        continue;
      }
      pollfd item{.fd = peer.watch, .events = POLLIN, .revents = 0};
      if (peer.watch >= 0 && ::poll(&item, 1, 0) > 0) {
        hear();   // its last words may be here
        if (!peer.left) lose(r, "is lost: its process has ended (it was killed or has crashed)");
      }
      const double silent = in_seconds(now - peer.last_sign);
      if (silent > options().silence)
        lose(r, fmt::format("is lost: no sign of life for {:.1f} s (its process is stopped, or its machine or network is down)", silent));
    }
  }

  void forget_said() {
    said_.remove_if([&](SentWord& one) {
      int done = 0, count = 0, from = 0;
      return api_.test(&one.request, &done, &count, &from) != 0 || done;
    });
  }

  void introduce() {
    Identity mine{};
    const RankPlace place = this_place();
    place.host.copy(mine.host, kHostName - 1);
    mine.space = process_space();
    mine.process = place.process;
    std::vector<Identity> all(peers_.size());
    if (const int error = api_.all_gather(&mine, all.data(), sizeof mine)) fail(ErrorKind::io, "MPI reports error {} at the start", error);
    for (std::size_t r = 0; r < all.size(); ++r) {
      peers_[r].place = {std::string(all[r].host, ::strnlen(all[r].host, kHostName)), all[r].process};
      if (static_cast<int>(r) != rank() && mine.space != 0 && all[r].space == mine.space)
        peers_[r].watch = static_cast<int>(::syscall(SYS_pidfd_open, all[r].process, 0));
      peers_[r].last_sign = CommClock::now();
    }
  }

  void live(std::promise<void>& started) {
    int found_rank = -1, found_size = 0;
    std::unique_lock lock(mutex_);
    try {
      if (const int error = api_.init(&found_rank, &found_size)) fail(ErrorKind::io, "MPI could not start (error {})", error);
      if (found_rank != rank() || found_size != size())
        fail("the launcher announced rank {} of {}, MPI ({}) found rank {} of {}: they are different MPIs; use the launcher of the MPI that "
             "librhetor_mpi.so was built for", rank(), size(), std::string(api_.library()).substr(0, 60), found_rank, found_size);
      introduce();
      if (const int error = api_.irecv(&heard_, sizeof heard_, -1, kWordTag, &hearing_))
        fail(ErrorKind::io, "MPI reports error {} at the start", error);
    } catch (...) {
      started.set_exception(std::current_exception());
      return;
    }
    started.set_value();

    CommClock::time_point next_sign = CommClock::now(), next_look = next_sign, last_event = next_sign;
    while (!failure_ && !(stopping_ && posted_.empty() && flying_.empty())) {
      start_posted();
      const bool any = test_flying();
      CommClock::time_point now = CommClock::now();
      if (now >= next_look) {
        hear();
        miss(CommClock::now());
        forget_said();
        next_look = now + comm_seconds(0.02);
      }
      if (now >= next_sign) {
        say_all({.kind = WordKind::heartbeat});
        next_sign = now + comm_seconds(options().heartbeat);
      }
      if (any) last_event = now;
      // Right after a message the next one is near: only make way for others. Later, rest longer and longer.
      const double quiet = in_seconds(now - last_event);
      if (!flying_.empty() && quiet < 0.002) {
        lock.unlock();
        ::sched_yield();
        lock.lock();
      } else {
        wake_.wait_for(lock, comm_seconds(flying_.empty() ? 0.02 : std::min(0.001, quiet / 20)));
      }
    }
    say_goodbye(lock);
  }

  void say_goodbye(std::unique_lock<std::mutex>& lock) {
    Word word{.kind = failure_ ? WordKind::abort : WordKind::goodbye};
    if (failure_) {
      word.rank = failure_->rank;
      word.length = static_cast<std::int32_t>(failure_->reason.copy(word.reason, kReason));
    }
    say_all(word);
    const CommClock::time_point until = CommClock::now() + comm_seconds(failure_ ? 0.5 : 2);
    while (!said_.empty() && CommClock::now() < until) {
      forget_said();
      hear();   // ranks that end together must read each other's words
      wake_.wait_for(lock, comm_seconds(0.001));
    }
    ended_ = true;
    changed_.notify_all();
    lock.unlock();
    // To finalize is to wait for all ranks: never after one was lost.
    if (!failure_) api_.finalize();
  }

  const RhetorMpiApi& api_;
  std::vector<Peer> peers_;
  std::condition_variable wake_;
  std::deque<Exchange*> posted_;
  std::list<Flying> flying_;
  std::list<SentWord> said_;
  Word heard_;
  void* hearing_ = nullptr;
  bool stopping_ = false, ended_ = false;
  std::thread thread_;
};

}  // namespace

std::shared_ptr<Transport> mpi_transport(int rank, int size, const CommOptions& options) {
  return std::make_shared<MpiTransport>(load_mpi(), rank, size, options);
}

}  // namespace rhetor
