#include <gmock/gmock.h>

#include "base/error.h"
#include "base/file.h"
#include "text/sentencepiece_json.h"
#include "text/sentencepiece_test_model.h"
#include "text/token_model.h"

namespace rhetor {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::string> pieces(const Tokenizer& t, std::string_view text) {
  std::vector<std::string> out;
  for (const TokenId id : t.encode(text)) out.push_back(t.token_bytes(id));
  return out;
}

TEST(SentencePiece, UnigramTakesTheBestPath) {
  const auto t = sentencepiece_from_bytes(test_sentencepiece(1, false), "m");
  EXPECT_EQ(t->kind(), "Unigram");
  EXPECT_THAT(pieces(*t, "ab c"), ElementsAre(" ab", " ", "c"));
  EXPECT_THAT(pieces(*t, "abc"), ElementsAre(" ", "abc"));  // -1 -6 against -4 -5
  EXPECT_THAT(pieces(*t, "  ab   \u6d77\u8239 "), ElementsAre(" ab", " ", "\u6d77\u8239"));  // extra spaces go
  EXPECT_THAT(pieces(*t, "A"), ElementsAre(" a"));                                           // by the rule of the file
}

TEST(SentencePiece, BpeMergesTheBestPieceFirst) {
  const auto t = sentencepiece_from_bytes(test_sentencepiece(2, false), "m");
  EXPECT_EQ(t->kind(), "BPE");
  // "bc" has the best score but is unused: it is merged and taken apart again.
  EXPECT_THAT(pieces(*t, "abc"), ElementsAre(" a", "b", "c"));
  EXPECT_THAT(pieces(*t, "ab"), ElementsAre(" ab"));  // by way of "▁a", which is better than "ab"
}

TEST(SentencePiece, UnknownCharactersFuseOrFallBackToBytes) {
  for (const int algorithm : {1, 2}) {
    const auto fused = sentencepiece_from_bytes(test_sentencepiece(algorithm, false), "m");
    EXPECT_EQ(fused->encode("xyz").size(), 2u);  // the space and one unknown piece
    EXPECT_EQ(fused->decode(fused->encode("xyz")), " \u2047 ");
    const auto bytes = sentencepiece_from_bytes(test_sentencepiece(algorithm, true), "m");
    const std::string text = "x\u00e9\U0001F600 ab";
    EXPECT_EQ(bytes->decode(bytes->encode(text)), text);
    StreamDecoder stream(bytes);
    std::string streamed;
    for (const TokenId id : bytes->encode(text)) streamed += stream.push(id);
    EXPECT_EQ(streamed + stream.finish(), text);
  }
}

TEST(SentencePiece, BytesThatAreNoCharacterDecodeToReplacements) {
  const auto t = sentencepiece_from_bytes(test_sentencepiece(1, true), "m");
  const TokenId first = 4;  // <0x00>
  EXPECT_EQ(t->decode({first + 0xE6, first + 0xB5, first + 'x'}), "\uFFFD\uFFFDx");
}

TEST(SentencePiece, RangesPointIntoTheOriginalText) {
  const auto t = sentencepiece_from_bytes(test_sentencepiece(1, false), "m");
  const std::string text = "  ab \u6d77\u8239";
  const Encoding e = t->encode_ranges(text);
  ASSERT_EQ(e.ids, t->encode(text));
  ASSERT_EQ(e.ranges.size(), 3u);
  EXPECT_EQ(text.substr(e.ranges[0].begin, e.ranges[0].end - e.ranges[0].begin), "ab");
  EXPECT_EQ(text.substr(e.ranges[2].begin, e.ranges[2].end - e.ranges[2].begin), "\u6d77\u8239");
}

TEST(SentencePiece, ControlPiecesOnlyOnDemandUserDefinedAlways) {
  for (const int algorithm : {1, 2}) {
    const auto t = sentencepiece_from_bytes(test_sentencepiece(algorithm, true), "m");
    EXPECT_EQ(t->special("</s>"), 2);
    EXPECT_TRUE(t->is_special(2));
    for (const TokenId id : t->encode("a</s>b")) EXPECT_FALSE(t->is_special(id));
    const auto with = t->encode("ab</s>c", true);
    EXPECT_EQ(std::count(with.begin(), with.end(), 2), 1);
    const auto separated = t->encode("ab<sep>c");
    EXPECT_EQ(std::count(separated.begin(), separated.end(), 3), 1);
    EXPECT_EQ(t->decode({1, 3, 2}), "<sep>");
    EXPECT_EQ(t->decode({1, 3, 2}, true), "<s><sep></s>");
  }
}

TEST(SentencePiece, AsTokenizerJsonItGivesTheSameIds) {
  for (const int algorithm : {1, 2}) {
    const auto t = sentencepiece_from_bytes(test_sentencepiece(algorithm, true), "m");
    const auto again = tokenizer_from_json(t->to_json(), "again");
    for (const char* text : {"ab c", "ab", " \u6d77\u8239 x  A", "c\u00e9", "a</s>b"}) {
      EXPECT_EQ(again->encode(text, true), t->encode(text, true)) << text;
    }
  }
}

TEST(SentencePiece, DamageIsRefusedWithASentence) {
  const auto refused = [](const std::string& bytes) -> std::string {
    try {
      sentencepiece_from_bytes(bytes, "bad.model");
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::invalid);
      EXPECT_THAT(error.what(), HasSubstr("bad.model: "));
      return error.what();
    }
    return "accepted";
  };
  const std::string good = test_sentencepiece(1, true);
  EXPECT_THAT(refused(""), HasSubstr("no pieces"));
  EXPECT_THAT(refused("{\"model\": 1}"), HasSubstr("do not add up"));
  for (std::size_t cut : {std::size_t{1}, good.size() / 2, good.size() - 3}) EXPECT_NE(refused(good.substr(0, cut)), "accepted") << cut;
  TestModelWriter twice;
  twice.piece("<unk>", 0, TestModelWriter::kUnknown);
  twice.piece("a", -1);
  twice.piece("a", -2);
  EXPECT_THAT(refused(twice.bytes()), HasSubstr("appears twice"));
  TestModelWriter without;
  without.piece("a", -1);
  EXPECT_THAT(refused(without.bytes()), HasSubstr("no unknown piece"));
  TestModelWriter bytes;
  bytes.piece("<unk>", 0, TestModelWriter::kUnknown);
  bytes.trainer(1, true);
  EXPECT_THAT(refused(bytes.bytes()), HasSubstr("256"));
  TestModelWriter words;
  words.piece("<unk>", 0, TestModelWriter::kUnknown);
  words.trainer(3, false);
  EXPECT_THAT(refused(words.bytes()), HasSubstr("model type is 3"));
  TestModelWriter rules;
  rules.piece("<unk>", 0, TestModelWriter::kUnknown);
  rules.normalizer(std::string("\xff\xff\xff\xff", 4) + "abcd", true, true);
  EXPECT_THAT(refused(rules.bytes()), HasSubstr("normalisation rules"));
  TestModelWriter number;
  number.piece("<unk>", 0, TestModelWriter::kUnknown);
  number.piece("a", -std::numeric_limits<float>::infinity());
  EXPECT_THAT(refused(number.bytes()), HasSubstr("not a number"));
}

}  // namespace
}  // namespace rhetor
