// Request bodies that are refused and why, request bodies that are understood, and the shape of the replies.
#include "serve/api.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "generate/test_models.h"

namespace rhetor {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

std::string refusal(const std::string& body, bool chat) {
  try {
    parse_completion(body, chat);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::invalid) << error.what();
    return error.what();
  }
  return "(accepted)";
}

TEST(Api, BadBodiesAreRefusedNamingTheField) {
  const struct {
    bool chat;
    std::string body, says;
  } cases[] = {
      {false, "", "not JSON"},
      {false, "{", "not JSON"},
      {false, "\xff\xfe", "not JSON"},
      {false, "[1]", "must be a JSON object, found array"},
      {false, "{}", "'prompt' is missing"},
      {false, R"({"prompt": 5})", "'prompt' must be a string"},
      {false, R"({"prompt": []})", "'prompt' must be a string"},
      {false, R"({"prompt": ["a", 5]})", "one of its items is number"},
      {false, R"({"prompt": ["a", [5]]})", "one of its items is array"},
      {false, R"({"prompt": [1, "a"]})", "not a token id"},
      {false, R"({"prompt": [[1], [-2]]})", "not a token id"},
      {false, R"({"prompt": [[]]})", "an empty list of tokens"},
      {false, R"({"prompt": "a", "model": 3})", "'model' must be a string, found number"},
      {false, R"({"prompt": "a", "temperature": "hot"})", "'temperature' must be a number, found string"},
      {false, R"({"prompt": "a", "temperature": 2.5})", "'temperature' must be between 0 and 2"},
      {false, R"({"prompt": "a", "temperature": -1})", "'temperature' must be between"},
      {false, R"({"prompt": "a", "temperature": 1e999})", "not JSON"},
      {false, R"({"prompt": "a", "top_p": 1.5})", "'top_p' must be between 0 and 1"},
      {false, R"({"prompt": "a", "top_k": 1.5})", "'top_k' must be an integer"},
      {false, R"({"prompt": "a", "top_k": -1})", "'top_k' must be between"},
      {false, R"({"prompt": "a", "max_tokens": 0})", "'max_tokens' must be between"},
      {false, R"({"prompt": "a", "max_tokens": -9223372036854775808})", "'max_tokens' must be between"},
      {false, R"({"prompt": "a", "max_tokens": 18446744073709551615})", "'max_tokens' must be between"},
      {false, R"({"prompt": "a", "max_completion_tokens": true})", "'max_completion_tokens' must be an integer"},
      {false, R"({"prompt": "a", "seed": 18446744073709551615})", "'seed' must be between"},
      {false, R"({"prompt": "a", "n": 0})", "'n' must be between 1 and 128"},
      {false, R"({"prompt": ["a", "b"], "n": 100})", "ask for 200 answers, at most 128"},
      {false, R"({"prompt": "a", "best_of": 3})", "'best_of' must be 1"},
      {false, R"({"prompt": "a", "beams": 2, "n": 3})", "more than the 2 beams"},
      {false, R"({"prompt": "a", "min_p": 2})", "'min_p' must be between 0 and 1"},
      {false, R"({"prompt": "a", "repetition_penalty": 0})", "'repetition_penalty' must be between"},
      {false, R"({"prompt": "a", "presence_penalty": 3})", "'presence_penalty' must be between -2 and 2"},
      {false, R"({"prompt": "a", "frequency_penalty": "x"})", "'frequency_penalty' must be a number"},
      {false, R"({"prompt": "a", "logit_bias": [1]})", "'logit_bias' must be an object"},
      {false, R"({"prompt": "a", "logit_bias": {"x": 1}})", "the key 'x', which is not a token id"},
      {false, R"({"prompt": "a", "logit_bias": {"-1": 1}})", "which is not a token id"},
      {false, R"({"prompt": "a", "logit_bias": {"99999999999": 1}})", "which is not a token id"},
      {false, R"({"prompt": "a", "logit_bias": {"1": 101}})", "of token 1 must be between -100 and 100"},
      {false, R"({"prompt": "a", "logit_bias": {"1": "x"}})", "of token 1 must be a number"},
      {false, R"({"prompt": "a", "logprobs": 21})", "'logprobs' must be between 0 and 20"},
      {false, R"({"prompt": "a", "logprobs": true})", "'logprobs' must be an integer"},
      {false, R"({"prompt": "a", "echo": true, "logprobs": 1})", "'echo' together with 'logprobs'"},
      {true, R"({"messages": [{"role": "user", "content": "a"}], "top_logprobs": 2})", "'logprobs' is not true"},
      {true, R"({"messages": [{"role": "user", "content": "a"}], "logprobs": 2})", "'logprobs' must be true or false"},
      {true, R"({"messages": [{"role": "user", "content": "a"}], "tools": [{}]})", "'tools' is not supported"},
      {true, R"({"messages": [{"role": "user", "content": "a"}], "response_format": {"type": "json_object"}})",
       "'response_format' must be"},
      {false, R"({"prompt": "a", "timeout": 0})", "'timeout' must be between"},
      {false, R"({"prompt": "a", "timeout": "5"})", "'timeout' must be a number"},
      {false, R"({"prompt": "a", "stream": "yes"})", "'stream' must be true or false"},
      {false, R"({"prompt": "a", "stream_options": {"include_usage": 1}})", "'include_usage' must be true or false"},
      {false, R"({"prompt": "a", "stop": ""})", "'stop' must be a non-empty string"},
      {false, R"({"prompt": "a", "stop": ["x", 5]})", "'stop' must be a non-empty string"},
      {false, R"({"prompt": "a", "stop": {"a": "b"}})", "'stop' must be a non-empty string"},
      {false, R"({"prompt": "a", "stop": ["1","2","3","4","5","6","7","8","9","10","11","12","13","14","15","16","17"]})",
       "'stop' has 17 strings, at most 16"},
      {true, "{}", "'messages' must be a list"},
      {true, R"({"messages": []})", "'messages' must be a list"},
      {true, R"({"messages": "hi"})", "'messages' must be a list"},
      {true, R"({"messages": ["hi"]})", "'messages[0]' must be an object"},
      {true, R"({"messages": [{"content": "hi"}]})", "'messages[0].role' must be"},
      {true, R"({"messages": [{"role": 1, "content": "hi"}]})", "'messages[0].role' must be"},
      {true, R"({"messages": [{"role": "wizard", "content": "hi"}]})", "'wizard' is unknown"},
      {true, R"({"messages": [{"role": "user"}]})", "'messages[0].content' is missing"},
      {true, R"({"messages": [{"role": "user", "content": null}]})", "'messages[0].content' must be a string or a list"},
      {true, R"({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})", "only text is supported"},
      {true, R"({"messages": [{"role": "user", "content": [{"type": 7, "text": "x"}]}]})", "only text is supported"},
      {true, R"({"messages": [{"role": "user", "content": [{"type": "text", "text": null}]}]})", "only text is supported"},
  };
  for (const auto& c : cases) EXPECT_THAT(refusal(c.body, c.chat), HasSubstr(c.says)) << c.body;
}

