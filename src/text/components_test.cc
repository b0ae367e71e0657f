// Each component of a pipeline, by what the tokenizer.json format documents.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "text/decoder.h"
#include "text/normalizer.h"
#include "text/pattern.h"
#include "text/post_processor.h"
#include "text/pre_tokenizer.h"

namespace rhetor {
namespace {

using testing::ElementsAre;
using Words = std::vector<std::string>;

struct Normalized {
  std::string text;
  std::vector<std::string> covered;   // the original bytes that each character stands for
};

Normalized normalized(const std::string& json, const std::string& text) {
  AlignedText t;
  t.tracked = true;
  t.assign(text, 0);
  make_normalizer(Json::parse(json), "test")->apply(t);
  Normalized out{t.text, {}};
  EXPECT_EQ(t.map.size(), t.text.size());
  for (std::size_t i = 0; i < t.text.size(); i += code_point(t.text, i).length) out.covered.push_back(text.substr(t.map[i].begin, t.map[i].end - t.map[i].begin));
  AlignedText plain;   // without tracking the text is the same
  plain.assign(text, 0);
  make_normalizer(Json::parse(json), "test")->apply(plain);
  EXPECT_EQ(plain.text, t.text);
  return out;
}
std::string norm(const std::string& json, const std::string& text) { return normalized(json, text).text; }

TEST(Normalizer, Bert) {
  const std::string bert = R"({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true})";
  EXPECT_EQ(norm(bert, "H\u00c9llo\tW\u00f6rld\u0001 \u3000!"), "hello world  !");
  const Normalized n = normalized(bert, "a\u6d77\u00c5");
  EXPECT_EQ(n.text, "a \u6d77 a");
  EXPECT_THAT(n.covered, ElementsAre("a", "a", "\u6d77", "\u6d77", "\u00c5"));
  const std::string cased = R"({"type": "BertNormalizer", "clean_text": false, "handle_chinese_chars": false, "strip_accents": null, "lowercase": false})";
  EXPECT_EQ(norm(cased, "\u00c9\t\u6d77"), "\u00c9\t\u6d77");
}

TEST(Normalizer, UnicodeForms) {
  EXPECT_EQ(norm(R"({"type": "NFD"})", "\u00e9\u1e69"), "e\u0301s\u0323\u0307");
  EXPECT_EQ(norm(R"({"type": "NFD"})", "\uac01"), "\u1100\u1161\u11a8");
  EXPECT_EQ(norm(R"({"type": "NFC"})", "s\u0307\u0323 e\u0301 \u1100\u1161\u11a8 \u212b \u0958"), "\u1e69 \u00e9 \uac01 \u00c5 \u0915\u093c");
  EXPECT_EQ(norm(R"({"type": "NFKC"})", "\ufb01 \u2460 \uff21 \u00bd"), "fi 1 A 1\u20442");
  EXPECT_EQ(norm(R"({"type": "NFKD"})", "\u1e9b\u0323"), "s\u0323\u0307");
  const Normalized n = normalized(R"({"type": "NFC"})", "xe\u0301y");
  EXPECT_EQ(n.text, "x\u00e9y");
  EXPECT_THAT(n.covered, ElementsAre("x", "e", "y"));
  EXPECT_THAT(normalized(R"({"type": "NFKC"})", "\ufb01b").covered, ElementsAre("\ufb01", "\ufb01", "b"));
}

TEST(Normalizer, Simple) {
  EXPECT_EQ(norm(R"({"type": "Lowercase"})", "\u00c4B\u0130\u03a3"), "\u00e4bi\u0307\u03c3");
  EXPECT_EQ(norm(R"({"type": "StripAccents"})", "e\u0301a"), "ea");
  EXPECT_EQ(norm(R"({"type": "Strip", "strip_left": true, "strip_right": false})", "\u3000 a "), "a ");
  EXPECT_EQ(norm(R"({"type": "Prepend", "prepend": "_"})", "a"), "_a");
  EXPECT_EQ(norm(R"({"type": "Prepend", "prepend": "_"})", ""), "");
  EXPECT_EQ(norm(R"({"type": "Nmt"})", "a\u0001\u200bb"), "a b");
  EXPECT_EQ(norm(R"({"type": "ByteLevel"})", "a \u00e9"), "a\u0120\u00c3\u00a9");
  EXPECT_EQ(norm(R"({"type": "Sequence", "normalizers": [{"type": "Lowercase"}, {"type": "Prepend", "prepend": "> "}]})", "A"), "> a");
}

TEST(Normalizer, Replace) {
  EXPECT_EQ(norm(R"({"type": "Replace", "pattern": {"String": "''"}, "content": "\""})", "''a''"), "\"a\"");
  const Normalized n = normalized(R"({"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": "_"})", "a \t b");
  EXPECT_EQ(n.text, "a_b");
  EXPECT_THAT(n.covered, ElementsAre("a", " ", "b"));   // the last character of the match
  EXPECT_THROW(norm(R"({"type": "Replace", "pattern": {"String": ""}, "content": ""})", "a"), Error);
}

Words words(const std::string& json, const std::string& text, bool tracked = false) {
  AlignedText t;
  t.tracked = tracked;
  t.assign(text, 0);
  std::vector<Span> spans = {{0, static_cast<std::uint32_t>(text.size())}}, spare;
  for (const auto& step : make_pre_tokenizers(Json::parse(json), "test").steps) step->apply(t, spans, spare);
  Words out;
  for (const Span span : spans) out.push_back(t.text.substr(span.begin, span.end - span.begin));
  return out;
}

TEST(PreTokenizer, Words) {
  EXPECT_THAT(words(R"({"type": "BertPreTokenizer"})", "Hey,  you's!"), ElementsAre("Hey", ",", "you", "'", "s", "!"));
  EXPECT_THAT(words(R"({"type": "Whitespace"})", "a_b  c!?\u0301"), ElementsAre("a_b", "c", "!?", "\u0301"));
  EXPECT_THAT(words(R"({"type": "WhitespaceSplit"})", " a! \u3000 b"), ElementsAre("a!", "b"));
  EXPECT_THAT(words(R"({"type": "Digits", "individual_digits": true})", "ab12c"), ElementsAre("ab", "1", "2", "c"));
  EXPECT_THAT(words(R"({"type": "Digits", "individual_digits": false})", "ab12c"), ElementsAre("ab", "12", "c"));
  EXPECT_THAT(words(R"({"type": "CharDelimiterSplit", "delimiter": "-"})", "a--b-"), ElementsAre("a", "b"));
  EXPECT_THAT(words(R"({"type": "UnicodeScripts"})", "Apples are \u308a\u3093\u3054 \u6797\u6a8e"), ElementsAre("Apples are ", "\u308a\u3093\u3054 \u6797\u6a8e"));
  EXPECT_THAT(words(R"({"type": "FixedLength", "length": 2})", "a\u00e9b"), ElementsAre("a\u00e9", "b"));
  EXPECT_THAT(words(R"({"type": "ByteLevel", "add_prefix_space": true, "use_regex": true})", "Hello's  12"), ElementsAre(" Hello", "'s", " ", " 12"));
}

TEST(PreTokenizer, SplitBehaviors) {
  const auto split = [](const std::string& behavior) {
    return words(R"({"type": "Split", "pattern": {"String": "-"}, "behavior": ")" + behavior + R"(", "invert": false})", "the-final--countdown");
  };
  EXPECT_THAT(split("Removed"), ElementsAre("the", "final", "countdown"));
  EXPECT_THAT(split("Isolated"), ElementsAre("the", "-", "final", "-", "-", "countdown"));
  EXPECT_THAT(split("MergedWithPrevious"), ElementsAre("the-", "final-", "-", "countdown"));
  EXPECT_THAT(split("MergedWithNext"), ElementsAre("the", "-final", "-", "-countdown"));
  EXPECT_THAT(split("Contiguous"), ElementsAre("the", "-", "final", "--", "countdown"));
  EXPECT_THAT(words(R"({"type": "Split", "pattern": {"Regex": "[a-z]+"}, "behavior": "Removed", "invert": true})", "ab1cd"), ElementsAre("ab", "cd"));
}

TEST(PreTokenizer, Metaspace) {
  const auto meta = [](const std::string& scheme, bool split, const std::string& text) {
    return words(R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": ")" + scheme + R"(", "split": )" + (split ? "true}" : "false}"), text);
  };
  EXPECT_THAT(meta("always", true, "Hey   friend"), ElementsAre("_Hey", "_", "_", "_friend"));
  EXPECT_THAT(meta("never", true, "Hey friend"), ElementsAre("Hey", "_friend"));
  EXPECT_THAT(meta("first", false, "Hey friend"), ElementsAre("_Hey_friend"));
  EXPECT_THAT(words(R"({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"},
                        {"type": "Metaspace", "replacement": "_", "prepend_scheme": "first", "split": true}]})", "Hey friend", true),
              ElementsAre("_Hey", "friend"));
}

