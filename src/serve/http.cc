#include "serve/http.h"

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>

#include <atomic>
#include <chrono>
#include <deque>
#include <optional>
#include <set>
#include <utility>

#include "base/error.h"

namespace rhetor {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using tcp = asio::ip::tcp;
using boost::system::error_code;

std::chrono::milliseconds to_duration(double seconds) { return std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1000)); }

std::string error_body(std::string_view message, std::string_view type = "invalid_request_error") {
  return fmt::format("{{\"error\": {{\"message\": \"{}\", \"type\": \"{}\", \"param\": null, \"code\": null}}}}\n", message, type);
}

}  // namespace

class Connection;

struct HttpServer::Impl {
  HttpOptions options;
  HttpHandler handler;
  asio::io_context io{1};
  tcp::acceptor acceptor{io};
  asio::steady_timer grace{io};
  std::uint16_t port = 0;              // kept: the acceptor belongs to the I/O thread
  // I/O thread only:
  std::set<std::shared_ptr<Connection>> connections;
  bool stopping = false;
  void accept();
  void stop();
  void remove(const std::shared_ptr<Connection>& connection);
};

// One TCP connection: reads a request, hands it to the handler, writes what the Responder says, reads the next. All members are
// touched on the I/O thread only, but `gone`.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(tcp::socket socket, HttpServer::Impl& server) : stream_(std::move(socket)), server_(server) {}

  void read();
  void close();
  void close_when_answered();

  // ---- called by the Responder through the I/O thread; `id` is the request they belong to ----
  void send(std::uint64_t id, int status, const std::string& type, std::string body, const std::vector<std::pair<std::string, std::string>>& headers);
  void begin_stream(std::uint64_t id, const std::string& type);
  void chunk(std::uint64_t id, const std::string& data);
  void end(std::uint64_t id);

 private:
  class Reply;
  void on_header(error_code ec);
  void on_request(error_code ec);
  void refuse(int status, std::string_view message);
  void watch_for_close();
  void enqueue(std::string bytes);
  void flush();
  void finished();
  void linger();

  beast::tcp_stream stream_;
  HttpServer::Impl& server_;
  beast::flat_buffer buffer_{1 << 20};
  std::optional<http::request_parser<http::string_body>> parser_;
  std::deque<std::string> queue_;
  std::uint64_t request_ = 0;          // number of the request being answered
  bool answering_ = false, streaming_ = false, keep_alive_ = true, chunked_ = true, head_only_ = false, writing_ = false, last_queued_ = false, closed_ = false;
  std::shared_ptr<std::atomic<bool>> gone_;
};

class Connection::Reply : public Responder {
 public:
  Reply(std::shared_ptr<Connection> connection, asio::io_context& io, std::uint64_t id, std::shared_ptr<std::atomic<bool>> gone)
      : connection_(std::move(connection)), io_(io), id_(id), gone_(std::move(gone)) {}

  void send(int status, std::string_view type, std::string body, const std::vector<std::pair<std::string, std::string>>& headers) override {
    asio::post(io_, [c = connection_, id = id_, status, type = std::string(type), body = std::move(body), headers]() mutable {
      c->send(id, status, type, std::move(body), headers);
    });
  }
  void begin_stream(std::string_view type) override {
    asio::post(io_, [c = connection_, id = id_, type = std::string(type)] { c->begin_stream(id, type); });
  }
  void write(std::string data) override {
    asio::post(io_, [c = connection_, id = id_, data = std::move(data)] { c->chunk(id, data); });
  }
  void end() override {
    asio::post(io_, [c = connection_, id = id_] { c->end(id); });
  }
  bool closed() const override { return gone_->load(std::memory_order_relaxed); }

 private:
  std::shared_ptr<Connection> connection_;
  asio::io_context& io_;
  std::uint64_t id_;
  std::shared_ptr<std::atomic<bool>> gone_;
};

void Connection::read() {
  parser_.emplace();
  parser_->header_limit(16 << 10);
  parser_->body_limit(server_.options.max_body_bytes);
  stream_.expires_after(to_duration(server_.options.idle_timeout_s));
  http::async_read_header(stream_, buffer_, *parser_, [self = shared_from_this()](error_code ec, std::size_t) { self->on_header(ec); });
}