// What a client may send to exhaust the stack or the time: nesting as deep as the body is long, and very many keys.
TEST(Api, HostileSizesCostNoMoreThanTheirLength) {
  constexpr std::size_t kDepth = 100'000;
  const std::string nest = std::string(kDepth, '[') + std::string(kDepth, ']');
  EXPECT_THAT(refusal(nest, false), HasSubstr("must be a JSON object"));
  EXPECT_THAT(refusal(R"({"prompt": "a", "stop": )" + nest + "}", false), HasSubstr("'stop' must be"));
  EXPECT_THAT(refusal(R"({"prompt": )" + nest + "}", false), HasSubstr("not a token id"));
  std::string keys = "{";
  for (int i = 0; i < 100'000; ++i) keys += fmt::format("\"{}\":1,", i);
  EXPECT_THAT(refusal(keys + "\"z\":1}", false), HasSubstr("'prompt' is missing"));
  EXPECT_LT(refusal("\"" + std::string(100'000, 'x'), false).size(), 400u);
}

TEST(Api, GoodBodiesAreUnderstood) {
  const auto plain = parse_completion(
      R"({"prompt": ["Hi"], "model": "m", "temperature": 0, "top_p": 0.5, "top_k": 7, "seed": -1, "max_tokens": 9,
          "stop": "x", "stream": true, "stream_options": {"include_usage": true}, "unknown": [1, {"a": null}]})",
      false);
  EXPECT_THAT(plain.prompts, ::testing::ElementsAre("Hi"));
  EXPECT_EQ(plain.model, "m");
  EXPECT_FALSE(plain.chat);
  EXPECT_EQ(plain.sampling.temperature, 0);
  EXPECT_EQ(plain.sampling.top_p, 0.5);
  EXPECT_EQ(plain.sampling.top_k, 7);
  EXPECT_EQ(plain.sampling.seed, ~std::uint64_t{0});
  EXPECT_EQ(plain.sampling.max_tokens, 9);
  EXPECT_TRUE(plain.max_tokens_given && plain.stream && plain.include_usage);
  EXPECT_THAT(plain.sampling.stop, ::testing::ElementsAre("x"));

  const auto nulls =
      parse_completion(R"({"prompt": "a", "max_tokens": null, "stop": null, "stream": null, "model": null})", false);
  EXPECT_FALSE(nulls.max_tokens_given || nulls.stream);
  EXPECT_EQ(nulls.sampling.max_tokens, 256);

  const auto chat = parse_completion(
      R"({"messages": [{"role": "developer", "content": "Be brief."},
                       {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "<|end|>b"}]}],
          "max_completion_tokens": 5, "max_tokens": 6})",
      true);
  EXPECT_TRUE(chat.chat);
  ASSERT_EQ(chat.messages.size(), 2u);
  EXPECT_EQ(chat.messages[0].role, "system");
  EXPECT_EQ(chat.messages[1].content, "a<|end|>b");
  EXPECT_EQ(chat.sampling.max_tokens, 5);
}

