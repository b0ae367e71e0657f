#include "generate/penalties.h"

#include <gmock/gmock.h>

#include <cmath>

#include "base/error.h"
#include "generate/logprobs.h"

namespace rhetor {
namespace {

using ::testing::FloatEq;
using ::testing::Pointwise;

std::vector<float> adjusted(const Sampling& sampling, const std::vector<TokenId>& prompt, const std::vector<TokenId>& answer) {
  const std::vector<float> logits = {2, -2, 4, -4, 1, 0};
  Penalties penalties(sampling, prompt);
  for (const TokenId id : answer) penalties.add(id);
  std::vector<float> buffer;
  const auto out = penalties.apply(logits, sampling, buffer);
  EXPECT_EQ(out.data() == logits.data(), buffer.empty());
  return {out.begin(), out.end()};
}

TEST(Penalties, FollowTheirDefinitions) {
  // CTRL: once a token, of prompt and answer alike.
  EXPECT_THAT(adjusted({.repetition_penalty = 2}, {0, 1, 0, 1}, {2, 2, 3}),
              Pointwise(FloatEq(), {1.f, -4.f, 2.f, -8.f, 1.f, 0.f}));
  // OpenAI: of the answer alone; presence once, frequency each time.
  EXPECT_THAT(adjusted({.presence_penalty = 0.5}, {0, 1}, {2, 2, 3}), Pointwise(FloatEq(), {2.f, -2.f, 3.5f, -4.5f, 1.f, 0.f}));
  EXPECT_THAT(adjusted({.frequency_penalty = 0.5}, {0, 1}, {2, 2, 3}), Pointwise(FloatEq(), {2.f, -2.f, 3.f, -4.5f, 1.f, 0.f}));
  EXPECT_THAT(adjusted({.presence_penalty = -1, .frequency_penalty = 0.25}, {}, {5, 5}),
              Pointwise(FloatEq(), {2.f, -2.f, 4.f, -4.f, 1.f, 0.5f}));
  EXPECT_THAT(adjusted({.logit_bias = {{1, 5}, {4, -100}}}, {}, {}), Pointwise(FloatEq(), {2.f, 3.f, 4.f, -4.f, -99.f, 0.f}));
  // In this order: bias, repetition, OpenAI's.
  EXPECT_THAT(adjusted({.repetition_penalty = 2, .presence_penalty = 1, .logit_bias = {{1, 6}}}, {}, {1}),
              Pointwise(FloatEq(), {2.f, 1.f, 4.f, -4.f, 1.f, 0.f}));
  // Ids beyond the logits (a padded vocabulary) are no harm.
  EXPECT_THAT(adjusted({.repetition_penalty = 2}, {90}, {91}), Pointwise(FloatEq(), {2.f, -2.f, 4.f, -4.f, 1.f, 0.f}));
}

TEST(Penalties, OffChangesNothing) {
  EXPECT_THAT(adjusted({}, {0, 1}, {2}), Pointwise(FloatEq(), {2.f, -2.f, 4.f, -4.f, 1.f, 0.f}));
}

TEST(Logprobs, AreThoseOfTheSoftmax) {
  const std::vector<float> logits = {std::log(1.f), std::log(2.f), std::log(4.f), std::log(2.f), std::log(1.f)};
  EXPECT_NEAR(log_sum_exp(logits), std::log(10.0), 1e-6);
  EXPECT_NEAR(log_sum_exp(std::vector<float>{1000, 1000}), 1000 + std::log(2.0), 1e-9);
  const TokenLogprob token = token_logprob(logits, 4, 3, 3);   // the last two ids are padding of the vocabulary
  EXPECT_EQ(token.id, 4);
  EXPECT_NEAR(token.logprob, std::log(0.1), 1e-6);
  ASSERT_EQ(token.top.size(), 3u);
  EXPECT_EQ(token.top[0].first, 2);
  EXPECT_NEAR(token.top[0].second, std::log(0.4), 1e-6);
  EXPECT_EQ(token.top[1].first, 1);
  EXPECT_EQ(token.top[2].first, 0);
  EXPECT_EQ(top_ids(logits, 2), (std::vector<TokenId>{2, 1}));   // of a tie the lower id
  EXPECT_EQ(top_ids(logits, 99).size(), 5u);
  EXPECT_TRUE(top_ids(logits, 0).empty());
}

}  // namespace
}  // namespace rhetor
