#include <gtest/gtest.h>

#include "data/batches.h"

namespace rhetor {
namespace {

TEST(FlatMlm, EveryTokenStandsOnceAndNothingIsPadding) {
  int i = 0;
  const TokenizerPtr tokenizer = train_byte_bpe([&](std::string& d) { d = "the boats of the harbour are home"; return i++ < 3; }, {.vocab_size = 300});
  std::vector<TokenId> ids;
  std::vector<std::int64_t> documents;
  for (int d = 0; d < 60; ++d) {
    documents.push_back(static_cast<std::int64_t>(ids.size()));
    for (int k = 0; k < 5 + d % 40; ++k) ids.push_back(65 + (d + k) % 60);
  }
  const MlmRows rows(TokenView(ids, documents), *tokenizer, 32, 3, {});
  const FlatMlmShape shape{.texts = 10, .seq = 32, .tokens = 160};
  const auto make = [&](std::int64_t text, std::int64_t row, std::int64_t room, MlmBatch& out) { rows.make(static_cast<std::uint64_t>(text), row, out, room); };
  const FlatMlmBatch batch = flat_mlm_batch(shape, 2, 0, make);
  EXPECT_GE(batch.used, 2 * (160 - MlmRows::kLeastRoom + 1));
  const auto at = [](const Tensor& t, std::int64_t k) { return static_cast<std::int64_t>(t.at(k)); };
  MlmBatch one = empty_mlm_batch(1, 32);
  for (std::int64_t part = 0; part < 2; ++part) {
    std::int64_t t = 0, asked = 0;
    for (std::int64_t text = 0; text < 10; ++text) {
      const std::int64_t slot = part * 10 + text, length = at(batch.lengths, slot);
      if (length == 0) {
        EXPECT_EQ(at(batch.next_sentence, slot), -100);
        continue;
      }
      make(slot, 0, std::min<std::int64_t>(32, 160 - t), one);
      ASSERT_EQ(at(one.lengths, 0), length);
      EXPECT_EQ(at(batch.first_tokens, slot), t);
      for (std::int64_t p = 0; p < length; ++p, ++t) {
        const std::int64_t here = part * 160 + t;
        EXPECT_EQ(at(batch.tokens, here), at(one.inputs, p));
        EXPECT_EQ(at(batch.positions, here), p);
        EXPECT_EQ(at(batch.token_places, here), text * 32 + p);
        EXPECT_EQ(at(batch.place_tokens, slot * 32 + p), t);
        if (at(one.targets, p) == -100) continue;
        const std::int64_t target = part * shape.predictions() + asked++;
        EXPECT_EQ(at(batch.masked_positions, target), t);
        EXPECT_EQ(at(batch.targets, target), at(one.targets, p));
      }
    }
    EXPECT_LE(asked, shape.predictions());
    EXPECT_GT(asked, 10);
  }
}

// However a batch is cut into texts, 15 % of their tokens fit.
TEST(FlatMlm, TargetsFitAtTheirMost) {
  const auto share = [](std::int64_t tokens) { return std::max<std::int64_t>(1, static_cast<std::int64_t>(0.15 * static_cast<double>(tokens) + 0.5)); };
  for (std::int64_t length = 5; length <= 64; ++length)
    for (std::int64_t texts = 1; texts <= 40; ++texts) {
      const FlatMlmShape shape{.texts = texts, .seq = 64, .tokens = texts * length};
      EXPECT_LE(texts * share(length - 3), shape.predictions()) << length << " " << texts;
      const FlatMlmShape single{.texts = texts, .seq = 64, .tokens = texts * (length - 1)};
      EXPECT_LE(texts * share(length - 3), single.predictions()) << length << " " << texts;
    }
}

TEST(MaskedPlaces, AreThoseWithATarget) {
  const Tensor targets = Tensor::of<std::int32_t>(Shape{2, 4}, {-100, 5, -100, 6, -100, -100, -100, 7});
  const MaskedPlaces places = masked_places(targets, 3);
  const std::vector<double> where{1, 3, 0, 3, 0, 0}, what{5, 6, -100, 7, -100, -100};
  EXPECT_EQ(places.positions.to_doubles(), where);
  EXPECT_EQ(places.targets.to_doubles(), what);
}

}  // namespace
}  // namespace rhetor