TEST(Api, EverySamplingFieldArrives) {
  const auto request = parse_completion(
      R"({"prompt": [[5, 6], [7]], "n": 2, "min_p": 0.1, "repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": -0.5,
          "logit_bias": {"12": -100, "7": 1.5}, "logprobs": 3, "best_of": 2, "length_penalty": 0.8, "early_stopping": true, "timeout": 1.5})",
      false);
  const Sampling& s = request.sampling;
  EXPECT_EQ(request.token_prompts, (std::vector<std::vector<TokenId>>{{5, 6}, {7}}));
  EXPECT_EQ(s.n, 2);
  EXPECT_EQ(s.min_p, 0.1);
  EXPECT_EQ(s.repetition_penalty, 1.2);
  EXPECT_EQ(s.presence_penalty, 0.5);
  EXPECT_EQ(s.frequency_penalty, -0.5);
  EXPECT_EQ(s.logit_bias, (std::map<TokenId, double>{{7, 1.5}, {12, -100}}));
  EXPECT_TRUE(s.logprobs && s.early_stopping);
  EXPECT_EQ(s.top_logprobs, 3);
  EXPECT_EQ(s.length_penalty, 0.8);
  EXPECT_EQ(request.timeout_s, 1.5);
  const auto chat = parse_completion(
      R"({"messages": [{"role": "user", "content": "a"}], "logprobs": true, "top_logprobs": 2, "beams": 3, "n": 2})", true);
  EXPECT_TRUE(chat.sampling.logprobs);
  EXPECT_EQ(chat.sampling.top_logprobs, 2);
  EXPECT_EQ(chat.sampling.beams, 3);
}

TEST(Api, RepliesAreJsonWhateverTheText) {
  const auto tokenizer = testing::toy_tokenizer();
  const std::string nasty = "a\"\n\xff\xc3";  // not UTF-8: replaced, never thrown
  const std::vector<TokenLogprob> logprobs = {{300, -0.5, {{65, -0.5}, {200, -1}}},
                                              {200, -2, {}}};  // an id out of range, half a character
  const CompletionChoice choices[] = {{0, nasty, {}, "length"}, {1, nasty, logprobs, "deadline"}};
  for (const bool is_chat : {false, true}) {
    const ReplyId id = new_reply_id("m\"", is_chat);
    EXPECT_NE(id.id, new_reply_id("m", is_chat).id);
    const Json reply = Json::parse(completion_json(id, choices, {.prompt_tokens = 4, .completion_tokens = 3}, tokenizer.get()));
    EXPECT_EQ(reply["usage"]["total_tokens"], 7);
    EXPECT_EQ(reply["choices"][0]["finish_reason"], "length");
    EXPECT_TRUE(reply["choices"][0]["logprobs"].is_null());
    EXPECT_TRUE((is_chat ? reply["choices"][0]["message"]["content"] : reply["choices"][0]["text"]).is_string());
    const Json& probabilities = reply["choices"][1]["logprobs"];
    if (is_chat) {
      EXPECT_EQ(probabilities["content"][0]["top_logprobs"][0]["token"], "A");
      EXPECT_EQ(probabilities["content"][1]["logprob"], -2);
    } else {
      EXPECT_THAT(probabilities["token_logprobs"], ::testing::ElementsAre(-0.5, -2));
      EXPECT_EQ(probabilities["top_logprobs"][0]["A"], -0.5);
      EXPECT_EQ(probabilities["text_offset"][0], 0);
    }
    // The quick way to write a piece and the thorough one agree.
    const std::string piece = stream_piece(id, 1, nasty);
    EXPECT_EQ(piece.substr(0, 6), "data: ");
    EXPECT_EQ(piece.substr(piece.size() - 2), "\n\n");
    const Json quick = Json::parse(piece.substr(6)),
               thorough = Json::parse(stream_piece(id, 1, nasty, logprobs, *tokenizer).substr(6));
    EXPECT_TRUE(thorough["choices"][0]["logprobs"].is_object());
    for (const char* key : {"id", "object", "created", "model"}) EXPECT_EQ(quick[key], thorough[key]);
    for (const char* key : {"index", "finish_reason", is_chat ? "delta" : "text"})
      EXPECT_EQ(quick["choices"][0][key], thorough["choices"][0][key]);
    EXPECT_EQ(Json::parse(stream_finish(id, 0, "stop").substr(6))["choices"][0]["finish_reason"], "stop");
    EXPECT_EQ(Json::parse(stream_usage(id, {1, 2}).substr(6))["usage"]["total_tokens"], 3);
    EXPECT_EQ(stream_open(id, 0).empty(), !is_chat);
  }
  EXPECT_EQ(Json::parse(error_json("\xff", "t", "c"))["error"]["code"], "c");
}

}  // namespace
}  // namespace rhetor
