#include "train/curve.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "base/file.h"
#include "train/metrics.h"
#include "train/progress.h"
#include "train/test_runs.h"

namespace rhetor::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(Curve, IsOneSelfContainedPicture) {
  MetricsHistory history;
  for (std::int64_t i = 1; i <= 5000; ++i) history.train.push_back({i, 6.0 / static_cast<double>(i) + 2});
  history.validation = {{2500, 2.5}, {5000, 2.4}};
  const std::string svg = loss_curve_svg(history, "a <b> & c");
  EXPECT_THAT(svg, HasSubstr("a &lt;b&gt; &amp; c"));
  EXPECT_THAT(svg, HasSubstr("prefers-color-scheme:dark"));
  EXPECT_THAT(svg, HasSubstr("class=\"valid\""));
  EXPECT_TRUE(svg.ends_with("</svg>\n"));
  EXPECT_LT(svg.size(), 40'000u);  // thinned
}

TEST(Curve, ShowsTheRawLossAndNotOnlyItsAverage) {
  MetricsHistory history;
  for (std::int64_t i = 1; i <= 400; ++i) history.train.push_back({i, i % 2 ? 1.0 : 9.0});
  EXPECT_THAT(loss_curve_svg(history, "noisy"), HasSubstr(">8</text>"));   // a tick near the height of the raw line
  history.train[200].loss = 1e6;                                            // one spike does not press the rest flat
  EXPECT_THAT(loss_curve_svg(history, "spike"), Not(HasSubstr("e+")));
}

TEST(Curve, ComparesRunsByLabel) {
  const auto run = [](const char* label, double level) {
    LabelledCurve curve{label, {}};
    for (std::int64_t i = 1; i <= 1000; ++i) curve.points.push_back({i, level + 1.0 / static_cast<double>(i)});
    return curve;
  };
  LabelledCurve broken = run("<fp8>", 2.2);
  broken.points[500].loss = std::numeric_limits<double>::quiet_NaN();
  const std::string svg = compared_curves_svg({run("f32", 2), run("f32", 2.1), broken}, "three");
  EXPECT_THAT(svg, HasSubstr("&lt;fp8&gt;"));
  EXPECT_THAT(svg, HasSubstr("class=\"c1\""));
  EXPECT_THAT(svg, Not(HasSubstr("class=\"c2\"")));   // two runs share a label
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  EXPECT_THAT(svg, HasSubstr(">2.2</text>"));           // the steep beginning does not press the ends together
  EXPECT_TRUE(compared_curves_svg({}, "none").ends_with("</svg>\n"));
}

TEST(Curve, SurvivesNothingAndNotANumber) {
  EXPECT_TRUE(loss_curve_svg({}, "empty").ends_with("</svg>\n"));
  MetricsHistory history;
  history.train = {{1, std::numeric_limits<double>::quiet_NaN()}, {2, 3.0}, {3, std::numeric_limits<double>::infinity()}};
  const std::string svg = loss_curve_svg(history, "broken");
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  EXPECT_THAT(svg, Not(HasSubstr("inf")));
}

TEST(Metrics, IsCutToTheCheckpointAndReadBack) {
  ScratchFolder scratch;
  const auto file = scratch.path() / "metrics.jsonl";
  std::uint64_t at = 0;
  {
    MetricsLog log(file, 0);
    log.step({.step = 1, .tokens = 64, .loss = 2.5});
    log.validation(1, 2.75);
    at = log.bytes();
    log.step({.step = 2, .tokens = 128, .loss = std::numeric_limits<double>::quiet_NaN()});
  }
  EXPECT_THAT(read_file(file), HasSubstr("\"loss\":null"));
  MetricsLog again(file, at);
  EXPECT_EQ(again.bytes(), at);
  const MetricsHistory history = read_metrics(file, at);
  ASSERT_EQ(history.train.size(), 1u);
  EXPECT_EQ(history.train[0].loss, 2.5);
  ASSERT_EQ(history.validation.size(), 1u);
  EXPECT_EQ(history.validation[0].loss, 2.75);
}

TEST(Progress, SaysWhatMatters) {
  const std::string text = progress_text(
      {.step = 7, .steps = 120, .smooth_loss = 3.25, .validation_loss = 3.5, .tokens_per_s = 12345, .seconds_left = 65});
  EXPECT_EQ(text, "step   7/120  loss 3.250  validation 3.500  12.3k tokens/s  data wait 0.0 %  1:05 left");
}

}  // namespace
}  // namespace rhetor::testing
