// Several models in one service: who answers what, who may ask, and what comes back. The encoder is a fake whose answers tell
// what it was asked.
#include <atomic>

#include "base/error.h"
#include "serve/test_service.h"

namespace rhetor {
namespace {

using testing::Call;
using testing::endless;
using ::testing::HasSubstr;
using testing::Json;
using ::testing::Not;
using testing::Service;
using testing::toy;

// Embeddings that hold the length of the text; labels "even" and "odd"; ranks by length. One text with "poison" breaks a whole
// batch.
class FakeEncoder final : public EncoderModel {
 public:
  explicit FakeEncoder(bool heads) : heads_(heads) { config_.family = "bert", config_.context = 64, config_.hidden = 2; }
  const ModelConfig& config() const override { return config_; }
  const std::string& name() const override { return name_; }
  const TokenizerPtr& tokenizer() const override { return tokenizer_; }
  std::int64_t tokens(const TextPair& text) const override {
    return static_cast<std::int64_t>(text.first.size() + text.second.size());
  }
  bool can_embed() const override { return true; }
  bool can_classify() const override { return heads_; }
  bool can_answer() const override { return heads_; }
  bool can_tag() const override { return heads_; }
  bool can_rank() const override { return true; }
  std::vector<std::vector<float>> embed(std::span<const std::string> texts) const override {
    ++calls;
    while (hold) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::vector<std::vector<float>> out;
    for (const std::string& text : texts) {
      if (text == "poison") fail(ErrorKind::internal, "poisoned");
      out.push_back({static_cast<float>(text.size()), 1});
    }
    return out;
  }
  std::vector<std::vector<Label>> classify(std::span<const TextPair> texts) const override {
    std::vector<std::vector<Label>> out;
    for (const TextPair& text : texts) out.push_back({{tokens(text) % 2 ? "odd" : "even", 1}});
    return out;
  }
  std::vector<SpanAnswer> answer(const std::string& question, const std::string& passage,
                                 const AskOptions& options) const override {
    const std::size_t at = passage.find(question);
    if (at == std::string::npos) return {{"", 0, 0, 0, 1}};
    std::vector<SpanAnswer> out(static_cast<std::size_t>(options.best));
    out[0] = {question, static_cast<std::int64_t>(at), static_cast<std::int64_t>(at + question.size()), 1, -1};
    return out;
  }
  std::vector<std::vector<TaggedWord>> tag(std::span<const std::string> texts) const override {
    return std::vector<std::vector<TaggedWord>>(texts.size(), {{0, 1, {"X", 1}}});
  }
  std::vector<double> rank(const std::string&, std::span<const std::string> documents) const override {
    std::vector<double> out;
    for (const std::string& document : documents) out.push_back(static_cast<double>(document.size()));
    return out;
  }
  mutable std::atomic<int> calls = 0;
  std::atomic<bool> hold = false;

