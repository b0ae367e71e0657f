// One TCP connection of the HTTP server (internal): reads a request, hands it to the handler, writes what the Responder says,
// reads the next. All members are touched on the I/O thread only.
#pragma once

#include <atomic>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "serve/http.h"

namespace rhetor {

// What a connection needs of its server.
struct HttpHost {
  HttpOptions options;
  HttpHandler handler;
  boost::asio::io_context io{1};
  bool stopping = false;  // no further requests are read
  virtual ~HttpHost() = default;
  virtual void remove(const std::shared_ptr<class HttpConnection>& connection) = 0;
};

class HttpConnection : public std::enable_shared_from_this<HttpConnection> {
 public:
  HttpConnection(boost::asio::ip::tcp::socket socket, HttpHost& server);

  void read();
  void close();
  void close_when_answered();
  // Answers without having read a request, and closes.
  void refuse(int status, std::string_view message);

 private:
  using ErrorCode = boost::system::error_code;
  class Reply;
  // What the Responder reads from other threads.
  struct Shared {
    std::atomic<bool> gone = false;
    std::atomic<std::int64_t> backlog = 0;  // bytes handed to write() that are not out
  };

  // ---- called by the Responder through the I/O thread; `id` is the request they belong to ----
  void send(std::uint64_t id, int status, const std::string& type, std::string body, const std::string& headers);
  void begin_stream(std::uint64_t id, const std::string& type, const std::string& headers);
  void chunk(std::uint64_t id, const std::string& data);
  void end(std::uint64_t id);
  void note(std::uint64_t id, HttpNote note);
  void drop_slow(std::uint64_t id);
  void abandoned(std::uint64_t id);

  void on_header(ErrorCode ec);
  void read_body();
  void on_request(ErrorCode ec);
  void dispatch();
  void begin_record();
  void watch_for_close();
  void enqueue(std::string_view bytes);
  void flush();
  void write_on();
  void finished();
  void next();
  void linger();
  void record(bool cut);

  boost::beast::tcp_stream stream_;
  HttpHost& server_;
  std::string client_;
  boost::beast::flat_buffer buffer_{1 << 20};  // what was read and not parsed; more than this is left to the system's buffers
  std::optional<boost::beast::http::request_parser<boost::beast::http::string_body>> parser_;
  std::string queued_, writing_;                         // bytes to send: collected while others are on their way
  std::size_t written_ = 0;                              // of writing_
  std::int64_t queued_stream_ = 0, writing_stream_ = 0;  // how much of them came through write()
  std::uint64_t request_ = 0;                            // number of the request being answered
  bool answering_ = false, streaming_ = false, keep_alive_ = true, chunked_ = true, head_only_ = false, last_queued_ = false;
  bool closed_ = false, recording_ = false, sending_ = false, watching_ = false, next_when_unwatched_ = false;
  std::shared_ptr<Shared> shared_;
  HttpRecord record_;
  std::chrono::steady_clock::time_point began_;
};

}  // namespace rhetor
