#include "base/display.h"

#include <gtest/gtest.h>

namespace rhetor {
namespace {

TEST(Display, BytesForPeople) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(999), "999 B");
  EXPECT_EQ(human_bytes(3'834'000), "3.83 MB");
  EXPECT_EQ(human_bytes(45'600'000'000), "45.6 GB");
  EXPECT_EQ(memory_bytes(1023), "1023 B");
  EXPECT_EQ(memory_bytes(1536), "1.5 KiB");
  EXPECT_EQ(memory_bytes(3 << 20), "3.0 MiB");
  EXPECT_EQ(memory_bytes(5.0 * (1 << 30)), "5.00 GiB");
}

TEST(Display, MarkupHoldsNoMarkupOfTheText) {
  EXPECT_EQ(html_escape("<b a=\"x\">&\x01\n"), "&lt;b a=&quot;x&quot;&gt;&amp;?\n");
  EXPECT_EQ(html_escape("\xC3\xA4"), "\xC3\xA4");
}

}  // namespace
}  // namespace rhetor