TEST(Pattern, TranslatesOniguruma) {
  const auto first = [](const char* regex, const std::string& text) {
    Pattern::Match m{0, 0};
    return Pattern::regex(regex, "test")->find(text, 0, m) ? text.substr(m.begin, m.end - m.begin) : std::string("none");
  };
  EXPECT_EQ(first("\\s+", "a\u3000\u180e"), "\u3000");            // U+180E is no White_Space
  EXPECT_EQ(first("\\w+", "-e\u0301\u0e34_1"), "e\u0301\u0e34_1");   // marks are of words
  EXPECT_EQ(first("[^\\S\\n]+", "a\n \t"), " \t");
  EXPECT_EQ(first("\\h+", "xyzabF1g"), "abF1");
  EXPECT_EQ(first("[a-z&&[^aeiou]]+", "aeixyz"), "xyz");
  EXPECT_EQ(first("[a-c[x-z]]+", "daxbe"), "axb");
  EXPECT_EQ(first("\\u0061b", "ab"), "ab");
  EXPECT_EQ(first("x{,2}y", "xxxy"), "xxy");
  EXPECT_EQ(first("(?m:a.b)", "a\nb"), "a\nb");
  EXPECT_EQ(first("^b", "a\nb"), "b");
  EXPECT_EQ(Pattern::regex("(l)(e)", "test")->replaced("le x", "$1 ${2}$$", true), "l e$ x");
  EXPECT_THROW(Pattern::regex("(", "test"), Error);
  Pattern::Match m{0, 0};
  try {   // exponential: given up with one sentence
    Pattern::regex("(a+)+$", "test")->find(std::string(40, 'a') + "b", 0, m);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::resource);
  }
}

