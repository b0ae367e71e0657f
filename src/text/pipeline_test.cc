// Whole tokenizers: added tokens, ranges through every step, limits, roles, streams, training.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "text/make_tokenizer.h"
#include "text/pipeline.h"
#include "text/token_roles.h"
#include "text/utf8.h"

namespace rhetor {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr const char* kBert =
    R"("normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
       "pre_tokenizer": {"type": "BertPreTokenizer"}, "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
       "post_processor": {"type": "BertProcessing", "cls": ["[CLS]", 2], "sep": ["[SEP]", 3]}, )";

std::string added(TokenId id, const std::string& text, const std::string& flags = "", bool special = true) {
  return "{\"id\": " + std::to_string(id) + ", \"content\": \"" + text + "\", \"special\": " + (special ? "true" : "false") + flags + "}";
}

TokenizerPtr bert(const std::string& tokens = "", const std::string& more = "") {
  const TokenModelPtr model = make_wordpiece({.vocab = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "boat", "##s", "resume", ",", "\u6d77"}});
  return make_pipeline(model, std::string("{") + kBert + more + "\"added_tokens\": [" + added(0, "[PAD]") + "," + added(1, "[UNK]") + "," + added(2, "[CLS]") + "," +
                                  added(3, "[SEP]") + "," + added(4, "[MASK]", ", \"lstrip\": true") + tokens + "]}");
}

std::vector<std::string> covered(const Encoding& e, std::string_view text) {
  std::vector<std::string> out;
  for (const auto range : e.ranges) out.emplace_back(text.substr(range.begin, range.end - range.begin));
  return out;
}

TEST(Pipeline, RangesLeadBackThroughNormalisation) {
  const std::string text = "The R\u00e9sum\u00e9,\u6d77 boats";
  const Encoding e = bert()->encode_ranges(text);
  EXPECT_THAT(e.ids, ElementsAre(5, 8, 9, 10, 6, 7));
  EXPECT_THAT(covered(e, text), ElementsAre("The", "R\u00e9sum\u00e9", ",", "\u6d77", "boat", "s"));
  EXPECT_EQ(bert()->encode(text), e.ids);
  EXPECT_EQ(bert()->decode(e.ids), "the resume, \u6d77 boats");
}

TEST(Pipeline, BytesThatAreNoTextKeepTheirPlace) {
  const std::string text = "the \xFF\xFE boat";
  const Encoding e = bert()->encode_ranges(text);
  EXPECT_THAT(covered(e, text), ElementsAre("the", "boat"));   // BERT drops U+FFFD
  EXPECT_EQ(bert()->encode(""), std::vector<TokenId>());
}

TEST(Pipeline, SpecialTokensOnlyOnRequest) {
  const auto t = bert();
  EXPECT_THAT(t->encode("the  [MASK] boat", true), ElementsAre(5, 4, 6));
  EXPECT_THAT(covered(t->encode_ranges("the  [MASK] boat", true), "the  [MASK] boat"), ElementsAre("the", "  [MASK]", "boat"));
  for (const TokenId id : t->encode("the [MASK] boat")) EXPECT_NE(id, 4);
  EXPECT_EQ(t->decode({5, 4, 6}), "the boat");
  EXPECT_EQ(t->decode({5, 4, 6}, true), "the [MASK] boat");
}

TEST(Pipeline, AddedTokens) {
  const auto t = bert("," + added(11, "Boatman", ", \"single_word\": true, \"normalized\": true", false) + "," + added(12, "##", "", false));
  EXPECT_EQ(t->vocab_size(), 13);
  EXPECT_THAT(t->encode("BOATMAN"), ElementsAre(11));   // looked for in the normalised text
  EXPECT_THAT(t->encode("boatmans"), ElementsAre(1));
  EXPECT_THAT(t->encode("the##boat"), ElementsAre(5, 12, 6));
  EXPECT_EQ(t->special("Boatman"), -1);
}

