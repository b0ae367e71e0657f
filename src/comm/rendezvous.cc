#include "comm/rendezvous.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <random>

namespace rhetor {
namespace {

constexpr std::uint64_t kMagic = 0x31544d4f43544852u;   // "RHTCOMT1": also the version
constexpr std::size_t kHost = 64, kAddress = 64, kText = 400;

// A rank's first words on a connection: to rank 0, and to the ranks below it. `run` is 0 in the first, rank 0's number in the second.
struct Hello {
  std::uint64_t magic, run;
  std::int32_t rank, size, port, process;
  char host[kHost];
};
// Rank 0's answer: an error (refused, with text), or the number of the run, after which `size` entries follow.
struct Answer {
  std::uint64_t magic, run;
  std::int32_t refused, size;
  char text[kText];
};
struct Entry {
  std::int32_t port, process;
  char address[kAddress];   // empty: rank 0's own machine
  char host[kHost];
};

template <std::size_t N>
void put(char (&field)[N], const std::string& text) {
  std::memset(field, 0, N);
  std::memcpy(field, text.data(), std::min(text.size(), N - 1));
}
template <std::size_t N>
std::string get(const char (&field)[N]) {
  return std::string(field, ::strnlen(field, N));
}
template <class T>
std::span<std::byte> raw(T& value) { return std::as_writable_bytes(std::span(&value, 1)); }

Hello hello_of(int rank, int size, int port, std::uint64_t run) {
  const RankPlace place = this_place();
  Hello hello{.magic = kMagic, .run = run, .rank = rank, .size = size, .port = port, .process = place.process};
  put(hello.host, place.host);
  return hello;
}

struct Guest {
  Socket socket;
  Hello hello{};
};

// Collects one Hello each from `wanted` connections that `accept` finds good, whatever else connects. `missing` says who lacks.
class Door {
 public:
  Door(const Socket& listener, CommClock::time_point until) : listener_(listener), until_(until) {}
  // The next guest whose Hello is complete; no socket when the time is up.
  Guest next() {
    for (;;) {
      std::vector<pollfd> items{{.fd = listener_.fd(), .events = POLLIN, .revents = 0}};
      for (const Waiting& one : waiting_) items.push_back({.fd = one.guest.socket.fd(), .events = POLLIN, .revents = 0});
      const double left = in_seconds(until_ - CommClock::now());
      if (left <= 0) return {};
      ::poll(items.data(), items.size(), static_cast<int>(std::min(left * 1e3 + 1, 1e4)));
      if (items[0].revents && waiting_.size() < 4096) {
        Socket socket = accept_from(listener_, CommClock::now());
        if (socket) waiting_.push_back({.guest = {.socket = std::move(socket)}});
      }
      for (std::size_t i = 0; i + 1 < items.size(); ++i) {
        if (!items[i + 1].revents) continue;
        Waiting& one = waiting_[i];
        const auto bytes = raw(one.guest.hello).subspan(one.got);
        const ssize_t got = ::read(one.guest.socket.fd(), bytes.data(), bytes.size());
        if (got > 0) one.got += static_cast<std::size_t>(got);
        const bool stranger = got == 0 || (one.got >= sizeof kMagic && one.guest.hello.magic != kMagic);
        const bool whole = one.got == sizeof(Hello);
        if (!stranger && !whole) continue;
        Guest guest = std::move(one.guest);
        waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
        if (!stranger) return guest;
        break;   // the indices have moved
      }
    }
  }

 private:
  struct Waiting {
    Guest guest;
    std::size_t got = 0;
  };
  const Socket& listener_;
  CommClock::time_point until_;
  std::vector<Waiting> waiting_;
};

std::string list(const std::vector<int>& ranks) {
  std::string text = ranks.size() == 1 ? "rank" : "ranks";
  for (std::size_t i = 0; i < ranks.size() && i < 20; ++i) text += fmt::format("{} {}", i ? "," : "", ranks[i]);
  return ranks.size() > 20 ? text + ", .." : text;
}

std::vector<int> absent(const std::vector<Socket>& links, int first, int size) {
  std::vector<int> ranks;
  for (int r = first; r < size; ++r)
    if (!links[static_cast<std::size_t>(r)]) ranks.push_back(r);
  return ranks;
}

class Host {   // rank 0's part
 public:
  Host(const SocketAddress& master, int size, const CommOptions& options)
      : master_(master), size_(size), options_(options), until_(CommClock::now() + comm_seconds(options.rendezvous)) {}

