// WordPiece, Unigram and BPE: what they make of a word, and their JSON.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "text/double_array.h"
#include "text/token_model_json.h"

namespace rhetor {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::string> cut(const TokenModelPtr& model, std::string_view word) {
  std::vector<Piece> pieces;
  model->tokenize(word, pieces);
  std::vector<Piece> again;
  model->tokenize(word, again);  // from the cache
  EXPECT_EQ(pieces.size(), again.size());
  std::vector<std::string> out;
  for (const Piece& piece : pieces) out.emplace_back(model->token(piece.id));
  return out;
}

TokenModelPtr from_json(const std::string& text) { return token_model_from_json(nlohmann::json::parse(text), "f.json"); }

TEST(DoubleArray, FindsExactlyItsKeys) {
  std::vector<std::string> texts;
  for (int i = 0; i < 3000; ++i) texts.push_back(std::to_string(i * i) + std::string(static_cast<std::size_t>(i % 5), static_cast<char>(i)));
  std::vector<DoubleArray::Key> keys;
  for (std::size_t i = 0; i < texts.size(); ++i) keys.emplace_back(texts[i], static_cast<int>(i));
  const DoubleArray trie(keys);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(texts[static_cast<std::size_t>(trie.find(texts[i]))], texts[i]);
    EXPECT_EQ(trie.find(texts[i] + "\x01\x02"), -1);
  }
  EXPECT_EQ(trie.find(""), -1);
  EXPECT_EQ(DoubleArray().find("a"), -1);
}

TEST(WordPiece, LongestMatchOrUnknown) {
  const auto m = make_wordpiece({.vocab = {"[UNK]", "ba", "##na", "##nan", "b", "##as"}, .max_word_characters = 6});
  EXPECT_THAT(cut(m, "banana"), ElementsAre("[UNK]"));  // ba ##nan, then nothing starts with "a"
  EXPECT_THAT(cut(m, "bana"), ElementsAre("ba", "##na"));
  EXPECT_THAT(cut(m, "nana"), ElementsAre("[UNK]"));
  EXPECT_THAT(cut(m, "bananana"), ElementsAre("[UNK]"));  // too long
  EXPECT_THAT(cut(m, ""), ElementsAre());
  EXPECT_EQ(m->id("##na"), 2);
  const auto without = make_wordpiece({.vocab = {"a"}});
  EXPECT_THROW(cut(without, "b"), Error);
}

TEST(Unigram, BestPathUnknownAndBytes) {
  UnigramOptions options{.pieces = {{"<unk>", 0}, {"a", -1}, {"b", -1}, {"ab", -1.5}, {"abc", -9}, {"c", -3}}, .unknown = 0};
  EXPECT_THAT(cut(make_unigram(options), "abc"), ElementsAre("ab", "c"));
  EXPECT_THAT(cut(make_unigram(options), "axyb"), ElementsAre("a", "<unk>", "b"));  // unknown characters fuse
  options.byte_fallback = true;
  EXPECT_THAT(cut(make_unigram(options), "ax"), ElementsAre("a", "<unk>"));  // no piece for that byte
  options.pieces.emplace_back("<0x78>", -20);
  EXPECT_THAT(cut(make_unigram(options), "ax"), ElementsAre("a", "<0x78>"));
  options.unknown = -1;
  EXPECT_THROW(cut(make_unigram(options), "ax"), Error);
  options.unknown = 99;
  EXPECT_THROW(make_unigram(options), Error);
}

TEST(Bpe, MergesByRankThenFromTheLeft) {
  BpeOptions options{.vocab = {"<unk>", "a", "b", "c", "ab", "bc", "aa"}, .merges = {{"b", "c"}, {"a", "b"}, {"a", "a"}}, .unknown = "<unk>"};
  EXPECT_THAT(cut(make_bpe(options), "abc"), ElementsAre("a", "bc"));
  EXPECT_THAT(cut(make_bpe(options), "aaab"), ElementsAre("aa", "ab"));
  EXPECT_THAT(cut(make_bpe(options), "axxa"), ElementsAre("a", "<unk>", "<unk>", "a"));
  options.fuse_unknown = true;
  EXPECT_THAT(cut(make_bpe(options), "axxa"), ElementsAre("a", "<unk>", "a"));
  options.unknown.clear();
  EXPECT_THAT(cut(make_bpe(options), "axxa"), ElementsAre("aa"));  // dropped, as in `tokenizers`
  options.ignore_merges = true;
  options.merges.clear();
  EXPECT_THAT(cut(make_bpe(options), "ab"), ElementsAre("ab"));
  EXPECT_THAT(cut(make_bpe(options), "aab"), ElementsAre("a", "a", "b"));
}