// In one piece and token by token.
std::string decoded(const std::string& json, const Words& tokens) {
  const DecoderSpec spec = make_decoder(Json::parse(json), "test");
  DecodeChain chain(spec);
  std::string out;
  for (const std::string& token : tokens) {
    chain.push(token);
    out += chain.take();
  }
  chain.finish();
  return out + chain.take();
}

TEST(Decoder, Kinds) {
  EXPECT_EQ(decoded("null", {"a", "b"}), "a b");
  EXPECT_EQ(decoded(R"({"type": "WordPiece", "prefix": "##", "cleanup": true})", {"don", "'", "t", "sto", "##p", ",", "it", "'s"}), "don ' t stop, it's");   // token by token
  EXPECT_EQ(decoded(R"({"type": "WordPiece", "prefix": "##", "cleanup": false})", {"##a", "##b", "c"}), "##ab c");
  EXPECT_EQ(decoded(R"({"type": "ByteLevel"})", {"H\u00c3", "\u00a9", "\u0120a", "\u00c3"}), "H\u00e9 a\ufffd");
  EXPECT_EQ(decoded(R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": "always"})", {"_Hey", "_you"}), "Hey you");
  EXPECT_EQ(decoded(R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": "never"})", {"_Hey", "_you"}), " Hey you");
  EXPECT_EQ(decoded(R"({"type": "BPEDecoder", "suffix": "</w>"})", {"a", "b</w>", "c</w>"}), "ab c");
  EXPECT_EQ(decoded(R"({"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": true})",
                    {"<pad>", "h", "h", "e", "l", "<pad>", "l", "o", "|", "|", "w"}), "hello w");
}

TEST(Decoder, LlamaStreams) {
  const std::string json = R"({"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"},
                              {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})";
  EXPECT_EQ(decoded(json, {"\u2581\u2581Hey", "\u2581", "<0xE5>", "<0x8F>", "<0xAB>", "x", "<0xE5>"}), " Hey \u53eb" "x\ufffd");
  const DecoderSpec spec = make_decoder(Json::parse(json), "test");
  DecodeChain chain(spec);
  chain.push("\u2581Hey");
  EXPECT_EQ(chain.take(), "Hey");   // not at the end only
  chain.push("\u2581you");
  EXPECT_EQ(chain.take(), " you");
}

TEST(Decoder, AfterFuse) {
  const auto chain = [](const std::string& step) { return R"({"type": "Sequence", "decoders": [{"type": "Fuse"}, )" + step + "]}"; };
  EXPECT_EQ(decoded(chain(R"({"type": "Replace", "pattern": {"String": "ab"}, "content": "X"})"), {"a", "ba", "a", "b", "a"}), "XaXa");
  EXPECT_EQ(decoded(chain(R"({"type": "Replace", "pattern": {"Regex": "a+"}, "content": "X"})"), {"ba", "a", "b"}), "bXb");
  EXPECT_EQ(decoded(chain(R"({"type": "Strip", "content": "-", "start": 2, "stop": 1})"), {"-", "--a-", "-"}), "-a-");
  EXPECT_EQ(decoded(chain(R"({"type": "WordPiece", "prefix": "##", "cleanup": true})"), {"a .", " !"}), "a.!");
}

TEST(PostProcessor, TemplatesAndTrimming) {
  const std::string text = " ab c";
  Encoding e{{5, 6}, {0, 0}, {{0, 3}, {3, 5}}, {0, 0}};
  const auto apply = [&](const std::string& json, bool pair) {
    std::vector<EncodedPart> parts = {{e, text, {}}};
    if (pair) parts.push_back({e, text, {}});
    const auto post = make_post_processor(Json::parse(json), "test", 10, [](TokenId id) -> std::string_view { return id == 5 ? "\u0120ab" : "\u0120c"; });
    post->apply(parts, true);
    const Encoding out = joined(parts).front();
    EXPECT_EQ(out.ids.size(), e.ids.size() * (pair ? 2 : 1) + post->added(pair));
    return out;
  };
  const Encoding bert = apply(R"({"type": "BertProcessing", "cls": ["c", 1], "sep": ["s", 2]})", true);
  EXPECT_THAT(bert.ids, ElementsAre(1, 5, 6, 2, 5, 6, 2));
  EXPECT_THAT(bert.segments, ElementsAre(0, 0, 0, 0, 1, 1, 1));
  EXPECT_THAT(bert.added, ElementsAre(1, 0, 0, 1, 0, 0, 1));
  const Encoding roberta = apply(R"({"type": "RobertaProcessing", "cls": ["c", 1], "sep": ["s", 2], "trim_offsets": true, "add_prefix_space": false})", true);
  EXPECT_THAT(roberta.ids, ElementsAre(1, 5, 6, 2, 2, 5, 6, 2));
  EXPECT_EQ(roberta.ranges[1].begin, 1u);
  EXPECT_EQ(roberta.ranges[2].begin, 4u);
  const Encoding custom = apply(R"({"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 3}}, {"SpecialToken": {"id": "x", "type_id": 2}}],
      "pair": [{"Sequence": {"id": "B", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 1}}], "special_tokens": {"x": {"id": "x", "ids": [7, 8], "tokens": ["x", "y"]}}})", false);
  EXPECT_THAT(custom.ids, ElementsAre(5, 6, 7, 8));
  EXPECT_THAT(custom.segments, ElementsAre(3, 3, 2, 2));
}

}  // namespace
}  // namespace rhetor
