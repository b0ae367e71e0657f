#include <gmock/gmock.h>

#include <cmath>

#include "base/error.h"
#include "base/file.h"
#include "generate/batch_engine.h"
#include "generate/cached_executables.h"
#include "generate/plan_model.h"
#include "generate/test_models.h"

namespace rhetor::testing {
namespace {

using ::testing::HasSubstr;

// The token after `ids` by a full forward pass without a cache.
TokenId full_forward(const Model& model, const std::vector<TokenId>& ids, const Sampling& sampling, std::uint64_t counter) {
  return sample(next_logits(model, ids), sampling, counter);
}

TEST(Generate, CachedEqualsFullForward) {
  for (const char* family : {"gpt2", "llama"}) {
    SCOPED_TRACE(family);
    const auto model = toy_model(family);
    // Buckets below the prompt's length: it is prefilled in chunks, the last one padded.
    const auto language = make_language_model(model, {.prefill_buckets = {4, 8}});
    for (const double temperature : {0.0, 1.0}) {
      const Sampling sampling{.temperature = temperature, .seed = 3, .max_tokens = 6};
      const auto prompt = random_prompt(7, 19);
      const Generation result = generate(*language, prompt, sampling);
      std::vector<TokenId> ids = prompt;
      for (std::size_t i = 0; i < result.tokens.size(); ++i) {
        ASSERT_EQ(result.tokens[i], full_forward(*model, ids, sampling, i)) << "token " << i;
        ids.push_back(result.tokens[i]);
      }
      EXPECT_GE(result.tokens.size(), 1u);
    }
  }
}

TEST(Generate, BatchedEqualsOneByOne) {
  const auto language = make_language_model(toy_model(), {.prefill_buckets = {8, 32}});
  std::vector<std::vector<TokenId>> prompts;
  std::vector<Sampling> sampling;
  for (std::uint64_t i = 0; i < 11; ++i) {  // more than there are slots: sequences join and leave
    prompts.push_back(random_prompt(i, 1 + i * 3));
    sampling.push_back({.temperature = i % 3 == 0 ? 0.0 : 0.9,
                        .top_k = i % 2 ? 20 : 0,
                        .top_p = i % 4 ? 1.0 : 0.9,
                        .seed = i,
                        .max_tokens = static_cast<std::int64_t>(2 + i % 5 * 3)});
  }
  const auto together = generate_batch(*language, prompts, sampling);
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const Generation alone = generate(*language, prompts[i], sampling[i]);
    EXPECT_EQ(together[i].tokens, alone.tokens) << "prompt " << i;
    EXPECT_EQ(together[i].text, alone.text);
    EXPECT_EQ(together[i].finish, alone.finish);
    EXPECT_EQ(together[i].prompt_tokens, static_cast<std::int64_t>(prompts[i].size()));
  }
}

TEST(Generate, SeedsDecide) {
  const auto language = make_language_model(toy_model());
  const auto run = [&](std::uint64_t seed) {
    return generate(*language, {5, 6, 7}, {.temperature = 1.5, .seed = seed, .max_tokens = 20}).tokens;
  };
  EXPECT_EQ(run(1), run(1));
  EXPECT_NE(run(1), run(2));
}

TEST(Generate, LengthIsLimitedByTokensAndContext) {
  const auto language = make_language_model(toy_model("gpt2", 1, 16));
  const Sampling many{.temperature = 1, .seed = 1, .max_tokens = 1000};
  const Generation full = generate(*language, random_prompt(1, 10), many);
  EXPECT_TRUE(full.finish == FinishReason::stop || full.tokens.size() == 7u);  // 6 places left, and a last token that needs none
  EXPECT_EQ(generate(*language, random_prompt(1, 16), many).tokens.size(), 1u);
  try {
    generate(*language, random_prompt(1, 17), many);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("17 tokens"));
    EXPECT_THAT(error.what(), HasSubstr("context of 16"));
  }
  EXPECT_THROW(generate(*language, {1, 100000}, many), Error);
  EXPECT_THROW(generate(*language, {1, -1}, many), Error);
  EXPECT_EQ(generate(*language, {}, {.max_tokens = 1}).prompt_tokens, 1);  // begins with <|endoftext|>
}

TEST(Generate, StreamsWholeCharactersAndStopsAtEnd) {
  const std::string text = "S\xC3\xA9n\xE2\x82\xAC \xF0\x9F\x9A\xA2!";
  const auto language = make_language_model(scripted(text));
  std::vector<std::string> pieces;
  const Generation result = generate(*language, {0}, {.temperature = 0}, [&](std::string_view piece) {
    pieces.emplace_back(piece);
    return true;
  });
  EXPECT_EQ(result.text, text);
  EXPECT_EQ(result.finish, FinishReason::stop);
  std::string joined;
  for (const auto& piece : pieces) {
    EXPECT_NE(static_cast<unsigned char>(piece[0]) & 0xC0, 0x80) << "a piece begins inside a character";
    joined += piece;
  }
  EXPECT_EQ(joined, text);
  EXPECT_GE(pieces.size(), 4u);
}