void Connection::on_header(error_code ec) {
  if (ec == http::error::body_limit) {
    return refuse(413, fmt::format("the body is larger than the {} bytes allowed", server_.options.max_body_bytes));
  }
  if (ec == http::error::header_limit) return refuse(431, "the header is larger than the 16384 bytes allowed");
  if (ec == http::error::end_of_stream || ec == beast::error::timeout || ec == asio::error::operation_aborted) return close();
  if (ec) {
    // A broken transport cannot be answered; a malformed request can.
    return ec.category() == http::make_error_code(http::error::bad_method).category() ? refuse(400, "this is not an HTTP/1.1 request") : close();
  }
  if (beast::iequals(parser_->get()[http::field::expect], "100-continue")) {
    static const std::string go_on = "HTTP/1.1 100 Continue\r\n\r\n";
    asio::async_write(stream_, asio::buffer(go_on), [self = shared_from_this()](error_code failed, std::size_t) {
      if (failed) return self->close();
      http::async_read(self->stream_, self->buffer_, *self->parser_, [self](error_code e, std::size_t) { self->on_request(e); });
    });
    return;
  }
  http::async_read(stream_, buffer_, *parser_, [self = shared_from_this()](error_code e, std::size_t) { self->on_request(e); });
}

void Connection::on_request(error_code ec) {
  if (ec == http::error::body_limit) {
    return refuse(413, fmt::format("the body is larger than the {} bytes allowed", server_.options.max_body_bytes));
  }
  if (ec == beast::error::timeout) return refuse(408, "the request did not arrive in time");
  if (ec) return close();
  stream_.expires_never();
  auto message = parser_->release();
  ++request_;
  answering_ = true;
  streaming_ = false;
  last_queued_ = false;
  keep_alive_ = message.keep_alive();
  chunked_ = message.version() >= 11;
  head_only_ = message.method() == http::verb::head;
  gone_ = std::make_shared<std::atomic<bool>>(false);
  watch_for_close();
  HttpRequest request;
  request.method = std::string(message.method_string());
  const auto target = message.target();
  request.target = std::string(target.substr(0, target.find('?')));
  request.body = std::move(message.body());
  auto reply = std::make_shared<Reply>(shared_from_this(), server_.io, request_, gone_);
  try {
    server_.handler(request, reply);
  } catch (const std::exception&) {
    reply->send(500, "application/json", error_body("internal error", "server_error"), {});
  }
}

void Connection::refuse(int status, std::string_view message) {
  stream_.expires_after(to_duration(5));
  ++request_;
  answering_ = true;
  keep_alive_ = false;
  head_only_ = false;                  // of the request before
  send(request_, status, "application/json", error_body(message), {});
}

// A client that hangs up makes the socket readable with nothing to read.
void Connection::watch_for_close() {
  stream_.socket().async_wait(tcp::socket::wait_read, [self = shared_from_this(), id = request_](error_code ec) {
    if (ec || self->closed_ || self->request_ != id || !self->answering_) return;
    error_code failed;
    if (self->stream_.socket().available(failed) == 0 || failed) self->close();
  });
}

void Connection::send(std::uint64_t id, int status, const std::string& type, std::string body,
                      const std::vector<std::pair<std::string, std::string>>& headers) {
  if (closed_ || id != request_ || !answering_ || streaming_ || last_queued_) return;
  std::string head = fmt::format("HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: {}\r\n", status,
                                 std::string(http::obsolete_reason(static_cast<http::status>(status))), type, body.size(),
                                 keep_alive_ ? "keep-alive" : "close");
  for (const auto& [name, value] : headers) head += name + ": " + value + "\r\n";
  head += "\r\n";
  last_queued_ = true;
  enqueue(head_only_ ? head : head + body);
}

void Connection::begin_stream(std::uint64_t id, const std::string& type) {
  if (closed_ || id != request_ || !answering_ || streaming_ || last_queued_) return;
  streaming_ = true;
  if (!chunked_) keep_alive_ = false;   // HTTP/1.0: the end of the connection ends the stream
  enqueue(fmt::format("HTTP/1.1 200 OK\r\nContent-Type: {}\r\nCache-Control: no-cache\r\nX-Accel-Buffering: no\r\n{}Connection: {}\r\n\r\n", type,
                      chunked_ ? "Transfer-Encoding: chunked\r\n" : "", keep_alive_ ? "keep-alive" : "close"));
}

void Connection::chunk(std::uint64_t id, const std::string& data) {
  if (closed_ || id != request_ || !streaming_ || last_queued_ || data.empty()) return;
  enqueue(chunked_ ? fmt::format("{:x}\r\n", data.size()) + data + "\r\n" : data);
}

void Connection::end(std::uint64_t id) {
  if (closed_ || id != request_ || !streaming_ || last_queued_) return;
  last_queued_ = true;
  enqueue(chunked_ ? "0\r\n\r\n" : "");
}

