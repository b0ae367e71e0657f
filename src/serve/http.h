// A small asynchronous HTTP/1.1 server on Boost.Beast: one I/O thread, any number of connections.
//
// Thread-safety: handlers and observers run on the I/O thread and must not block; a Responder may be used from any thread and
// outlive the connection (then its calls do nothing). Limits: header 16 KiB, body and time as configured; what exceeds them is
// answered 431, 413 or 408. A connection's memory is bounded: one request is read ahead of the one being answered, and a client
// that does not read its stream is dropped once `max_buffered_bytes` wait for it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rhetor {

struct HttpRequest {
  std::string method, target, body;  // target without the query string
  std::string client;                // address of the other end
  std::string id;                    // its X-Request-Id if it sent a sound one, otherwise made here; every reply carries it
  std::vector<std::pair<std::string, std::string>> headers;         // names in lower case
  std::string_view header(std::string_view lower_case_name) const;  // "" if there is none
};

// What the handler knows about a request and the observer wants to hear.
struct HttpNote {
  std::string model, finish;  // why the answer ended: "stop", "length", ...
  std::string key;            // name of the API key
  std::int64_t prompt_tokens = 0, output_tokens = 0;
};

// One request, answered or given up.
struct HttpRecord {
  std::string client, method, target, id;
  HttpNote note;
  int status = 0;           // 499: the client left before it got an answer (as nginx writes it)
  std::uint64_t bytes = 0;  // of the reply, with its header
  double seconds = 0;
  bool cut = false;   // the connection ended before the reply did
  bool slow = false;  // because the client did not read
};

// Answers one request, once: send(), or begin_stream(), write()..., end(). One that is destroyed unanswered sends a 500 or breaks
// its stream off.
class Responder {
 public:
  virtual ~Responder() = default;
  // Adds a header line to whatever is answered. REQUIRES: called before send() and begin_stream().
  virtual void add_header(std::string_view name, std::string_view value) = 0;
  // For the record; the last one counts. REQUIRES: called before send() or end().
  virtual void note(HttpNote note) = 0;
  virtual void send(int status, std::string_view content_type, std::string body) = 0;
  virtual void begin_stream(std::string_view content_type) = 0;
  virtual void write(std::string chunk) = 0;
  virtual void end() = 0;
  // True when the client has gone: whoever computes the answer may stop.
  virtual bool closed() const = 0;
  // Bytes written to the stream that the system has not taken yet: the client reads more slowly than we write.
  virtual std::int64_t backlog() const = 0;
};
using ResponderPtr = std::shared_ptr<Responder>;
using HttpHandler = std::function<void(const HttpRequest&, ResponderPtr)>;

struct HttpOptions {
  std::string host = "127.0.0.1";
  std::uint16_t port = 0;
  std::uint64_t max_body_bytes = 1u << 20;
  std::int64_t max_buffered_bytes = 1 << 20;
  double idle_timeout_s = 60;  // to send a request's header and body, between requests, and without reading anything
  int max_connections = 4096;  // more are answered 503 and closed
  std::function<void(const HttpRecord&)> on_done;  // optional
};

class HttpServer {
 public:
  // Binds at once; fails with Error{io} naming host and port. Raises the process's limit of open files as far as the connections
  // need and the system allows; allows fewer connections if that is not far enough, with a warning.
  HttpServer(HttpOptions options, HttpHandler handler);
  ~HttpServer();
  std::uint16_t port() const;
  int connections() const;  // open now
  void run();               // until stop() and all that was answered before it has been written
  void stop();              // thread-safe

  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace rhetor
