#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "base/rng.h"
#include "text/tokenizer.h"

namespace rhetor {
namespace {

using testing::HasSubstr;

TokenizerPtr small() {
  int i = 0;
  return train_byte_bpe([&](std::string& d) { d = "the boat, the \"boats\" \\ of the harbour \xE6\xB5\xB7\xE6\xB5\xB7"; return i++ < 4; },
                        {.vocab_size = 280, .specials = {"<|endoftext|>", "<|end|>"}});
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const auto at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

std::string message(const std::string& json) {
  try {
    tokenizer_from_json(json, "t.json");
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::invalid);
    return error.what();
  }
  return "accepted";
}

TEST(TokenizerJson, RoundTrips) {
  const auto t = small();
  const auto again = tokenizer_from_json(t->to_json());
  EXPECT_EQ(again->to_json(), t->to_json());
  EXPECT_EQ(again->vocab_size(), t->vocab_size());
  const std::string text = "the boats <|end|> \xE6\xB5\xB7 \xFF\x01 \"x\"";
  EXPECT_EQ(again->encode(text, true), t->encode(text, true));
  EXPECT_EQ(again->decode(again->encode(text)), text);
  EXPECT_EQ(again->special("<|end|>"), t->special("<|end|>"));
}

TEST(TokenizerJson, NumberBeyondDoubleIsRefused) {
  EXPECT_THROW(tokenizer_from_json("{\"model\": 1e4000}"), Error);
}

TEST(TokenizerJson, ScoresKeepTheirShortestDigits) {
  const std::string json = R"({"model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -7.417591084907873]]}})";
  EXPECT_THAT(tokenizer_from_json(json, "t.json")->to_json(), HasSubstr("-7.417591084907873]"));
}

TEST(TokenizerJson, SavesAndLoadsFileAndFolder) {
  const auto folder = std::filesystem::path(testing::TempDir()) / "rhetor_tokenizer_test";
  std::filesystem::create_directories(folder);
  const auto t = small();
  t->save(folder / "tokenizer.json");
  EXPECT_EQ(load_tokenizer(folder)->to_json(), t->to_json());
  EXPECT_EQ(load_tokenizer(folder / "tokenizer.json")->to_json(), t->to_json());
  std::filesystem::remove(folder / "tokenizer.json");
  EXPECT_THROW(load_tokenizer(folder), Error);
  std::filesystem::remove_all(folder);
  EXPECT_THROW(load_tokenizer(folder), Error);
}

