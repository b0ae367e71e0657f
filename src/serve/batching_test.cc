// Requests that share the engine: each gets the answer it would get alone, and one that leaves makes room at once.
#include <algorithm>
#include <limits>
#include <thread>

#include "serve/test_service.h"

namespace rhetor {
namespace {

using testing::Call;
using testing::endless;
using ::testing::HasSubstr;
using testing::Json;
using testing::Service;
using testing::toy;

const Json kEndless = testing::endless_request();

TEST(Batching, EightStreamsEqualTheSingleAnswers) {
  Service service(toy(), {.slots = 4});
  EXPECT_EQ(service.server().slots(), 4);
  const char* const prompts[] = {"The sea", "a", "The ship is small. The lamp is bright and the sea is deep."};
  std::vector<std::unique_ptr<Call>> calls;
  for (int i = 0; i < 8; ++i) {
    calls.push_back(std::make_unique<Call>(service.port(), "/v1/completions",
                                           Json{{"prompt", prompts[i % 3]},
                                                {"seed", i},
                                                {"max_tokens", 10 + 7 * i},
                                                {"temperature", 0.25 * i},
                                                {"top_p", i % 2 ? 0.9 : 1.0},
                                                {"stream", true}}));
  }
  for (int i = 0; i < 8; ++i) {
    const Sampling sampling{
        .temperature = 0.25 * i, .top_p = i % 2 ? 0.9 : 1.0, .seed = static_cast<std::uint64_t>(i), .max_tokens = 10 + 7 * i};
    EXPECT_EQ(calls[static_cast<std::size_t>(i)]->text(),
              generate(*toy(), toy()->tokenizer()->encode(prompts[i % 3]), sampling).text)
        << i;
  }
  EXPECT_TRUE(service.becomes(0, 0));
}

TEST(Batching, ADroppedClientsSlotIsFree) {
  Service service(endless(), {.slots = 1});
  auto first = std::make_unique<Call>(service.port(), "/v1/completions", kEndless);
  first->read("data: {");
  auto second = std::make_unique<Call>(service.port(), "/v1/completions", kEndless);
  EXPECT_TRUE(service.becomes(1, 1));
  first.reset();
  EXPECT_THAT(second->read("data: {"), HasSubstr("data: {"));  // it has the slot now
  EXPECT_TRUE(service.becomes(1, 0));
  auto waiting = std::make_unique<Call>(service.port(), "/v1/completions", kEndless);
  EXPECT_TRUE(service.becomes(1, 1));
  waiting.reset();  // gone before its turn
  EXPECT_TRUE(service.becomes(1, 0));
  second.reset();
  EXPECT_TRUE(service.becomes(0, 0));
}

TEST(Batching, MoreThanTheQueueHoldsIsSentAway) {
  Service service(endless(), {.max_queue = 2, .slots = 2});
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
  auto service = std::make_unique<Service>(endless(), ServerOptions{.slots = 2});
  Call streaming(service->port(), "/v1/completions", kEndless);
  streaming.read("data: {");
  Json plain = kEndless;
  plain["stream"] = false;
  Call whole(service->port(), "/v1/completions", plain);
  EXPECT_TRUE(service->becomes(2, 0));
  std::thread graceful([&] { service->server().stop(); });  // would wait for ever
  service->server().stop_now();
  graceful.join();
  service.reset();
  EXPECT_THAT(streaming.read(), HasSubstr("the service is stopping"));
  EXPECT_THAT(streaming.read(), HasSubstr("data: [DONE]"));
  EXPECT_EQ(whole.status(), 503);
}

TEST(Batching, TimeIsLimitedWaitingOrRunning) {
  Service service(endless(), {.slots = 1, .request_timeout_s = 0.3});
  Call streaming(service.port(), "/v1/completions", kEndless);
  streaming.read("data: {");
  Json plain = kEndless;
  plain["stream"] = false;
  plain["timeout"] = 0.1;  // over before the other's is
  Call waiting(service.port(), "/v1/completions", plain);
  // What there was of the answer is its answer; of the other there was nothing.
  EXPECT_THAT(streaming.read(), HasSubstr("\"finish_reason\":\"deadline\""));
  EXPECT_THAT(streaming.read(), HasSubstr("data: [DONE]"));
  EXPECT_EQ(waiting.status(), 504);
  EXPECT_EQ(waiting.json()["error"]["code"], "timeout");
  EXPECT_THAT(waiting.json()["error"]["message"], HasSubstr("longer than the 0.1 s allowed"));
}

// Weights that are no numbers from position 20 on: who gets there fails, neighbours and successors in the slot do not notice.
TEST(Batching, OneFailureIsNotTheNeighboursFailure) {
  const auto damaged = testing::toy_model("gpt2", 3, 48), whole = testing::toy_model("gpt2", 3, 48);
  auto places = damaged->weights.at("wpe.weight").data<float>();
  std::fill(places.begin() + 20 * damaged->config.hidden, places.end(), std::numeric_limits<float>::quiet_NaN());
  const auto good = make_language_model(whole);
  Service service(make_language_model(damaged), {.slots = 2});
  const Json small = {{"prompt", "The sea"}, {"seed", 1}, {"max_tokens", 8}};
  const std::string expected =
      generate(*good, good->tokenizer()->encode("The sea"), {.temperature = 1, .seed = 1, .max_tokens = 8}).text;
  for (int round = 0; round < 4; ++round) {
    Call bad(service.port(), "/v1/completions", {{"prompt", std::string(19, 'x')}, {"logit_bias", nullptr}, {"max_tokens", 20}});
    Call fine(service.port(), "/v1/completions", small);
    EXPECT_EQ(fine.json()["choices"][0]["text"], expected);
    if (bad.status() == 200)
      EXPECT_LE(bad.json()["usage"]["completion_tokens"], 3);  // it ended before it got there
    else
      EXPECT_EQ(bad.json()["error"]["type"], "server_error");
  }
}

TEST(Batching, AConversationOutgrowsTheContext) {
  Service service(toy(), {});
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
