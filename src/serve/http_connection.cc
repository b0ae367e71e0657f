#include "serve/http_connection.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/read.hpp>
#include <random>
#include <utility>

#include "base/error.h"
#include "base/log.h"

namespace rhetor {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using tcp = asio::ip::tcp;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kReadAhead = 4096;  // bytes a read that watches for the end of a connection takes of the next request

std::chrono::milliseconds to_duration(double seconds) {
  return std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1000));
}

// REQUIRES: nothing in the texts needs escaping.
std::string error_body(std::string_view message, std::string_view type = "invalid_request_error") {
  return fmt::format("{{\"error\": {{\"message\": \"{}\", \"type\": \"{}\", \"param\": null, \"code\": null}}}}\n", message,
                     type);
}

std::string new_id() {
  static std::mt19937_64 engine{std::random_device{}()};  // the I/O thread's; only has to differ from the others
  return fmt::format("req-{:016x}", engine());
}

// A client's id is repeated in the reply and the log: short and without surprises, or it is replaced.
bool sound_id(std::string_view id) {
  return !id.empty() && id.size() <= 128 && std::all_of(id.begin(), id.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_' || c == '.' ||
           c == ':';
  });
}

}  // namespace

class HttpConnection::Reply : public Responder {
 public:
  Reply(std::shared_ptr<HttpConnection> connection, std::uint64_t id)
      : connection_(std::move(connection)), host_(connection_->server_), id_(id), shared_(connection_->shared_) {}
  ~Reply() override {
    if (!answered_) asio::post(host_.io, [c = connection_, id = id_] { c->abandoned(id); });
  }
  void add_header(std::string_view name, std::string_view value) override { headers_ += fmt::format("{}: {}\r\n", name, value); }
  void note(HttpNote note) override {
    asio::post(host_.io, [c = connection_, id = id_, note = std::move(note)]() mutable { c->note(id, std::move(note)); });
  }
  void send(int status, std::string_view type, std::string body) override {
    answered_ = true;
    asio::post(host_.io, [c = connection_, id = id_, status, type = std::string(type), body = std::move(body),
                          headers = headers_]() mutable { c->send(id, status, type, std::move(body), headers); });
  }
  void begin_stream(std::string_view type) override {
    asio::post(host_.io,
               [c = connection_, id = id_, type = std::string(type), headers = headers_] { c->begin_stream(id, type, headers); });
  }
  void write(std::string data) override {
    if (shared_->gone.load(std::memory_order_relaxed) || data.empty()) return;
    const auto size = static_cast<std::int64_t>(data.size());
    if (shared_->backlog.fetch_add(size, std::memory_order_relaxed) + size > host_.options.max_buffered_bytes) {
      shared_->gone.store(true, std::memory_order_relaxed);
      return asio::post(host_.io, [c = connection_, id = id_] { c->drop_slow(id); });
    }
    asio::post(host_.io, [c = connection_, id = id_, data = std::move(data)] { c->chunk(id, data); });
  }
  void end() override {
    answered_ = true;
    asio::post(host_.io, [c = connection_, id = id_] { c->end(id); });
  }
  bool closed() const override { return shared_->gone.load(std::memory_order_relaxed); }
  std::int64_t backlog() const override { return shared_->backlog.load(std::memory_order_relaxed); }

 private:
  std::shared_ptr<HttpConnection> connection_;
  HttpHost& host_;
  std::uint64_t id_;
  std::shared_ptr<Shared> shared_;
  std::string headers_;
  bool answered_ = false;
};

std::string_view HttpRequest::header(std::string_view lower_case_name) const {
  for (const auto& [name, value] : headers) {
    if (name == lower_case_name) return value;
  }
  return {};
}

HttpConnection::HttpConnection(tcp::socket socket, HttpHost& server) : stream_(std::move(socket)), server_(server) {
  ErrorCode failed;
  const auto peer = stream_.socket().remote_endpoint(failed);
  if (!failed) client_ = peer.address().to_string();
}

// ---- reading ----

void HttpConnection::read() {
  parser_.emplace();
  parser_->header_limit(16 << 10);
  parser_->body_limit(server_.options.max_body_bytes);
  stream_.expires_after(to_duration(server_.options.idle_timeout_s));
  http::async_read_header(stream_, buffer_, *parser_,
                          [self = shared_from_this()](ErrorCode ec, std::size_t) { self->on_header(ec); });
}

