#include "data/span_corruption.h"

#include <gtest/gtest.h>

#include <set>

#include "base/error.h"
#include "data/batches.h"

namespace rhetor {
namespace {

TokenizerPtr bytes_tokenizer() {
  int i = 0;
  return train_byte_bpe([&](std::string& d) { d = "the boats of the harbour are home"; return i++ < 3; }, {.vocab_size = 280});
}

TEST(SpanCorruption, TheTextCanBePutTogetherAgain) {
  const TokenizerPtr tokenizer = bytes_tokenizer();
  std::vector<TokenId> ids;
  for (int i = 0; i < 500; ++i) ids.push_back(i % 250);
  const SpanRows rows(TokenView(ids, {}), *tokenizer, 64, 7, {});
  const SpanLayout layout = rows.layout();
  EXPECT_LE(layout.input(), 64);
  EXPECT_GE(layout.input(), 62);
  EXPECT_NEAR(static_cast<double>(layout.noise) / static_cast<double>(layout.text), 0.15, 0.02);
  EXPECT_NEAR(static_cast<double>(layout.noise) / static_cast<double>(layout.spans), 3.0, 0.5);
  SpanBatch batch = rows.empty(3);
  std::set<std::vector<std::int32_t>> different;
  for (std::uint64_t number = 0; number < 60; ++number) {
    rows.make(number, 1, batch);
    const auto inputs = batch.inputs.data<std::int32_t>().subspan(64, 64);
    const auto u = static_cast<std::size_t>(layout.output());
    const auto targets = batch.targets.data<std::int32_t>().subspan(u, u), before = batch.decoder_inputs.data<std::int32_t>().subspan(u, u);
    EXPECT_EQ(batch.lengths.data<std::int32_t>()[1], layout.input());
    const auto vocab = static_cast<std::int32_t>(tokenizer->vocab_size());
    std::vector<std::int32_t> text;
    std::size_t from = 0;
    for (std::int64_t i = 0; i + 1 < layout.input(); ++i) {
      const std::int32_t id = inputs[static_cast<std::size_t>(i)];
      if (id < vocab) {
        text.push_back(id);
        continue;
      }
      ASSERT_EQ(targets[from++], id);  // sentinels come in the same order
      while (from + 1 < u && targets[from] < vocab) text.push_back(targets[from++]);
    }
    ASSERT_EQ(static_cast<std::int64_t>(text.size()), layout.text);
    for (std::size_t i = 1; i < text.size(); ++i) EXPECT_EQ(text[i], (text[i - 1] == 249 ? 0 : text[i - 1] + 1));
    EXPECT_EQ(targets[u - 1], inputs[static_cast<std::size_t>(layout.input() - 1)]);
    EXPECT_EQ(before[0], decoder_start(*tokenizer));
    for (std::size_t i = 1; i < u; ++i) EXPECT_EQ(before[i], targets[i - 1]);
    different.insert({inputs.begin(), inputs.end()});
  }
  EXPECT_GT(different.size(), 55u);
}

TEST(SpanCorruption, ARowIsAPureFunctionOfItsNumber) {
  const TokenizerPtr tokenizer = bytes_tokenizer();
  std::vector<TokenId> ids(300);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<TokenId>(i * 7 % 256);
  const SpanRows a(TokenView(ids, {}), *tokenizer, 32, 7, {}), b(TokenView(ids, {}), *tokenizer, 32, 7, {}), c(TokenView(ids, {}), *tokenizer, 32, 8, {});
  SpanBatch x = a.empty(2), y = a.empty(2), z = a.empty(2);
  const auto bytes = [](const Tensor& t) { return std::string(static_cast<const char*>(t.raw()), t.bytes()); };
  a.make(41, 0, x);
  b.make(3, 0, y);
  b.make(41, 0, y);
  c.make(41, 0, z);
  EXPECT_EQ(bytes(x.inputs), bytes(y.inputs));
  EXPECT_EQ(bytes(x.targets), bytes(y.targets));
  EXPECT_NE(bytes(x.inputs), bytes(z.inputs));
}

TEST(SpanCorruption, SmallestAndImpossible) {
  const SpanLayout small = span_layout(8, {});
  EXPECT_LE(small.input(), 8);
  EXPECT_GE(small.noise, 1);
  EXPECT_THROW(span_layout(7, {}), Error);
  const std::vector<TokenId> ids(100, 65);
  EXPECT_THROW(SpanRows(TokenView(ids, {}), *bytes_tokenizer(), 4096, 1, {.share = 0.15, .mean = 1.0}), Error);  // too few sentinels
}

}  // namespace
}  // namespace rhetor
