// One thread looks after all connections: it reads, writes what post() could not write at once, sends signs of life and misses those
// of the others. One lock guards everything; it is held while bytes are copied to and from the kernel, never while waiting.
#include "comm/tcp.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <thread>

#include "comm/mailbox.h"
#include "comm/waiting.h"

namespace rhetor {
namespace {

enum class FrameKind : std::uint32_t { data = 1, heartbeat, abort, goodbye };
struct Frame {
  FrameKind kind = FrameKind::heartbeat;
  std::uint32_t channel = 0;
  std::uint64_t length = 0;
};
// Words that follow an abort frame: who is at fault (i32), then the reason.
constexpr std::uint64_t kLongestReason = 4096;
// Messages a rank may send before anyone wants them: more is no behaviour of ours.
constexpr std::uint64_t kMostKept = std::uint64_t{1} << 28;
constexpr double kFlushSeconds = 2;   // for the last words

struct Output {
  Frame frame;
  const std::byte* bytes = nullptr;
  Exchange* exchange = nullptr;
  Outgoing* message = nullptr;
  std::vector<std::byte> own;   // what `bytes` points at, when nobody else keeps it
};

struct Link {
  Socket socket;
  std::deque<Output> out;
  std::size_t written = 0;                // of the front: frame and bytes
  Frame frame;                            // that is being read
  std::size_t got = 0;                    // of it: frame and bytes
  Mailbox::Wanted target;                 // where its bytes go, or
  std::vector<std::byte> buffer;          // here
  Mailbox mailbox;
  CommClock::time_point last_sign = CommClock::now();
  bool left = false;                      // said goodbye, or has no connection any more
};

class TcpTransport final : public WaitingTransport {
 public:
  TcpTransport(Meeting meeting, int rank, int size, const CommOptions& options)
      : WaitingTransport(rank, size, options), places_(std::move(meeting.places)), links_(static_cast<std::size_t>(size)) {
    for (std::size_t r = 0; r < links_.size(); ++r) {
      links_[r].socket = std::move(meeting.links[r]);
      links_[r].left = !links_[r].socket;
    }
    wake_ = Socket(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    if (!wake_) fail(ErrorKind::resource, "no file descriptor is left for the connections between ranks; raise the limit (ulimit -n)");
    thread_ = std::thread([this] { look_after(); });
  }
  ~TcpTransport() override {
    {
      const std::lock_guard lock(mutex_);
      if (!failure_)
        for (Link& link : links_)
          if (!link.left) link.out.push_back({.frame = {.kind = FrameKind::goodbye}});
      stopping_ = true;
    }
    ring();
    thread_.join();
  }

  std::string_view backend() const override { return "tcp"; }
  std::string label(int rank) const override {
    const RankPlace& place = places_[static_cast<std::size_t>(rank)];
    return fmt::format("rank {} ({}, process {})", rank, place.host, place.process);
  }
  double silent_for(int rank) override {
    const std::lock_guard lock(mutex_);
    return in_seconds(CommClock::now() - links_[static_cast<std::size_t>(rank)].last_sign);
  }

  void post(Exchange& exchange) override {
    const std::lock_guard lock(mutex_);
    exchange.sending = static_cast<int>(exchange.out.size());
    exchange.receiving = static_cast<int>(exchange.in.size());
    if (failure_) return;
    for (Incoming& message : exchange.in) {
      Link& link = links_[static_cast<std::size_t>(message.from)];
      // A message that has begun to arrive goes on into the buffer it began in: the receive meets it there.
      link.mailbox.want(exchange, message);
      check_link(message.from);
    }
    bool rest = false;
    for (Outgoing& message : exchange.out) {
      Link& link = links_[static_cast<std::size_t>(message.to)];
      if (link.left) {
        lose(message.to, "has left");
        break;
      }
      link.out.push_back({.frame = {.kind = FrameKind::data, .channel = exchange.channel, .length = message.bytes.size()},
                          .bytes = message.bytes.data(), .exchange = &exchange, .message = &message});
      write(message.to);
      rest = rest || !link.out.empty();
    }
    if (rest) ring();
  }

  void cancel(Exchange& exchange) override {
    const std::lock_guard lock(mutex_);
    for (std::size_t r = 0; r < links_.size(); ++r) {
      Link& link = links_[r];
      link.mailbox.forget(exchange);
      if (link.target.exchange == &exchange) {
        // The rest of the message has nowhere to go but must be read all the same.
        link.target = {};
        link.buffer.resize(link.frame.length);
      }
      drop_unwritten(link, &exchange);
    }
  }

  void fail_all(CommFailure failure) override {
    const std::lock_guard lock(mutex_);
    fail_locked(std::move(failure));
  }

 private:
  void ring() {
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t n = ::write(wake_.fd(), &one, sizeof one);
  }

  // ---- REQUIRES for all that follow: the lock is held ---------------------------------------------------------------------------

  // Messages of one exchange (of all: null) that have not begun are dropped; one that has begun goes on from a copy, so that the
  // stream stays readable.
  static void drop_unwritten(Link& link, const Exchange* exchange) {
    for (std::size_t i = link.out.size(); i-- > 0;) {
      Output& output = link.out[i];
      if (!output.message || (exchange && output.exchange != exchange)) continue;
      if (i == 0 && link.written > 0) {
        output.own.assign(output.bytes, output.bytes + output.frame.length);
        output.bytes = output.own.data();
        output.exchange = nullptr;
        output.message = nullptr;
      } else {
        link.out.erase(link.out.begin() + static_cast<std::ptrdiff_t>(i));
      }
    }
  }

  void fail_locked(CommFailure failure) {
    if (failure_) return;
    if (failure.reason.size() > kLongestReason) failure.reason.resize(kLongestReason);
    for (Link& link : links_) {
      if (link.left) continue;
      drop_unwritten(link, nullptr);
      Output output{.frame = {.kind = FrameKind::abort, .length = sizeof(std::int32_t) + failure.reason.size()}};
      output.own.resize(output.frame.length);
      const std::int32_t rank = failure.rank;
      std::memcpy(output.own.data(), &rank, sizeof rank);
      std::memcpy(output.own.data() + sizeof rank, failure.reason.data(), failure.reason.size());
      link.out.push_back(std::move(output));
      link.out.back().bytes = link.out.back().own.data();
    }
    failure_ = std::move(failure);
    changed_.notify_all();
    ring();
  }

  void lose(int rank, std::string_view how) { fail_locked({rank, fmt::format("{} {}", label(rank), how)}); }

  void check_link(int rank) {
    Link& link = links_[static_cast<std::size_t>(rank)];
    if (link.mailbox.mismatch()) fail_locked({rank, fmt::format("internal error: a message of {} had another length than expected", label(rank))});
    if (link.left && link.mailbox.anything_wanted()) lose(rank, "has left: its work ended before this");
  }

  void write(int rank) {
    Link& link = links_[static_cast<std::size_t>(rank)];
    while (!link.out.empty()) {
      Output& front = link.out.front();
      iovec parts[2];
      int count = 0;
      if (link.written < sizeof(Frame))
        parts[count++] = {reinterpret_cast<char*>(&front.frame) + link.written, sizeof(Frame) - link.written};
      const std::size_t before = link.written < sizeof(Frame) ? 0 : link.written - sizeof(Frame);
      if (before < front.frame.length) parts[count++] = {const_cast<std::byte*>(front.bytes) + before, front.frame.length - before};
      msghdr message{};
      message.msg_iov = parts;
      message.msg_iovlen = static_cast<std::size_t>(count);
      const ssize_t put = ::sendmsg(link.socket.fd(), &message, MSG_NOSIGNAL);
      if (put < 0) {
        if (errno == EINTR) continue;
        if (errno == EAGAIN) return;
        read(rank);   // its last words may be here
        if (!link.left && !failure_) lose(rank, "is lost: its connection broke (the process was killed or has crashed)");
        link.left = true;
        link.out.clear();
        link.written = 0;
        return;
      }
      link.written += static_cast<std::size_t>(put);
      if (link.written < sizeof(Frame) + front.frame.length) continue;
      if (front.message) {
        front.message->done = true;
        if (--front.exchange->sending == 0) changed_.notify_all();
      }
      link.out.pop_front();
      link.written = 0;
    }
  }

  // Reads what is there, a few messages at most.
  void read(int rank) {
    Link& link = links_[static_cast<std::size_t>(rank)];
    for (int turns = 0; turns < 64 && link.socket;) {
      std::byte* into;
      std::size_t wanted;
      if (link.got < sizeof(Frame)) {
        into = reinterpret_cast<std::byte*>(&link.frame) + link.got;
        wanted = sizeof(Frame) - link.got;
      } else {
        const std::size_t before = link.got - sizeof(Frame);
        into = (link.target.message ? link.target.message->into.data() : link.buffer.data()) + before;
        wanted = link.frame.length - before;
      }
      const ssize_t got = ::recv(link.socket.fd(), into, wanted, 0);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0 && errno == EAGAIN) return;
      if (got <= 0) {
        const bool expected = link.left || failure_;
        link.left = true;
        link.socket.close();
        link.out.clear();
        if (!expected) lose(rank, "is lost: its connection was closed (the process was killed or has crashed)");
        return;
      }
      link.last_sign = CommClock::now();
      link.got += static_cast<std::size_t>(got);
      if (link.got == sizeof(Frame) && !begin(rank)) return;
      if (link.got == sizeof(Frame) + link.frame.length) {
        complete(rank);
        ++turns;
      }
    }
  }

