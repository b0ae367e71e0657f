// A small asynchronous HTTP/1.1 server on Boost.Beast: one I/O thread, any number of connections.
//
// Thread-safety: handlers run on the I/O thread and must not block; a Responder may be used from any thread and outlive the connection
// (then its calls do nothing). Limits: header 16 KiB, body and time as configured; what exceeds them is answered 431, 413 or 408.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace rhetor {

struct HttpRequest {
  std::string method, target, body;   // target without the query string
};

// Answers one request, once: send(), or begin_stream(), write()..., end().
class Responder {
 public:
  virtual ~Responder() = default;
  virtual void send(int status, std::string_view content_type, std::string body, const std::vector<std::pair<std::string, std::string>>& headers = {}) = 0;
  virtual void begin_stream(std::string_view content_type) = 0;
  virtual void write(std::string chunk) = 0;
  virtual void end() = 0;
  // True when the client has gone: whoever computes the answer may stop.
  virtual bool closed() const = 0;
};
using ResponderPtr = std::shared_ptr<Responder>;
using HttpHandler = std::function<void(const HttpRequest&, ResponderPtr)>;

struct HttpOptions {
  std::string host = "127.0.0.1";
  std::uint16_t port = 0;
  std::uint64_t max_body_bytes = 1u << 20;
  double idle_timeout_s = 60;          // to send a request's header and body, and between requests
  int max_connections = 4096;
};

class HttpServer {
 public:
  // Binds at once; fails with Error{io} naming host and port.
  HttpServer(HttpOptions options, HttpHandler handler);
  ~HttpServer();
  std::uint16_t port() const;
  void run();                          // until stop() and all that was answered before it has been written
  void stop();                         // thread-safe
  void stop_accepting();               // thread-safe; open connections go on

  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace rhetor
