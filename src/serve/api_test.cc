// Request bodies that are refused and why, request bodies that are understood, and the shape of the replies.
#include "serve/api.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"

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
      {false, R"({"prompt": 5})", "'prompt' must be one string"},
      {false, R"({"prompt": ["a", "b"]})", "'prompt' must be one string"},
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
      {false, R"({"prompt": "a", "n": 2})", "'n' must be 1"},
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
  EXPECT_THAT(refusal(R"({"prompt": )" + nest + "}", false), HasSubstr("'prompt' must be"));
  std::string keys = "{";
  for (int i = 0; i < 100'000; ++i) keys += fmt::format("\"{}\":1,", i);
  EXPECT_THAT(refusal(keys + "\"z\":1}", false), HasSubstr("'prompt' is missing"));
  EXPECT_LT(refusal("\"" + std::string(100'000, 'x'), false).size(), 400u);
}

TEST(Api, GoodBodiesAreUnderstood) {
  const auto plain = parse_completion(
      R"({"prompt": ["Hi"], "model": "m", "temperature": 0, "top_p": 0.5, "top_k": 7, "seed": -1, "max_tokens": 9,
          "stop": "x", "stream": true, "stream_options": {"include_usage": true}, "unknown": [1, {"a": null}]})", false);
  EXPECT_EQ(plain.prompt, "Hi");
  EXPECT_EQ(plain.model, "m");
  EXPECT_FALSE(plain.chat || plain.specials);
  EXPECT_EQ(plain.sampling.temperature, 0);
  EXPECT_EQ(plain.sampling.top_p, 0.5);
  EXPECT_EQ(plain.sampling.top_k, 7);
  EXPECT_EQ(plain.sampling.seed, ~std::uint64_t{0});
  EXPECT_EQ(plain.sampling.max_tokens, 9);
  EXPECT_TRUE(plain.max_tokens_given && plain.stream && plain.include_usage);
  EXPECT_THAT(plain.sampling.stop, ::testing::ElementsAre("x"));

  const auto nulls = parse_completion(R"({"prompt": "a", "max_tokens": null, "stop": null, "stream": null, "model": null})", false);
  EXPECT_FALSE(nulls.max_tokens_given || nulls.stream);
  EXPECT_EQ(nulls.sampling.max_tokens, 256);

  const auto chat = parse_completion(
      R"({"messages": [{"role": "developer", "content": "Be brief."},
                       {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "<|end|>b"}]}],
          "max_completion_tokens": 5, "max_tokens": 6})", true);
  EXPECT_TRUE(chat.chat && chat.specials);
  // Text of the client's never becomes a special token.
  EXPECT_EQ(chat.prompt, "<|system|>Be brief.<|end|><|user|>a< |end|>b<|end|><|assistant|>");
  EXPECT_EQ(chat.sampling.max_tokens, 5);
}

TEST(Api, RepliesAreJsonWhateverTheText) {
  Generation result;
  result.text = "a\"\n\xff\xc3";   // not UTF-8: replaced, never thrown
  result.tokens = {1, 2, 3};
  result.prompt_tokens = 4;
  for (const bool is_chat : {false, true}) {
    const ReplyId id = new_reply_id("m", is_chat);
    EXPECT_NE(id.id, new_reply_id("m", is_chat).id);
    const Json reply = Json::parse(completion_json(id, result));
    EXPECT_EQ(reply["usage"]["total_tokens"], 7);
    EXPECT_EQ(reply["choices"][0]["finish_reason"], "length");
    EXPECT_TRUE((is_chat ? reply["choices"][0]["message"]["content"] : reply["choices"][0]["text"]).is_string());
    const std::string piece = stream_piece(id, result.text), end = stream_end(id, result, true);
    EXPECT_EQ(piece.substr(0, 6), "data: ");
    EXPECT_TRUE(Json::accept(piece.substr(6)));
    EXPECT_TRUE(end.ends_with("data: [DONE]\n\n"));
    EXPECT_EQ(stream_open(id).empty(), !is_chat);
  }
  EXPECT_EQ(Json::parse(error_json("\xff", "t", "c"))["error"]["code"], "c");
  EXPECT_EQ(Json::parse(models_json("m", 5))["data"][0]["id"], "m");
  EXPECT_EQ(Json::parse(health_json("m", 1, 2))["waiting"], 2);
}

}  // namespace
}  // namespace rhetor
