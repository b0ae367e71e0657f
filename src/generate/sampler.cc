// Choosing the next token. The random number of token i is a pure function of (seed, i), and ties go to the lower id, so a
// sequence is the same alone or in a batch, streamed or not.
#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/rng.h"
#include "generate/generator.h"
#include "generate/logprobs.h"

namespace rhetor {
namespace {

constexpr std::uint64_t kSamplingStream =
    0x73616d706c65;  // 47 bits; keeps these numbers apart from dropout's and initialisation's

TokenId argmax(std::span<const float> logits) {
  std::size_t best = 0;
  float value = -std::numeric_limits<float>::infinity();
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > value) value = logits[i], best = i;
  }
  return static_cast<TokenId>(best);
}

struct Choice {
  float logit;
  TokenId id;
  double weight;  // proportional to its probability
};

bool higher(const Choice& a, const Choice& b) { return a.logit != b.logit ? a.logit > b.logit : a.id < b.id; }

// Leaves the smallest set of most likely tokens whose weight reaches `enough` (Holtzman et al. 2020, "The curious case of neural
// text degeneration"), most likely first, and returns its weight. Few tokens usually suffice, so only a growing head is sorted.
double keep_nucleus(std::vector<Choice>& choices, double enough) {
  double sum = 0;
  std::size_t count = 0, sorted = 0;
  while (count < choices.size() && sum < enough) {
    if (count == sorted) {
      const std::size_t next = std::min(choices.size(), std::max<std::size_t>(64, 4 * sorted));
      const auto from = choices.begin() + static_cast<std::ptrdiff_t>(sorted);
      std::partial_sort(from, choices.begin() + static_cast<std::ptrdiff_t>(next), choices.end(), higher);
      sorted = next;
    }
    sum += choices[count++].weight;
  }
  choices.resize(std::max<std::size_t>(1, count));
  return sum;
}

}  // namespace

void Sampling::validate() const {
  if (!(temperature >= 0 && temperature <= 100)) fail("temperature must be from 0 (greedy) to 100, found {}", temperature);
  if (top_k < 0) fail("top_k must be 0 (off) or more, found {}", top_k);
  if (!(top_p > 0 && top_p <= 1)) fail("top_p must be above 0 and at most 1 (off), found {}", top_p);
  if (!(min_p >= 0 && min_p <= 1)) fail("min_p must be from 0 (off) to 1, found {}", min_p);
  if (!(repetition_penalty >= 0.1 && repetition_penalty <= 10))
    fail("repetition_penalty must be from 0.1 to 10 (1 = off), found {}", repetition_penalty);
  if (!(presence_penalty >= -2 && presence_penalty <= 2))
    fail("presence_penalty must be from -2 to 2, found {}", presence_penalty);
  if (!(frequency_penalty >= -2 && frequency_penalty <= 2))
    fail("frequency_penalty must be from -2 to 2, found {}", frequency_penalty);
  if (logit_bias.size() > 1024) fail("logit_bias names {} tokens; at most 1024 are allowed", logit_bias.size());
  for (const auto& [id, bias] : logit_bias) {
    if (id < 0) fail("logit_bias names the token {}; token ids are 0 or more", id);
    if (!(bias >= -100 && bias <= 100)) fail("the logit_bias of token {} must be from -100 to 100, found {}", id, bias);
  }
  if (top_logprobs < 0 || top_logprobs > 20) fail("top_logprobs must be from 0 to 20, found {}", top_logprobs);
  if (top_logprobs > 0 && !logprobs) fail("top_logprobs is {}, but logprobs is off; turn it on", top_logprobs);
  if (n < 1 || n > 128) fail("n must be from 1 to 128 answers, found {}", n);
  if (beams < 1 || beams > 32) fail("beams must be from 1 (off) to 32, found {}", beams);
  if (beams > 1 && n > beams) fail("n is {}, more than the {} beams; a beam search gives at most one answer a beam", n, beams);
  if (!(length_penalty >= -10 && length_penalty <= 10)) fail("length_penalty must be from -10 to 10, found {}", length_penalty);
  if (max_tokens < 1) fail("max_tokens must be at least 1, found {}", max_tokens);
  if (stop.size() > 16) fail("at most 16 stop strings are allowed, found {}", stop.size());
  for (const auto& text : stop) {
    if (text.empty()) fail("a stop string is empty; it would end every text at once");
    if (text.size() > 1024) fail("a stop string has {} bytes; at most 1024 are allowed", text.size());
  }
}

TokenId sample(std::span<const float> logits, const Sampling& sampling, std::uint64_t counter, std::int64_t answer) {
  check(!logits.empty(), "sampling needs logits");
  require_finite(logits, counter);
  if (sampling.temperature == 0 || sampling.top_k == 1) return argmax(logits);
  thread_local std::vector<Choice> choices;  // kept between calls: one allocation a thread
  choices.clear();
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > -std::numeric_limits<float>::infinity()) choices.push_back({logits[i], static_cast<TokenId>(i), 0});
  }
  if (sampling.top_k > 0 && sampling.top_k < static_cast<std::int64_t>(choices.size())) {
    std::nth_element(choices.begin(), choices.begin() + sampling.top_k - 1, choices.end(), higher);
    choices.resize(static_cast<std::size_t>(sampling.top_k));
    std::sort(choices.begin(), choices.end(), [](const Choice& x, const Choice& y) { return x.id < y.id; });
  }
  float top = choices[0].logit;
  for (const auto& c : choices) top = std::max(top, c.logit);
  double total = 0;
  for (auto& c : choices) total += c.weight = std::exp((static_cast<double>(c.logit) - top) / sampling.temperature);
  if (sampling.top_p < 1) total = keep_nucleus(choices, sampling.top_p * total);
  if (sampling.min_p > 0) {
    // The likeliest token weighs 1 (Nguyen et al. 2024, "Turning up the heat: min-p sampling").
    std::erase_if(choices, [&](const Choice& c) { return c.weight < sampling.min_p; });
    total = 0;
    for (const auto& c : choices) total += c.weight;
  }
  const Philox words = random_block(sampling.seed, kSamplingStream ^ (static_cast<std::uint64_t>(answer) << 48), counter);
  const double uniform = static_cast<double>((std::uint64_t{words[0]} << 21) ^ (words[1] >> 11)) * 0x1p-53;  // [0, 1)
  double rest = uniform * total;
  for (const auto& c : choices) {
    rest -= c.weight;
    if (rest < 0) return c.id;
  }
  return choices.back().id;
}

}  // namespace rhetor
