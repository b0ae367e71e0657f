#include "generate/stop_filter.h"

#include <gtest/gtest.h>

#include "base/rng.h"

namespace rhetor {
namespace {

TEST(StopFilter, FindsAStopStringHoweverItIsCut) {
  const std::string text = "abcabdone<<END>>rest";
  for (std::size_t piece = 1; piece < text.size(); ++piece) {
    StopFilter filter({"<<END>>", "zzz"});
    std::string out;
    for (std::size_t at = 0; at < text.size(); at += piece) out += filter.push(text.substr(at, piece));
    out += filter.finish();
    EXPECT_EQ(out, "abcabdone");
    EXPECT_TRUE(filter.stopped());
  }
}

TEST(StopFilter, HoldsBackOnlyWhatIsUndecided) {
  StopFilter filter({"aab"});
  EXPECT_EQ(filter.push("xa"), "x");
  EXPECT_EQ(filter.push("a"), "");
  EXPECT_EQ(filter.push("a"), "a");  // "aaa": the last two may still begin "aab"
  EXPECT_EQ(filter.push("c"), "aac");
  EXPECT_EQ(filter.push("a"), "");
  EXPECT_EQ(filter.finish(), "a");
  EXPECT_FALSE(filter.stopped());
}

TEST(StopFilter, TheEarliestStopStringWins) {
  StopFilter filter({"late", "now"});
  EXPECT_EQ(filter.push("stop now, not late"), "stop ");
  EXPECT_EQ(filter.push("more"), "");
}

// Byte by byte: the first moment at which some stop string is complete.
std::string reference(const std::string& text, const std::vector<std::string>& stops) {
  for (std::size_t end = 1; end <= text.size(); ++end) {
    std::size_t longest = 0;
    for (const auto& stop : stops) {
      if (stop.size() <= end && text.compare(end - stop.size(), stop.size(), stop) == 0) longest = std::max(longest, stop.size());
    }
    if (longest > 0) return text.substr(0, end - longest);
  }
  return text;
}

TEST(StopFilter, NothingDependsOnTheCuts) {
  Rng rng(5);
  const auto word = [&](std::size_t length) {
    std::string out;
    for (std::size_t i = 0; i < length; ++i) out += static_cast<char>('a' + rng.below(2));
    return out;
  };
  for (int round = 0; round < 500; ++round) {
    std::vector<std::string> stops;
    for (std::uint64_t i = 0; i <= rng.below(3); ++i) stops.push_back(word(2 + rng.below(5)));
    const std::string text = word(rng.below(24));
    StopFilter filter(stops);
    std::string out;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t size = 1 + rng.below(6);
      out += filter.push(std::string_view(text).substr(at, size));
      const std::string expected = reference(text, stops);
      ASSERT_EQ(out, expected.substr(0, out.size())) << "shown too early";
      at += size;
    }
    out += filter.finish();
    ASSERT_EQ(out, reference(text, stops)) << text;
  }
}

}  // namespace
}  // namespace rhetor
