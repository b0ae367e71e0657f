#include "parallel/buckets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/rng.h"

namespace rhetor {
namespace {

double uniform(std::uint64_t seed, std::uint64_t index) { return static_cast<double>(to_uniform(random_u32(seed, 5, index))); }

std::vector<BackwardLayer> random_layers(std::size_t count, std::uint64_t seed) {
  std::vector<BackwardLayer> layers;
  for (std::size_t i = 0; i < count; ++i)
    layers.push_back({"layer " + std::to_string(i), 2e-3 * uniform(seed, 2 * i), 2e7 * uniform(seed, 2 * i + 1) * uniform(seed, 1000 + i)});
  return layers;
}

CommModel random_model(std::uint64_t seed) {
  const double latency = 2e-3 * uniform(seed, 5000) * uniform(seed, 5001), bandwidth = 2e9 + 5e10 * uniform(seed, 5002);
  if (seed % 3) return {latency, bandwidth};
  // A jump down at the second range: a model that is not even monotone.
  return CommModel(std::vector<CommModel::Range>{{0, latency, bandwidth}, {1e7, latency / 2, bandwidth * 2}});
}

struct Exhaustive {
  double tail = std::numeric_limits<double>::infinity();
  std::size_t buckets = 0;
};
// Every one of the 2^(L-1) choices.
Exhaustive try_all(const std::vector<BackwardLayer>& layers, const CommModel& model, const BucketLimits& limits = {}) {
  Exhaustive best;
  for (std::uint32_t cuts = 0; cuts < 1u << (layers.size() - 1); ++cuts) {
    BucketEnds ends;
    for (std::size_t i = 0; i + 1 < layers.size(); ++i)
      if (cuts >> i & 1) ends.push_back(static_cast<std::int32_t>(i + 1));
    ends.push_back(static_cast<std::int32_t>(layers.size()));
    if (static_cast<std::int32_t>(ends.size()) > limits.most) continue;
    const BucketTimeline timeline = simulate_buckets(layers, ends, model);
    bool small = true;
    for (const BucketTime& bucket : timeline.buckets) small = small && (bucket.bytes <= limits.largest || bucket.first == bucket.last);
    if (!small) continue;
    const double slack = 1e-12 * (timeline.backward + timeline.tail);
    if (timeline.tail < best.tail - slack || (timeline.tail < best.tail + slack && ends.size() < best.buckets))
      best = {timeline.tail, ends.size()};
  }
  return best;
}

TEST(Buckets, AreTheBestOfAllChoices) {
  for (std::uint64_t seed = 0; seed < 150; ++seed) {
    SCOPED_TRACE(seed);
    const auto layers = random_layers(1 + seed % 11, seed);
    const CommModel model = random_model(seed);
    const Exhaustive expected = try_all(layers, model);
    const BucketEnds ends = best_buckets(layers, model);
    const BucketTimeline found = simulate_buckets(layers, ends, model);
    EXPECT_NEAR(found.tail, expected.tail, 1e-11);
    EXPECT_EQ(ends.size(), expected.buckets);
    EXPECT_LE(tail_bound(layers, model), found.tail + 1e-12);
  }
}

TEST(Buckets, AreTheBestWithinLimits) {
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    SCOPED_TRACE(seed);
    const auto layers = random_layers(2 + seed % 9, seed);
    const CommModel model = random_model(seed);
    const BucketLimits limits{.largest = seed % 2 ? 1.5e7 : std::numeric_limits<double>::infinity(), .most = 2 + static_cast<int>(seed % 3)};
    const Exhaustive expected = try_all(layers, model, limits);
    if (expected.buckets == 0) {
      EXPECT_THROW(best_buckets(layers, model, limits), Error);
      continue;
    }
    const BucketEnds ends = best_buckets(layers, model, limits);
    EXPECT_NEAR(simulate_buckets(layers, ends, model).tail, expected.tail, 1e-11);
    EXPECT_LE(static_cast<std::int32_t>(ends.size()), limits.most);
  }
}

// Hand-made: three layers of 1 s and 1 unit; a message of n units takes 0.5 + n / 2.
TEST(Buckets, TimelineByHand) {
  const std::vector<BackwardLayer> layers{{"c", 1, 1}, {"b", 1, 1}, {"a", 1, 1}};
  const CommModel model(0.5, 2);
  EXPECT_DOUBLE_EQ(simulate_buckets(layers, one_bucket(layers), model).tail, 2.0);
  const BucketTimeline each = simulate_buckets(layers, each_layer(layers), model);   // 1..2, 2..3, 3..4
  EXPECT_DOUBLE_EQ(each.tail, 1.0);
  EXPECT_DOUBLE_EQ(each.communication, 3.0);
  EXPECT_DOUBLE_EQ(each.buckets[1].start, 2.0);
  // The first two together (2 .. 3.5) hold up the third: worse.
  EXPECT_DOUBLE_EQ(simulate_buckets(layers, {2, 3}, model).tail, 1.5);
  // {1, 3}: 1 .. 2, then 3 .. 4.5.
  EXPECT_EQ(best_buckets(layers, model), each_layer(layers));
  EXPECT_DOUBLE_EQ(tail_bound(layers, model), 1.0);
}

TEST(Buckets, BaselinesCutAsTheirOwnersDo) {
  const std::vector<BackwardLayer> layers{{"e", 1, 4}, {"d", 1, 4}, {"c", 1, 10}, {"b", 1, 1}, {"a", 1, 1}};
  EXPECT_EQ(buckets_by_size(layers, 8, 2), (BucketEnds{1, 3, 5}));
  EXPECT_EQ(two_segments(layers, 0.9), (BucketEnds{3, 5}));
  EXPECT_EQ(two_segments(layers, 0.99), one_bucket(layers));
}

TEST(Buckets, RefusesNonsense) {
  const CommModel model(1e-5, 1e10);
  EXPECT_THROW(best_buckets({}, model), Error);
  const std::vector<BackwardLayer> negative{{"x", -1, 1}}, unknown{{"x", 1, std::nan("")}};
  EXPECT_THROW(best_buckets(negative, model), Error);
  EXPECT_THROW(best_buckets(unknown, model), Error);
}

TEST(Buckets, AdaptiveNeverLosesAndThePictureStandsAlone) {
  const auto layers = random_layers(60, 3);
  const CommModel model(4e-5, 2e10);
  const auto choices = usual_buckets(layers, model);
  const double tail = simulate_buckets(layers, choices[0].ends, model).tail;
  for (const NamedBuckets& choice : choices) EXPECT_LE(tail, simulate_buckets(layers, choice.ends, model).tail + 1e-12) << choice.name;
  EXPECT_THAT(bucket_table(layers, model, choices), testing::HasSubstr("adaptive"));
  const std::string svg = overlap_svg(layers, model, choices);
  EXPECT_THAT(svg, testing::StartsWith("<svg xmlns=\"http://www.w3.org/2000/svg\""));
  EXPECT_THAT(svg, testing::EndsWith("</svg>\n"));
  EXPECT_THAT(svg, testing::Not(testing::HasSubstr("href")));
  EXPECT_THAT(overlap_svg(std::vector<BackwardLayer>{{"<&\">\n", 1, 1}}, model, std::vector<NamedBuckets>{{"a<b", {1}}}),
              testing::AllOf(testing::HasSubstr("&lt;&amp;&quot;&gt;?"), testing::HasSubstr("a&lt;b")));
}

TEST(CommModel, FindsTheLineBehindTheTimes) {
  std::vector<CommSample> samples;
  for (double bytes = 1024; bytes < 1e9; bytes *= 4) samples.push_back({bytes, (4e-5 + bytes / 3e10) * (1 + 0.02 * (samples.size() % 2 ? 1 : -1))});
  const CommModel model = fit_comm_model(samples);
  ASSERT_EQ(model.ranges().size(), 1u) << model.str();
  EXPECT_NEAR(model.ranges()[0].latency, 4e-5, 1e-6);
  EXPECT_NEAR(model.ranges()[0].bandwidth, 3e10, 1e9);
  EXPECT_LT(relative_error(model, samples), 0.03);
}

TEST(CommModel, FindsTwoRangesWhereTheyAre) {
  std::vector<CommSample> samples;
  for (double bytes = 1024; bytes < 1e9; bytes *= 2)
    samples.push_back({bytes, (bytes < 1e6 ? 2e-5 + bytes / 5e9 : 1.2e-4 + bytes / 4e10) * (1 + 0.01 * (samples.size() % 3 - 1.0))});
  const CommModel model = fit_comm_model(samples);
  ASSERT_EQ(model.ranges().size(), 2u) << model.str();
  EXPECT_GT(model.ranges()[1].from, 3e5);
  EXPECT_LT(model.ranges()[1].from, 3e6);
  EXPECT_LT(relative_error(model, samples), 0.03);
}

TEST(CommModel, KeepsToWhatIsPossible) {
  // Falling times: no negative cost per byte. Times through the origin and below: no negative latency.
  const CommModel falling = fit_comm_model(std::vector<CommSample>{{1e3, 3e-5}, {1e4, 2e-5}, {1e5, 1e-5}});
  EXPECT_GE(falling.seconds(1e9), falling.seconds(1e3) * 0.999);
  const CommModel steep = fit_comm_model(std::vector<CommSample>{{1e6, 1e-5}, {2e6, 3e-5}, {3e6, 5e-5}});
  EXPECT_GE(steep.ranges()[0].latency, 0);
  EXPECT_GE(steep.seconds(0), 0);
  EXPECT_THROW(fit_comm_model({}), Error);
  EXPECT_THROW(fit_comm_model(std::vector<CommSample>{{1e6, 1e-5}, {1e6, 2e-5}}), Error);
  EXPECT_THROW(fit_comm_model(std::vector<CommSample>{{1e6, 0}, {1e7, 2e-5}}), Error);
}

}  // namespace
}  // namespace rhetor
