#include "data/packing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "base/error.h"
#include "base/rng.h"
#include "data/batches.h"

namespace rhetor {
namespace {

struct Text {
  std::vector<TokenId> tokens;
  std::vector<std::int64_t> starts;
};
// Token i is i, so that a token tells where it stands.
Text text(const std::vector<std::int64_t>& lengths) {
  Text out;
  for (const std::int64_t length : lengths) {
    out.starts.push_back(static_cast<std::int64_t>(out.tokens.size()));
    for (std::int64_t i = 0; i < length; ++i) out.tokens.push_back(static_cast<TokenId>(out.tokens.size()));
  }
  return out;
}

TEST(Packing, EveryTokenOnceAndOnlyLongDocumentsAreCut) {
  Rng rng(5);
  std::vector<std::int64_t> lengths;
  for (int i = 0; i < 500; ++i) lengths.push_back(1 + static_cast<std::int64_t>(rng.below(rng.below(4) == 0 ? 300 : 60)));
  const Text t = text(lengths);
  const TokenView view(t.tokens, t.starts);
  const Packing packing(view, 64, false);
  std::vector<int> seen(t.tokens.size());
  for (std::int64_t s = 0; s < packing.sequences(); ++s) {
    std::int64_t filled = 0;
    for (const PackedPiece& piece : packing.sequence(s)) {
      filled += piece.length;
      const std::int64_t document = view.document_at(piece.begin);
      EXPECT_EQ(piece.last, piece.begin + piece.length == view.end_of(document));
      const std::int64_t whole = view.end_of(document) - view.begin_of(document);
      EXPECT_TRUE(whole <= 64 ? piece.length == whole : piece.length == 64 || piece.last);
      for (std::int64_t i = 0; i < piece.length; ++i) ++seen[static_cast<std::size_t>(piece.begin + i)];
    }
    EXPECT_LE(filled, 64);
  }
  EXPECT_THAT(seen, ::testing::Each(1));
  EXPECT_GT(packing.filled(), 0.97);   // best fit leaves little room
  EXPECT_LT(Packing(view, 64, true).filled(), 0.8);
}

TEST(Packing, RowsHaveNoTargetAcrossDocuments) {
  const Text t = text({5, 3, 20, 1});   // 20 is cut into 8, 8 and 4
  const TokenView view(t.tokens, t.starts);
  for (const bool alone : {false, true}) {
    const Packing packing(view, 8, alone);
    EXPECT_EQ(packing.sequences(), alone ? 6 : 5 - 1);
    std::vector<int> as_input(t.tokens.size()), as_target(t.tokens.size());
    for (std::uint64_t row = 0; row < static_cast<std::uint64_t>(packing.sequences()); ++row) {
      std::vector<std::int32_t> in(8), target(8);
      packed_row(view, packing, 999, 1, row, in, target);
      for (std::size_t i = 0; i < 8; ++i) {
        if (in[i] == 999) {
          EXPECT_EQ(target[i], -100);
          continue;
        }
        ++as_input[static_cast<std::size_t>(in[i])];
        if (target[i] != -100) {
          EXPECT_EQ(target[i], in[i] + 1);
          ++as_target[static_cast<std::size_t>(target[i])];
        }
      }
    }
    EXPECT_THAT(as_input, ::testing::Each(1));
    // All but the first token of each document is a target once.
    for (std::size_t i = 0; i < as_target.size(); ++i)
      EXPECT_EQ(as_target[i], std::find(t.starts.begin(), t.starts.end(), static_cast<std::int64_t>(i)) == t.starts.end()) << i;
  }
}

TEST(Packing, EmptyDocumentsTakeNoRoom) {
  const std::vector<TokenId> tokens = {1, 2, 3};
  const std::vector<std::int64_t> starts = {0, 0, 2, 3};
  const Packing packing(TokenView(tokens, starts), 4, false);
  EXPECT_EQ(packing.sequences(), 1);
  EXPECT_EQ(packing.sequence(0).size(), 2u);
}

TEST(WordTable, KnowsWhereWordsBegin) {
  const auto t = train_byte_bpe([i = 0](std::string& d) mutable { return d = "the boats of the harbour are home", i++ < 3; },
                                {.vocab_size = 290});
  const WordTable table(*t);
  const auto starts = [&](const std::string& s) {
    std::string marked;
    TokenId before = -1;
    for (const TokenId id : t->encode(s)) {
      if (before >= 0 && !table.continues(before, id)) marked += '|';
      marked += t->token_bytes(id);
      before = id;
    }
    return marked;
  };
  EXPECT_EQ(starts("the boats, quickly!"), "the| boats|,| quickly|!");
  EXPECT_EQ(starts("don't na\xc3\xafve"), "don't| na\xc3\xafve");
  EXPECT_EQ(starts("\xe6\xb8\xaf\xe5\x8f\xa3"), "\xe6\xb8\xaf|\xe5\x8f\xa3");
}

TEST(MlmRows, WholeWordsAreMaskedWhole) {
  const auto t = train_byte_bpe([i = 0](std::string& d) mutable { return d = "ab cd", i++ < 3; }, {.vocab_size = 266});
  Text text;
  for (int d = 0; d < 6; ++d) {
    text.starts.push_back(static_cast<std::int64_t>(text.tokens.size()));
    for (const TokenId id : t->encode("harbours quietly welcome returning wooden fishing boats every evening, always"))
      text.tokens.push_back(id);
  }
  const WordTable table(*t);
  const TokenView view(text.tokens, text.starts);
  const MlmRows whole(view, *t, 64, 1, {.whole_words = true}), plain(view, *t, 64, 1, {.pairs = false});
  std::int64_t split = 0, targets = 0, ordinary = 0, plain_split = 0;
  for (std::uint64_t row = 0; row < 200; ++row) {
    for (const MlmRows* rows : {&whole, &plain}) {
      MlmBatch b = empty_mlm_batch(1, 64);
      rows->make(row, 0, b);
      const auto in = b.inputs.data<std::int32_t>(), target = b.targets.data<std::int32_t>();
      for (std::size_t i = 1; i < 64; ++i) {
        const auto original = [&](std::size_t k) { return target[k] == -100 ? in[k] : target[k]; };
        if (t->is_special(original(i))) continue;
        const bool inside = !t->is_special(original(i - 1)) && table.continues(original(i - 1), original(i));
        (rows == &whole ? split : plain_split) += inside && (target[i] == -100) != (target[i - 1] == -100);
        if (rows == &whole) {
          ++ordinary;
          targets += target[i] != -100;
        }
      }
      if (rows == &plain) {
        EXPECT_EQ(b.next_sentence.data<std::int32_t>()[0], -100);
      }
    }
  }
  EXPECT_EQ(split, 0);
  EXPECT_GT(plain_split, 100);
  EXPECT_NEAR(static_cast<double>(targets) / static_cast<double>(ordinary), 0.15, 0.05);
}

}  // namespace
}  // namespace rhetor
