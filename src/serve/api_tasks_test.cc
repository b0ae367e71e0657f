// Bodies for the encoder's routes that are refused and why, those that are understood, and the shape of the replies.
#include "serve/api_tasks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace rhetor {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

std::string refusal(EncoderTask task, const std::string& body) {
  try {
    parse_task(task, body);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::invalid) << error.what();
    return error.what();
  }
  return "(accepted)";
}

TEST(ApiTasks, BadBodiesAreRefusedNamingTheField) {
  const auto embed = EncoderTask::embed, rank = EncoderTask::rank, classify = EncoderTask::classify, tag = EncoderTask::tag,
             qa = EncoderTask::answer;
  const struct {
    EncoderTask task;
    std::string body, says;
  } cases[] = {
      {embed, "", "not JSON"},
      {embed, "[]", "must be a JSON object, found array"},
      {embed, "{}", "'input' is missing"},
      {embed, R"({"input": []})", "'input' is an empty list"},
      {embed, R"({"input": ""})", "'input[0]' is an empty string"},
      {embed, R"({"input": 5})", "token ids"},
      {embed, R"({"input": [1, 2]})", "token ids"},
      {embed, R"({"input": [[1, 2]]})", "token ids"},
      {embed, R"({"input": ["a", null]})", "'input[1]' must be a string, found null"},
      {embed, R"({"input": [{"text": "a"}]})", "'input[0]' must be a string, found object"},
      {embed, R"({"input": "a", "encoding_format": "hex"})", "must be \"float\" or \"base64\""},
      {embed, R"({"input": "a", "encoding_format": 1})", "'encoding_format' must be a string"},
      {embed, R"({"input": "a", "dimensions": 0})", "'dimensions' must be between"},
      {embed, R"({"input": "a", "truncate": "yes"})", "'truncate' must be true or false"},
      {embed, R"({"input": "a", "model": {}})", "'model' must be a string"},
      {embed, R"({"input": "a", "timeout": -1})", "'timeout' must be between"},
      {rank, R"({"documents": ["a"]})", "'query' is missing"},
      {rank, R"({"query": "", "documents": ["a"]})", "'query' is an empty string"},
      {rank, R"({"query": 1, "documents": ["a"]})", "'query' must be a string"},
      {rank, R"({"query": "q"})", "'documents' is missing"},
      {rank, R"({"query": "q", "documents": "a"})", "'documents' must be a list"},
      {rank, R"({"query": "q", "documents": [{"title": "a"}]})", "an object with 'text'"},
      {rank, R"({"query": "q", "documents": [{"text": 5}]})", "token ids"},
      {rank, R"({"query": "q", "documents": ["a"], "top_n": 0})", "'top_n' must be between"},
      {classify, R"({"input": [{}]})", "'input[0]' must be a string, or an object"},
      {classify, R"({"input": [{"text": "a", "text_pair": 1}]})", "'input[0].text_pair' must be a string"},
      {tag, R"({"input": [true]})", "'input[0]' must be a string, found boolean"},
      {qa, R"({"question": "q"})", "'context' is missing"},
      {qa, R"({"passage": "p"})", "'question' is missing"},
      {qa, R"({"question": "q", "passage": ""})", "'passage' is an empty string"},
      {qa, R"({"question": "q", "context": "p", "top_k": 101})", "'top_k' must be between 1 and 100"},
      {qa, R"({"question": "q", "context": "p", "stride": 0})", "'stride' must be between"},
      {qa, R"({"question": "q", "context": "p", "no_answer_threshold": 1e9})", "'no_answer_threshold' must be between"},
  };
  for (const auto& c : cases) EXPECT_THAT(refusal(c.task, c.body), HasSubstr(c.says)) << c.body;
  Json many = {{"input", Json::array()}};
  for (std::size_t i = 0; i <= kMaxInputs; ++i) many["input"].push_back("a");
  EXPECT_THAT(refusal(embed, many.dump()), HasSubstr("has 2049 items, at most 2048"));
  const std::string nest = std::string(100'000, '[') + std::string(100'000, ']');
  EXPECT_THAT(refusal(classify, R"({"input": )" + nest + "}"), HasSubstr("must be a string"));
}

TEST(ApiTasks, GoodBodiesAreUnderstood) {
  const auto one = parse_embeddings(R"({"input": "a", "encoding_format": "base64", "dimensions": 2, "user": "x"})");
  EXPECT_TRUE(one.single && one.base64 && !one.truncate);
  const auto rank = parse_rank(R"({"query": "q", "documents": ["a", {"text": "b"}], "top_n": 1, "return_documents": true})");
  ASSERT_EQ(rank.inputs.size(), 2u);
  EXPECT_EQ(rank.inputs[1].first, "q");
  EXPECT_EQ(rank.inputs[1].second, "b");
  EXPECT_TRUE(rank.return_documents && rank.truncate);
  const auto pairs = parse_classify(R"({"input": ["a", {"text": "b", "text_pair": "c"}]})");
  EXPECT_EQ(pairs.inputs[0].second, "");
  EXPECT_EQ(pairs.inputs[1].second, "c");
  const auto qa = parse_qa(R"({"question": "q", "context": "p", "top_k": 3, "allow_no_answer": false})");
  EXPECT_EQ(qa.ask.best, 3);
  EXPECT_FALSE(qa.ask.allow_no_answer);
}

TEST(ApiTasks, Embeddings) {
  EncoderRequest request{.kind = EncoderTask::embed, .inputs = {{"a", ""}, {"b", ""}}};
  EncoderResult result{.vectors = {{0.6f, 0.8f, 0}, {0, 3e-8f, 1}}, .tokens = 7};
  const Json plain = Json::parse(task_json(request, result, "m\""));
  EXPECT_EQ(plain["model"], "m\"");
  EXPECT_EQ(plain["usage"]["total_tokens"], 7);
  EXPECT_EQ(plain["data"][1]["index"], 1);
  EXPECT_EQ(plain["data"][1]["embedding"][1].get<float>(), 3e-8f);  // every bit survives the text
  request.base64 = true;
  // 0.6f = 3f19999a, 0.8f = 3f4ccccd, little-endian.
  EXPECT_EQ(Json::parse(task_json(request, result, "m"))["data"][0]["embedding"], "mpkZP83MTD8AAAAA");
  request.base64 = false;
  request.dimensions = 1;
  EXPECT_EQ(Json::parse(task_json(request, result, "m"))["data"][0]["embedding"], Json::array({1.0}));  // of length 1 again
  request.dimensions = 4;
  EXPECT_THROW(task_json(request, result, "m"), Error);
}

TEST(ApiTasks, RanksInOrder) {
  EncoderRequest request{.kind = EncoderTask::rank, .inputs = {{"q", "a"}, {"q", "b"}, {"q", "c"}}};
  const EncoderResult result{.scores = {0.5, 2, 0.5}};
  EXPECT_EQ(Json::parse(task_json(request, result, "m"))["results"][0], (Json{{"index", 1}, {"relevance_score", 2.0}}));
  EXPECT_EQ(Json::parse(task_json(request, result, "m"))["results"][1]["index"], 0);  // ties keep their order
  request.top_n = 1;
  request.return_documents = true;
  const Json best = Json::parse(task_json(request, result, "m"));
  EXPECT_EQ(best["results"].size(), 1u);
  EXPECT_EQ(best["results"][0]["document"]["text"], "b");
}

TEST(ApiTasks, LabelsWordsAndSpansCountCharacters) {
  const EncoderRequest classify{.kind = EncoderTask::classify, .inputs = {{"a", ""}}};
  const Json labels = Json::parse(task_json(classify, {.labels = {{{"good", 0.9}, {"bad", 0.1}}}}, "m"));
  EXPECT_EQ(labels["data"][0]["label"], "good");
  EXPECT_EQ(labels["data"][0]["labels"][1]["score"], 0.1);

  const std::string passage = "In Zürich 🐟 lives Ann.";
  const auto at = static_cast<std::int64_t>(passage.find("Ann"));
  const EncoderRequest qa{.kind = EncoderTask::answer, .inputs = {{"Who?", passage}}};
  EncoderResult spans{.answers = {{"Ann", at, at + 3, 4.5, -2}, {"", 0, 0, 1, 3}}};
  const Json answers = Json::parse(task_json(qa, spans, "m"))["answers"];
  EXPECT_EQ(answers[0]["start"], 18);  // code points: bytes would say 22
  EXPECT_EQ(answers[0]["end"], 21);
  EXPECT_EQ(answers[1]["answer"], "");

  const EncoderRequest tag{.kind = EncoderTask::tag, .inputs = {{passage, ""}}};
  EncoderResult words{.words = {{{at, at + 3, {"PER", 0.8}}, {3, 10, {"LOC", 0.7}}}}};  // in any order
  const Json found = Json::parse(task_json(tag, words, "m"))["data"][0]["words"];
  EXPECT_EQ(found[0], (Json{{"text", "Ann"}, {"start", 18}, {"end", 21}, {"label", "PER"}, {"score", 0.8}}));
  EXPECT_EQ(found[1]["text"], "Zürich");
}

}  // namespace
}  // namespace rhetor