 private:
  bool heads_;
  ModelConfig config_;
  std::string name_ = "fake";
  TokenizerPtr tokenizer_ = testing::toy_tokenizer();
};

std::vector<ServedModel> three(const EncoderModelPtr& encoder) {
  std::vector<ServedModel> out;
  out.push_back(serve_language_model(toy(), "writer"));
  out.push_back(serve_encoder_model(encoder));
  out.push_back(serve_encoder_model(std::make_shared<FakeEncoder>(true), "heads"));
  return out;
}
std::vector<ServedModel> three() { return three(std::make_shared<FakeEncoder>(false)); }

Json ask(const Service& service, const std::string& target, const Json& body, int status = 200) {
  Call call(service.port(), target, body);
  EXPECT_EQ(call.status(), status) << call.read();
  return call.json();
}

TEST(Routes, TheModelIsTheOneNamedOrTheFirstThatCan) {
  Service service(three(), {});
  const Json models = ask(service, "/v1/models", nullptr)["data"];
  ASSERT_EQ(models.size(), 3u);
  EXPECT_EQ(models[0]["capabilities"], Json({"chat", "completions"}));
  EXPECT_EQ(models[1]["capabilities"], Json({"embeddings", "rank"}));
  EXPECT_EQ(models[0]["context"], 128);
  EXPECT_EQ(ask(service, "/v1/models/heads", nullptr)["id"], "heads");
  ask(service, "/v1/models/nobody", nullptr, 404);

  EXPECT_EQ(ask(service, "/v1/embeddings", {{"input", "abc"}})["model"], "fake");
  EXPECT_EQ(ask(service, "/v1/embeddings", {{"input", "abc"}, {"model", "heads"}})["model"], "heads");
  EXPECT_EQ(ask(service, "/v1/classify", {{"input", "abc"}})["model"], "heads");
  const Json unable = ask(service, "/v1/classify", {{"input", "abc"}, {"model", "fake"}}, 400);
  EXPECT_EQ(unable["error"]["code"], "model_not_able");
  EXPECT_EQ(ask(service, "/v1/embeddings", {{"input", "abc"}, {"model", "writer"}}, 400)["error"]["code"], "model_not_able");
  EXPECT_EQ(ask(service, "/v1/completions", {{"prompt", "a"}, {"model", "fake"}}, 400)["error"]["code"], "model_not_able");
  EXPECT_EQ(ask(service, "/v1/completions", {{"prompt", "a"}, {"model", "nobody"}}, 404)["error"]["code"], "model_not_found");
  EXPECT_EQ(ask(service, "/v1/completions", {{"prompt", "a"}, {"max_tokens", 3}})["model"], "writer");
}

TEST(Routes, TasksAnswer) {
  Service service(three(), {});
  Json many = {{"input", Json::array()}};
  for (int i = 1; i <= 60; ++i) many["input"].push_back(std::string(static_cast<std::size_t>(i), 'x'));
  const Json vectors = ask(service, "/v1/embeddings", many);  // more than one part
  ASSERT_EQ(vectors["data"].size(), 60u);
  for (int i = 0; i < 60; ++i) EXPECT_EQ(vectors["data"][static_cast<std::size_t>(i)]["embedding"][0], i + 1.0);
  EXPECT_EQ(vectors["usage"]["total_tokens"], 60 * 61 / 2);

  for (const char* route : {"/v1/rank", "/v1/rerank"})
    EXPECT_EQ(ask(service, route, {{"query", "q"}, {"documents", {"a", "ccc", "bb"}}, {"top_n", 2}})["results"][0]["index"], 1);
  EXPECT_EQ(ask(service, "/v1/classify", {{"input", {"ab", "abc"}}})["data"][1]["label"], "odd");
  const Json answer = ask(service, "/v1/qa", {{"question", "Ann"}, {"passage", "Here is Ann."}});
  EXPECT_EQ(answer["answers"][0]["start"], 8);
  EXPECT_EQ(ask(service, "/v1/tag", {{"input", "Ann"}})["data"][0]["words"][0]["text"], "A");

  // Too long: refused, or cut if asked for.
  const std::string text(65, 'x');
  const Json refused = ask(service, "/v1/embeddings", {{"input", {"a", text}}}, 400);
  EXPECT_EQ(refused["error"]["code"], "context_length_exceeded");
  EXPECT_THAT(refused["error"]["message"], HasSubstr("text 1 has 65 tokens, the model's context holds 64"));
  ask(service, "/v1/embeddings", {{"input", {"a", text}}, {"truncate", true}});
  ask(service, "/v1/embeddings", {{"input", "a"}, {"dimensions", 3}}, 400);
  ask(service, "/v1/embeddings", {{"input", 3}}, 400);
  EXPECT_EQ(ask(service, "/v1/embeddings", {{"input", "poison"}}, 500)["error"]["message"], "internal error");
  ask(service, "/v1/embeddings", {{"input", "fine again"}});
}

TEST(Routes, RequestsOfTextsShareBatchesAndAQueue) {
  const auto encoder = std::make_shared<FakeEncoder>(false);
  Service service(three(encoder), {.max_queue = 3, .request_timeout_s = 20});
  encoder->hold = true;
  std::vector<std::unique_ptr<Call>> calls;
  const auto add = [&](const Json& body) { calls.push_back(std::make_unique<Call>(service.port(), "/v1/embeddings", body)); };
  add({{"input", "first"}});
  ASSERT_TRUE(service.becomes(1, 0));
  EXPECT_TRUE(Service::eventually([&] { return encoder->calls == 1; }));
  add({{"input", "a"}});
  add({{"input", "bb"}});
  add({{"input", "ccc"}, {"timeout", 0.01}});
  ASSERT_TRUE(service.becomes(1, 3));
  Call refused(service.port(), "/v1/embeddings", {{"input", "x"}});
  EXPECT_EQ(refused.status(), 429);
  EXPECT_THAT(refused.read(), HasSubstr("Retry-After: "));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  encoder->hold = false;
  EXPECT_EQ(calls[1]->json()["data"][0]["embedding"][0], 1.0);
  EXPECT_EQ(calls[2]->json()["data"][0]["embedding"][0], 2.0);
  EXPECT_EQ(calls[3]->status(), 504);
  EXPECT_EQ(encoder->calls, 2);  // those that waited went together
  EXPECT_TRUE(service.becomes(0, 0));
}

TEST(Routes, KeysAreAskedFor) {
  Service service(three(), {.keys = ApiKeys::from_list("anna first-secret,second-secret", "test")});
  const Json body = {{"prompt", "a"}, {"max_tokens", 2}};
  Call none(service.port(), "/v1/completions", body);
  EXPECT_EQ(none.status(), 401);
  EXPECT_THAT(none.read(), HasSubstr("WWW-Authenticate: Bearer\r\n"));
  EXPECT_EQ(none.json()["error"]["code"], "invalid_api_key");
  EXPECT_EQ(Call(service.port(), "/v1/completions", body, "Authorization: Bearer wrong-secret\r\n").status(), 401);
  EXPECT_EQ(Call(service.port(), "/v1/completions", body, "Authorization: Bearer first-secret\r\n").status(), 200);
  EXPECT_EQ(Call(service.port(), "/v1/completions", body, "x-api-key: second-secret\r\n").status(), 200);
  EXPECT_EQ(Call(service.port(), "/v1/models", nullptr).status(), 401);
  EXPECT_EQ(Call(service.port(), "/metrics", nullptr).status(), 401);
  EXPECT_EQ(Call(service.port(), "/healthz", nullptr).status(), 200);
  EXPECT_EQ(Call(service.port(), "/", nullptr).status(), 200);
}

TEST(Routes, OtherOriginsOnlyIfAllowed) {
  const std::string here = "Origin: http://here.example\r\n", there = "Origin: http://there.example\r\n";
  {
    Service closed(three(), {});
    EXPECT_THAT(Call(closed.port(), "/v1/models", nullptr, here).read(), Not(HasSubstr("Access-Control")));
  }
  Service service(three(), {.keys = ApiKeys::from_list("first-secret", "test"), .cors_origins = {"http://here.example"}});
  Call preflight(service.port(), "/v1/completions", nullptr, here, "OPTIONS");
  EXPECT_EQ(preflight.status(), 200);  // without a key: browsers send none here
  EXPECT_THAT(preflight.read(), HasSubstr("Access-Control-Allow-Origin: http://here.example\r\n"));
  EXPECT_THAT(preflight.read(), HasSubstr("Access-Control-Allow-Headers: Authorization"));
  EXPECT_THAT(Call(service.port(), "/v1/completions", {{"prompt", 1}}, here).read(),
              HasSubstr("Access-Control-Allow-Origin"));  // refusals too
  EXPECT_THAT(Call(service.port(), "/v1/models", nullptr, there).read(), Not(HasSubstr("Access-Control")));
}

TEST(Routes, RequestIds) {
  Service service(toy());
  EXPECT_THAT(Call(service.port(), "/healthz", nullptr, "X-Request-Id: my-id.7\r\n").read(),
              HasSubstr("X-Request-Id: my-id.7\r\n"));
  const std::string made = Call(service.port(), "/healthz", nullptr, "X-Request-Id: \"; drop\r\n").read();
  EXPECT_THAT(made, HasSubstr("X-Request-Id: req-"));
}

TEST(Routes, MetricsCount) {
  Service service(toy());
  ask(service, "/v1/completions", {{"prompt", "The sea"}, {"max_tokens", 6}, {"seed", 1}});
  ask(service, "/v1/completions", {{"prompt", 1}}, 400);
  ask(service, "/nowhere/at/all", nullptr, 404);
  const std::string generate = "{model=\"toy\",task=\"generate\"}";
  EXPECT_TRUE(Service::eventually(
      [&] { return service.metric("rhetor_requests_total{route=\"/v1/completions\",model=\"toy\",status=\"200\"}") == 1; }));
  EXPECT_EQ(service.metric("rhetor_requests_total{route=\"/v1/completions\",model=\"\",status=\"400\"}"), 1);
  EXPECT_EQ(service.metric("rhetor_requests_total{route=\"other\",model=\"\",status=\"404\"}"), 1);
  EXPECT_GE(service.metric("rhetor_output_tokens_total" + generate), 1);
  EXPECT_GE(service.metric("rhetor_prompt_tokens_total" + generate), 2);
  EXPECT_EQ(service.metric("rhetor_time_to_first_token_seconds_count" + generate), 1);
  EXPECT_GE(service.metric("rhetor_batch_size_count" + generate), 1);
  EXPECT_EQ(service.metric("rhetor_slots" + generate), 4);
  EXPECT_EQ(service.metric("rhetor_queue_depth" + generate), 0);
  EXPECT_GT(service.metric("process_resident_memory_bytes"), 1e6);
  EXPECT_THAT(Call(service.port(), "/metrics", nullptr).read(), HasSubstr("rhetor_build_info{version=\""));
}

TEST(Routes, TwoModelsOfOneNameAreRefused) {
  std::vector<ServedModel> models = three();
  models.push_back(serve_language_model(toy(), "fake"));
  EXPECT_THROW(Server(std::move(models), {.port = 0}), Error);
  EXPECT_THROW(Server(std::vector<ServedModel>{}, {.port = 0}), Error);
}

}  // namespace
}  // namespace rhetor
