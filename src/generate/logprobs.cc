#include "generate/logprobs.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

#include "base/error.h"

namespace rhetor {
namespace {

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

}  // namespace

void require_finite(std::span<const float> logits, std::uint64_t counter) {
  if (!broken(logits)) return;
  fail("the model computed logits that are not finite numbers (token {} of its answer): its weights are damaged or its training "
       "diverged; load another copy of them, or train again with a lower learning rate", counter);
}

double log_sum_exp(std::span<const float> logits) {
  const float highest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x) - highest);
  return highest + std::log(sum);
}

std::vector<TokenId> top_ids(std::span<const float> logits, std::int64_t count) {
  const auto wanted = std::min(logits.size(), static_cast<std::size_t>(std::max<std::int64_t>(0, count)));
  thread_local std::vector<TokenId> ids;   // kept between calls: [V]
  ids.resize(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto end = ids.begin() + static_cast<std::ptrdiff_t>(wanted);
  std::partial_sort(ids.begin(), end, ids.end(), [&](TokenId a, TokenId b) {
    const float x = logits[static_cast<std::size_t>(a)], y = logits[static_cast<std::size_t>(b)];
    return x != y ? x > y : a < b;
  });
  return {ids.begin(), end};
}

TokenLogprob token_logprob(std::span<const float> logits, TokenId id, std::int64_t top, std::int64_t vocab) {
  const double total = log_sum_exp(logits);
  const auto of = [&](TokenId token) { return static_cast<double>(logits[static_cast<std::size_t>(token)]) - total; };
  TokenLogprob out{.id = id, .logprob = of(id)};
  if (top > 0) {
    for (const TokenId token : top_ids(logits.first(static_cast<std::size_t>(vocab)), top))
      out.top.emplace_back(token, of(token));
  }
  return out;
}

}  // namespace rhetor