void HttpConnection::on_header(ErrorCode ec) {
  if (ec == http::error::end_of_stream || ec == beast::error::timeout || ec == asio::error::operation_aborted) return close();
  const bool malformed = ec && ec.category() == http::make_error_code(http::error::bad_method).category();
  if (ec && !malformed) return close();  // a broken transport cannot be answered
  begin_record();
  if (ec == http::error::body_limit) {
    return refuse(413, fmt::format("the body is larger than the {} bytes allowed", server_.options.max_body_bytes));
  }
  if (ec == http::error::header_limit) return refuse(431, "the header is larger than the 16384 bytes allowed");
  if (malformed) return refuse(400, "this is not an HTTP/1.1 request");
  if (!beast::iequals(parser_->get()[http::field::expect], "100-continue")) return read_body();
  static const std::string go_on = "HTTP/1.1 100 Continue\r\n\r\n";
  asio::async_write(stream_, asio::buffer(go_on), [self = shared_from_this()](ErrorCode failed, std::size_t) {
    if (failed) return self->close();
    self->read_body();
  });
}

void HttpConnection::read_body() {
  http::async_read(stream_, buffer_, *parser_, [self = shared_from_this()](ErrorCode ec, std::size_t) { self->on_request(ec); });
}

// The clock of a request starts with its header; what is known of it by then goes into the record.
void HttpConnection::begin_record() {
  began_ = Clock::now();
  recording_ = true;
  record_ = {.client = client_};
  const auto& message = parser_->get();
  record_.method = std::string(message.method_string());
  const auto target = message.target();
  record_.target = std::string(target.substr(0, target.find('?')));
  const auto id = message["X-Request-Id"];
  record_.id = sound_id({id.data(), id.size()}) ? std::string(id) : new_id();
}

void HttpConnection::on_request(ErrorCode ec) {
  if (ec == http::error::body_limit) {
    return refuse(413, fmt::format("the body is larger than the {} bytes allowed", server_.options.max_body_bytes));
  }
  if (ec == beast::error::timeout) return refuse(408, "the request did not arrive in time");
  if (ec && ec.category() == http::make_error_code(http::error::bad_method).category())
    return refuse(400, "the body is not as its header says");
  if (ec) return close();
  dispatch();
}

