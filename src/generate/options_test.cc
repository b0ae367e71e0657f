// Every option of Sampling in the engines: batched = single, equivalences, references by full forward passes.
#include <gmock/gmock.h>

#include <cmath>

#include "base/error.h"
#include "generate/batch_engine.h"
#include "generate/logprobs.h"
#include "generate/test_models.h"

namespace rhetor::testing {
namespace {

using ::testing::HasSubstr;

void expect_same(const Generation& a, const Generation& b) {
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.text, b.text);
  EXPECT_EQ(a.finish, b.finish);
  EXPECT_NEAR(a.score, b.score, 1e-4);   // kernels may sum differently for another batch size
  ASSERT_EQ(a.logprobs.size(), b.logprobs.size());
  for (std::size_t i = 0; i < a.logprobs.size(); ++i) {
    EXPECT_EQ(a.logprobs[i].id, b.logprobs[i].id);
    EXPECT_NEAR(a.logprobs[i].logprob, b.logprobs[i].logprob, 1e-4);
    ASSERT_EQ(a.logprobs[i].top.size(), b.logprobs[i].top.size());
  }
}

// One of each kind, and mixtures.
std::vector<Sampling> all_options() {
  return {{.temperature = 1, .seed = 1, .max_tokens = 8},
          {.temperature = 1, .min_p = 0.2, .seed = 2, .max_tokens = 8},
          {.temperature = 0, .repetition_penalty = 1.6, .max_tokens = 10},
          {.temperature = 0, .presence_penalty = 1.5, .max_tokens = 10},
          {.temperature = 1.2, .frequency_penalty = 2, .seed = 3, .max_tokens = 10},
          {.temperature = 1, .logit_bias = {{10, 6}, {11, 5}, {12, -100}}, .seed = 4, .max_tokens = 8},
          {.temperature = 0.9, .top_k = 30, .top_p = 0.9, .seed = 5, .max_tokens = 6, .logprobs = true, .top_logprobs = 3},
          {.temperature = 1, .seed = 6, .max_tokens = 9, .stop = {"e", "th"}},
          {.max_tokens = 6, .logprobs = true, .top_logprobs = 1, .beams = 3},
          {.max_tokens = 7, .beams = 4, .length_penalty = 0, .early_stopping = true},
          {.repetition_penalty = 1.5, .max_tokens = 5, .stop = {"a"}, .beams = 2},
          {.temperature = 0.7,
           .top_p = 0.8,
           .min_p = 0.05,
           .repetition_penalty = 1.1,
           .presence_penalty = 0.3,
           .frequency_penalty = 0.2,
           .logit_bias = {{5, -3}},
           .seed = 7,
           .max_tokens = 9,
           .logprobs = true}};
}

TEST(Options, BatchedEqualsOneByOne) {
  for (const char* family : {"gpt2", "llama"}) {
    SCOPED_TRACE(family);
    const auto language = make_language_model(toy_model(family), {.prefill_buckets = {8, 32}});
    const auto options = all_options();
    std::vector<std::vector<TokenId>> prompts;
    for (std::size_t i = 0; i < options.size(); ++i) prompts.push_back(random_prompt(i, 1 + i * 2));
    const auto together = generate_batch(*language, prompts, options);
    for (std::size_t i = 0; i < options.size(); ++i) {
      SCOPED_TRACE(i);
      expect_same(together[i], generate(*language, prompts[i], options[i]));
    }
  }
}

TEST(Options, GreedyEquivalences) {
  const auto language = make_language_model(toy_model());
  const auto run = [&](Sampling s) {
    s.max_tokens = 12;
    return generate(*language, random_prompt(3, 6), s).tokens;
  };
  const auto greedy = run({.temperature = 0});
  EXPECT_EQ(run({.temperature = 1.7, .top_k = 1, .seed = 9}), greedy);
  EXPECT_EQ(run({.temperature = 1.7, .min_p = 1, .seed = 9}), greedy);
  EXPECT_EQ(run({.temperature = 1.7, .top_p = 1e-9, .seed = 9}), greedy);
  EXPECT_EQ(run({.temperature = 0, .logit_bias = {{3, 0.0}}}), greedy);
  EXPECT_EQ(run({.temperature = 0.8, .logprobs = true, .top_logprobs = 4}), run({.temperature = 0.8}));
  // Penalties apply to greedy choices too, and in the same way to top_k = 1.
  const auto penalised = run({.temperature = 0, .repetition_penalty = 3, .frequency_penalty = 1});
  EXPECT_NE(penalised, greedy);
  EXPECT_EQ(run({.temperature = 2, .top_k = 1, .repetition_penalty = 3, .frequency_penalty = 1, .seed = 4}), penalised);
}

TEST(Options, PenaltiesAndLogprobsFollowAFullForward) {
  const auto model = toy_model();
  const auto language = make_language_model(model);
  const Sampling sampling{.temperature = 0, .repetition_penalty = 1.8, .presence_penalty = 0.7, .frequency_penalty = 0.4,
                          .logit_bias = {{40, 1.5}}, .max_tokens = 10, .logprobs = true, .top_logprobs = 2};
  std::vector<TokenId> ids = random_prompt(8, 9);
  const std::size_t prompt = ids.size();
  const Generation result = generate(*language, ids, sampling);
  ASSERT_GE(result.tokens.size(), 4u);
  ASSERT_EQ(result.logprobs.size(), result.tokens.size());
  for (std::size_t i = 0; i < result.tokens.size(); ++i) {
    const std::vector<float> logits = next_logits(*model, ids);
    // The definitions, written out.
    std::vector<double> changed(logits.begin(), logits.end());
    changed[40] += 1.5;
    for (std::size_t token = 0; token < changed.size(); ++token) {
      const auto in_answer =
          std::count(ids.begin() + static_cast<std::ptrdiff_t>(prompt), ids.end(), static_cast<TokenId>(token));
      if (std::count(ids.begin(), ids.end(), static_cast<TokenId>(token)) > 0)
        changed[token] *= changed[token] > 0 ? 1 / 1.8 : 1.8;
      if (in_answer > 0) changed[token] -= 0.7 + 0.4 * static_cast<double>(in_answer);
    }
    const auto best = std::max_element(changed.begin(), changed.end()) - changed.begin();
    ASSERT_EQ(result.tokens[i], best) << "token " << i;
    // Log-probabilities know nothing of them.
    EXPECT_NEAR(result.logprobs[i].logprob, static_cast<double>(logits[static_cast<std::size_t>(best)]) - log_sum_exp(logits),
                1e-4);
    EXPECT_EQ(result.logprobs[i].top[0].first, top_ids(logits, 1)[0]);
    ids.push_back(result.tokens[i]);
  }
}

TEST(Options, BiasBansAndForces) {
  const auto language = make_language_model(toy_model());
  const auto prompt = random_prompt(2, 5);
  const auto free = generate(*language, prompt, {.temperature = 0, .max_tokens = 5}).tokens;
  const auto banned = generate(*language, prompt, {.temperature = 0, .logit_bias = {{free[0], -100}}, .max_tokens = 5}).tokens;
  EXPECT_EQ(std::count(banned.begin(), banned.end(), free[0]), 0);
  const auto forced = generate(*language, prompt, {.temperature = 1, .logit_bias = {{66, 100}}, .max_tokens = 5}).tokens;
  EXPECT_EQ(forced, std::vector<TokenId>(5, 66));
  EXPECT_THROW(generate(*language, prompt, {.logit_bias = {{100000, 1}}}), Error);
}

TEST(Options, SeveralAnswersShareAPrompt) {
  const auto language = make_language_model(toy_model(), {.prefill_buckets = {8}});
  const auto prompt = random_prompt(4, 21);
  Sampling sampling{.temperature = 1.3, .seed = 11, .max_tokens = 7, .n = 5};
  const auto answers = generate_n(*language, prompt, sampling);
  ASSERT_EQ(answers.size(), 5u);
  sampling.n = 1;
  expect_same(answers[0], generate(*language, prompt, sampling));
  for (std::size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(answers[i].index, static_cast<std::int64_t>(i));
    EXPECT_EQ(answers[i].prompt_tokens, 21);
    for (std::size_t j = 0; j < i; ++j) EXPECT_NE(answers[i].tokens, answers[j].tokens);
  }
  // However many slots there are, and whoever else is there.
  for (const std::int64_t slots : {1, 2, 8}) {
    BatchEngine engine(*language, slots);
    std::map<std::int64_t, Generation> done;
    Generation other;
    sampling.n = 5;
    engine.add(
        {random_prompt(1, 12), {.temperature = 1, .seed = 1, .max_tokens = 9}, {}, [&](const Generation& g) { other = g; }});
    engine.add({prompt, sampling, {}, [&](const Generation& g) { done[g.index] = g; }});
    while (engine.step()) {
    }
    ASSERT_EQ(done.size(), 5u);
    for (std::size_t i = 0; i < 5; ++i) expect_same(done[static_cast<std::int64_t>(i)], answers[i]);
    expect_same(other, generate(*language, random_prompt(1, 12), {.temperature = 1, .seed = 1, .max_tokens = 9}));
    EXPECT_EQ(engine.running() + engine.waiting(), 0);
  }
}

// Counts the executables' runs by their bucket: how often a prompt was read.
class Counting final : public LanguageModel {
 public:
  explicit Counting(LanguageModelPtr inner) : inner_(std::move(inner)) {}
  const ModelConfig& config() const override { return inner_->config(); }
  const TokenizerPtr& tokenizer() const override { return inner_->tokenizer(); }
  const std::string& name() const override { return inner_->name(); }
  std::uint64_t weight_bytes() const override { return 0; }
  ExecutablePtr cached(std::int64_t batch, std::int64_t seq) const override { return inner_->cached(batch, seq); }
  std::int64_t prefill_bucket(std::int64_t seq) const override {
    if (seq > 1) ++chunks;
    return inner_->prefill_bucket(seq);
  }
  mutable int chunks = 0;   // each chunk of a prompt asks for its bucket once

