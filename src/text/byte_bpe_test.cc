#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "base/error.h"
#include "base/rng.h"
#include "text/pretokenize.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

namespace rhetor {
namespace {

const char* const kText =
    "The harbour is quiet. The boats are home, and it's raining: we'll wait until 10 o'clock.\n\n  The lamp of the lighthouse turns.\n"
    "Das M\xC3\xA4rchen vom Meer. \xE6\xB5\xB7\xE8\xBE\xB9\xE7\x9A\x84\xE5\xB0\x8F\xE9\x95\x87\xE3\x80\x82 \xD0\x9C\xD0\xBE\xD1\x80\xD0\xB5 \xF0\x9F\x90\x9F\xF0\x9F\x90\x9F\n";

TokenizerPtr train(const std::vector<std::string>& documents, std::int64_t vocab = 400) {
  std::size_t i = 0;
  return train_byte_bpe(
      [&](std::string& document) {
        if (i == documents.size()) return false;
        document = documents[i++];
        return true;
      },
      {.vocab_size = vocab});
}

TokenizerPtr trained() {
  static const TokenizerPtr tokenizer = train({kText, kText, "the boats the boats the harbour"});
  return tokenizer;
}

std::vector<std::string> words(std::string_view text) {
  WordScanner scanner(text);
  std::vector<std::string> out;
  std::string_view word;
  while (scanner.next(word)) out.emplace_back(word);
  return out;
}

using Words = std::vector<std::string>;

TEST(Pretokenize, FollowsGpt2) {
  EXPECT_EQ(words("Hello world, it's 42nd!!"), (Words{"Hello", " world", ",", " it", "'s", " 42", "nd", "!!"}));
  EXPECT_EQ(words("a   b \n\n c"), (Words{"a", "  ", " b", " \n\n", " c"}));
  EXPECT_EQ(words("trailing  "), (Words{"trailing", "  "}));
  EXPECT_EQ(words("\xE6\xB5\xB7\xE8\xBE\xB9 \xC3\xA9t\xC3\xA9"), (Words{"\xE6\xB5\xB7\xE8\xBE\xB9", " \xC3\xA9t\xC3\xA9"}));
  EXPECT_EQ(words("a\xE3\x80\x80z"), (Words{"a", "\xE3\x80\x80", "z"}));  // ideographic space
  EXPECT_EQ(words(""), Words{});
}

TEST(Pretokenize, KeepsInvalidBytesApart) {
  EXPECT_EQ(words("ab\xFF\xFE" "cd"), (Words{"ab", "\xFF\xFE", "cd"}));
  EXPECT_EQ(words("a\xE6\xB5"), (Words{"a", "\xE6\xB5"}));
}

TEST(Pretokenize, CutsEndlessWords) {
  const std::string text(3 * kMaxWordBytes + 5, 'a');
  const Words w = words(text);
  ASSERT_EQ(w.size(), 4u);
  EXPECT_EQ(w[0].size(), kMaxWordBytes);
  EXPECT_EQ(w[3].size(), 5u);
  std::string wide = "x";
  while (wide.size() < 2 * kMaxWordBytes) wide += "\xE6\xB5\xB7";
  for (const auto& word : words(wide)) EXPECT_EQ(utf8_valid_prefix(word), word.size());
}

TEST(ByteBpe, RoundTripsEveryByteAndPair) {
  const auto t = trained();
  std::string all;
  for (int a = 0; a < 256; ++a) {
    all += static_cast<char>(a);
    for (int b = 0; b < 256; b += 5) {
      const std::string text{static_cast<char>(a), static_cast<char>(b)};
      ASSERT_EQ(t->decode(t->encode(text)), text);
    }
  }
  EXPECT_EQ(t->decode(t->encode(all)), all);
  EXPECT_EQ(t->decode(t->encode(kText)), kText);
  EXPECT_TRUE(t->encode("").empty());
}

TEST(ByteBpe, RoundTripsRandomBytes) {
  const auto t = trained();
  Rng rng(7);
  for (int i = 0; i < 300; ++i) {
    std::string text(rng.below(400), '\0');
    const bool ascii = i % 3 == 0;
    for (char& c : text) c = static_cast<char>(ascii ? "the boats' 1\n"[rng.below(13)] : static_cast<char>(rng.below(256)));
    ASSERT_EQ(t->decode(t->encode(text, i % 2 == 0), true), text);
  }
}

TEST(ByteBpe, LongWordsMergeLikeShortOnes) {
  // The heap and the quadratic merge must agree: the same words once alone (short) and once as a part of a long word that no merge
  // crosses, because '\x01' was never seen.
  const auto t = train({"abababab abcabc cabbage bababa abacabab"}, 300);
  Rng rng(3);
  for (int i = 0; i < 200; ++i) {
    std::string text;
    std::vector<TokenId> expected;
    for (int part = 0; part < 6; ++part) {
      std::string piece(1 + rng.below(20), 'a');
      for (char& c : piece) c = "abcge"[rng.below(5)];
      for (const TokenId id : t->encode(piece)) expected.push_back(id);
      // A letter that the pattern joins to the word but no merge knows.
      text += piece + "Z";
      expected.push_back(t->encode("Z")[0]);
    }
    ASSERT_EQ(t->encode(text), expected) << text;
  }
}

TEST(ByteBpe, HostileTextStaysLinear) {
  const auto t = train({std::string(4000, 'a') + " " + std::string(500, ' ')}, 280);
  for (const std::string& text : {std::string(1 << 20, 'a'), std::string(1 << 19, ' '), std::string(1 << 19, '\xFF')}) {
    EXPECT_EQ(t->decode(t->encode(text)), text);
  }
}

TEST(ByteBpe, SpecialTokensOnlyWhenAsked) {
  const auto t = trained();
  const std::string text = "<|user|>hi<|end|>";
  const auto with = t->encode(text, true), without = t->encode(text, false);
  EXPECT_EQ(with.front(), t->special("<|user|>"));
  EXPECT_EQ(with.back(), t->special("<|end|>"));
  EXPECT_EQ(t->decode(with), "hi");
  EXPECT_EQ(t->decode(with, true), text);
  for (const TokenId id : without) EXPECT_FALSE(t->is_special(id));
  EXPECT_EQ(t->decode(without), text);
  EXPECT_EQ(t->special("<|nobody|>"), -1);
  EXPECT_EQ(t->specials().size(), BpeTrainOptions{}.specials.size());
  EXPECT_EQ(t->token_bytes(-1), "");
  EXPECT_EQ(t->token_bytes(1 << 20), "");
  EXPECT_FALSE(t->is_special(1 << 20));
}

TEST(ByteBpe, ConcurrentEncodesAgree) {
  const auto a = trained(), b = train({"other words entirely, other words"}, 300);
  const auto expected_a = a->encode(kText), expected_b = b->encode(kText);
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 20; ++round) wrong += a->encode(kText) != expected_a || b->encode(kText) != expected_b;
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(BpeTrain, IsDeterministicAndFollowsTheRule) {
  EXPECT_EQ(train({kText, "more text, more text"})->to_json(), train({kText, "more text, more text"})->to_json());
  // "aab" x 3: the pairs (a,a) and (a,b) occur three times each; the smaller pair of ids wins, then (aa,b).
  const auto t = train({"aab aab aab"}, 300);
  const auto ids = t->encode("aab");
  ASSERT_EQ(ids.size(), 1u);
  EXPECT_EQ(t->token_bytes(static_cast<TokenId>(256 + t->specials().size())), "aa");
}

TEST(BpeTrain, StopsEarlyAndChecksOptions) {
  const auto t = train({"abc"}, 1000);
  EXPECT_EQ(t->vocab_size(), static_cast<std::int64_t>(256 + t->specials().size()));
  EXPECT_EQ(t->decode(t->encode("abc")), "abc");
  EXPECT_THROW(train({"abc"}, 100), Error);
  EXPECT_THROW(train_byte_bpe([](std::string&) { return false; }, {.vocab_size = 300, .specials = {"<|a|>", "<|a|>"}}), Error);
  EXPECT_THROW(train_byte_bpe([](std::string&) { return false; }, {.vocab_size = 300, .specials = {"\xFF\xFF"}}), Error);
}

TEST(BpeTrain, LearnsNothingFromSpecialTokens) {
  std::vector<double> seen;
  int i = 0;
  const auto t = train_byte_bpe(
      [&](std::string& document) {
        document = "<|user|>x<|end|><|user|>x<|end|>";
        return i++ < 50;
      },
      {.vocab_size = 300, .specials = {"<|user|>", "<|end|>"}, .progress = [&](double f) { seen.push_back(f); }});
  EXPECT_EQ(t->vocab_size(), 258);
  EXPECT_EQ(seen.back(), 1.0);
  // Ordinary text can never produce a special token, even if a special one looks like a word.
  const auto w = train_byte_bpe([&, n = 0](std::string& d) mutable { d = "wordy wordy words"; return n++ < 9; },
                                {.vocab_size = 300, .specials = {"words", "wo"}});
  for (const TokenId id : w->encode("words wordy wo")) EXPECT_FALSE(w->is_special(id));
}

TEST(StreamDecoder, NeverSplitsACharacterAndEqualsDecode) {
  const auto t = trained();
  for (const std::string& text : {std::string(kText), std::string("ok \xFF\xE6\xB5 \xF0\x9F\x90 \xC3\xA9\xE6"), std::string("\xF0\x9F\x90\x9F")}) {
    StreamDecoder stream(t);
    std::string all;
    // Byte tokens one by one: the hardest way to receive a character.
    for (const char c : text) {
      const std::string piece = stream.push(t->encode(std::string(1, c))[0]);
      EXPECT_EQ(utf8_valid_prefix(piece), piece.size());
      all += piece;
    }
    all += stream.finish();
    EXPECT_EQ(all, utf8_cleaned(text));
    EXPECT_EQ(stream.finish(), "");
  }
}

TEST(StreamDecoder, LeavesSpecialTokensOutAndHoldsOnlyPartialCharacters) {
  const auto t = trained();
  StreamDecoder stream(t);
  EXPECT_EQ(stream.push(t->special("<|end|>")), "");
  EXPECT_EQ(stream.push(t->encode("a")[0]), "a");
  EXPECT_EQ(stream.push(t->encode("\xE6")[0]), "");
  EXPECT_EQ(stream.push(t->encode("a")[0]), "\xEF\xBF\xBD" "a");
  EXPECT_EQ(stream.push(-5), "");
}

}  // namespace
}  // namespace rhetor