  // A frame's head is here. False when it makes no sense.
  bool begin(int rank) {
    Link& link = links_[static_cast<std::size_t>(rank)];
    const Frame& frame = link.frame;
    bool sound = frame.length == 0;
    if (frame.kind == FrameKind::abort) sound = frame.length >= sizeof(std::int32_t) && frame.length <= kLongestReason + sizeof(std::int32_t);
    if (frame.kind == FrameKind::data) {
      link.target = link.mailbox.take(frame.channel);
      if (link.target.message) sound = link.target.message->into.size() == frame.length;
      else sound = frame.length + link.mailbox.kept_bytes() <= kMostKept;
    }
    if (!sound || frame.kind < FrameKind::data || frame.kind > FrameKind::goodbye) {
      lose(rank, fmt::format("sent what makes no sense here (kind {}, {} bytes)", static_cast<std::uint32_t>(frame.kind), frame.length));
      link.left = true;
      link.socket.close();
      link.out.clear();
      return false;
    }
    link.buffer.resize(link.target.message ? 0 : frame.length);
    return true;
  }

  void complete(int rank) {
    Link& link = links_[static_cast<std::size_t>(rank)];
    link.got = 0;
    switch (link.frame.kind) {
      case FrameKind::heartbeat: break;
      case FrameKind::goodbye:
        link.left = true;
        check_link(rank);
        break;
      case FrameKind::abort: {
        std::int32_t culprit = -1;
        std::memcpy(&culprit, link.buffer.data(), sizeof culprit);
        const std::string reason(reinterpret_cast<const char*>(link.buffer.data()) + sizeof culprit, link.buffer.size() - sizeof culprit);
        link.left = true;   // nothing more comes from it
        // Passed on: whoever hears only that this rank ended, before it hears why, would blame it.
        fail_locked({culprit >= 0 && culprit < size() ? culprit : -1, reason});
        break;
      }
      case FrameKind::data:
        if (link.target.message) {
          Mailbox::complete(link.target, link.last_sign);
          link.target = {};
          changed_.notify_all();
        } else if (link.mailbox.keep(link.frame.channel, std::move(link.buffer), link.last_sign)) {
          changed_.notify_all();
        }
        link.buffer.clear();
        check_link(rank);
    }
  }

