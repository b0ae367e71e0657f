#include "generate/score.h"

#include <gmock/gmock.h>

#include "base/error.h"
#include "generate/logprobs.h"
#include "generate/test_models.h"

namespace rhetor::testing {
namespace {

TEST(Score, EqualsFullForwardsAndDoesNotDependOnCompany) {
  const auto model = toy_model();
  const auto language = make_language_model(model, {.prefill_buckets = {8}});
  std::vector<Continuation> wanted;
  for (std::uint64_t i = 0; i < 9; ++i) wanted.push_back({random_prompt(i / 3, 4 + i / 3 * 5), random_prompt(50 + i, 1 + i % 4)});
  wanted.push_back({{}, random_prompt(3, 4)});
  const auto together = score(*language, wanted);
  ASSERT_EQ(together.size(), wanted.size());
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    SCOPED_TRACE(i);
    std::vector<TokenId> ids = wanted[i].prompt;
    if (ids.empty()) ids.push_back(model->tokenizer->special("<|endoftext|>"));
    double sum = 0;
    bool greedy = true;
    for (const TokenId id : wanted[i].tokens) {
      const auto logits = next_logits(*model, ids);
      sum += static_cast<double>(logits[static_cast<std::size_t>(id)]) - log_sum_exp(logits);
      greedy = greedy && top_ids(logits, 1)[0] == id;
      ids.push_back(id);
    }
    EXPECT_NEAR(together[i].logprob, sum, 1e-4);
    EXPECT_EQ(together[i].greedy, greedy);
    EXPECT_EQ(together[i].tokens.size(), wanted[i].tokens.size());
    EXPECT_NEAR(score(*language, {&wanted[i], 1})[0].logprob, together[i].logprob, 1e-5);
  }
}

TEST(Score, TheGreedyAnswerIsGreedy) {
  const auto language = make_language_model(toy_model());
  const auto prompt = random_prompt(1, 6);
  Continuation own{prompt, generate(*language, prompt, {.temperature = 0, .max_tokens = 5}).tokens};
  EXPECT_TRUE(score(*language, {&own, 1})[0].greedy);
  own.tokens.back() = (own.tokens.back() + 1) % 250;
  EXPECT_FALSE(score(*language, {&own, 1})[0].greedy);
}

TEST(Score, WhatDoesNotFit) {
  const auto language = make_language_model(toy_model("gpt2", 1, 16));
  Continuation c{random_prompt(1, 14), random_prompt(2, 4)};
  EXPECT_THROW(score(*language, {&c, 1}), Error);
  EXPECT_EQ(cut_to_context(c, 16), 1);
  EXPECT_EQ(c.prompt, [] { auto p = random_prompt(1, 14); p.erase(p.begin()); return p; }());
  EXPECT_EQ(score(*language, {&c, 1})[0].tokens.size(), 4u);
  c.tokens.clear();
  EXPECT_THROW(score(*language, {&c, 1}), Error);
  c.tokens = random_prompt(3, 17);
  EXPECT_THROW(cut_to_context(c, 16), Error);
}

TEST(Score, TokensThatReachOverTheBoundaryBelongToTheContinuation) {
  const auto tokenizer = toy_tokenizer();
  const std::string prompt = "The sea", text = " is wide";
  const Continuation c = split_continuation(*tokenizer, prompt, text);
  EXPECT_EQ(tokenizer->decode(c.prompt), prompt);
  EXPECT_EQ(tokenizer->decode(c.tokens), text);
  // "The s" + "ea": "sea" may be one token of the whole text.
  const Continuation inside = split_continuation(*tokenizer, "The s", "ea is");
  EXPECT_EQ(tokenizer->decode(inside.prompt) + tokenizer->decode(inside.tokens), "The sea is");
  EXPECT_FALSE(inside.tokens.empty());
  EXPECT_TRUE(split_continuation(*tokenizer, "", "The").prompt.empty());
}

}  // namespace
}  // namespace rhetor::testing
