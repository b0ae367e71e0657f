#include "comm/socket.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <thread>

namespace rhetor {
namespace {

std::string reason() { return std::generic_category().message(errno); }

void set_up(const Socket& socket) {
  const int on = 1;
  ::setsockopt(socket.fd(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  ::fcntl(socket.fd(), F_SETFL, ::fcntl(socket.fd(), F_GETFL) | O_NONBLOCK);
}

// Waits until the socket is ready for `events`; false when the time is up.
bool ready(int fd, short events, CommClock::time_point until) {
  for (;;) {
    const double left = in_seconds(until - CommClock::now());
    pollfd item{.fd = fd, .events = events, .revents = 0};
    const int found = ::poll(&item, 1, left <= 0 ? 0 : static_cast<int>(std::min(left * 1e3 + 1, 1e6)));
    if (found > 0) return true;
    if (found < 0 && errno != EINTR) return false;
    if (left <= 0) return false;
  }
}

Socket bind_to(int family, int port, bool& unavailable) {
  Socket socket(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  unavailable = !socket;
  if (!socket) return {};
  const int on = 1, off = 0;
  ::setsockopt(socket.fd(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  int bound = -1;
  if (family == AF_INET6) {
    ::setsockopt(socket.fd(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    sockaddr_in6 address{};
    address.sin6_family = AF_INET6;
    address.sin6_port = htons(static_cast<std::uint16_t>(port));
    bound = ::bind(socket.fd(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  } else {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    bound = ::bind(socket.fd(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  }
  if (bound != 0 && errno == EADDRNOTAVAIL) unavailable = true;
  if (bound != 0 || ::listen(socket.fd(), 1024) != 0) return {};
  set_up(socket);
  return socket;
}

struct FreeAddresses {
  void operator()(addrinfo* list) const { ::freeaddrinfo(list); }
};

}  // namespace

Socket& Socket::operator=(Socket&& other) noexcept {
  if (this != &other) {
    close();
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

void Socket::close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

Socket listen_on(int port) {
  bool unavailable = false;
  Socket socket = bind_to(AF_INET6, port, unavailable);
  if (!socket && unavailable) socket = bind_to(AF_INET, port, unavailable);
  if (!socket) {
    const std::string why = reason();
    fail(ErrorKind::io, "cannot listen on port {}: {}; choose another MASTER_PORT", port, why);
  }
  return socket;
}

int port_of(const Socket& socket) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  if (::getsockname(socket.fd(), reinterpret_cast<sockaddr*>(&address), &length) != 0) return 0;
  const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&address);   // the port stands at the same place in both families
  return ntohs(v6->sin6_port);
}

Socket connect_to(const SocketAddress& address, CommClock::time_point until, std::string& why) {
  why = "the time was up";
  for (double pause = 0.02;; pause = std::min(pause * 1.5, 0.5)) {
    addrinfo hints{}, *found = nullptr;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICSERV;
    const int error = ::getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &found);
    const std::unique_ptr<addrinfo, FreeAddresses> list(found);
    if (error != 0) why = fmt::format("the name '{}' is not known ({})", address.host, ::gai_strerror(error));
    for (const addrinfo* one = found; error == 0 && one; one = one->ai_next) {
      Socket socket(::socket(one->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
      if (!socket) continue;
      set_up(socket);
      if (::connect(socket.fd(), one->ai_addr, one->ai_addrlen) != 0) {
        if (errno != EINPROGRESS) {
          why = reason();
          continue;
        }
        // One try takes a few seconds at most: a host that was down may come up.
        if (!ready(socket.fd(), POLLOUT, std::min(until, CommClock::now() + comm_seconds(3)))) {
          why = "no answer";
          continue;
        }
        int result = 0;
        socklen_t length = sizeof result;
        ::getsockopt(socket.fd(), SOL_SOCKET, SO_ERROR, &result, &length);
        if (result != 0) {
          why = std::generic_category().message(result);
          continue;
        }
      }
      return socket;
    }
    if (CommClock::now() + comm_seconds(pause) >= until) return {};
    std::this_thread::sleep_for(comm_seconds(pause));
  }
}

Socket accept_from(const Socket& listener, CommClock::time_point until) {
  while (ready(listener.fd(), POLLIN, until)) {
    Socket socket(::accept4(listener.fd(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!socket) continue;   // it was gone before we took it
    set_up(socket);
    return socket;
  }
  return {};
}

std::string peer_address(const Socket& socket) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  char text[INET6_ADDRSTRLEN] = "";
  if (::getpeername(socket.fd(), reinterpret_cast<sockaddr*>(&address), &length) != 0) return "";
  if (address.ss_family == AF_INET) {
    ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(&address)->sin_addr, text, sizeof text);
    return text;
  }
  const in6_addr& v6 = reinterpret_cast<const sockaddr_in6*>(&address)->sin6_addr;
  if (IN6_IS_ADDR_V4MAPPED(&v6)) ::inet_ntop(AF_INET, &v6.s6_addr[12], text, sizeof text);
  else ::inet_ntop(AF_INET6, &v6, text, sizeof text);
  return text;
}

bool is_loopback(const std::string& numeric_address) { return numeric_address.starts_with("127.") || numeric_address == "::1"; }

bool read_all(const Socket& socket, std::span<std::byte> bytes, CommClock::time_point until) {
  while (!bytes.empty()) {
    const ssize_t got = ::recv(socket.fd(), bytes.data(), bytes.size(), 0);
    if (got > 0) bytes = bytes.subspan(static_cast<std::size_t>(got));
    else if (got == 0 || (errno != EAGAIN && errno != EINTR)) return false;
    else if (!ready(socket.fd(), POLLIN, until)) return false;
  }
  return true;
}

bool write_all(const Socket& socket, std::span<const std::byte> bytes, CommClock::time_point until) {
  while (!bytes.empty()) {
    const ssize_t put = ::send(socket.fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (put > 0) bytes = bytes.subspan(static_cast<std::size_t>(put));
    else if (put < 0 && errno != EAGAIN && errno != EINTR) return false;
    else if (!ready(socket.fd(), POLLOUT, until)) return false;
  }
  return true;
}

}  // namespace rhetor
