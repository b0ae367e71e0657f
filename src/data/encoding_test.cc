// Truncation, windows, words and spans, on a tokenizer of letters.
#include "data/encoding.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "data/span_search.h"

namespace rhetor {
namespace {

// [CLS] one token a letter [SEP] one token a letter [SEP]
Encoding letters(std::string_view a, std::string_view b = {}) {
  Encoding e;
  const auto add = [&](TokenId id, int segment, std::uint32_t at, bool added) {
    e.ids.push_back(id);
    e.segments.push_back(segment);
    e.ranges.push_back(added ? Encoding::Range{} : Encoding::Range{at, at + 1});
    e.added.push_back(added ? 1 : 0);
  };
  add(1, 0, 0, true);
  for (std::uint32_t i = 0; i < a.size(); ++i) add(a[i], 0, i, false);
  add(2, 0, 0, true);
  if (b.empty()) return e;
  for (std::uint32_t i = 0; i < b.size(); ++i) add(b[i], 1, i, false);
  add(2, 1, 0, true);
  return e;
}

std::string text_of(const Encoding& e) {
  std::string out;
  for (const TokenId id : e.ids) out += id == 1 ? '^' : id == 2 ? '|' : static_cast<char>(id);
  return out;
}

TEST(Encoding, TruncatesTheLongerText) {
  Encoding e = letters("abc", "defghij");
  truncate(e, 13);
  EXPECT_EQ(text_of(e), "^abc|defghij|");
  truncate(e, 9);
  EXPECT_EQ(text_of(e), "^abc|def|");
  truncate(e, 5);
  EXPECT_EQ(text_of(e), "^a|d|");
  EXPECT_EQ(e.segments.back(), 1);
  EXPECT_THROW(truncate(e, 2), Error);
}

TEST(Encoding, WindowsCoverTheTextAndShareTheirStride) {
  const Encoding e = letters("q", "abcdefghij");
  const auto all = windows(e, 8, 2);  // room for 4
  ASSERT_EQ(all.size(), 4u);
  EXPECT_EQ(text_of(all[0].encoding), "^q|abcd|");
  EXPECT_EQ(text_of(all[1].encoding), "^q|cdef|");
  EXPECT_EQ(text_of(all[3].encoding), "^q|ghij|");
  EXPECT_EQ(all[3].first, 6u);
  EXPECT_EQ(best_window(all, 0), 0u);
  EXPECT_EQ(best_window(all, 3), 1u);  // "cdef" shows d with one letter on its left, "abcd" with none on its right
  EXPECT_EQ(best_window(all, 9), 3u);
  EXPECT_EQ(windows(e, 14, 2).size(), 1u);
  EXPECT_EQ(windows(e, 8, 100).size(), 4u);  // never more than half
  EXPECT_EQ(windows(e, 8, 0).size(), 3u);
  EXPECT_THROW(windows(e, 4, 0), Error);
}

TEST(Encoding, WordsAndTheirFirstTokens) {
  const std::string text = "\"Hello, U.S. world!\"";
  std::vector<std::string> words;
  for (const auto& r : split_words(text)) words.push_back(text.substr(r.begin, r.end - r.begin));
  EXPECT_EQ(words, (std::vector<std::string>{"\"", "Hello", ",", "U.S", ".", "world", "!", "\""}));
  EXPECT_TRUE(split_words(" \n").empty());
  const Encoding e = letters("ab cd");
  EXPECT_EQ(first_tokens(e, blocks(e).back(), split_words("ab cd")), (std::vector<std::int64_t>{1, 4}));
  Encoding cut = e;
  truncate(cut, 4);
  EXPECT_EQ(first_tokens(cut, blocks(cut).back(), split_words("ab cd")), (std::vector<std::int64_t>{1, -1}));
}

TEST(Encoding, TheBestSpanIsFoundAcrossWindows) {
  const std::string passage = "abcdefghij";
  const auto all = windows(letters("q", passage), 8, 2);
  std::vector<SpanScores> scores(all.size());
  for (std::size_t w = 0; w < all.size(); ++w) scores[w] = {std::vector<float>(8, -5), std::vector<float>(8, -5)};
  scores[3].start[4] = 3, scores[3].end[5] = 2;      // "hi"
  scores[0].start[3] = 1, scores[0].end[3] = 1;      // "a"
  for (auto& s : scores) s.start[0] = s.end[0] = 1;  // no answer
  scores[2].start[0] = 0.5f;
  const SpanSearch found = search_spans(passage, all, scores, 2, 30);
  ASSERT_EQ(found.best.size(), 2u);
  EXPECT_EQ(passage.substr(found.best[0].begin, found.best[0].end - found.best[0].begin), "hi");
  EXPECT_EQ(found.best[0].score, 5);
  EXPECT_EQ(found.best[1].begin, 0u);
  EXPECT_EQ(found.no_answer, 1.5);
  // Shorter spans only.
  EXPECT_NE(search_spans(passage, all, scores, 1, 1).best[0].score, 5);
}

}  // namespace
}  // namespace rhetor