void HttpConnection::dispatch() {
  stream_.expires_never();
  auto message = parser_->release();
  ++request_;
  answering_ = true;
  streaming_ = last_queued_ = false;
  keep_alive_ = message.keep_alive() && !server_.stopping;
  chunked_ = message.version() >= 11;
  head_only_ = message.method() == http::verb::head;
  shared_ = std::make_shared<Shared>();
  HttpRequest request{
      .method = record_.method, .target = record_.target, .body = std::move(message.body()), .client = client_, .id = record_.id};
  for (const auto& field : message) {
    std::string name(field.name_string());
    std::transform(name.begin(), name.end(), name.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
    request.headers.emplace_back(std::move(name), std::string(field.value()));
  }
  const auto reply = std::make_shared<Reply>(shared_from_this(), request_);
  watch_for_close();
  try {
    server_.handler(request, reply);
  } catch (const std::exception& error) {
    log_warning("request {}: {}", request.id, error.what());
    reply->send(500, "application/json", error_body("internal error", "server_error"));
  }
}

void HttpConnection::refuse(int status, std::string_view message) {
  if (!recording_) {
    began_ = Clock::now();
    recording_ = true;
    record_ = {.client = client_, .id = new_id()};
  }
  stream_.expires_after(to_duration(5));
  ++request_;
  answering_ = true;
  streaming_ = last_queued_ = keep_alive_ = false;
  head_only_ = false;  // of the request before
  send(request_, status, "application/json", error_body(message), "");
}

// While a request is answered, reading goes on: a client that hangs up ends the read. What it sends instead, the next request,
// is kept for later, as far as the buffer goes.
void HttpConnection::watch_for_close() {
  if (buffer_.size() + kReadAhead > (64u << 10)) return;  // enough read ahead: a close now shows when we write
  watching_ = true;
  stream_.socket().async_read_some(buffer_.prepare(kReadAhead), [self = shared_from_this()](ErrorCode ec, std::size_t size) {
    self->watching_ = false;
    if (self->closed_) return;
    self->buffer_.commit(size);
    if (std::exchange(self->next_when_unwatched_, false))
      return ec && ec != asio::error::operation_aborted ? self->close() : self->next();
    if (ec) return self->close();
    self->watch_for_close();
  });
}

// ---- writing ----

void HttpConnection::send(std::uint64_t id, int status, const std::string& type, std::string body, const std::string& headers) {
  if (closed_ || id != request_ || !answering_ || streaming_ || last_queued_) return;
  record_.status = status;
  last_queued_ = true;
  const auto reason = http::obsolete_reason(static_cast<http::status>(status));
  enqueue(
      fmt::format("HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nX-Request-Id: {}\r\n{}Connection: {}\r\n\r\n{}",
                  status, std::string_view(reason.data(), reason.size()), type, body.size(), record_.id, headers,
                  keep_alive_ ? "keep-alive" : "close", head_only_ ? "" : body));
}

void HttpConnection::begin_stream(std::uint64_t id, const std::string& type, const std::string& headers) {
  if (closed_ || id != request_ || !answering_ || streaming_ || last_queued_) return;
  record_.status = 200;
  streaming_ = true;
  if (!chunked_) keep_alive_ = false;  // HTTP/1.0: the end of the connection ends the stream
  enqueue(fmt::format(
      "HTTP/1.1 200 OK\r\nContent-Type: {}\r\nCache-Control: no-cache\r\nX-Accel-Buffering: no\r\nX-Request-Id: {}\r\n{}{}"
      "Connection: {}\r\n\r\n",
      type, record_.id, headers, chunked_ ? "Transfer-Encoding: chunked\r\n" : "", keep_alive_ ? "keep-alive" : "close"));
}

void HttpConnection::chunk(std::uint64_t id, const std::string& data) {
  if (closed_ || id != request_ || !streaming_ || last_queued_) return;
  queued_stream_ += static_cast<std::int64_t>(data.size());
  enqueue(chunked_ ? fmt::format("{:x}\r\n{}\r\n", data.size(), data) : data);
}

void HttpConnection::end(std::uint64_t id) {
  if (closed_ || id != request_ || !streaming_ || last_queued_) return;
  last_queued_ = true;
  enqueue(chunked_ ? "0\r\n\r\n" : "");
}

void HttpConnection::note(std::uint64_t id, HttpNote note) {
  if (!closed_ && id == request_ && answering_) record_.note = std::move(note);
}

void HttpConnection::drop_slow(std::uint64_t id) {
  if (closed_ || id != request_) return;
  record_.slow = true;
  close();
}

void HttpConnection::abandoned(std::uint64_t id) {
  if (closed_ || id != request_ || !answering_ || last_queued_) return;
  if (streaming_) return close();
  send(id, 500, "application/json", error_body("internal error: the request was not answered", "server_error"), "");
}

void HttpConnection::enqueue(std::string_view bytes) {
  queued_ += bytes;
  if (!sending_) flush();
}

void HttpConnection::flush() {
  if (queued_.empty()) {
    if (last_queued_) finished();
    return;
  }
  sending_ = true;
  written_ = 0;
  writing_.swap(queued_);
  writing_stream_ = std::exchange(queued_stream_, 0);
  write_on();
}

// A client that takes nothing for the idle time is gone; one that takes a little at a time is not.
void HttpConnection::write_on() {
  stream_.expires_after(to_duration(server_.options.idle_timeout_s));
  stream_.async_write_some(asio::buffer(writing_) + written_, [self = shared_from_this()](ErrorCode ec, std::size_t size) {
    if (self->closed_) return;
    if (ec) {
      self->record_.slow = ec == beast::error::timeout;
      return self->close();
    }
    self->written_ += size;
    self->record_.bytes += size;
    if (self->written_ < self->writing_.size()) return self->write_on();
    self->writing_.clear();
    if (self->shared_) self->shared_->backlog.fetch_sub(std::exchange(self->writing_stream_, 0), std::memory_order_relaxed);
    self->sending_ = false;
    self->stream_.expires_never();
    self->flush();
  });
}

void HttpConnection::finished() {
  record(false);
  answering_ = streaming_ = last_queued_ = false;
  if (writing_.capacity() > (64u << 10)) writing_ = {};
  if (queued_.capacity() > (64u << 10)) queued_ = {};
  if (!watching_) return next();
  next_when_unwatched_ = true;
  ErrorCode ignored;
  stream_.socket().cancel(ignored);
}

void HttpConnection::next() {
  if (keep_alive_ && !server_.stopping) return read();
  ErrorCode ignored;
  stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
  buffer_.clear();
  stream_.expires_after(to_duration(server_.stopping ? 0.5 : 5));
  linger();
}

// Closing while the client still sends would reset the connection and lose our answer: read and drop what comes, for a while.
void HttpConnection::linger() {
  stream_.async_read_some(buffer_.prepare(64 << 10), [self = shared_from_this()](ErrorCode ec, std::size_t) {
    if (ec) return self->close();
    self->linger();
  });
}

// ---- the end ----

void HttpConnection::record(bool cut) {
  if (!std::exchange(recording_, false)) return;
  record_.cut = cut;
  if (record_.status == 0) record_.status = 499;
  record_.seconds = std::chrono::duration<double>(Clock::now() - began_).count();
  if (server_.options.on_done) server_.options.on_done(record_);
}

void HttpConnection::close_when_answered() {
  if (answering_)
    keep_alive_ = false;
  else
    close();
}

void HttpConnection::close() {
  if (closed_) return;
  closed_ = true;
  if (shared_) shared_->gone.store(true, std::memory_order_relaxed);
  record(true);
  stream_.close();
  server_.remove(shared_from_this());
}

}  // namespace rhetor
