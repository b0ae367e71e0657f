// Bias and penalties: what Sampling does to logits before a token is chosen. Definitions: generator.h.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "generate/generator.h"

namespace rhetor {

// The tokens that one answer's penalties count. Copyable: the beams of a search fork it.
class Penalties {
 public:
  Penalties(const Sampling& sampling, std::span<const TokenId> prompt);
  // A token of the answer.
  void add(TokenId id);
  // `logits` [V] themselves if nothing changes them; otherwise an adjusted copy in `buffer`.
  std::span<const float> apply(std::span<const float> logits, const Sampling& sampling, std::vector<float>& buffer) const;

 private:
  bool counting_ = false;
  std::map<TokenId, std::int64_t> counts_;   // occurrences in the answer; 0 for tokens of the prompt alone
};

}  // namespace rhetor
