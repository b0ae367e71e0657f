// Log-probabilities of tokens under a model's own distribution.
#pragma once

#include <cstdint>
#include <span>

#include "generate/generator.h"

namespace rhetor {

// Fails if a logit is NaN or +inf, or none is above -inf: the weights are damaged. `counter` is the token's index in its answer.
void require_finite(std::span<const float> logits, std::uint64_t counter);
// log(sum(exp(x))) in double precision.
double log_sum_exp(std::span<const float> logits);
// The ids of the `count` highest of `logits`, best first; ties go to the lower id.
std::vector<TokenId> top_ids(std::span<const float> logits, std::int64_t count);
// Of token `id` and the `top` likeliest among the first `vocab`: a vocabulary may be padded beyond the tokenizer's, and those
// ids, though part of the distribution, mean nothing.
TokenLogprob token_logprob(std::span<const float> logits, TokenId id, std::int64_t top, std::int64_t vocab);

}  // namespace rhetor
