#include "generate/beam_search.h"

#include <gmock/gmock.h>

#include <cmath>

#include "base/error.h"
#include "generate/batch_engine.h"
#include "generate/logprobs.h"
#include "generate/test_models.h"

namespace rhetor::testing {
namespace {

constexpr std::int64_t kVocab = 5;
constexpr TokenId kEnd = 4;

// A language of five tokens: logits that depend on the whole history.
std::vector<float> toy_logits(const std::vector<TokenId>& history) {
  std::uint64_t key = 1;
  for (const TokenId id : history) key = key * 31 + static_cast<std::uint64_t>(id) + 7;
  Rng rng(42, key);
  std::vector<float> out(kVocab);
  for (float& x : out) x = static_cast<float>(1.5 * rng.normal());
  return out;
}

struct Found {
  std::vector<TokenId> tokens;
  double score;
};

// Every sequence that ends with kEnd or has `longest` tokens, best first.
void enumerate(std::vector<TokenId>& history, double sum, std::int64_t longest, double penalty, std::vector<Found>& out) {
  const auto logits = toy_logits(history);
  const double total = log_sum_exp(logits);
  const auto length = static_cast<double>(history.size() + 1);
  for (TokenId id = 0; id < kVocab; ++id) {
    const double next = sum + static_cast<double>(logits[static_cast<std::size_t>(id)]) - total;
    if (id == kEnd) {
      out.push_back({history, next / std::pow(length, penalty)});
      continue;
    }
    history.push_back(id);
    if (static_cast<std::int64_t>(history.size()) == longest) out.push_back({history, next / std::pow(length, penalty)});
    else enumerate(history, next, longest, penalty, out);
    history.pop_back();
  }
}

// Runs a search to its end; logits_of(tokens so far) is the model.
template <class LogitsOf>
std::vector<Generation> run(BeamSearch beams, std::vector<TokenId> prompt, LogitsOf logits_of, std::size_t* steps = nullptr) {
  std::vector<std::vector<TokenId>> histories = {std::move(prompt)};
  while (!beams.done()) {
    std::vector<std::vector<float>> logits;
    for (const auto& history : histories) logits.push_back(logits_of(history));
    std::vector<std::span<const float>> spans(logits.begin(), logits.end());
    const auto parents = beams.advance(spans);
    std::vector<std::vector<TokenId>> next;
    for (std::size_t i = 0; i < parents.size(); ++i) {
      next.push_back(histories[static_cast<std::size_t>(parents[i])]);
      next.back().push_back(beams.newest(static_cast<std::int64_t>(i)));
    }
    histories = std::move(next);
    if (steps) ++*steps;
  }
  return beams.take_best();
}

std::vector<Generation> search(const Sampling& sampling, std::int64_t longest, std::size_t* steps = nullptr) {
  return run(BeamSearch(sampling, {kEnd}, longest, kVocab, Answer(toy_tokenizer(), sampling, {})), {}, toy_logits, steps);
}

TEST(BeamSearch, WideEnoughFindsTheBestOfAll) {
  constexpr std::int64_t kLongest = 4;
  for (const double penalty : {0.0, 0.6, 1.0, 2.0, -1.0}) {
    SCOPED_TRACE(penalty);
    std::vector<Found> all;
    std::vector<TokenId> history;
    enumerate(history, 0, kLongest, penalty, all);
    std::stable_sort(all.begin(), all.end(), [](const Found& a, const Found& b) { return a.score > b.score; });
    // 4^3 open hypotheses at most: nothing is ever cut.
    const auto best = search({.n = 6, .beams = 64 * 5, .length_penalty = penalty}, kLongest);
    ASSERT_EQ(best.size(), 6u);
    for (std::size_t i = 0; i < best.size(); ++i) {
      EXPECT_EQ(best[i].tokens, all[i].tokens) << i;
      EXPECT_NEAR(best[i].score, all[i].score, 1e-9);
      EXPECT_EQ(best[i].index, static_cast<std::int64_t>(i));
    }
  }
}

// The rules of the header, written naively: every extension listed, sorted, cut.
std::vector<Found> reference(std::size_t beams, std::int64_t longest, double penalty, bool early) {
  struct Open {
    std::vector<TokenId> tokens;
    double sum;
  };
  std::vector<Open> open = {{{}, 0}};
  std::vector<Found> complete;
  const auto add = [&](std::vector<TokenId> tokens, double score) {
    complete.push_back({std::move(tokens), score});
    std::stable_sort(complete.begin(), complete.end(), [](const Found& a, const Found& b) { return a.score > b.score; });
    if (complete.size() > beams) complete.pop_back();
  };
  for (std::int64_t length = 1; length <= longest; ++length) {
    std::vector<Open> all;
    for (const auto& o : open) {
      const auto logits = toy_logits(o.tokens);
      for (TokenId id = 0; id < kVocab; ++id) {
        all.push_back({o.tokens, o.sum + static_cast<double>(logits[static_cast<std::size_t>(id)]) - log_sum_exp(logits)});
        all.back().tokens.push_back(id);
      }
    }
    std::stable_sort(all.begin(), all.end(), [](const Open& a, const Open& b) { return a.sum > b.sum; });
    open.clear();
    for (std::size_t rank = 0; rank < all.size() && open.size() < beams; ++rank) {
      if (all[rank].tokens.back() != kEnd) {
        open.push_back(all[rank]);
      } else if (rank < beams) {
        all[rank].tokens.pop_back();
        add(all[rank].tokens, all[rank].sum / std::pow(static_cast<double>(length), penalty));
      }
    }
    if (early && complete.size() >= beams) return complete;
  }
  for (const auto& o : open) add(o.tokens, o.sum / std::pow(static_cast<double>(longest), penalty));
  return complete;
}

TEST(BeamSearch, FollowsItsRules) {
  for (const std::size_t beams : {1u, 2u, 3u, 7u}) {
    for (const double penalty : {0.0, 1.0, 1.7, -0.5}) {
      for (const bool early : {false, true}) {
        SCOPED_TRACE(fmt::format("beams {} penalty {} early {}", beams, penalty, early));
        const auto width = static_cast<std::int64_t>(beams);
        const auto expected = reference(beams, 7, penalty, early);
        const auto found = search({.n = width, .beams = width, .length_penalty = penalty, .early_stopping = early}, 7);
        ASSERT_EQ(found.size(), expected.size());
        for (std::size_t i = 0; i < found.size(); ++i) {
          EXPECT_EQ(found[i].tokens, expected[i].tokens);
          EXPECT_NEAR(found[i].score, expected[i].score, 1e-9);
        }
      }
    }
  }
}

TEST(BeamSearch, EndsAsSoonAsNothingCanImprove) {
  std::size_t early = 0, exact = 0;
  search({.beams = 2, .length_penalty = 0, .early_stopping = true}, 200, &early);
  search({.beams = 2, .length_penalty = 0}, 200, &exact);
  EXPECT_LE(early, exact);
  EXPECT_LT(exact, 60u);   // sums fall by more than 0.1 nats a token: the first complete ones are out of reach long before 200
}

// The engine with caches against full forward passes.
TEST(BeamSearch, TheEngineEqualsFullForwards) {
  for (const char* family : {"gpt2", "llama"}) {
    SCOPED_TRACE(family);
    const auto model = toy_model(family);
    const auto language = make_language_model(model, {.prefill_buckets = {8}});
    const auto prompt = random_prompt(5, 11);
    for (const Sampling& sampling :
         {Sampling{.max_tokens = 6, .n = 3, .beams = 3},
          Sampling{.repetition_penalty = 1.4, .max_tokens = 5, .n = 4, .beams = 4, .length_penalty = 0.5}}) {
      const std::int64_t vocab = model->tokenizer->vocab_size();
      std::vector<TokenId> ends;
      for (const char* text : {"<|end|>", "<|endoftext|>"}) ends.push_back(model->tokenizer->special(text));
      const auto expected =
          run(BeamSearch(sampling, ends, sampling.max_tokens, vocab, Answer(model->tokenizer, sampling, prompt)), prompt,
              [&](const std::vector<TokenId>& ids) { return next_logits(*model, ids); });
      const auto found = generate_n(*language, prompt, sampling);
      ASSERT_EQ(found.size(), expected.size());
      for (std::size_t i = 0; i < found.size(); ++i) {
        EXPECT_EQ(found[i].tokens, expected[i].tokens) << i;
        EXPECT_EQ(found[i].text, expected[i].text);
        EXPECT_NEAR(found[i].score, expected[i].score, 1e-4);
      }
    }
  }
}

TEST(BeamSearch, NeighboursDoNotMatter) {
  const auto language = make_language_model(toy_model(), {.prefill_buckets = {8}});
  const Sampling wide{.max_tokens = 8, .n = 2, .beams = 3}, plain{.temperature = 1, .seed = 2, .max_tokens = 15};
  const auto alone = generate_n(*language, random_prompt(1, 9), wide);
  BatchEngine engine(*language, 8);
  std::map<int, std::vector<Generation>> done;
  const auto add = [&](int key, std::uint64_t prompt, const Sampling& sampling) {
    engine.add({random_prompt(prompt, 9), sampling, {}, [&done, key](const Generation& g) { done[key].push_back(g); }});
  };
  add(0, 5, plain);
  add(1, 1, wide);
  add(2, 6, plain);
  add(3, 2, wide);
  add(4, 1, wide);   // waits until three slots are free
  while (engine.step()) {
  }
  for (const int key : {1, 4}) {
    ASSERT_EQ(done[key].size(), 2u);
    for (std::size_t i = 0; i < 2; ++i) EXPECT_EQ(done[key][i].tokens, alone[i].tokens);
  }
  EXPECT_EQ(done[3][0].tokens, generate_n(*language, random_prompt(2, 9), wide)[0].tokens);
  EXPECT_EQ(done[0][0].tokens, generate(*language, random_prompt(5, 9), plain).tokens);
  EXPECT_EQ(done[2][0].tokens, generate(*language, random_prompt(6, 9), plain).tokens);
}

TEST(BeamSearch, OneBeamMoreNeverScoresBelowGreedyHere) {
  const auto language = make_language_model(toy_model());
  const auto prompt = random_prompt(12, 7);
  const Generation greedy = generate(*language, prompt, {.temperature = 0, .max_tokens = 6, .logprobs = true});
  double sum = 0;
  for (const auto& token : greedy.logprobs) sum += token.logprob;
  std::string streamed;
  const Generation best = generate(*language, prompt, {.max_tokens = 6, .logprobs = true, .beams = 4, .length_penalty = 0},
                                   [&](std::string_view piece) {
                                     streamed += piece;
                                     return true;
                                   });
  EXPECT_EQ(streamed, best.text);
  EXPECT_EQ(best.logprobs.size(), best.tokens.size());
  EXPECT_GE(best.score, sum - 1e-4);
}

TEST(BeamSearch, MoreBeamsThanSlotsAreRefused) {
  const auto language = make_language_model(toy_model());
  BatchEngine engine(*language, 2);
  EXPECT_THROW(engine.add({{1, 2}, {.beams = 3}}), Error);
}

TEST(BeamSearch, DamagedWeightsAreAnError) {
  auto model = toy_model();
  model->weights.at("ln_f.weight").data<float>()[0] = std::nanf("");
  const auto language = make_language_model(model);
  EXPECT_THROW(generate(*language, {1, 2, 3}, {.max_tokens = 4, .beams = 2}), Error);
  BatchEngine engine(*language, 2);
  int errors = 0;
  BatchRequest request{.prompt = {1, 2}, .sampling = {.beams = 2}, .on_done = [](const Generation&) { FAIL(); }};
  request.on_error = [&](std::exception_ptr) { ++errors; };
  engine.add(std::move(request));
  while (engine.step()) {
  }
  EXPECT_EQ(errors, 1);
}

}  // namespace
}  // namespace rhetor::testing