TEST(TokenizerJson, RefusesEachFaultWithItsName) {
  const std::string good = small()->to_json();
  ASSERT_EQ(message(good), "accepted");
  const struct {
    std::string json, expected;
  } cases[] = {
      {"", "not valid JSON"},
      {"[]", "expected a JSON object"},
      {"{}", "no 'model'"},
      {good.substr(0, good.size() / 2), "not valid JSON"},
      {std::string(100000, '['), "nested deeper"},
      {R"({"model": 3})", "'model' must be an object"},
      {replaced(good, "\"type\": \"BPE\"", "\"type\": \"Banana\""), "the model type is"},
      {replaced(good, "\"type\": \"ByteLevel\"", "\"type\": \"Whitespce\""), "not a known pre-tokenizer"},
      {replaced(good, "\"add_prefix_space\": false", "\"add_prefix_space\": 1"), "'add_prefix_space' must be true or false"},
      {replaced(good, "\"normalizer\": null", "\"normalizer\": {\"type\": \"NFQ\"}"), "not a known normalizer"},
      {replaced(good, "\"normalizer\": null", "\"normalizer\": {\"type\": \"Replace\", \"pattern\": {\"Regex\": \"(\"}, \"content\": \"\"}"),
       "cannot be used"},
      {replaced(good, "\"post_processor\": null", "\"post_processor\": {\"type\": \"BertProcessing\", \"cls\": [\"x\", 9999], \"sep\": [\"y\", 1]}"),
       "an id must be an integer from 0 to"},
      {replaced(good, "\"decoder\": {\"type\": \"ByteLevel\"", "\"decoder\": {\"type\": \"Bytes\""), "not a known decoder"},
      {replaced(good, "\"truncation\": null", "\"truncation\": {\"max_length\": -1}"), "'max_length' must be an integer"},
      {replaced(good, "\"dropout\": null", "\"dropout\": 0.1"), "model.dropout"},
      {replaced(good, "\"id\": 256", "\"id\": -1"), "must be an integer"},
      {replaced(good, "\"id\": 256", "\"id\": \"x\""), "must be an integer"},
      {replaced(good, "\"id\": 256", "\"id\": 4000000"), "far beyond"},
      {replaced(good, "\"id\": 256", "\"id\": 257"), "has the id"},
      {replaced(good, "\"content\": \"<|endoftext|>\"", "\"content\": \"\""), "no text"},
      {replaced(good, "\"content\": \"<|endoftext|>\"", "\"content\": 7"), "no text"},
      {replaced(good, "\"content\": \"<|endoftext|>\"", "\"content\": \"<|end|>\""), "appears twice"},
      {replaced(good, "\"special\": true", "\"special\": 1"), "true or false"},
      {replaced(good, "\"vocab\": {", "\"vocab\": [], \"x\": {"), "the vocabulary must be an object"},
      {replaced(good, "\"!\": 33", "\"!\": 34"), "share the id"},
      {replaced(good, "\"!\": 33", "\"!\": 3.5"), "must be an integer"},
      {replaced(good, "\"merges\": [", "\"merges\": [\"t\", "), "merge 0 must be two tokens"},
      {replaced(good, "\"merges\": [", "\"merges\": [7, "), "merge 0 must be two tokens"},
      {replaced(good, "\"merges\": [", "\"merges\": [\"a b c\", "), "merge 0 must be two tokens"},
      {replaced(good, "\"merges\": [", "\"merges\": [\"q z\", "), "not in the vocabulary"},
      {replaced(good, "\"merges\": [", "\"merges\": [\"h e\", "), "appears twice"},
      {replaced(good, "\"merges\": [", "\"merges\": 5, \"m\": ["), "'model.merges' must be a list"},
  };
  for (const auto& c : cases) {
    const std::string got = message(c.json);
    EXPECT_THAT(got, HasSubstr(c.expected));
    EXPECT_THAT(got, HasSubstr("t.json"));
    EXPECT_LT(got.size(), 300u);
  }
}

TEST(TokenizerJson, ReadsPairsAndPlainAddedTokens) {
  std::string json = replaced(small()->to_json(), "\"h e\"", "[\"h\", \"e\"]");
  json = replaced(json, "\"special\": true", "\"special\": false");  // <|endoftext|> becomes plain text that is one token
  const auto t = tokenizer_from_json(json);
  EXPECT_EQ(t->encode("the boat").size(), small()->encode("the boat").size());
  EXPECT_EQ(t->encode("a<|endoftext|>").back(), 256);
  EXPECT_EQ(t->decode(t->encode("a<|endoftext|>")), "a<|endoftext|>");
  EXPECT_EQ(t->special("<|endoftext|>"), -1);
}

TEST(TokenizerJson, SurvivesRandomDamage) {
  const std::string good = small()->to_json();
  Rng rng(11);
  for (int i = 0; i < 300; ++i) {
    std::string bad = good;
    for (int k = 0; k < 3; ++k) bad[rng.below(bad.size())] = static_cast<char>(rng.below(256));
    try {
      const auto t = tokenizer_from_json(bad);
      const std::string back = t->decode(t->encode("the boat\xFF"));
      if (t->kind() == "byte_bpe") {
        EXPECT_EQ(back, "the boat\xFF");
      }
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::invalid);
    }
  }
}

}  // namespace
}  // namespace rhetor