  Meeting meet() {
    const Socket listener = listen_on(master_.port);
    Door door(listener, until_);
    Meeting meeting;
    meeting.links.resize(static_cast<std::size_t>(size_));
    meeting.places.resize(static_cast<std::size_t>(size_));
    meeting.places[0] = this_place();
    std::vector<Entry> entries(static_cast<std::size_t>(size_));
    put(entries[0].host, meeting.places[0].host);
    entries[0].process = meeting.places[0].process;
    for (int come = 1; come < size_; ++come) {
      Guest guest = door.next();
      if (!guest.socket)
        refuse(meeting, nullptr, fmt::format("after {:.3g} s {} of {} had not come to {}; start as many processes as WORLD_SIZE says, each "
                                             "with its own RANK", options_.rendezvous, list(absent(meeting.links, 1, size_)), size_, master_.str()));
      const Hello& hello = guest.hello;
      const std::string who = fmt::format("the process {} on {}", hello.process, get(hello.host));
      if (hello.size != size_)
        refuse(meeting, &guest, fmt::format("{} believes in {} ranks, rank 0 in {}; give all the same WORLD_SIZE", who, hello.size, size_));
      if (hello.rank < 0 || hello.rank >= size_ || hello.rank == 0 || meeting.links[static_cast<std::size_t>(hello.rank)])
        refuse(meeting, &guest, fmt::format("{} says it is rank {}, which {}; give every process its own RANK", who, hello.rank,
                                            hello.rank < 0 || hello.rank >= size_ ? "does not exist" : "is taken"));
      const auto r = static_cast<std::size_t>(hello.rank);
      const std::string address = peer_address(guest.socket);
      put(entries[r].address, is_loopback(address) ? "" : address);
      put(entries[r].host, get(hello.host));
      entries[r].port = hello.port;
      entries[r].process = hello.process;
      meeting.places[r] = {get(hello.host), hello.process};
      meeting.links[r] = std::move(guest.socket);
    }
    std::random_device random;
    Answer answer{.magic = kMagic, .run = std::uint64_t{random()} << 32 | random() | 1, .size = size_};
    for (int r = 1; r < size_; ++r) {
      const Socket& link = meeting.links[static_cast<std::size_t>(r)];
      if (!write_all(link, raw(answer), until_) || !write_all(link, std::as_bytes(std::span(entries)), until_))
        fail(ErrorKind::io, "rank {} went away while the ranks were coming together", r);
    }
    return meeting;
  }

 private:
  // Tells everyone who has come, and throws.
  [[noreturn]] void refuse(const Meeting& meeting, const Guest* last, const std::string& text) const {
    Answer answer{.magic = kMagic, .refused = 1, .size = size_};
    put(answer.text, text);
    const CommClock::time_point soon = CommClock::now() + comm_seconds(1);
    for (const Socket& link : meeting.links)
      if (link) write_all(link, raw(answer), soon);
    if (last) write_all(last->socket, raw(answer), soon);
    fail(ErrorKind::io, "{}", text);
  }
  SocketAddress master_;
  int size_;
  CommOptions options_;
  CommClock::time_point until_;
};

Meeting join(const SocketAddress& master, int rank, int size, const CommOptions& options) {
  // Longer than rank 0's limit, which knows who is missing and says it.
  const CommClock::time_point until = CommClock::now() + comm_seconds(options.rendezvous), later = until + comm_seconds(3);
  const Socket listener = listen_on(0);
  Meeting meeting;
  meeting.links.resize(static_cast<std::size_t>(size));
  meeting.places.resize(static_cast<std::size_t>(size));
  std::string why;
  Socket to_master = connect_to(master, until, why);
  if (!to_master)
    fail(ErrorKind::io, "rank {} could not reach rank 0 at {} within {:.3g} s: {}; check MASTER_ADDR and MASTER_PORT, and that rank 0 runs", rank,
         master.str(), options.rendezvous, why);
  const std::string master_address = peer_address(to_master);
  Hello hello = hello_of(rank, size, port_of(listener), 0);
  Answer answer{};
  if (!write_all(to_master, raw(hello), until) || !read_all(to_master, raw(answer), later) || answer.magic != kMagic)
    fail(ErrorKind::io, "rank {} got no answer from rank 0 at {}: it ended, or another program listens there", rank, master.str());
  if (answer.refused) fail(ErrorKind::io, "{}", get(answer.text));
  std::vector<Entry> entries(static_cast<std::size_t>(size));
  if (answer.size != size || !read_all(to_master, std::as_writable_bytes(std::span(entries)), later))
    fail(ErrorKind::io, "rank {} lost rank 0 at {} while the ranks were coming together", rank, master.str());
  for (std::size_t r = 0; r < entries.size(); ++r) meeting.places[r] = {get(entries[r].host), entries[r].process};
  meeting.links[0] = std::move(to_master);

  // Everyone calls the ranks below and opens to those above.
  hello.run = answer.run;
  for (int r = 1; r < rank; ++r) {
    const Entry& entry = entries[static_cast<std::size_t>(r)];
    const std::string address = get(entry.address);
    const SocketAddress place{address.empty() ? master_address : address, entry.port};
    Socket link = connect_to(place, later, why);
    if (!link || !write_all(link, raw(hello), later))
      fail(ErrorKind::io, "rank {} could not reach rank {} at {}: {}; every rank must be able to connect to every other", rank, r, place.str(), why);
    meeting.links[static_cast<std::size_t>(r)] = std::move(link);
  }
  Door door(listener, later);
  for (int come = rank + 1; come < size;) {
    Guest guest = door.next();
    if (!guest.socket)
      fail(ErrorKind::io, "rank {} was not called by {} in time; every rank must be able to connect to every other", rank,
           list(absent(meeting.links, rank + 1, size)));
    const Hello& other = guest.hello;
    if (other.run != answer.run || other.rank <= rank || other.rank >= size || meeting.links[static_cast<std::size_t>(other.rank)]) continue;
    meeting.links[static_cast<std::size_t>(other.rank)] = std::move(guest.socket);
    ++come;
  }
  return meeting;
}

}  // namespace

RankPlace this_place() {
  char name[kHost] = "";
  ::gethostname(name, sizeof name - 1);
  return {name, static_cast<int>(::getpid())};
}

Meeting meet(const SocketAddress& master, int rank, int size, const CommOptions& options) {
  if (size < 1 || rank < 0 || rank >= size) fail("there is no rank {} among {} ranks", rank, size);
  if (size == 1) {
    Meeting alone;
    alone.links.resize(1);
    alone.places = {this_place()};
    return alone;
  }
  return rank == 0 ? Host(master, size, options).meet() : join(master, rank, size, options);
}

}  // namespace rhetor
