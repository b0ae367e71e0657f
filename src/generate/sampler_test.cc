#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "base/error.h"
#include "generate/generator.h"

namespace rhetor {
namespace {

TEST(Sampler, GreedyTakesTheLowestIdOfATie) {
  const std::vector<float> logits = {1, 3, 3, -std::numeric_limits<float>::infinity()};
  EXPECT_EQ(sample(logits, {.temperature = 0}, 0), 1);
  EXPECT_EQ(sample(logits, {.temperature = 1, .top_k = 1}, 7), 1);
}

TEST(Sampler, LogitsThatAreNoNumbersFail) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const std::vector<std::vector<float>> broken = {{1, NAN, 2}, {1, kInfinity, 2}, {-NAN, 0, 0}, {-kInfinity, -kInfinity}};
  for (const auto& logits : broken) {
    for (const double temperature : {0.0, 1.0}) {
      try {
        sample(logits, {.temperature = temperature}, 4);
        ADD_FAILURE();
      } catch (const Error& error) {
        EXPECT_THAT(error.what(), ::testing::HasSubstr("not finite numbers (token 4"));
      }
    }
  }
}

// Frequencies of many counters follow softmax(logits / T) restricted to the allowed set.
void expect_frequencies(const std::vector<float>& logits, const Sampling& sampling, const std::vector<double>& expected) {
  constexpr int kDraws = 20000;
  std::vector<int> count(logits.size());
  for (int i = 0; i < kDraws; ++i) ++count[static_cast<std::size_t>(sample(logits, sampling, static_cast<std::uint64_t>(i)))];
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double sigma = std::sqrt(expected[i] * (1 - expected[i]) / kDraws);
    EXPECT_NEAR(count[i] / double{kDraws}, expected[i], 4 * sigma + 1e-12) << "token " << i;
  }
}

TEST(Sampler, FollowsTheDistribution) {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.4f), std::log(0.2f), std::log(0.3f)};
  expect_frequencies(logits, {.temperature = 1}, {0.1, 0.4, 0.2, 0.3});
  const double z = 0.01 + 0.16 + 0.04 + 0.09;
  expect_frequencies(logits, {.temperature = 0.5}, {0.01 / z, 0.16 / z, 0.04 / z, 0.09 / z});
  expect_frequencies(logits, {.temperature = 1, .top_k = 2}, {0, 4.0 / 7, 0, 3.0 / 7});
  expect_frequencies(logits, {.temperature = 1, .top_p = 0.75}, {0, 4.0 / 9, 2.0 / 9, 3.0 / 9});  // 0.4 + 0.3 < 0.75 <= 0.9
  expect_frequencies(logits, {.temperature = 1, .top_p = 0.05}, {0, 1, 0, 0});
  expect_frequencies(logits, {.temperature = 1, .min_p = 0.6}, {0, 4.0 / 7, 0, 3.0 / 7});   // 0.6 of 0.4 is 0.24
  expect_frequencies(logits, {.temperature = 2, .min_p = 0.6},                              // sqrt(0.2 / 0.4) = 0.71 now passes
                     {0, 2 / (2 + std::sqrt(2) + std::sqrt(3)), std::sqrt(2) / (2 + std::sqrt(2) + std::sqrt(3)),
                      std::sqrt(3) / (2 + std::sqrt(2) + std::sqrt(3))});
  expect_frequencies(logits, {.temperature = 1, .min_p = 1}, {0, 1, 0, 0});
  expect_frequencies(logits, {.temperature = 1, .top_k = 3, .top_p = 0.5, .min_p = 0.2},
                     {0, 4.0 / 7, 0, 3.0 / 7});  // 0.4/0.9 < 0.5
}

TEST(Sampler, ACounterAndSeedGiveOneToken) {
  const std::vector<float> logits(50, 0.0f);
  const Sampling a{.temperature = 1, .seed = 1}, b{.temperature = 1, .seed = 2};
  int same_seed = 0, other_seed = 0;
  for (std::uint64_t i = 0; i < 100; ++i) {
    same_seed += sample(logits, a, i) == sample(logits, a, i);
    other_seed += sample(logits, a, i) == sample(logits, b, i);
  }
  EXPECT_EQ(same_seed, 100);
  EXPECT_LT(other_seed, 15);
}

TEST(Sampler, AnswersDrawFromStreamsOfTheirOwn) {
  const std::vector<float> logits(50, 0.0f);
  int same = 0;
  for (std::uint64_t i = 0; i < 100; ++i)
    same += sample(logits, {.temperature = 1}, i, 0) == sample(logits, {.temperature = 1}, i, 1);
  EXPECT_LT(same, 15);
  EXPECT_EQ(sample(logits, {.temperature = 1}, 3, 0), sample(logits, {.temperature = 1}, 3));
}

TEST(Sampler, RangesAreNamed) {
  const auto error = [](Sampling s) -> std::string {
    try {
      s.validate();
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_THAT(error({.temperature = -1}), ::testing::HasSubstr("temperature"));
  EXPECT_THAT(error({.temperature = std::nan("")}), ::testing::HasSubstr("temperature"));
  EXPECT_THAT(error({.top_k = -1}), ::testing::HasSubstr("top_k"));
  EXPECT_THAT(error({.top_p = 0}), ::testing::HasSubstr("top_p"));
  EXPECT_THAT(error({.max_tokens = 0}), ::testing::HasSubstr("max_tokens"));
  EXPECT_THAT(error({.stop = {""}}), ::testing::HasSubstr("stop string is empty"));
  EXPECT_THAT(error({.min_p = 1.5}), ::testing::HasSubstr("min_p must be from 0"));
  EXPECT_THAT(error({.repetition_penalty = 0}), ::testing::HasSubstr("repetition_penalty must be from 0.1 to 10"));
  EXPECT_THAT(error({.presence_penalty = 2.5}), ::testing::HasSubstr("presence_penalty must be from -2 to 2"));
  EXPECT_THAT(error({.frequency_penalty = NAN}), ::testing::HasSubstr("frequency_penalty"));
  EXPECT_THAT(error({.logit_bias = {{7, 200}}}), ::testing::HasSubstr("logit_bias of token 7"));
  EXPECT_THAT(error({.logit_bias = {{-7, 1}}}), ::testing::HasSubstr("the token -7"));
  EXPECT_THAT(error({.logprobs = true, .top_logprobs = 21}), ::testing::HasSubstr("top_logprobs must be from 0 to 20"));
  EXPECT_THAT(error({.top_logprobs = 2}), ::testing::HasSubstr("logprobs is off"));
  EXPECT_THAT(error({.n = 0}), ::testing::HasSubstr("n must be from 1 to 128"));
  EXPECT_THAT(error({.beams = 33}), ::testing::HasSubstr("beams must be from 1 (off) to 32"));
  EXPECT_THAT(error({.n = 3, .beams = 2}), ::testing::HasSubstr("more than the 2 beams"));
  EXPECT_THAT(error({.length_penalty = INFINITY}), ::testing::HasSubstr("length_penalty"));
  EXPECT_EQ(error({}), "");
}

}  // namespace
}  // namespace rhetor
