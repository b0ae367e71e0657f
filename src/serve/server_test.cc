// The whole service on a toy model: well-formed replies under concurrent, wrong and broken requests, and an orderly end.
#include "serve/server.h"

#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <nlohmann/json.hpp>
#include <thread>

#include "serve/test_service.h"

namespace rhetor {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;

// A blocking client that does nothing for us: bytes out, bytes in.
class Client {
 public:
  explicit Client(std::uint16_t port) : fd_(testing::try_connect(port)) {}
  ~Client() { ::close(fd_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  bool connected() const { return fd_ >= 0; }
  bool write(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      bytes.remove_prefix(static_cast<std::size_t>(n));
    }
    return true;
  }
  // Up to the end of the connection.
  std::string read_all() {
    std::string all;
    char part[4096];
    for (ssize_t n; (n = ::recv(fd_, part, sizeof part, 0)) > 0;) all.append(part, static_cast<std::size_t>(n));
    return all;
  }
  // At least so many bytes, so that the request is surely being answered.
  std::string read_some(std::size_t least) {
    std::string some;
    char part[4096];
    while (some.size() < least) {
      const ssize_t n = ::recv(fd_, part, sizeof part, 0);
      if (n <= 0) break;
      some.append(part, static_cast<std::size_t>(n));
    }
    return some;
  }

 private:
  int fd_;
};

std::string post_request(const std::string& target, const std::string& body, bool keep = false) {
  return fmt::format(
      "POST {} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: {}\r\n\r\n{}", target,
      body.size(), keep ? "keep-alive" : "close", body);
}
std::string get(const std::string& target) { return "GET " + target + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"; }

struct Reply {
  int status = 0;
  std::string head, body;
};

// Splits one reply and undoes the chunked encoding; every deviation from HTTP/1.1 is a test failure. Returns what follows the
// reply.
std::string parse_reply(const std::string& bytes, Reply& reply) {
  const std::size_t end = bytes.find("\r\n\r\n");
  EXPECT_EQ(bytes.compare(0, 9, "HTTP/1.1 "), 0) << bytes.substr(0, 200);
  EXPECT_NE(end, std::string::npos) << bytes.substr(0, 200);
  if (end == std::string::npos) return {};
  reply.status = std::atoi(bytes.c_str() + 9);
  reply.head = bytes.substr(0, end + 2);
  std::size_t at = end + 4;
  if (const std::size_t field = reply.head.find("Content-Length: "); field != std::string::npos) {
    const auto size = static_cast<std::size_t>(std::atoll(reply.head.c_str() + field + 16));
    EXPECT_LE(at + size, bytes.size()) << "the body is cut off";
    reply.body = bytes.substr(at, size);
    return bytes.substr(std::min(bytes.size(), at + size));
  }
  EXPECT_THAT(reply.head, HasSubstr("Transfer-Encoding: chunked\r\n"));
  for (;;) {
    const std::size_t line = bytes.find("\r\n", at);
    EXPECT_NE(line, std::string::npos) << "the stream is cut off";
    if (line == std::string::npos) return {};
    const std::size_t size = std::stoull(bytes.substr(at, line - at), nullptr, 16);
    EXPECT_LE(line + 2 + size + 2, bytes.size()) << "a chunk is cut off";
    if (line + 2 + size + 2 > bytes.size()) return {};
    EXPECT_EQ(bytes.compare(line + 2 + size, 2, "\r\n"), 0);
    reply.body += bytes.substr(line + 2, size);
    at = line + 2 + size + 2;
    if (size == 0) return bytes.substr(at);
  }
}

Reply ask(std::uint16_t port, const std::string& request) {
  Client client(port);
  EXPECT_TRUE(client.write(request));
  Reply reply;
  EXPECT_EQ(parse_reply(client.read_all(), reply), "");
  return reply;
}

void expect_error(const Reply& reply, int status) {
  EXPECT_EQ(reply.status, status) << reply.body;
  const Json json = Json::parse(reply.body, nullptr, false);
  ASSERT_TRUE(json.is_object()) << reply.body;
  EXPECT_TRUE(json["error"]["message"].is_string());
}

void expect_completion(const Reply& reply, bool chat) {
  ASSERT_EQ(reply.status, 200) << reply.body;
  const Json json = Json::parse(reply.body, nullptr, false);
  ASSERT_TRUE(json.is_object()) << reply.body;
  EXPECT_TRUE((chat ? json["choices"][0]["message"]["content"] : json["choices"][0]["text"]).is_string());
  EXPECT_GT(json["usage"]["prompt_tokens"], 0);
}

// Server-sent events: every one is JSON, the last but [DONE] says why it ended. Returns the text they spell.
std::string expect_stream(const Reply& reply, bool chat) {
  EXPECT_EQ(reply.status, 200) << reply.body;
  EXPECT_THAT(reply.head, HasSubstr("text/event-stream"));
  std::string text;
  bool done = false, finished = false;
  for (std::size_t at = 0; at < reply.body.size();) {
    const std::size_t end = reply.body.find("\n\n", at);
    EXPECT_NE(end, std::string::npos);
    if (end == std::string::npos) break;
    const std::string event = reply.body.substr(at, end - at);
    at = end + 2;
    EXPECT_FALSE(done);
    EXPECT_EQ(event.compare(0, 6, "data: "), 0) << event;
    if (event == "data: [DONE]") {
      done = true;
      continue;
    }
    const Json json = Json::parse(event.substr(6), nullptr, false);
    EXPECT_TRUE(json.is_object()) << event;
    if (!json.is_object() || json["choices"].empty()) continue;
    const Json& choice = json["choices"][0];
    finished = choice["finish_reason"].is_string();
    const Json& piece = chat ? choice["delta"].value("content", Json("")) : choice["text"];
    text += piece.get<std::string>();
  }
  EXPECT_TRUE(done && finished) << reply.body;
  return text;
}

// A service that runs in a thread of its own.
class Running {
 public:
  explicit Running(ServerOptions options = {}) {
    options.port = 0;
    server_ = std::make_unique<Server>(make_language_model(testing::toy_model("llama", 3, 128)), options);
    thread_ = std::thread([this] {
      server_->run();
      ended_ = true;
    });
  }
  ~Running() { stop(); }
  void stop() {
    if (!thread_.joinable()) return;
    server_->stop();
    thread_.join();
    EXPECT_TRUE(ended_);
  }
  Server& server() { return *server_; }
  std::uint16_t port() const { return server_->port(); }

 private:
  std::unique_ptr<Server> server_;
  std::thread thread_;
  std::atomic<bool> ended_ = false;
};

std::string plain_body(int tokens, bool stream) {
  return fmt::format(R"({{"prompt": "The sea", "max_tokens": {}, "seed": 5, "stream": {}}})", tokens, stream);
}
const char* const kChat =
    R"({"messages": [{"role": "user", "content": "The ship"}], "max_tokens": 8, "seed": 5, "stream": true})";

TEST(Server, AnswersEveryRoute) {
  Running service;
  const std::uint16_t port = service.port();
  EXPECT_EQ(Json::parse(ask(port, get("/healthz")).body)["status"], "ok");
  EXPECT_EQ(Json::parse(ask(port, get("/v1/models?x=1")).body)["data"][0]["id"], "toy");
  EXPECT_THAT(ask(port, get("/")).body, HasSubstr("<html"));
  expect_error(ask(port, get("/nothing")), 404);
  expect_error(ask(port, get("/v1/completions")), 405);
  expect_error(ask(port, post_request("/healthz", "")), 405);
  expect_error(ask(port, post_request("/v1/completions", R"({"prompt": "a", "model": "other"})")), 404);
  expect_error(ask(port, post_request("/v1/completions", fmt::format(R"({{"prompt": "{}"}})", std::string(3000, 'z')))), 400);
  const Reply whole = ask(port, post_request("/v1/completions", plain_body(12, false)));
  expect_completion(whole, false);
  // The same seed gives the same text, streamed or not.
  EXPECT_EQ(expect_stream(ask(port, post_request("/v1/completions", plain_body(12, true))), false),
            Json::parse(whole.body)["choices"][0]["text"].get<std::string>());
  expect_stream(ask(port, post_request("/v1/chat/completions", kChat)), true);
}

TEST(Server, SeveralRequestsOnOneConnectionAreAnsweredInOrder) {
  Running service;
  Client client(service.port());
  ASSERT_TRUE(client.write(post_request("/v1/completions", plain_body(3, true), true) +
                           "HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + get("/v1/models")));
  std::string rest = client.read_all();
  Reply first, last;
  rest = parse_reply(rest, first);
  expect_stream(first, false);
  const std::size_t head_end = rest.find("\r\n\r\n");   // no body follows a HEAD
  ASSERT_NE(head_end, std::string::npos);
  EXPECT_EQ(parse_reply(rest.substr(head_end + 4), last), "");
  EXPECT_EQ(Json::parse(last.body)["object"], "list");
}

TEST(Server, RefusesWhatIsTooLargeOrNotHttp) {
  Running service({.max_body_bytes = 1000});
  expect_error(ask(service.port(), post_request("/v1/completions", std::string(1001, ' '))), 413);
  expect_error(ask(service.port(), "GET / HTTP/1.1\r\nx: " + std::string(20000, 'y') + "\r\n\r\n"), 431);
  expect_error(ask(service.port(), "this is no request\r\n\r\n"), 400);
}

// No request may wait: how many are refused depends on the moment, but none is dropped and every refusal says when to come back.
TEST(Server, WithoutAQueueRequestsAreAnsweredOrRefused) {
  Running service({.max_queue = 0});
  std::vector<std::thread> clients;
  for (int c = 0; c < 12; ++c)
    clients.emplace_back([&] {
      const Reply reply = ask(service.port(), post_request("/v1/completions", plain_body(20, false)));
      if (reply.status == 200) return expect_completion(reply, false);
      expect_error(reply, 429);
      EXPECT_THAT(reply.head, HasSubstr("Retry-After: 1\r\n"));
    });
  for (auto& client : clients) client.join();
}

// Eight clients with every kind of request at once; every reply is complete and right.
TEST(Server, ConcurrentClientsGoodBadAndGone) {
  Running service;
  const std::uint16_t port = service.port();
  const std::string alone = expect_stream(ask(port, post_request("/v1/completions", plain_body(10, true))), false);
  std::vector<std::thread> clients;
  for (int c = 0; c < 8; ++c)
    clients.emplace_back([&, c] {
      for (int round = 0; round < 6; ++round) switch ((c + round) % 6) {
          case 0:
            EXPECT_EQ(expect_stream(ask(port, post_request("/v1/completions", plain_body(10, true))), false), alone);
            break;
          case 1:
            expect_completion(ask(port, post_request("/v1/completions", plain_body(10, false))), false);
            break;
          case 2:
            expect_stream(ask(port, post_request("/v1/chat/completions", kChat)), true);
            break;
          case 3:
            expect_error(ask(port, post_request("/v1/chat/completions", R"({"messages": 1})")), 400);
            break;
          case 4: {   // gone in the middle of the answer
            Client client(port);
            EXPECT_TRUE(client.write(post_request("/v1/completions", plain_body(100, true))));
            client.read_some(40);
            break;
          }
          case 5: {   // gone in the middle of the request
            Client client(port);
            const std::string request = post_request("/v1/completions", plain_body(10, false));
            EXPECT_TRUE(client.write(request.substr(0, 20 + 17 * static_cast<std::size_t>(round))));
            break;
          }
        }
    });
  for (auto& client : clients) client.join();
  EXPECT_EQ(Json::parse(ask(port, get("/healthz")).body)["waiting"], 0);
}

// stop() while requests run, from two threads: an accepted request is answered whole, a later one is refused or not connected.
TEST(Server, StopsWhileRequestsRun) {
  Running service;
  const std::uint16_t port = service.port();
  std::atomic<int> begun = 0, whole = 0;
  std::vector<std::thread> clients;
  for (int c = 0; c < 8; ++c)
    clients.emplace_back([&, c] {
      Client client(port);
      if (!client.connected() || !client.write(post_request("/v1/completions", plain_body(60, c % 2 == 0)))) return;
      std::string bytes = client.read_some(1);
      ++begun;
      bytes += client.read_all();
      if (bytes.empty()) return;   // it came too late to be accepted
      Reply reply;
      EXPECT_EQ(parse_reply(bytes, reply), "");
      if (reply.status == 503) return expect_error(reply, 503);
      if (c % 2 == 0) expect_stream(reply, false);
      else expect_completion(reply, false);
      ++whole;
    });
  while (begun == 0) std::this_thread::yield();
  std::thread other([&] { service.server().stop(); });
  service.stop();
  other.join();
  for (auto& client : clients) client.join();
  EXPECT_GT(whole, 0);
}

TEST(Server, EndsWithoutEverHavingRunOrBeenAsked) {
  { const Server never(make_language_model(testing::toy_model()), {.port = 0}); }
  { Running idle; }
  Running first;
  ServerOptions taken;
  taken.port = first.port();
  EXPECT_THROW(Server(make_language_model(testing::toy_model()), taken), Error);
}

}  // namespace
}  // namespace rhetor