  void tend(CommClock::time_point now, CommClock::time_point& next_sign) {
    for (int r = 0; r < size(); ++r) {
      Link& link = links_[static_cast<std::size_t>(r)];
      if (link.left) continue;
      const double silent = in_seconds(now - link.last_sign);
      if (silent > options().silence && !stopping_)
        lose(r, fmt::format("is lost: no sign of life for {:.1f} s (its process is stopped, or its machine or network is down)", silent));
      if (now >= next_sign && link.out.empty()) {
        link.out.push_back({.frame = {.kind = FrameKind::heartbeat}});
        write(r);
      }
    }
    if (now >= next_sign) next_sign = now + comm_seconds(options().heartbeat);
  }

  // ---- the thread --------------------------------------------------------------------------------------------------------------

  void look_after() {
    std::vector<pollfd> items;
    std::vector<int> ranks;
    CommClock::time_point next_sign = CommClock::now(), give_up = CommClock::time_point::max();
    std::unique_lock lock(mutex_);
    for (;;) {
      if (stopping_ && give_up == CommClock::time_point::max()) give_up = CommClock::now() + comm_seconds(kFlushSeconds);
      items.assign(1, {.fd = wake_.fd(), .events = POLLIN, .revents = 0});
      ranks.assign(1, -1);
      bool unsaid = false;
      for (int r = 0; r < size(); ++r) {
        const Link& link = links_[static_cast<std::size_t>(r)];
        if (!link.socket) continue;
        unsaid = unsaid || !link.out.empty();
        items.push_back({.fd = link.socket.fd(), .events = static_cast<short>(link.out.empty() ? POLLIN : POLLIN | POLLOUT), .revents = 0});
        ranks.push_back(r);
      }
      if (stopping_ && (!unsaid || CommClock::now() > give_up)) return;
      lock.unlock();
      const double pause = std::min(options().heartbeat / 2, stopping_ ? 0.1 : 1.0);
      ::poll(items.data(), items.size(), static_cast<int>(pause * 1e3) + 1);
      lock.lock();
      if (items[0].revents) {
        std::uint64_t count;
        [[maybe_unused]] const ssize_t n = ::read(wake_.fd(), &count, sizeof count);
      }
      for (std::size_t i = 1; i < items.size(); ++i) {
        if (items[i].revents & (POLLIN | POLLHUP | POLLERR)) read(ranks[i]);
        if (items[i].revents & POLLOUT) write(ranks[i]);
      }
      tend(CommClock::now(), next_sign);
    }
  }

  std::vector<RankPlace> places_;
  std::vector<Link> links_;
  Socket wake_;
  std::atomic<bool> stopping_ = false;
  std::thread thread_;
};

}  // namespace

std::shared_ptr<Transport> tcp_transport(Meeting meeting, int rank, int size, const CommOptions& options) {
  return std::make_shared<TcpTransport>(std::move(meeting), rank, size, options);
}

}  // namespace rhetor