TEST(Bpe, PrefixSuffixAndBytes) {
  const auto m = make_bpe({.vocab = {"a", "##a", "##b</w>", "b</w>", "##ab</w>", "<0x23>", "<0xC3>", "<0xA9>"},
                           .merges = {{"##a", "##b</w>"}},
                           .continuing_prefix = "##",
                           .end_of_word_suffix = "</w>",
                           .byte_fallback = true});
  EXPECT_THAT(cut(m, "aab"), ElementsAre("a", "##ab</w>"));
  EXPECT_THAT(cut(m, "b"), ElementsAre("b</w>"));
  EXPECT_THAT(cut(m, "a\u00e9ab"), ElementsAre("a", "<0x23>", "<0x23>", "<0xC3>", "<0xA9>", "##ab</w>"));
}

TEST(Bpe, TheHeapAndTheScanAgree) {
  const auto m = make_bpe({.vocab = {"a", "b", "aa", "ab", "ba", "aab", "abab"},
                           .merges = {{"a", "b"}, {"a", "a"}, {"b", "a"}, {"a", "ab"}, {"ab", "ab"}}});
  // A run of "ab" merges the same way in a short word and, piece by piece, in a long one.
  std::string word;
  for (int i = 0; i < 100; ++i) word += "ab";
  const auto long_cut = cut(m, word);
  const auto short_cut = cut(m, word.substr(0, 32));
  ASSERT_EQ(long_cut.size(), 50u);
  EXPECT_EQ(std::vector<std::string>(long_cut.begin(), long_cut.begin() + 8), short_cut);
}

TEST(TokenModelJson, RoundTrip) {
  const std::vector<TokenModelPtr> models = {
      make_wordpiece({.vocab = {"[UNK]", "a\"b", "", "##\u6d77"}, .prefix = "##", .max_word_characters = 7}),
      make_unigram({.pieces = {{"<unk>", 0}, {"a", -1.25}, {"\u2581b", -3.0000000000000004}}, .unknown = 0, .byte_fallback = true}),
      make_bpe({.vocab = {"a", "b", "ab"}, .merges = {{"a", "b"}}, .fuse_unknown = true}),
      make_bpe({.vocab = {"a", " ", "a "}, .merges = {{"a", " "}}}),  // needs the pair form
      make_bpe({})};
  for (const auto& m : models) {
    const auto again = from_json(m->to_json());
    EXPECT_EQ(again->to_json(), m->to_json());
    EXPECT_EQ(again->kind(), m->kind());
    EXPECT_EQ(again->size(), m->size());
  }
}

TEST(TokenModelJson, MergesAsTextAndAsPairs) {
  for (const char* merges : {R"(["a b"])", R"([["a", "b"]])"}) {
    const auto m = from_json(std::string(R"({"type": "BPE", "vocab": {"ab": 2, "a": 0, "b": 1}, "merges": )") + merges + "}");
    EXPECT_THAT(cut(m, "ab"), ElementsAre("ab"));
  }
}

TEST(TokenModelJson, DamageIsRefusedWithASentence) {
  for (const char* text : {R"([])", R"({})", R"({"type": "Other"})", R"({"type": 3})", R"({"type": "BPE", "vocab": {"a": 0}})",
                           R"({"type": "BPE", "vocab": {"a": -1}, "merges": []})", R"({"type": "BPE", "vocab": {"a": 0, "b": 0}, "merges": []})",
                           R"({"type": "BPE", "vocab": {"a": 4000000}, "merges": []})", R"({"type": "BPE", "vocab": {"a": 0}, "merges": ["a"]})",
                           R"({"type": "BPE", "vocab": {"a": 0}, "merges": ["a a"]})", R"({"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]})",
                           R"({"type": "BPE", "vocab": {"a": 0}, "merges": [], "dropout": 0.1})",
                           R"({"type": "BPE", "vocab": {"a": 0}, "merges": [], "byte_fallback": "yes"})",
                           R"({"type": "Unigram", "vocab": [["a"]]})", R"({"type": "Unigram", "vocab": [["a", "b"]]})",
                           R"({"type": "Unigram", "vocab": [["a", 1]], "unk_id": 1})", R"({"type": "WordPiece", "vocab": ["a"]})",
                           R"({"type": "WordPiece", "vocab": {"a": 0}, "max_input_chars_per_word": -1})"}) {
    try {
      from_json(text);
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::invalid);
      EXPECT_THAT(error.what(), HasSubstr("f.json: ")) << text;
    }
  }
}

}  // namespace
}  // namespace rhetor
