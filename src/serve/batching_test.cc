// Requests that share the engine: each gets the answer it would get alone, and one that leaves makes room at once.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>

#include "generate/test_models.h"
#include "serve/server.h"

namespace rhetor {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;

// A request on its way; the connection closes with the object.
class Call {
 public:
  Call(std::uint16_t port, const std::string& target, const Json& body) : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const timeval limit{.tv_sec = 60, .tv_usec = 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    const std::string text = body.is_null() ? "" : body.dump();
    const std::string request = fmt::format("{} {} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
                                            text.empty() ? "GET" : "POST", target, text.size(), text);
    EXPECT_EQ(::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
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
  Json json() {
    read();
    return Json::parse(all_.substr(std::min(all_.size(), all_.find("\r\n\r\n") + 4)), nullptr, false);
  }
  // The text of a stream.
  std::string text() {
    read();
    std::string out;
    for (std::size_t at = 0; (at = all_.find("data: {", at)) != std::string::npos;) {
      at += 6;
      const Json event = Json::parse(all_.substr(at, all_.find("\n\n", at) - at), nullptr, false);
      if (event.is_object() && event.contains("choices")) out += event["choices"][0].value("text", "");
    }
    return out;
  }

 private:
  int fd_;
  std::string all_;
};

class Running {
 public:
  Running(LanguageModelPtr model, ServerOptions options) {
    options.port = 0;
    server_ = std::make_unique<Server>(std::move(model), options);
    thread_ = std::thread([this] { server_->run(); });
  }
  ~Running() {
    server_->stop_now();
    thread_.join();
  }
  Server& server() { return *server_; }
  std::uint16_t port() const { return server_->port(); }
  Json health() const { return Call(port(), "/healthz", nullptr).json(); }
  bool becomes(int running, int waiting) const {
    for (int i = 0; i < 2000; ++i) {
      const Json json = health();
      if (json["running"] == running && json["waiting"] == waiting) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }

 private:
  std::unique_ptr<Server> server_;
  std::thread thread_;
};

LanguageModelPtr toy() {
  static const LanguageModelPtr model = make_language_model(testing::toy_model("llama", 3, 128));
  return model;
}
// Its answers outlast the tests: the context is long and no token means the end. What ends them is what is being tested.
LanguageModelPtr endless() {
  static const LanguageModelPtr model = [] {
    const auto toy_model = testing::toy_model("llama", 3, 1 << 16);
    bool more = true;
    toy_model->tokenizer = train_byte_bpe([&more](std::string& text) { return text = "The sea, the sea.", std::exchange(more, false); },
                                          {.vocab_size = 260, .specials = {}});
    return make_language_model(toy_model);
  }();
  return model;
}
const Json kEndless = {{"prompt", "The sea"}, {"max_tokens", 1 << 20}, {"temperature", 0}, {"stream", true}};

TEST(Batching, EightStreamsEqualTheSingleAnswers) {
  Running service(toy(), {.slots = 4});
  EXPECT_EQ(service.server().slots(), 4);
  const char* const prompts[] = {"The sea", "a", "The ship is small. The lamp is bright and the sea is deep."};
  std::vector<std::unique_ptr<Call>> calls;
  for (int i = 0; i < 8; ++i) {
    calls.push_back(std::make_unique<Call>(service.port(), "/v1/completions",
                                           Json{{"prompt", prompts[i % 3]}, {"seed", i}, {"max_tokens", 10 + 7 * i},
                                                {"temperature", 0.25 * i}, {"top_p", i % 2 ? 0.9 : 1.0}, {"stream", true}}));
  }
  for (int i = 0; i < 8; ++i) {
    const Sampling sampling{.temperature = 0.25 * i, .top_p = i % 2 ? 0.9 : 1.0, .seed = static_cast<std::uint64_t>(i),
                            .max_tokens = 10 + 7 * i};
    EXPECT_EQ(calls[static_cast<std::size_t>(i)]->text(), generate(*toy(), toy()->tokenizer()->encode(prompts[i % 3]), sampling).text) << i;
  }
  EXPECT_TRUE(service.becomes(0, 0));
}

TEST(Batching, ADroppedClientsSlotIsFree) {
  Running service(endless(), {.slots = 1});
  auto first = std::make_unique<Call>(service.port(), "/v1/completions", kEndless);
  first->read("data: {");
  auto second = std::make_unique<Call>(service.port(), "/v1/completions", kEndless);
  EXPECT_TRUE(service.becomes(1, 1));
  first.reset();
  EXPECT_THAT(second->read("data: {"), HasSubstr("data: {"));   // it has the slot now
  EXPECT_TRUE(service.becomes(1, 0));
  auto waiting = std::make_unique<Call>(service.port(), "/v1/completions", kEndless);
  EXPECT_TRUE(service.becomes(1, 1));
  waiting.reset();   // gone before its turn
  EXPECT_TRUE(service.becomes(1, 0));
  second.reset();
  EXPECT_TRUE(service.becomes(0, 0));
}

TEST(Batching, MoreThanTheQueueHoldsIsSentAway) {
  Running service(endless(), {.max_queue = 2, .slots = 2});
  std::vector<std::unique_ptr<Call>> calls;
  for (int i = 0; i < 4; ++i) {
    calls.push_back(std::make_unique<Call>(service.port(), "/v1/completions", kEndless));
    EXPECT_TRUE(service.becomes(std::min(i + 1, 2), std::max(i - 1, 0)));
  }
  Call refused(service.port(), "/v1/completions", kEndless);
  EXPECT_EQ(refused.status(), 429);
  EXPECT_THAT(refused.read(), HasSubstr("Retry-After: 1\r\n"));
  EXPECT_EQ(refused.json()["error"]["type"], "rate_limit_error");
  EXPECT_EQ(service.server().busy(), 4);
}

TEST(Batching, StopNowBreaksAnswersOff) {
  auto service = std::make_unique<Running>(endless(), ServerOptions{.slots = 2});
  Call streaming(service->port(), "/v1/completions", kEndless);
  streaming.read("data: {");
  Json plain = kEndless;
  plain["stream"] = false;
  Call whole(service->port(), "/v1/completions", plain);
  EXPECT_TRUE(service->becomes(2, 0));
  std::thread graceful([&] { service->server().stop(); });   // would wait for ever
  service->server().stop_now();
  graceful.join();
  service.reset();
  EXPECT_THAT(streaming.read(), HasSubstr("the service is stopping"));
  EXPECT_THAT(streaming.read(), HasSubstr("data: [DONE]"));
  EXPECT_EQ(whole.status(), 503);
}

TEST(Batching, TimeIsLimitedWaitingOrRunning) {
  Running service(endless(), {.slots = 1, .request_timeout_s = 0.3});
  Call streaming(service.port(), "/v1/completions", kEndless);
  streaming.read("data: {");
  Json plain = kEndless;
  plain["stream"] = false;
  Call waiting(service.port(), "/v1/completions", plain);
  EXPECT_THAT(streaming.read(), HasSubstr("longer than the 0.3 s allowed"));
  EXPECT_EQ(waiting.status(), 504);
  EXPECT_EQ(waiting.json()["error"]["code"], "timeout");
}

// Weights that are no numbers from position 20 on: who gets there fails, neighbours and successors in the slot do not notice.
TEST(Batching, OneFailureIsNotTheNeighboursFailure) {
  const auto damaged = testing::toy_model("gpt2", 3, 48), whole = testing::toy_model("gpt2", 3, 48);
  auto places = damaged->weights.at("wpe.weight").data<float>();
  std::fill(places.begin() + 20 * damaged->config.hidden, places.end(), std::numeric_limits<float>::quiet_NaN());
  const auto good = make_language_model(whole);
  Running service(make_language_model(damaged), {.slots = 2});
  const Json small = {{"prompt", "The sea"}, {"seed", 1}, {"max_tokens", 8}};
  const std::string expected =
      generate(*good, good->tokenizer()->encode("The sea"), {.temperature = 1, .seed = 1, .max_tokens = 8}).text;
  for (int round = 0; round < 4; ++round) {
    Call bad(service.port(), "/v1/completions", {{"prompt", std::string(19, 'x')}, {"logit_bias", nullptr}, {"max_tokens", 20}});
    Call fine(service.port(), "/v1/completions", small);
    EXPECT_EQ(fine.json()["choices"][0]["text"], expected);
    if (bad.status() == 200) EXPECT_LE(bad.json()["usage"]["completion_tokens"], 3);   // it ended before it got there
    else EXPECT_EQ(bad.json()["error"]["type"], "server_error");
  }
}

TEST(Batching, AConversationOutgrowsTheContext) {
  Running service(toy(), {});
  Json messages = Json::array();
  for (int i = 0; i < 100; ++i) {
    messages.push_back({{"role", "user"}, {"content", "The sea is wide and the ship is small."}});
    messages.push_back({{"role", "assistant"}, {"content", "The lamp is bright."}});
  }
  messages.push_back({{"role", "user"}, {"content", "Why?"}});
  Call call(service.port(), "/v1/chat/completions", {{"messages", messages}, {"max_tokens", 5}});
  EXPECT_EQ(call.status(), 200) << call.read();
  EXPECT_LE(call.json()["usage"]["prompt_tokens"], 123);
  messages.push_back({{"role", "user"}, {"content", std::string(500, 'z')}});
  Call refused(service.port(), "/v1/chat/completions", {{"messages", messages}});
  EXPECT_EQ(refused.status(), 400);
  EXPECT_EQ(refused.json()["error"]["code"], "context_length_exceeded");
}

}  // namespace
}  // namespace rhetor