TEST(Pipeline, TemplateAndLimit) {
  const std::string_view pair = "boats";
  const Encoding e = bert()->encode_template("the boat", &pair);
  EXPECT_THAT(e.ids, ElementsAre(2, 5, 6, 3, 6, 7, 3));
  EXPECT_THAT(e.segments, ElementsAre(0, 0, 0, 0, 1, 1, 1));
  const auto limited = bert("", R"("truncation": {"direction": "Right", "max_length": 6, "strategy": "LongestFirst", "stride": 0},)");
  EXPECT_THAT(limited->encode_template("the boat boats boats").ids, ElementsAre(2, 5, 6, 6, 7, 3));
  EXPECT_THAT(limited->encode_template("the boat boats", &pair).ids, ElementsAre(2, 5, 6, 3, 6, 3));
  const auto left = bert("", R"("truncation": {"direction": "Left", "max_length": 4, "strategy": "OnlyFirst", "stride": 0},)");
  EXPECT_THAT(left->encode_template("the boats").ids, ElementsAre(2, 6, 7, 3));
}

TEST(Pipeline, WritesWhatItRead) {
  const auto t = bert("," + added(11, "tok", "", false), R"("truncation": {"direction": "Left", "max_length": 5, "strategy": "OnlyFirst", "stride": 0},)");
  const auto again = tokenizer_from_json(t->to_json());
  EXPECT_EQ(again->to_json(), t->to_json());
  EXPECT_EQ(again->kind(), "WordPiece");
  EXPECT_EQ(again->encode("the tok r\u00e9sum\u00e9s", true), t->encode("the tok r\u00e9sum\u00e9s", true));
}

TEST(Pipeline, RefusesTokensThatShareAnId) {
  try {
    bert("," + added(6, "ship"));
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("share the id 6"));
  }
  EXPECT_THROW(bert("," + added(11, "boat")), Error);
  EXPECT_THROW(bert("," + added(4000000, "far")), Error);
}

TEST(TokenRoles, AliasesOfBert) {
  const auto t = bert();
  EXPECT_EQ(token_for(*t, TokenRole::mask), 4);
  EXPECT_EQ(token_named(*t, "<|cls|>"), 2);
  EXPECT_EQ(token_named(*t, "<|sep|>"), 3);
  EXPECT_EQ(token_named(*t, "<|pad|>"), 0);
  EXPECT_EQ(token_named(*t, "<|user|>"), -1);
  EXPECT_EQ(token_for(*t, TokenRole::end_of_text), 3);
}

TokenizerPtr trained(const std::string& kind) {
  int n = 0;
  return train_tokenizer(
      [&](std::string& d) {
        d = "The boats of the harbour are home. The boat is old, caf\u00e9 and all! \u6d77\u8fb9 12 boats\n";
        return n++ < 20;
      },
      {.kind = kind, .vocab_size = kind == "bpe" ? 400 : 300});
}

TEST(MakeTokenizer, EveryKindStreamsAndComesBack) {
  for (const TokenizerKind& kind : tokenizer_kinds()) {
    const auto t = trained(std::string(kind.name));
    const std::string text = "The  old boats, caf\u00e9 \u6d77\u6d77 <s> zebra\U0001F600 12!";
    const auto ids = t->encode(text);
    EXPECT_EQ(t->encode_ranges(text).ids, ids) << kind.name;
    StreamDecoder stream(t);
    std::string streamed;
    for (const TokenId id : ids) streamed += stream.push(id);
    streamed += stream.finish();
    EXPECT_EQ(streamed, utf8_cleaned(t->decode(ids))) << kind.name;
    const auto again = tokenizer_from_json(t->to_json());
    EXPECT_EQ(again->encode(text), ids) << kind.name;
    EXPECT_EQ(again->decode(ids), t->decode(ids)) << kind.name;
    if (kind.name == "bpe") {
      EXPECT_EQ(t->decode(ids), text);
    }
    if (kind.name.starts_with("wordpiece")) {
      EXPECT_EQ(t->encode_template("the boat").ids.front(), token_for(*t, TokenRole::classify));
    }
    EXPECT_EQ(trained(std::string(kind.name))->to_json(), t->to_json()) << kind.name;
  }
  EXPECT_THROW(trained("banana"), Error);
}

TEST(Tokenizer, BatchIsEncodeForEach) {
  const auto t = trained("wordpiece");
  std::vector<std::string> texts;
  for (int i = 0; i < 100; ++i) texts.push_back("the boat " + std::to_string(i) + std::string(static_cast<std::size_t>(i % 7), '!'));
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  const auto batch = encode_batch(*t, views);
  for (std::size_t i = 0; i < texts.size(); ++i) EXPECT_EQ(batch[i], t->encode(texts[i]));
}

}  // namespace
}  // namespace rhetor
