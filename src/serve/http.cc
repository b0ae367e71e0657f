#include "serve/http.h"

#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <set>

#include "base/error.h"
#include "base/log.h"
#include "serve/http_connection.h"

namespace rhetor {
namespace {

namespace asio = boost::asio;
using tcp = asio::ip::tcp;
using boost::system::error_code;

constexpr int kOtherFiles = 128;  // descriptors that are no connections: model files, logs, pipes

// How many connections the process may really hold, its limit of open files raised if it can be.
int allowed_connections(int wanted) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return wanted;
  const rlim_t needed = static_cast<rlim_t>(wanted) + kOtherFiles;
  if (limit.rlim_cur < needed) {
    limit.rlim_cur = limit.rlim_max == RLIM_INFINITY ? needed : std::min(needed, limit.rlim_max);
    ::setrlimit(RLIMIT_NOFILE, &limit);
    ::getrlimit(RLIMIT_NOFILE, &limit);
  }
  if (limit.rlim_cur >= needed) return wanted;
  const int allowed = std::max(16, static_cast<int>(limit.rlim_cur) - kOtherFiles);
  log_warning("only {} connections are possible, not {}: the system allows {} open files (ulimit -n)", allowed, wanted,
              limit.rlim_cur);
  return allowed;
}

}  // namespace

struct HttpServer::Impl : HttpHost {
  tcp::acceptor acceptor{io};
  asio::steady_timer grace{io};
  std::uint16_t port = 0;                                 // kept: the acceptor belongs to the I/O thread
  std::atomic<int> open = 0;                              // connections.size() as other threads may see it
  std::set<std::shared_ptr<HttpConnection>> connections;  // I/O thread only

  ~Impl() override { connections.clear(); }
  void accept();
  void take(tcp::socket socket);
  void stop();
  void remove(const std::shared_ptr<HttpConnection>& connection) override;
};

void HttpServer::Impl::remove(const std::shared_ptr<HttpConnection>& connection) {
  connections.erase(connection);
  open = static_cast<int>(connections.size());
  if (stopping && connections.empty()) io.stop();
}

// What has been answered may still wait in a connection's queue: idle connections are closed at once, the others when their
// answer is out, and a client that does not read its answer is given up after some seconds.
void HttpServer::Impl::stop() {
  if (stopping) return;
  stopping = true;
  error_code ignored;
  acceptor.close(ignored);
  for (const auto& connection : std::set(connections)) connection->close_when_answered();
  if (connections.empty()) return io.stop();
  grace.expires_after(std::chrono::seconds(5));
  grace.async_wait([this](error_code ec) {
    if (!ec) io.stop();
  });
}

void HttpServer::Impl::take(tcp::socket socket) {
  error_code ignored;
  socket.set_option(tcp::no_delay(true), ignored);
  // What the system holds for a client that reads slowly is bounded like our own share.
  const auto held = static_cast<int>(std::min<std::int64_t>(options.max_buffered_bytes, 1 << 20));
  socket.set_option(boost::asio::socket_base::send_buffer_size(held), ignored);
  const bool full = static_cast<int>(connections.size()) >= options.max_connections;
  // Beyond twice the headroom not even a refusal is written.
  if (static_cast<int>(connections.size()) >= options.max_connections + kOtherFiles / 2) return;
  auto connection = std::make_shared<HttpConnection>(std::move(socket), *this);
  connections.insert(connection);
  open = static_cast<int>(connections.size());
  if (full)
    connection->refuse(503, fmt::format("all {} connections are taken; try again later", options.max_connections));
  else
    connection->read();
}

void HttpServer::Impl::accept() {
  acceptor.async_accept([this](error_code ec, tcp::socket socket) {
    if (!acceptor.is_open()) return;
    if (!ec) {
      take(std::move(socket));
      return accept();
    }
    // Out of descriptors or the like: try again a little later instead of spinning.
    auto timer = std::make_shared<asio::steady_timer>(io, std::chrono::milliseconds(50));
    timer->async_wait([this, timer](error_code) { accept(); });
  });
}

HttpServer::HttpServer(HttpOptions options, HttpHandler handler) : impl_(std::make_unique<Impl>()) {
  impl_->options = std::move(options);
  impl_->options.max_connections = allowed_connections(impl_->options.max_connections);
  impl_->handler = std::move(handler);
  error_code ec;
  const auto address = asio::ip::make_address(impl_->options.host == "localhost" ? "127.0.0.1" : impl_->options.host, ec);
  if (ec) fail("'{}' is not an IP address to listen on; use 127.0.0.1, 0.0.0.0 or one of this machine's", impl_->options.host);
  const tcp::endpoint endpoint(address, impl_->options.port);
  impl_->acceptor.open(endpoint.protocol(), ec);
  if (!ec) impl_->acceptor.set_option(tcp::acceptor::reuse_address(true), ec);
  if (!ec) impl_->acceptor.bind(endpoint, ec);
  if (!ec) impl_->acceptor.listen(4096, ec);
  if (ec) {
    fail(ErrorKind::io, "cannot listen on {}:{}: {}{}", impl_->options.host, impl_->options.port, ec.message(),
         ec == asio::error::address_in_use ? "; another program has the port, choose one with --port" : "");
  }
  impl_->port = impl_->acceptor.local_endpoint().port();
  impl_->accept();
}

HttpServer::~HttpServer() = default;

std::uint16_t HttpServer::port() const { return impl_->port; }
int HttpServer::connections() const { return impl_->open; }
void HttpServer::run() { impl_->io.run(); }

void HttpServer::stop() {
  asio::post(impl_->io, [impl = impl_.get()] { impl->stop(); });
}

}  // namespace rhetor
