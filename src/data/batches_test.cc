#include "data/batches.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <numeric>
#include <set>
#include <thread>

#include "base/error.h"
#include "base/file.h"
#include "data/permutation.h"

namespace rhetor {
namespace {

TokenizerPtr tokenizer() {
  static const TokenizerPtr instance = [] {
    int i = 0;
    return train_byte_bpe([&](std::string& d) { d = "the boats of the harbour are home"; return i++ < 3; }, {.vocab_size = 300});
  }();
  return instance;
}

std::vector<TokenId> counting(std::int64_t n) {
  std::vector<TokenId> out(static_cast<std::size_t>(n));
  std::iota(out.begin(), out.end(), 0);
  return out;
}

std::vector<std::int32_t> values(const Tensor& t) {
  const auto d = t.data<std::int32_t>();
  return {d.begin(), d.end()};
}

class TokensTest : public ::testing::Test {
 protected:
  TokenSet tokens_of(const std::string& text, double fraction, std::uint64_t seed = 1) {
    const auto path = std::filesystem::path(::testing::TempDir()) / "rhetor_tokens_test.txt";
    write_file_atomic(path, text);
    Corpus corpus({path});
    return tokenize_corpus(corpus, *tokenizer(), fraction, seed);
  }
};

TEST_F(TokensTest, SplitsByDocument) {
  std::string text;
  for (int i = 0; i < 40; ++i) text += "document number " + std::to_string(i) + "\n<|endoftext|>\n";
  const TokenSet set = tokens_of(text, 0.2);
  const TokenId end = tokenizer()->special("<|endoftext|>");
  EXPECT_EQ(set.train_documents.size() + set.validation_documents.size(), 40u);
  EXPECT_NEAR(static_cast<double>(set.validation_documents.size()), 8.0, 1.0);
  std::set<std::string> seen;
  for (const auto* part : {&set.train, &set.validation}) {
    EXPECT_EQ(part->back(), end);
    std::vector<TokenId> document;
    for (const TokenId id : *part) {
      if (id != end) {
        document.push_back(id);
        continue;
      }
      seen.insert(tokenizer()->decode(document));
      document.clear();
    }
  }
  EXPECT_EQ(seen.size(), 40u);
  for (const auto start : set.train_documents) EXPECT_TRUE(start == 0 || set.train[static_cast<std::size_t>(start - 1)] == end);
  EXPECT_EQ(tokens_of(text, 0.2).train, set.train);
  EXPECT_NE(tokens_of(text, 0.2, 2).train, set.train);
  EXPECT_TRUE(tokens_of(text, 0.0).validation.empty());
  EXPECT_THROW(tokens_of(text, 1.0), Error);
}

TEST_F(TokensTest, CutsASingleDocumentAtItsEnd) {
  std::string text;
  for (int i = 0; i < 200; ++i) text += "line " + std::to_string(i) + "\n";
  const TokenSet whole = tokens_of(text, 0.0), set = tokens_of(text, 0.1);
  std::vector<TokenId> joined = set.train;
  joined.insert(joined.end(), set.validation.begin(), set.validation.end());
  EXPECT_EQ(joined, whole.train);
  EXPECT_NEAR(static_cast<double>(set.validation.size()), 0.1 * static_cast<double>(whole.train.size()), 1.0);
  EXPECT_EQ(set.validation_documents, std::vector<std::int64_t>{0});
  EXPECT_EQ(set.source_bytes, text.size() - 1);
}

TEST_F(TokensTest, EncodesSpecialTokensOfTrustedText) {
  const TokenSet set = tokens_of("<|user|>hi<|end|>", 0.0);
  EXPECT_EQ(set.train.front(), tokenizer()->special("<|user|>"));
}

TEST(Permutation, IsOne) {
  for (const std::uint64_t n : {1, 2, 3, 17, 64, 1000}) {
    std::set<std::uint64_t> seen;
    for (std::uint64_t i = 0; i < n; ++i) seen.insert(permuted(i, n, 42, 7));
    EXPECT_EQ(seen.size(), n);
    EXPECT_LT(*seen.rbegin(), n);
  }
  EXPECT_LT(permuted((1ull << 40) - 1, 1ull << 40, 1, 1), 1ull << 40);
}

TEST(LmBatch, ShiftsTargetsAndCoversAnEpochOnce) {
  const auto tokens = counting(100);
  std::map<std::int32_t, int> count;
  ASSERT_EQ(lm_batches_per_epoch(100, 5, 10), 2);
  for (std::uint64_t i = 0; i < 2; ++i) {
    const LmBatch b = lm_batch(tokens, 5, 10, 3, i);
    const auto in = values(b.inputs), out = values(b.targets);
    for (std::size_t k = 0; k < in.size(); ++k) {
      EXPECT_EQ(out[k], (in[k] + 1) % 100);
      ++count[in[k]];
    }
  }
  EXPECT_EQ(count.size(), 100u);
  for (const auto& [token, n] : count) EXPECT_EQ(n, 1) << token;
}

TEST(LmBatch, IsPureAndDiffersByIndexSeedAndEpoch) {
  const auto tokens = counting(1000);
  EXPECT_EQ(values(lm_batch(tokens, 4, 16, 3, 5).inputs), values(lm_batch(tokens, 4, 16, 3, 5).inputs));
  EXPECT_NE(values(lm_batch(tokens, 4, 16, 3, 5).inputs), values(lm_batch(tokens, 4, 16, 3, 6).inputs));
  EXPECT_NE(values(lm_batch(tokens, 4, 16, 3, 5).inputs), values(lm_batch(tokens, 4, 16, 4, 5).inputs));
  EXPECT_NE(values(lm_batch(tokens, 4, 16, 3, 0).inputs), values(lm_batch(tokens, 4, 16, 3, 62 / 4 * 4).inputs));
}

TEST(LmBatch, RanksTogetherSeeWhatOneSees) {
  const auto tokens = counting(777);
  const auto whole = values(lm_batch(tokens, 6, 8, 9, 4).inputs);
  std::vector<std::int32_t> joined;
  for (int rank = 0; rank < 3; ++rank) {
    const auto part = values(lm_batch(tokens, 2, 8, 9, 4, rank, 3).inputs);
    joined.insert(joined.end(), part.begin(), part.end());
  }
  EXPECT_EQ(joined, whole);
}

TEST(LmBatch, RepeatsShortTextAndRefusesNone) {
  const auto in = values(lm_batch({7, 8, 9}, 2, 8, 1, 0).inputs);
  for (const auto id : in) EXPECT_TRUE(id >= 7 && id <= 9);
  EXPECT_THROW(lm_batch({7}, 2, 8, 1, 0), Error);
}

struct TokenDocuments {
  std::vector<TokenId> tokens;
  std::vector<std::int64_t> starts;
};
// Ordinary tokens in a rising order within each document, so that "consecutive" can be read off.
TokenDocuments rising(int documents, int length) {
  TokenDocuments out;
  for (int d = 0; d < documents; ++d) {
    out.starts.push_back(static_cast<std::int64_t>(out.tokens.size()));
    for (int i = 0; i < length; ++i) out.tokens.push_back((d * 37 + i) % 256);
    out.tokens.push_back(tokenizer()->special("<|endoftext|>"));
  }
  return out;
}

TEST(MlmBatch, HasTheFormOfBert) {
  const auto t = tokenizer();
  const TokenDocuments d = rising(20, 90);
  const TokenId cls = t->special("<|cls|>"), sep = t->special("<|sep|>"), pad = t->special("<|pad|>"), mask = t->special("<|mask|>");
  std::int64_t targets = 0, masked = 0, kept = 0, ordinary = 0, random_pairs = 0, rows = 0, short_rows = 0;
  for (std::uint64_t index = 0; index < 40; ++index) {
    const MlmBatch b = mlm_batch(d.tokens, d.starts, *t, 16, 64, 5, index);
    const auto in = values(b.inputs), seg = values(b.segments), tgt = values(b.targets), len = values(b.lengths), nsp = values(b.next_sentence);
    for (std::size_t r = 0; r < 16; ++r, ++rows) {
      const auto n = static_cast<std::size_t>(len[r]);
      ASSERT_LE(n, 64u);
      short_rows += n < 64;
      random_pairs += nsp[r];
      std::vector<TokenId> original;
      std::size_t seps = 0;
      for (std::size_t i = 0; i < 64; ++i) {
        const std::size_t k = r * 64 + i;
        if (i >= n) {
          ASSERT_TRUE(in[k] == pad && seg[k] == 0 && tgt[k] == -100);
          continue;
        }
        ASSERT_EQ(seg[k], seps >= 1 ? 1 : 0);
        seps += in[k] == sep;
        original.push_back(tgt[k] == -100 ? in[k] : tgt[k]);
        if (tgt[k] != -100) {
          ASSERT_FALSE(t->is_special(tgt[k]));
          ++targets;
          masked += in[k] == mask;
          kept += in[k] == tgt[k];
        }
        ordinary += original.back() != cls && original.back() != sep;
      }
      EXPECT_EQ(seps, 2u);
      EXPECT_EQ(in[r * 64], cls);
      EXPECT_EQ(in[r * 64 + n - 1], sep);
      if (nsp[r] == 0) {  // truly consecutive
        for (std::size_t i = 2; i + 1 < n; ++i) {
          if (original[i] != sep) continue;
          EXPECT_EQ(original[i + 1], (original[i - 1] + 1) % 256);
        }
      }
    }
  }
  EXPECT_NEAR(static_cast<double>(targets) / static_cast<double>(ordinary), 0.15, 0.01);
  EXPECT_NEAR(static_cast<double>(masked) / static_cast<double>(targets), 0.8, 0.03);
  EXPECT_NEAR(static_cast<double>(kept) / static_cast<double>(targets), 0.1, 0.03);
  EXPECT_NEAR(static_cast<double>(random_pairs) / static_cast<double>(rows), 0.5, 0.08);
  EXPECT_NEAR(static_cast<double>(short_rows) / static_cast<double>(rows), 0.1, 0.06);
}

TEST(MlmBatch, IsPureAndRanksAreDisjoint) {
  const TokenDocuments d = rising(5, 50);
  const auto make = [&](std::int64_t batch, std::uint64_t index, int rank, int ranks) {
    return values(mlm_batch(d.tokens, d.starts, *tokenizer(), batch, 32, 5, index, rank, ranks).inputs);
  };
  EXPECT_EQ(make(4, 3, 0, 1), make(4, 3, 0, 1));
  EXPECT_NE(make(4, 3, 0, 1), make(4, 4, 0, 1));
  auto joined = make(2, 3, 0, 2);
  const auto second = make(2, 3, 1, 2);
  joined.insert(joined.end(), second.begin(), second.end());
  EXPECT_EQ(joined, make(4, 3, 0, 1));
}

TEST(MlmBatch, CopesWithTinyTextAndNamesWhatIsMissing) {
  for (int length = 2; length < 6; ++length) {
    const TokenDocuments d = rising(1, length);
    for (std::uint64_t i = 0; i < 20; ++i) EXPECT_NO_THROW(mlm_batch(d.tokens, d.starts, *tokenizer(), 4, 16, 1, i));
  }
  const TokenDocuments tiny = rising(3, 1);
  EXPECT_THROW(mlm_batch(tiny.tokens, tiny.starts, *tokenizer(), 4, 16, 1, 0), Error);
  const auto bare = train_byte_bpe([](std::string&) { return false; }, {.vocab_size = 257, .specials = {"<|endoftext|>"}});
  EXPECT_THROW(mlm_batch({1, 2, 3}, {0}, *bare, 4, 16, 1, 0), Error);
  EXPECT_THROW(mlm_batch({1, 2, 3}, {0}, *tokenizer(), 4, 7, 1, 0), Error);
}

TEST(Prefetcher, GivesBatchesInOrder) {
  Prefetcher<std::uint64_t> p([](std::uint64_t i) { return i * i; }, 5, 3);
  for (std::uint64_t i = 5; i < 200; ++i) ASSERT_EQ(p.next(), i * i);
  EXPECT_GE(p.waited_seconds(), 0.0);
}

TEST(Prefetcher, ManyWorkersGiveTheSameOrder) {
  for (const int workers : {1, 2, 4, 7}) {
    Prefetcher<std::uint64_t> p(
        [](std::uint64_t i) {
          if (i % 5 == 0) std::this_thread::sleep_for(std::chrono::microseconds(200));   // later ones are ready earlier
          return i * i;
        },
        11, 3, workers);
    for (std::uint64_t i = 11; i < 150; ++i) ASSERT_EQ(p.next(), i * i) << workers;
  }
  Prefetcher<int> failing([](std::uint64_t i) -> int { if (i == 5) fail("no more after {}", i); return static_cast<int>(i); }, 0, 8, 4);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(failing.next(), i);
  EXPECT_THROW(failing.next(), Error);
}

TEST(Prefetcher, RethrowsAfterTheGoodOnesAndStopsWithWorkLeft) {
  Prefetcher<int> p([](std::uint64_t i) -> int { if (i == 3) fail("no more after {}", i); return static_cast<int>(i); }, 0, 8);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(p.next(), i);
  EXPECT_THROW(p.next(), Error);
  EXPECT_THROW(p.next(), Error);
  Prefetcher<int> idle([](std::uint64_t) { return 1; }, 0, 2);  // destroyed while full
}

}  // namespace
}  // namespace rhetor
