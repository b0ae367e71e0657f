// TCP sockets with time limits, for the meeting of the ranks and for the bytes between them.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <utility>

#include "comm/transport.h"

namespace rhetor {

class Socket {
 public:
  Socket() = default;
  explicit Socket(int fd) : fd_(fd) {}
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&& other) noexcept;
  ~Socket() { close(); }
  int fd() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  void close();

 private:
  int fd_ = -1;
};

struct SocketAddress {
  std::string host;   // a name or a numeric address, v4 or v6
  int port = 0;
  std::string str() const { return host.find(':') == std::string::npos ? fmt::format("{}:{}", host, port) : fmt::format("[{}]:{}", host, port); }
};

// Listens on all interfaces; port 0: any free one. Fails with the reason.
Socket listen_on(int port);
int port_of(const Socket& socket);
// Tries again until `until`, because the other side may not be up yet. Non-blocking, without delay (TCP_NODELAY).
// Not connected in time: an empty socket, and the last reason in `why`.
Socket connect_to(const SocketAddress& address, CommClock::time_point until, std::string& why);
// The next connection, set up likewise; empty when none came in time.
Socket accept_from(const Socket& listener, CommClock::time_point until);
// The numeric address of the other end.
std::string peer_address(const Socket& socket);
bool is_loopback(const std::string& numeric_address);

// Whole reads and writes on a non-blocking socket; false when the connection ends or the time is up.
bool read_all(const Socket& socket, std::span<std::byte> bytes, CommClock::time_point until);
bool write_all(const Socket& socket, std::span<const std::byte> bytes, CommClock::time_point until);

}  // namespace rhetor
