#include <gmock/gmock.h>

#include <cmath>

#include "base/error.h"
#include "text/train_unigram.h"

namespace rhetor {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::Pair;

std::vector<std::string> vocabulary(const TokenModel& model) {
  std::vector<std::string> out;
  for (TokenId id = 0; id < model.size(); ++id) out.emplace_back(model.token(id));
  return out;
}

const std::vector<WordCount>& words() {
  static const std::vector<WordCount> list = {{"low", 5}, {"lower", 2}, {"newest", 6}, {"widest", 3}, {"\u6d77\u8239", 4}};
  return list;
}

TEST(TrainBpe, MergesByFrequencyTiesByIds) {
  const auto m = train_bpe(words(), {.vocab_size = 18, .specials = {"<s>"}, .unknown = "<unk>"});
  EXPECT_THAT(vocabulary(*m), ElementsAre("<s>", "<unk>", "d", "e", "i", "l", "n", "o", "r", "s", "t", "w", "\u6d77", "\u8239", "es", "est", "lo", "low"));
}

TEST(TrainBpe, LimitsAlphabetAndFrequency) {
  const auto m = train_bpe(words(), {.vocab_size = 100, .min_count = 7, .max_alphabet = 3, .alphabet = {"z"}});
  // "e", "w" are the most frequent beside the required "z"; without "n" and "o", "newest" and "lower" both hold "we".
  EXPECT_THAT(vocabulary(*m), ElementsAre("e", "w", "z", "we"));
}

TEST(TrainWordPiece, MarksWhatContinuesAWord) {
  const auto m = train_wordpiece(words(), {.vocab_size = 60, .specials = {"[UNK]"}, .unknown = "[UNK]", .prefix = "##"});
  EXPECT_GE(m->id("low"), 0);
  EXPECT_GE(m->id("##est"), 0);
  std::vector<Piece> pieces;
  m->tokenize("lowest", pieces);
  ASSERT_EQ(pieces.size(), 2u);
  EXPECT_EQ(m->token(pieces[1].id), "##est");
}

TEST(Train, TheOrderOfTheWordsDoesNotMatter) {
  auto reversed = words();
  std::reverse(reversed.begin(), reversed.end());
  ModelTrainOptions options{.vocab_size = 40, .specials = {"<unk>"}, .unknown = "<unk>"};
  for (const auto train : {train_bpe, train_wordpiece, train_unigram}) EXPECT_EQ(train(words(), options)->to_json(), train(reversed, options)->to_json());
}

TEST(Train, RefusesWhatCannotBe) {
  EXPECT_THROW(train_bpe(words(), {.vocab_size = 1, .specials = {"<s>"}}), Error);
  EXPECT_THROW(train_bpe(words(), {.vocab_size = 50, .specials = {"<s>", "<s>"}}), Error);
  EXPECT_THROW(train_bpe(words(), {.vocab_size = 50, .alphabet = {"ab"}}), Error);
  EXPECT_THROW(train_unigram(words(), {.vocab_size = 5}), Error);  // fewer than the characters
  EXPECT_THROW(train_wordpiece(words(), {.vocab_size = 500, .byte_fallback = true}), Error);
}

TEST(UnigramSeeds, CountsRightMaximalStrings) {
  const std::vector<std::string> alphabet = {"a", "b", "c"};
  std::vector<std::pair<std::string, double>> seeds;
  for (const auto& piece : unigram_seeds({{"abc", 2}, {"abb", 1}, {"xab", 1}}, alphabet, 100)) seeds.emplace_back(piece.text, piece.score);
  EXPECT_THAT(seeds, Contains(Pair("a", 4.0)));
  EXPECT_THAT(seeds, Contains(Pair("ab", 8.0)));   // 4 occurrences x 2 characters
  EXPECT_THAT(seeds, Contains(Pair("abc", 6.0)));  // one word, counted twice
  EXPECT_THAT(seeds, Contains(Pair("bc", 4.0)));
  EXPECT_EQ(seeds.size(), 3u + 3u);
  EXPECT_EQ(unigram_seeds({{"abc", 2}, {"abb", 1}}, alphabet, 1).size(), 4u);  // the characters and the best string
}

TEST(PieceLattice, SumsOverAllCuts) {
  const std::vector<TrainPiece> pieces = {{"a", std::log(0.5)}, {"aa", std::log(0.25)}};
  const DoubleArray trie({{pieces[0].text, 0}, {pieces[1].text, 1}});
  PieceLattice lattice;
  lattice.set("aaa", trie, pieces, -100);
  std::vector<double> expected(2);
  // a a a: 1/8; a aa and aa a: 1/8 each.
  EXPECT_NEAR(lattice.expect(2, expected), 2 * std::log(3.0 / 8), 1e-12);
  EXPECT_NEAR(expected[0], 2 * (3 + 1 + 1) / 3.0, 1e-12);
  EXPECT_NEAR(expected[1], 2 * 2 / 3.0, 1e-12);
}

TEST(TrainUnigram, FindsThePiecesOfAMadeLanguage) {
  // Words are made of four syllables, short words more often than long ones; the model must find those rather than letters.
  const std::vector<std::string> syllables = {"kata", "mori", "sune", "ledo"};
  std::vector<WordCount> list;
  for (const auto& a : syllables) {
    list.push_back({a, 50});
    for (const auto& b : syllables) {
      list.push_back({a + b, 10});
      for (const auto& c : syllables) list.push_back({a + b + c, 2});
    }
  }
  double last = 0;
  const auto m = train_unigram(list, {.vocab_size = 24, .specials = {"<unk>"}, .unknown = "<unk>", .progress = [&](double done) {
    EXPECT_GE(done, last);
    last = done;
  }});
  EXPECT_EQ(last, 1.0);
  EXPECT_LE(m->size(), 24);
  std::vector<Piece> pieces;
  m->tokenize("katamorisuneledo", pieces);
  EXPECT_LE(pieces.size(), 4u);
}

TEST(TrainUnigram, ByteFallbackCoversEverything) {
  const auto m = train_unigram(words(), {.vocab_size = 280, .specials = {"<unk>"}, .unknown = "<unk>", .byte_fallback = true});
  std::vector<Piece> pieces;
  m->tokenize("low\u00e9", pieces);
  for (const Piece& piece : pieces) EXPECT_NE(m->token(piece.id), "<unk>");
}

}  // namespace
}  // namespace rhetor