TEST(Generate, StopStringsCrossTokenBoundaries) {
  const auto language = make_language_model(scripted("one two three"));
  const auto run = [&](const std::string& stop) { return generate(*language, {0}, {.temperature = 0, .stop = {stop}}); };
  EXPECT_EQ(run("o th").text, "one tw");
  EXPECT_EQ(run("o th").finish, FinishReason::stop);
  EXPECT_EQ(run("threes").text, "one two three");  // held back, then let go
  EXPECT_EQ(run("one").text, "");
}

TEST(Generate, TheCallbackCancels) {
  const auto language = make_language_model(scripted("abcdefgh"));
  const Generation result = generate(*language, {0}, {.temperature = 0}, [](std::string_view piece) { return piece != "c"; });
  EXPECT_EQ(result.text, "abc");
  EXPECT_EQ(result.finish, FinishReason::cancelled);
}

TEST(BatchEngine, CancelFreesTheSlot) {
  const auto language = make_language_model(toy_model());
  BatchEngine engine(*language, 2);
  EXPECT_EQ(engine.slots(), 2);
  std::map<int, Generation> done;
  std::vector<BatchEngine::Id> ids;
  for (int i = 0; i < 4; ++i) {
    ids.push_back(engine.add({random_prompt(static_cast<std::uint64_t>(i), 5),
                              {.temperature = 1, .seed = 1, .max_tokens = 8},
                              {},
                              [&done, i](const Generation& g) { done[i] = g; }}));
  }
  engine.step();
  engine.cancel(ids[0]);
  engine.cancel(ids[3]);  // still waiting
  engine.cancel(12345);
  EXPECT_EQ(done.at(0).finish, FinishReason::cancelled);
  EXPECT_TRUE(done.at(3).tokens.empty());
  while (engine.step()) {
  }
  for (const int i : {1, 2}) {
    const Generation alone =
        generate(*language, random_prompt(static_cast<std::uint64_t>(i), 5), {.temperature = 1, .seed = 1, .max_tokens = 8});
    EXPECT_EQ(done.at(i).tokens, alone.tokens);
  }
  EXPECT_EQ(engine.running(), 0);
}

TEST(LanguageModel, BertIsRefused) {
  auto model = std::make_shared<Model>();
  model->config = model_preset("bert-tiny");
  EXPECT_THROW(make_language_model(model), Error);
  EXPECT_THROW(open_language_model("/nonexistent/model"), Error);
}

TEST(PlanModel, AnswersAsTheFolderDoes) {
  ScratchFolder scratch;
  const auto folder = scratch.path() / "toy", plan = scratch.path() / "toy.plan";
  save_model(folder, *toy_model());
  const OpenOptions options{.prefill_buckets = {8, 32}};
  compile_to_plan(folder, plan, options, {1, 2});
  const auto a = open_language_model(folder, options), b = open_language_model(plan, options);
  EXPECT_EQ(b->name(), "toy");
  EXPECT_EQ(b->config().hidden, 32);
  EXPECT_EQ(b->decode_batches(), (std::vector<std::int64_t>{1, 2}));
  const Sampling sampling{.temperature = 0.8, .seed = 5, .max_tokens = 10};
  std::vector<std::vector<TokenId>> prompts;
  for (std::uint64_t i = 0; i < 5; ++i) prompts.push_back(random_prompt(i, 3 + 9 * i));
  for (const auto& prompt : prompts) EXPECT_EQ(generate(*a, prompt, sampling).tokens, generate(*b, prompt, sampling).tokens);
  const auto together = generate_batch(*b, prompts, std::vector<Sampling>(5, sampling));
  for (std::size_t i = 0; i < 5; ++i) EXPECT_EQ(together[i].tokens, generate(*a, prompts[i], sampling).tokens);
  EXPECT_THROW(b->cached(4, 1), Error);
  write_file_atomic(plan, "not a plan");
  EXPECT_THROW(open_language_model(plan), Error);
}

TEST(Generator, DamagedWeightsAreAnErrorNotAText) {
  auto model = toy_model();
  model->weights.at("ln_f.weight").data<float>()[0] = std::nanf("");
  const auto language = make_language_model(model);
  EXPECT_THROW(generate(*language, {1, 2, 3}, {.temperature = 0, .max_tokens = 4}), Error);
  EXPECT_THROW(generate_batch(*language, {{1}, {2}}, {{.max_tokens = 4}, {.max_tokens = 4}}), Error);
}

}  // namespace
}  // namespace rhetor::testing
