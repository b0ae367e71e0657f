// Truncation with windows, padding, WordLevel, and cutting long words where no merge can cross.
#include "text/batch_encoding.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "text/pipeline.h"
#include "text/token_model.h"

namespace rhetor {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Words a..h have the ids 4..11.
TokenizerPtr letters(const std::string& more = "") {
  return tokenizer_from_json(R"({"added_tokens": [{"id": 0, "content": "[PAD]", "special": true}, {"id": 1, "content": "[UNK]", "special": true}],)" + more + R"(
    "pre_tokenizer": {"type": "WhitespaceSplit"},
    "post_processor": {"type": "BertProcessing", "cls": ["[CLS]", 2], "sep": ["[SEP]", 3]},
    "model": {"type": "WordLevel", "unk_token": "[UNK]", "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "b": 5, "c": 6, "d": 7, "e": 8,
      "f": 9, "g": 10, "h": 11}}})");
}

TEST(WordLevel, WholeWordsOrUnknown) {
  const auto t = letters();
  EXPECT_EQ(t->kind(), "WordLevel");
  EXPECT_THAT(t->encode("b ab h"), ElementsAre(5, 1, 11));
  EXPECT_EQ(t->decode({5, 4}), "b a");
  EXPECT_EQ(tokenizer_from_json(t->to_json())->to_json(), t->to_json());
}

TEST(WordLevel, TrainsByFrequency) {
  ModelTrainOptions options;
  options.vocab_size = 4;
  options.min_count = 1;
  options.unknown = "<unk>";
  const auto model = train_word_level({{"z", 2}, {"b", 3}, {"a", 2}, {"rare", 1}}, options);
  EXPECT_EQ(model->size(), 4);
  EXPECT_EQ(model->token(1), "b");
  EXPECT_EQ(model->token(2), "a");
  EXPECT_EQ(model->token(3), "z");
}

TEST(Windows, OverlapAndKeepTheTemplate) {
  const auto t = letters();
  Truncation limit{.max_length = 5, .stride = 1};
  auto e = t->encode_windows("a b c d e f", nullptr, {.truncation = &limit});
  ASSERT_EQ(e.size(), 3u);
  EXPECT_THAT(e[0].ids, ElementsAre(2, 4, 5, 6, 3));
  EXPECT_THAT(e[1].ids, ElementsAre(2, 6, 7, 8, 3));
  EXPECT_THAT(e[2].ids, ElementsAre(2, 8, 9, 3));
  EXPECT_EQ(e[2].ranges[2].begin, 10u);
  limit.left = true;
  e = t->encode_windows("a b c d e f", nullptr, {.truncation = &limit});
  EXPECT_THAT(e[0].ids, ElementsAre(2, 7, 8, 9, 3));
  EXPECT_THAT(e[1].ids, ElementsAre(2, 5, 6, 7, 3));
  limit = {.max_length = 7, .stride = 0, .strategy = Truncation::Strategy::only_second};
  const std::string_view second = "c d e f g";
  e = t->encode_windows("a b", &second, {.truncation = &limit});
  ASSERT_EQ(e.size(), 3u);
  EXPECT_THAT(e[2].ids, ElementsAre(2, 4, 5, 3, 10, 3));
  EXPECT_THAT(e[2].segments, ElementsAre(0, 0, 0, 0, 1, 1));
  EXPECT_THROW(t->encode_windows("a b c d e f g h", nullptr, {.truncation = &limit}), Error);
  limit = {.max_length = 4, .stride = 2};
  EXPECT_THROW(t->encode_windows("a b c d e", nullptr, {.truncation = &limit}), Error);
}

TEST(Padding, OfABatchAsTheFileSays) {
  const auto t = letters(R"("truncation": {"max_length": 5, "stride": 1, "strategy": "LongestFirst", "direction": "Right"},
    "padding": {"strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": 4, "pad_id": 0, "pad_type_id": 7, "pad_token": "[PAD]"},)");
  const BatchText texts[] = {{"a", {}}, {"a b c d", {}}};
  const auto batch = encode_batch(*t, texts, batch_options(*t));
  EXPECT_THAT(batch[0].encoding.ids, ElementsAre(0, 0, 0, 0, 0, 2, 4, 3));
  EXPECT_THAT(batch[0].encoding.segments, ElementsAre(7, 7, 7, 7, 7, 0, 0, 0));
  EXPECT_THAT(batch[0].attention, ElementsAre(0, 0, 0, 0, 0, 1, 1, 1));
  EXPECT_THAT(batch[0].encoding.added, ElementsAre(1, 1, 1, 1, 1, 1, 0, 1));
  ASSERT_EQ(batch[1].overflow.size(), 1u);
  EXPECT_THAT(batch[1].overflow[0].encoding.ids, ElementsAre(0, 0, 0, 0, 2, 6, 7, 3));
  EXPECT_THAT(t->to_json(), HasSubstr("\"pad_type_id\":7"));
  EXPECT_THROW(letters(R"("padding": {"strategy": {"Fixed": -1}},)"), Error);
}

// Always the best pair, of equals the leftmost.
std::vector<std::string> merged_slowly(std::vector<std::string> symbols, const std::vector<std::pair<std::string, std::string>>& merges) {
  for (;;) {
    std::size_t best = merges.size(), place = 0;
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
      for (std::size_t rank = 0; rank < best; ++rank) {
        if (merges[rank].first != symbols[i] || merges[rank].second != symbols[i + 1]) continue;
        best = rank;
        place = i;
      }
    }
    if (best == merges.size()) return symbols;
    symbols[place] += symbols[place + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(place) + 1);
  }
}

TEST(Bpe, LongWordsAreCutWhereNothingMerges) {
  std::uint64_t state = 1;
  const auto random = [&](std::size_t n) { return static_cast<std::size_t>((state = state * 6364136223846793005u + 1442695040888963407u) >> 33) % n; };
  for (int model = 0; model < 40; ++model) {
    const std::vector<std::string> alphabet = {"\u2581", "a", "b", "c", "d"};
    std::vector<std::string> vocab = alphabet;
    std::vector<std::pair<std::string, std::string>> merges;
    for (int i = 0; i < 12; ++i) {
      const std::string left = vocab[random(vocab.size())], right = vocab[random(vocab.size())];
      if (model % 2 == 0 && right.starts_with("\u2581") && left != "\u2581") continue;   // half of the models can be cut at blanks
      if (std::find(vocab.begin(), vocab.end(), left + right) != vocab.end()) continue;
      merges.emplace_back(left, right);
      vocab.push_back(left + right);
    }
    const auto bpe = make_bpe({.vocab = vocab, .merges = merges, .unknown = {}, .continuing_prefix = {}, .end_of_word_suffix = {}});
    std::vector<std::string> symbols;
    std::string word;
    for (int i = 0; i < 120; ++i) word += symbols.emplace_back(alphabet[random(alphabet.size())]);
    std::vector<Piece> pieces;
    bpe->tokenize(word, pieces);
    std::vector<std::string> got;
    for (const Piece& piece : pieces) {
      got.emplace_back(bpe->token(piece.id));
      EXPECT_EQ(word.substr(piece.begin, piece.end - piece.begin), got.back());
    }
    EXPECT_EQ(got, merged_slowly(symbols, merges)) << "model " << model;
  }
}

}  // namespace
}  // namespace rhetor
