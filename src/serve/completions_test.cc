// Completions as clients ask for them: several answers, several prompts, log-probabilities, deadlines, clients that leave or do
// not read.
#include <sys/socket.h>

#include <cmath>

#include "serve/test_service.h"

namespace rhetor {
namespace {

using testing::Call;
using testing::endless;
using ::testing::HasSubstr;
using testing::Json;
using testing::Service;
using testing::toy;

const std::string kGenerate = "{model=\"toy\",task=\"generate\"}";

Sampling sampling_of(const Json& body) {
  return {.temperature = body.value("temperature", 1.0),
          .seed = body["seed"].get<std::uint64_t>(),
          .max_tokens = body["max_tokens"],
          .n = body.value("n", 1)};
}

TEST(Completions, SeveralAnswersStreamedOrNot) {
  Service service(toy());
  Json body = {{"prompt", {"The sea", "The lamp"}}, {"n", 3}, {"seed", 9}, {"max_tokens", 12}};
  const Json whole = Call(service.port(), "/v1/completions", body).json();
  ASSERT_EQ(whole["choices"].size(), 6u) << whole;
  body["stream"] = true;
  body["stream_options"] = {{"include_usage", true}};
  Call stream(service.port(), "/v1/completions", body);
  stream.read();
  for (std::size_t p = 0; p < 2; ++p) {
    const auto expected = generate_n(*toy(), toy()->tokenizer()->encode(body["prompt"][p].get<std::string>()), sampling_of(body));
    for (std::size_t k = 0; k < 3; ++k) {
      EXPECT_EQ(whole["choices"][3 * p + k]["index"], 3 * p + k);
      EXPECT_EQ(whole["choices"][3 * p + k]["text"], expected[k].text);
      EXPECT_EQ(stream.text(static_cast<int>(3 * p + k)), expected[k].text);
    }
  }
  EXPECT_EQ(stream.events().back()["usage"], whole["usage"]);
  EXPECT_NE(whole["choices"][0]["text"], whole["choices"][1]["text"]);
}

TEST(Completions, BeamsTokensEchoAndStops) {
  Service service(toy());
  const auto tokens = toy()->tokenizer()->encode("The sea");
  const Sampling search{.max_tokens = 8, .n = 2, .beams = 4};
  const auto best = generate_n(*toy(), tokens, search);
  const Json found = Call(service.port(), "/v1/completions",
                          {{"prompt", Json(tokens)}, {"max_tokens", 8}, {"beams", 4}, {"n", 2}, {"echo", true}})
                         .json();
  ASSERT_EQ(found["choices"].size(), 2u) << found;
  EXPECT_EQ(found["choices"][0]["text"], "The sea" + best[0].text);
  EXPECT_EQ(found["choices"][1]["text"], "The sea" + best[1].text);
  // A prompt whose ids are not the model's is the client's mistake.
  EXPECT_EQ(Call(service.port(), "/v1/completions", {{"prompt", {1, 2, 100'000}}}).status(), 400);
  EXPECT_EQ(Call(service.port(), "/v1/completions", {{"prompt", "a"}, {"logit_bias", {{"100000", 1}}}}).status(), 400);
  // The letter "e" ends every one of these texts, and is in none.
  const Json stopped = Call(service.port(), "/v1/completions",
                            {{"prompt", "The sea"}, {"seed", 4}, {"max_tokens", 100}, {"stop", {"e"}}, {"n", 4}})
                           .json();
  for (const Json& choice : stopped["choices"]) EXPECT_EQ(choice["text"].get<std::string>().find('e'), std::string::npos);
}

TEST(Completions, LogprobsStreamedOrNot) {
  Service service(toy());
  Json body = {{"messages", {{{"role", "user"}, {"content", "The sea"}}}},
               {"seed", 2},
               {"max_tokens", 9},
               {"logprobs", true},
               {"top_logprobs", 3}};
  const Json whole = Call(service.port(), "/v1/chat/completions", body).json()["choices"][0];
  const Json& content = whole["logprobs"]["content"];
  ASSERT_GE(content.size(), 1u) << whole;
  for (const Json& token : content) {
    EXPECT_LE(token["logprob"], 0);
    EXPECT_EQ(token["top_logprobs"].size(), 3u);
    EXPECT_GE(token["top_logprobs"][0]["logprob"], token["top_logprobs"][1]["logprob"]);
    EXPECT_GE(token["bytes"].size(), 1u);
  }
  body["stream"] = true;
  Call stream(service.port(), "/v1/chat/completions", body);
  Json streamed = Json::array();
  for (const Json& event : stream.events()) {
    const Json& logprobs = event["choices"][0]["logprobs"];
    if (logprobs.is_object()) streamed.insert(streamed.end(), logprobs["content"].begin(), logprobs["content"].end());
  }
  // What comes after the last complete text may be missing from a stream.
  ASSERT_LE(streamed.size(), content.size());
  EXPECT_GE(streamed.size() + 2, content.size());
  for (std::size_t i = 0; i < streamed.size(); ++i) EXPECT_EQ(streamed[i], content[i]);
}

TEST(Completions, LimitsAreNamedWithTheirNumbers) {
  Service service(toy(), {.max_output_tokens = 5, .max_input_tokens = 20});
  const Json output = Call(service.port(), "/v1/completions", {{"prompt", "a"}, {"max_tokens", 6}}).json();
  EXPECT_THAT(output["error"]["message"], HasSubstr("'max_tokens' is 6, this service gives at most 5"));
  EXPECT_LE(Call(service.port(), "/v1/completions", {{"prompt", "a"}}).json()["usage"]["completion_tokens"], 5);
  const Json input =
      Call(service.port(), "/v1/completions", {{"prompt", {"The sea is wide.", "The ship is small. qqqqqqqqqq"}}}).json();
  EXPECT_THAT(input["error"]["message"], HasSubstr("reads at most 20"));
  EXPECT_EQ(input["error"]["code"], "context_length_exceeded");
}

TEST(Completions, AClientsOwnDeadline) {
  Service service(endless(), {.slots = 1});
  Json body = testing::endless_request();
  body["timeout"] = 0.3;
  body["stream"] = false;
  const Json partial = Call(service.port(), "/v1/completions", body).json();
  EXPECT_EQ(partial["choices"][0]["finish_reason"], "deadline") << partial;
  EXPECT_GT(partial["usage"]["completion_tokens"], 0);
  EXPECT_NE(partial["choices"][0]["text"], "");
  EXPECT_TRUE(service.becomes(0, 0));
  Call other(service.port(), "/v1/completions", testing::endless_request());
  other.read("data: {");
  EXPECT_EQ(Call(service.port(), "/v1/completions", body).status(), 504);  // it waited all the time
}

TEST(Completions, ADroppedClientFreesItsSlotsAtOnce) {
  Service service(endless(), {.slots = 2});
  const std::string busy = "rhetor_slots_busy" + kGenerate;
  Json body = testing::endless_request();
  body["n"] = 2;
  auto call = std::make_unique<Call>(service.port(), "/v1/completions", body);
  call->read("\"index\":1");
  EXPECT_TRUE(Service::eventually([&] { return service.metric(busy) == 2; }));
  call.reset();
  EXPECT_TRUE(Service::eventually([&] { return service.metric(busy) == 0; }));
  EXPECT_EQ(service.metric("rhetor_abandoned_total" + kGenerate), 1);
  EXPECT_TRUE(Service::eventually([&] {
    return service.metric("rhetor_requests_total{route=\"/v1/completions\",model=\"toy\",status=\"200\"}") ==
           1;  // its head had gone out
  }));
}

// The client keeps the connection and reads nothing: what waits for it is bounded, and in the end it is dropped and its slot is
// free.
TEST(Completions, AClientThatDoesNotReadIsDropped) {
  Service service(endless(), {.slots = 1, .max_buffered_bytes = 4096});
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int small = 4096;  // before connecting, so that the window is small too
  ::setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(service.port());
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  Json body = testing::endless_request();
  body["logprobs"] = 20;  // more bytes a token: the system's own buffers are full sooner
  const std::string text = body.dump();
  const std::string request =
      fmt::format("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{}", text.size(), text);
  ASSERT_EQ(::send(fd, request.data(), request.size(), MSG_NOSIGNAL), static_cast<ssize_t>(request.size()));
  EXPECT_TRUE(Service::eventually([&] { return service.metric("rhetor_slow_readers_total") == 1; }));
  EXPECT_TRUE(Service::eventually([&] { return service.metric("rhetor_slots_busy" + kGenerate) == 0; }));
  ::close(fd);
}

TEST(Completions, DrainingRefusesNewRequestsAndFinishesOldOnes) {
  Service service(endless(), {.slots = 1, .drain_s = 0.5});
  Call running(service.port(), "/v1/completions", testing::endless_request());
  running.read("data: {");
  std::thread stopper([&] { service.server().stop(); });
  EXPECT_TRUE(Service::eventually([&] { return service.health()["status"] == "draining"; }));
  Call late(service.port(), "/v1/completions", testing::endless_request());
  EXPECT_EQ(late.status(), 503);
  EXPECT_THAT(late.read(), HasSubstr("Retry-After: 1\r\n"));
  stopper.join();
  EXPECT_THAT(running.read(), HasSubstr("the service is stopping"));  // it would never have ended
}

}  // namespace
}  // namespace rhetor
