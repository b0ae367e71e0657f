// A running service and a client that does nothing for us, for the tests of this room.
#pragma once

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "generate/test_models.h"
#include "serve/server.h"

namespace rhetor::testing {

using Json = nlohmann::json;

// A connection to this machine, -1 if it is refused; what does not come within a minute never does.
inline int try_connect(std::uint16_t port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const timeval limit{.tv_sec = 60, .tv_usec = 0};
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return fd;
  ::close(fd);
  return -1;
}
inline int connect_to(std::uint16_t port) {
  const int fd = try_connect(port);
  EXPECT_GE(fd, 0);
  return fd;
}

template <class Condition>
bool eventually(Condition condition) {
  for (int i = 0; i < 2000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

// A request on its way; the connection closes with the object.
class Call {
 public:
  // A GET if `body` is null. `head` holds further header lines, each with its "\r\n".
  Call(std::uint16_t port, const std::string& target, const Json& body, const std::string& head = "",
       const std::string& method = "")
      : fd_(connect_to(port)) {
    const std::string text = body.is_null() ? "" : body.dump();
    const std::string request = fmt::format("{} {} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n{}Connection: close\r\n\r\n{}",
                                            !method.empty() ? method
                                            : text.empty()  ? "GET"
                                                            : "POST",
                                            target, text.size(), head, text);
    EXPECT_EQ(::send(fd_, request.data(), request.size(), MSG_NOSIGNAL), static_cast<ssize_t>(request.size()));
  }
  ~Call() { ::close(fd_); }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  // Everything up to a text that must come, or to the end of the connection.
  std::string read(std::string_view until = {}) {
    char part[4096];
    while (until.empty() || all_.find(until) == std::string::npos) {
      const ssize_t n = ::recv(fd_, part, sizeof part, 0);
      if (n <= 0) break;
      all_.append(part, static_cast<std::size_t>(n));
    }
    return all_;
  }
  int status() { return std::atoi(read("\r\n").c_str() + 9); }
  // Whole; without the chunked encoding if it has one.
  std::string body() {
    read();
    const std::size_t end = all_.find("\r\n\r\n");
    if (end == std::string::npos) return "";
    if (all_.substr(0, end).find("Transfer-Encoding: chunked") == std::string::npos) return all_.substr(end + 4);
    std::string out;
    for (std::size_t at = end + 4, line; (line = all_.find("\r\n", at)) != std::string::npos;) {
      const std::size_t size = std::stoull(all_.substr(at, line - at), nullptr, 16);
      if (size == 0) break;
      out += all_.substr(line + 2, size);
      at = line + 2 + size + 2;
    }
    return out;
  }
  Json json() { return Json::parse(body(), nullptr, false); }
  // The events of a stream but "[DONE]".
  std::vector<Json> events() {
    const std::string all = body();
    std::vector<Json> out;
    for (std::size_t at = 0; (at = all.find("data: {", at)) != std::string::npos;) {
      at += 6;
      out.push_back(Json::parse(all.substr(at, all.find("\n\n", at) - at), nullptr, false));
    }
    return out;
  }
  // The text of a completion's stream, of one of its answers.
  std::string text(int index = 0) {
    std::string out;
    for (const Json& event : events()) {
      for (const Json& choice : event.value("choices", Json::array())) {
        if (choice["index"] != index) continue;
        out += choice.contains("text") ? choice["text"].get<std::string>()
                                       : choice.value("delta", Json::object()).value("content", "");
      }
    }
    return out;
  }

 private:
  int fd_;
  std::string all_;
};

// A service that runs in a thread of its own.
class Service {
 public:
  Service(std::vector<ServedModel> models, ServerOptions options) {
    options.port = 0;
    server_ = std::make_unique<Server>(std::move(models), options);
    thread_ = std::thread([this] { server_->run(); });
  }
  explicit Service(LanguageModelPtr model, ServerOptions options = {})
      : Service(list(serve_language_model(std::move(model))), std::move(options)) {}
  ~Service() { end(); }
  void end() {
    if (!thread_.joinable()) return;
    server_->stop_now();
    thread_.join();
  }
  Server& server() { return *server_; }
  std::uint16_t port() const { return server_->port(); }
  Json health() const { return Call(port(), "/healthz", nullptr).json(); }
  bool becomes(int running, int waiting) const {
    return eventually([&] {
      const Json json = health();
      return json["running"] == running && json["waiting"] == waiting;
    });
  }
  // The value of a series, as /metrics writes it: "rhetor_slots_busy{model=\"toy\",task=\"generate\"}".
  double metric(const std::string& series) const {
    const std::string text = "\n" + Call(port(), "/metrics", nullptr).body();
    const std::size_t at = text.find("\n" + series + " ");
    return at == std::string::npos ? -1 : std::atof(text.c_str() + at + series.size() + 2);
  }
  template <class Condition>
  static bool eventually(Condition condition) {
    return testing::eventually(condition);
  }
  static std::vector<ServedModel> list(ServedModel model) {
    std::vector<ServedModel> out;
    out.push_back(std::move(model));
    return out;
  }

 private:
  std::unique_ptr<Server> server_;
  std::thread thread_;
};

// A small model with answers that end.
inline LanguageModelPtr toy() {
  static const LanguageModelPtr model = make_language_model(toy_model("llama", 3, 128));
  return model;
}
// Its answers outlast the tests: the context is long and no token means the end. What ends them is what is being tested.
inline LanguageModelPtr endless() {
  static const LanguageModelPtr model = [] {
    const auto small = toy_model("llama", 3, 1 << 16);
    bool more = true;
    small->tokenizer =
        train_byte_bpe([&more](std::string& text) { return text = "The sea, the sea.", std::exchange(more, false); },
                       {.vocab_size = 260, .specials = {}});
    return make_language_model(small);
  }();
  return model;
}
inline Json endless_request() { return {{"prompt", "The sea"}, {"max_tokens", 1 << 20}, {"temperature", 0}, {"stream", true}}; }

}  // namespace rhetor::testing
