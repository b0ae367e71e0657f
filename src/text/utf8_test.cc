#include "text/utf8.h"

#include <gtest/gtest.h>

namespace rhetor {
namespace {

TEST(Utf8, KnowsWellFormedCharacters) {
  for (const char* text : {"a", "\xC3\xA4", "\xE6\xB5\xB7", "\xF0\x9F\x90\x9F", "\xED\x9F\xBF", "\xF4\x8F\xBF\xBF"}) {
    const std::string_view view(text);
    EXPECT_EQ(utf8_char(view).kind, Utf8::valid);
    EXPECT_EQ(utf8_char(view).length, static_cast<int>(view.size()));
    for (std::size_t n = 1; n < view.size(); ++n) EXPECT_EQ(utf8_char(view.substr(0, n)).kind, Utf8::partial);
  }
}

TEST(Utf8, RefusesOverlongSurrogatesAndStrayBytes) {
  for (const char* text : {"\x80", "\xBF", "\xC0\xAF", "\xC1\xBF", "\xE0\x80\x80", "\xED\xA0\x80", "\xF0\x80\x80\x80", "\xF4\x90\x80\x80", "\xF5\x80",
                           "\xFF", "\xC3(", "\xE6\xB5("}) {
    EXPECT_EQ(utf8_char(text).kind, Utf8::invalid) << text;
  }
}

TEST(Utf8, CleansByMaximalSubparts) {
  EXPECT_EQ(utf8_cleaned("a\xFFz"), "a\xEF\xBF\xBDz");
  EXPECT_EQ(utf8_cleaned("\xE6\xB5"), "\xEF\xBF\xBD");                          // one cut character, one mark
  EXPECT_EQ(utf8_cleaned("\xE0\x80"), "\xEF\xBF\xBD\xEF\xBF\xBD");              // overlong: each byte
  EXPECT_EQ(utf8_cleaned("plain ASCII that is long"), "plain ASCII that is long");
  EXPECT_EQ(utf8_valid_prefix("12345678\xE6\xB5\xB7\xE6"), 11u);
}

TEST(Utf8, CutsBetweenCharacters) {
  const std::string text = "a\xF0\x9F\x90\x9Fz";
  const std::size_t expected[] = {0, 1, 1, 1, 1, 5, 6, 6};
  for (std::size_t at = 0; at < std::size(expected); ++at) EXPECT_EQ(utf8_cut(text, at), expected[at]) << at;
  EXPECT_EQ(utf8_cut("\x80\x80\x80\x80\x80", 3), 3u);
}

}  // namespace
}  // namespace rhetor
