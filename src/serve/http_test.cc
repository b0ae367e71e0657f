// The transport alone: pipelining, framing that could be misread, clients that vanish, replies that are forgotten.
#include "serve/http.h"

#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "base/error.h"
#include "serve/test_service.h"

namespace rhetor {
namespace {

using testing::connect_to;
using testing::eventually;
using ::testing::HasSubstr;
using ::testing::StartsWith;

void put(int fd, const std::string& text) {
  EXPECT_EQ(::send(fd, text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
}
std::string take_all(int fd) {
  std::string out;
  char part[4096];
  for (ssize_t n; (n = ::recv(fd, part, sizeof part, 0)) > 0;) out.append(part, static_cast<std::size_t>(n));
  ::close(fd);
  return out;
}

// Echoes bodies; "/hold" keeps its reply until somebody takes it, "/forget" drops it, "/throw" throws.
class Echo {
 public:
  explicit Echo(HttpOptions options = {}) {
    options.on_done = [this](const HttpRecord& record) {
      std::lock_guard lock(mutex_);
      records_.push_back(record);
    };
    server_ = std::make_unique<HttpServer>(options, [this](const HttpRequest& request, ResponderPtr reply) {
      if (request.target == "/hold") {
        std::lock_guard lock(mutex_);
        held_.push_back(std::move(reply));
      } else if (request.target == "/throw") {
        throw std::runtime_error("thrown");
      } else if (request.target != "/forget") {
        reply->send(200, "text/plain", request.target + "=" + request.body);
      }
    });
    thread_ = std::thread([this] { server_->run(); });
  }
  ~Echo() {
    held_.clear();
    server_->stop();
    thread_.join();
  }
  std::uint16_t port() const { return server_->port(); }
  int connections() const { return server_->connections(); }
  ResponderPtr held() {
    ResponderPtr out;
    eventually([&] {
      std::lock_guard lock(mutex_);
      if (held_.empty()) return false;
      out = std::move(held_.back());
      held_.pop_back();
      return true;
    });
    return out;
  }
  std::vector<HttpRecord> records() {
    std::lock_guard lock(mutex_);
    return records_;
  }

 private:
  std::mutex mutex_;
  std::vector<ResponderPtr> held_;
  std::vector<HttpRecord> records_;
  std::unique_ptr<HttpServer> server_;
  std::thread thread_;
};

std::string raw_post(const std::string& target, const std::string& body, const std::string& head = "") {
  return fmt::format("POST {} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n{}\r\n{}", target, body.size(), head, body);
}

TEST(Http, PipelinedRequestsAreAnsweredInOrderEvenIfTheFirstTakesTime) {
  Echo echo;
  const int fd = connect_to(echo.port());
  std::string all = raw_post("/hold", "");
  for (int i = 0; i < 50; ++i) all += raw_post(fmt::format("/{}", i), std::string(3000, 'x'));  // more than is read ahead
  put(fd, all + raw_post("/last", "end", "Connection: close\r\n"));
  const ResponderPtr first = echo.held();
  ASSERT_TRUE(first);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_FALSE(first->closed());
  first->begin_stream("text/plain");
  first->write("one");
  first->end();
  const std::string replies = take_all(fd);
  std::size_t at = replies.find("3\r\none\r\n0\r\n\r\n");
  ASSERT_NE(at, std::string::npos);
  for (int i = 0; i < 50; ++i) {
    const std::size_t next = replies.find(fmt::format("/{}=xxx", i), at);
    ASSERT_NE(next, std::string::npos) << i;
    at = next;
  }
  EXPECT_THAT(replies.substr(at), HasSubstr("/last=end"));
}

// A request with two lengths could be understood as one request by us and as two by a proxy before us.
TEST(Http, AmbiguousFramingIsRefused) {
  Echo echo;
  const char* const cases[] = {
      "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
      "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
      "POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
      "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
      "POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
      "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
  };
  for (const char* text : cases) {
    const int fd = connect_to(echo.port());
    put(fd, text);
    EXPECT_THAT(take_all(fd), ::testing::AnyOf(StartsWith("HTTP/1.1 400 "), StartsWith("HTTP/1.1 413 "))) << text;
  }
  const int fd = connect_to(echo.port());
  put(fd, "POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n");
  EXPECT_THAT(take_all(fd), HasSubstr("/c=abc"));
}

TEST(Http, AClientThatLeavesIsNoticedEvenBehindAnotherRequest) {
  Echo echo;
  const int fd = connect_to(echo.port());
  put(fd, raw_post("/hold", "") + raw_post("/next", "x"));
  const ResponderPtr reply = echo.held();
  ASSERT_TRUE(reply);
  EXPECT_FALSE(reply->closed());
  ::close(fd);
  EXPECT_TRUE(eventually([&] { return reply->closed(); }));
  EXPECT_TRUE(eventually([&] { return echo.records().size() == 1; }));
  EXPECT_EQ(echo.records()[0].status, 499);
  EXPECT_TRUE(echo.records()[0].cut);
  reply->send(200, "text/plain", "nobody hears this");
}

TEST(Http, ForgottenRepliesAndThrowingHandlersAreAnswered) {
  Echo echo;
  for (const char* target : {"/forget", "/throw"}) {
    const int fd = connect_to(echo.port());
    put(fd, raw_post(target, "", "Connection: close\r\n"));
    EXPECT_THAT(take_all(fd), StartsWith("HTTP/1.1 500 ")) << target;
  }
}

TEST(Http, ConnectionsAreLimited) {
  Echo echo({.max_connections = 2});
  const int one = connect_to(echo.port()), two = connect_to(echo.port());
  EXPECT_TRUE(eventually([&] { return echo.connections() == 2; }));
  const int three = connect_to(echo.port());
  EXPECT_THAT(take_all(three), StartsWith("HTTP/1.1 503 "));
  ::close(one);
  EXPECT_TRUE(eventually([&] { return echo.connections() == 1; }));
  const int four = connect_to(echo.port());
  put(four, raw_post("/four", "", "Connection: close\r\n"));
  EXPECT_THAT(take_all(four), HasSubstr("/four="));
  ::close(two);
}

TEST(Http, SlowRequestsAreGivenUp) {
  Echo echo({.idle_timeout_s = 0.2});
  const int fd = connect_to(echo.port());
  put(fd, "POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc");
  take_all(fd);  // ends: with a 408 or, the connection being gone, without
  EXPECT_TRUE(eventually([&] { return echo.connections() == 0; }));
}

}  // namespace
}  // namespace rhetor