void Connection::enqueue(std::string bytes) {
  queue_.push_back(std::move(bytes));
  if (!writing_) flush();
}

void Connection::flush() {
  if (queue_.empty()) {
    if (last_queued_) finished();
    return;
  }
  writing_ = true;
  // A client that reads nothing for this long is gone; its buffered text is bounded by the token limit.
  stream_.expires_after(to_duration(server_.options.idle_timeout_s));
  asio::async_write(stream_, asio::buffer(queue_.front()), [self = shared_from_this()](error_code ec, std::size_t) {
    self->writing_ = false;
    if (ec) return self->close();
    self->queue_.pop_front();
    self->stream_.expires_never();
    self->flush();
  });
}

void Connection::finished() {
  answering_ = false;
  streaming_ = false;
  last_queued_ = false;
  error_code ignored;
  stream_.socket().cancel(ignored);    // ends watch_for_close()
  if (keep_alive_ && server_.acceptor.is_open()) return read();
  stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
  buffer_.clear();
  stream_.expires_after(to_duration(server_.stopping ? 0.5 : 5));
  linger();
}

void Connection::close_when_answered() {
  if (answering_) keep_alive_ = false;
  else close();
}

// Closing while the client still sends would reset the connection and lose our answer: read and drop what comes, for a while.
void Connection::linger() {
  stream_.async_read_some(buffer_.prepare(64 << 10), [self = shared_from_this()](error_code ec, std::size_t) {
    if (ec) return self->close();
    self->linger();
  });
}

void Connection::close() {
  if (closed_) return;
  closed_ = true;
  if (gone_) gone_->store(true, std::memory_order_relaxed);
  stream_.close();
  server_.remove(shared_from_this());
}

void HttpServer::Impl::remove(const std::shared_ptr<Connection>& connection) {
  connections.erase(connection);
  if (stopping && connections.empty()) io.stop();
}

// What has been answered may still wait in a connection's queue: idle connections are closed at once, the others when their answer is
// out, and a client that does not read its answer is given up after some seconds.
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

void HttpServer::Impl::accept() {
  acceptor.async_accept([this](error_code ec, tcp::socket socket) {
    if (!acceptor.is_open()) return;
    if (!ec) {
      if (static_cast<int>(connections.size()) < options.max_connections) {
        error_code ignored;
        socket.set_option(tcp::no_delay(true), ignored);
        auto connection = std::make_shared<Connection>(std::move(socket), *this);
        connections.insert(connection);
        connection->read();
      }
      return accept();
    }
    // Out of descriptors or the like: try again a little later instead of spinning.
    auto timer = std::make_shared<asio::steady_timer>(io, std::chrono::milliseconds(50));
    timer->async_wait([this, timer](error_code) { accept(); });
  });
}

HttpServer::HttpServer(HttpOptions options, HttpHandler handler) : impl_(std::make_unique<Impl>()) {
  impl_->options = std::move(options);
  impl_->handler = std::move(handler);
  error_code ec;
  const auto address = asio::ip::make_address(impl_->options.host == "localhost" ? "127.0.0.1" : impl_->options.host, ec);
  if (ec) fail("'{}' is not an IP address to listen on; use 127.0.0.1, 0.0.0.0 or one of this machine's", impl_->options.host);
  const tcp::endpoint endpoint(address, impl_->options.port);
  impl_->acceptor.open(endpoint.protocol(), ec);
  if (!ec) impl_->acceptor.set_option(tcp::acceptor::reuse_address(true), ec);
  if (!ec) impl_->acceptor.bind(endpoint, ec);
  if (!ec) impl_->acceptor.listen(1024, ec);
  if (ec) {
    fail(ErrorKind::io, "cannot listen on {}:{}: {}{}", impl_->options.host, impl_->options.port, ec.message(),
         ec == asio::error::address_in_use ? "; another program has the port, choose one with --port" : "");
  }
  impl_->port = impl_->acceptor.local_endpoint().port();
  impl_->accept();
}

HttpServer::~HttpServer() = default;

std::uint16_t HttpServer::port() const { return impl_->port; }
void HttpServer::run() { impl_->io.run(); }

void HttpServer::stop_accepting() {
  asio::post(impl_->io, [impl = impl_.get()] {
    error_code ignored;
    impl->acceptor.close(ignored);
  });
}

void HttpServer::stop() {
  asio::post(impl_->io, [impl = impl_.get()] { impl->stop(); });
}

}  // namespace rhetor
