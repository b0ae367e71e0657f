#include "generate/penalties.h"

namespace rhetor {

Penalties::Penalties(const Sampling& sampling, std::span<const TokenId> prompt)
    : counting_(sampling.repetition_penalty != 1 || sampling.presence_penalty != 0 || sampling.frequency_penalty != 0) {
  if (sampling.repetition_penalty == 1) return;   // only that one looks at the prompt
  for (const TokenId id : prompt) counts_.emplace(id, 0);
}

void Penalties::add(TokenId id) {
  if (counting_) ++counts_[id];
}

std::span<const float> Penalties::apply(std::span<const float> logits, const Sampling& sampling,
                                        std::vector<float>& buffer) const {
  if (sampling.logit_bias.empty() && counts_.empty()) return logits;
  buffer.assign(logits.begin(), logits.end());
  // Ids beyond the logits: those of a vocabulary padded beyond the tokenizer's, which a prompt given as ids may hold.
  for (const auto& [id, bias] : sampling.logit_bias) {
    if (static_cast<std::size_t>(id) < buffer.size()) buffer[static_cast<std::size_t>(id)] += static_cast<float>(bias);
  }
  const auto repetition = static_cast<float>(sampling.repetition_penalty);
  for (const auto& [id, count] : counts_) {
    if (static_cast<std::size_t>(id) >= buffer.size()) continue;
    float& logit = buffer[static_cast<std::size_t>(id)];
    logit = logit > 0 ? logit / repetition : logit * repetition;
    if (count > 0)
      logit -= static_cast<float>(sampling.presence_penalty + static_cast<double>(count) * sampling.frequency_penalty);
  }
  return buffer;
}

}  // namespace rhetor
