// Choosing the next token. The random number of token i is a pure function of (seed, i), and ties go to the lower id, so a
// sequence is the same alone or in a batch, streamed or not.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/rng.h"
#include "generate/generator.h"

namespace rhetor {
namespace {

constexpr std::uint64_t kSamplingStream = 0x73616d706c65;  // keeps these numbers apart from dropout's and initialisation's

// NaN or +inf among them, or nothing above -inf. Without branches, so that the compiler makes vectors of it.
bool broken(std::span<const float> logits) {
  constexpr std::uint32_t kInfinity = 0x7f800000, kMagnitude = 0x7fffffff, kMinusInfinity = 0xff800000;
  std::uint32_t bad = 0, usable = 0;
  for (const float x : logits) {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    bad |= static_cast<std::uint32_t>(bits == kInfinity) | static_cast<std::uint32_t>((bits & kMagnitude) > kInfinity);
    usable |= static_cast<std::uint32_t>(bits != kMinusInfinity);
  }
  return bad != 0 || usable == 0;
}

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
  if (max_tokens < 1) fail("max_tokens must be at least 1, found {}", max_tokens);
  if (stop.size() > 16) fail("at most 16 stop strings are allowed, found {}", stop.size());
  for (const auto& text : stop) {
    if (text.empty()) fail("a stop string is empty; it would end every text at once");
    if (text.size() > 1024) fail("a stop string has {} bytes; at most 1024 are allowed", text.size());
  }
}

TokenId sample(std::span<const float> logits, const Sampling& sampling, std::uint64_t counter) {
  check(!logits.empty(), "sampling needs logits");
  if (broken(logits)) {
    fail("the model computed logits that are not finite numbers (token {} of its answer): its weights are damaged or its training "
         "diverged; load another copy of them, or train again with a lower learning rate", counter);
  }
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
  const Philox words = random_block(sampling.seed, kSamplingStream, counter);
  const double uniform = static_cast<double>((std::uint64_t{words[0]} << 21) ^ (words[1] >> 11)) * 0x1p-53;  // [0, 1)
  double rest = uniform * total;
  for (const auto& c : choices) {
    rest -= c.weight;
    if (rest < 0) return c.id;
  }
  return choices.back().id;
}

}  // namespace rhetor
