// Choosing the next token. The random number of token i is a pure function of (seed, i), and ties go to the lower id, so a sequence is
// the same alone or in a batch, streamed or not.
#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/rng.h"
#include "generate/generator.h"

namespace rhetor {
namespace {

constexpr std::uint64_t kSamplingStream = 0x73616d706c65;  // keeps these numbers apart from dropout's and initialisation's

TokenId argmax(std::span<const float> logits) {
  std::size_t best = 0;
  float value = -std::numeric_limits<float>::infinity();
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > value) value = logits[i], best = i;  // false for NaN: never chosen
  }
  return static_cast<TokenId>(best);
}

}  // namespace

void Sampling::validate() const {
  if (!(temperature >= 0 && temperature <= 100)) fail("temperature must be from 0 (greedy) to 100, found {}", temperature);
  if (top_k < 0) fail("top_k must be 0 (off) or more, found {}", top_k);
  if (!(top_p > 0 && top_p <= 1)) fail("top_p must be above 0 and at most 1 (off), found {}", top_p);
  if (max_tokens < 1) fail("max_tokens must be at least 1, found {}", max_tokens);
  if (stop.size() > 16) fail("at most 16 stop strings are allowed, found {}", stop.size());
  for (const auto& text : stop) {
    if (text.empty()) fail("a stop string is empty; it would end every text at once");
    if (text.size() > 1024) fail("a stop string has {} bytes; at most 1024 are allowed", text.size());
  }
}

TokenId sample(std::span<const float> logits, const Sampling& sampling, std::uint64_t counter) {
  check(!logits.empty(), "sampling needs logits");
  if (sampling.temperature == 0 || sampling.top_k == 1) return argmax(logits);
  struct Choice {
    float logit;
    TokenId id;
  };
  thread_local std::vector<Choice> choices;  // kept between calls: one allocation a thread
  choices.clear();
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > -std::numeric_limits<float>::infinity()) choices.push_back({logits[i], static_cast<TokenId>(i)});
  }
  if (choices.empty()) return argmax(logits);
  const auto higher = [](const Choice& a, const Choice& b) { return a.logit != b.logit ? a.logit > b.logit : a.id < b.id; };
  if (sampling.top_k > 0 && sampling.top_k < static_cast<std::int64_t>(choices.size())) {
    std::nth_element(choices.begin(), choices.begin() + sampling.top_k - 1, choices.end(), higher);
    choices.resize(static_cast<std::size_t>(sampling.top_k));
  }
  // Only the nucleus needs an order; the plain draw walks ids upwards, which is an order too.
  const bool nucleus = sampling.top_p < 1;
  if (nucleus) std::sort(choices.begin(), choices.end(), higher);
  else std::sort(choices.begin(), choices.end(), [](const Choice& a, const Choice& b) { return a.id < b.id; });
  float top = choices[0].logit;
  for (const auto& c : choices) top = std::max(top, c.logit);
  const auto weight = [&](const Choice& c) { return std::exp((static_cast<double>(c.logit) - top) / sampling.temperature); };
  double total = 0;
  for (const auto& c : choices) total += weight(c);
  if (nucleus) {
    // The smallest set of most likely tokens whose probability reaches top_p (Holtzman et al. 2020).
    double sum = 0;
    std::size_t count = 0;
    while (count < choices.size() && sum < sampling.top_p * total) sum += weight(choices[count++]);
    choices.resize(std::max<std::size_t>(1, count));
    total = 0;
    for (const auto& c : choices) total += weight(c);
  }
  const Philox words = random_block(sampling.seed, kSamplingStream, counter);
  const double uniform = static_cast<double>((std::uint64_t{words[0]} << 21) ^ (words[1] >> 11)) * 0x1p-53;  // [0, 1)
  double rest = uniform * total;
  for (const auto& c : choices) {
    rest -= weight(c);
    if (rest < 0) return c.id;
  }
  return choices.back().id;
}

}  // namespace rhetor