 private:
  LanguageModelPtr inner_;
};

TEST(Options, TheSamePromptIsReadOnce) {
  const Counting model(make_language_model(toy_model(), {.prefill_buckets = {8}}));
  const auto prompt = random_prompt(4, 16);
  BatchEngine engine(model, 2);
  std::vector<Generation> done;
  const auto keep = [&](const Generation& g) { done.push_back(g); };
  for (int i = 0; i < 3; ++i) engine.add({prompt, {.temperature = 0, .max_tokens = 3, .n = i == 1 ? 4 : 1}, {}, keep});
  while (engine.step()) {
  }
  EXPECT_EQ(model.chunks, 2);   // 16 tokens in chunks of 8
  ASSERT_EQ(done.size(), 6u);
  for (const auto& g : done) EXPECT_EQ(g.tokens, done[0].tokens);
}

TEST(Options, PiecesCarryIndexAndLogprobs) {
  const auto language = make_language_model(toy_model());
  BatchEngine engine(*language, 4);
  std::map<std::int64_t, std::string> text;
  std::map<std::int64_t, std::vector<TokenId>> tokens;
  std::map<std::int64_t, Generation> done;
  BatchRequest request{.prompt = random_prompt(6, 4),
                       .sampling = {.temperature = 1, .seed = 3, .max_tokens = 12, .logprobs = true, .n = 3},
                       .on_done = [&](const Generation& g) { done[g.index] = g; }};
  request.on_piece = [&](const TextPiece& piece) {
    text[piece.index] += piece.text;
    for (const auto& token : piece.logprobs) tokens[piece.index].push_back(token.id);
    return piece.index != 1;   // the second listener leaves after its first piece
  };
  engine.add(std::move(request));
  while (engine.step()) {
  }
  ASSERT_EQ(done.size(), 3u);
  for (const std::int64_t i : {0, 1, 2}) EXPECT_EQ(text[i], done[i].text);
  for (const std::int64_t i : {0, 2}) {
    EXPECT_NE(done[i].finish, FinishReason::cancelled);
    // Tokens that gave no text at the very end are in the result alone.
    const auto& all = done[i].tokens;
    ASSERT_LE(tokens[i].size(), all.size());
    EXPECT_TRUE(std::equal(tokens[i].begin(), tokens[i].end(), all.begin()));
  }
  EXPECT_EQ(done[1].finish, FinishReason::cancelled);
}

TEST(Options, CancelEndsAllAnswersOfARequest) {
  const auto language = make_language_model(toy_model());
  for (const Sampling& sampling :
       {Sampling{.temperature = 1, .max_tokens = 20, .n = 5}, Sampling{.max_tokens = 20, .n = 2, .beams = 2}}) {
    BatchEngine engine(*language, 2);
    std::vector<std::int64_t> seen;
    const auto id = engine.add({random_prompt(1, 5), sampling, {}, [&](const Generation& g) {
                                  EXPECT_EQ(g.finish, FinishReason::cancelled);
                                  seen.push_back(g.index);
                                }});
    engine.step();
    engine.step();
    EXPECT_GE(engine.running(), 2);
    engine.cancel(id);
    std::sort(seen.begin(), seen.end());
    EXPECT_EQ(static_cast<std::int64_t>(seen.size()), sampling.n);
    EXPECT_EQ(std::unique(seen.begin(), seen.end()), seen.end());
    EXPECT_EQ(engine.running() + engine.waiting(), 0);
    EXPECT_FALSE(engine.step());
  }
}

TEST(Options, StopStringsSplitACharacter) {
  // Byte tokens: each stop string ends or begins inside what the tokens spell.
  const std::string text = "na\xC3\xAFve \xE2\x82\xAC" "5 caf\xC3\xA9 end";
  const auto language = make_language_model(scripted(text));
  const auto run = [&](std::vector<std::string> stop) {
    std::string streamed;
    const Generation g = generate(*language, {0}, {.temperature = 0, .stop = std::move(stop)}, [&](std::string_view piece) {
      streamed += piece;
      return true;
    });
    EXPECT_EQ(streamed, g.text);
    EXPECT_EQ(g.finish, FinishReason::stop);
    return g.text;
  };
  EXPECT_EQ(run({"\xE2\x82\xAC"}), "na\xC3\xAFve ");
  EXPECT_EQ(run({"e \xE2\x82\xAC" "5"}), "na\xC3\xAFv");
  EXPECT_EQ(run({"caf\xC3\xA9 f", "5 caf\xC3\xA9", "\xC3\xA9"}), "na\xC3\xAFve \xE2\x82\xAC");
  EXPECT_EQ(run({"end!"}), text);
}

}  // namespace
}  // namespace rhetor::testing
