#include "generate/generator.h"

#include "base/error.h"
#include "generate/batch_engine.h"

namespace rhetor {

std::string_view name(FinishReason reason) {
  switch (reason) {
    case FinishReason::stop:
      return "stop";
    case FinishReason::length:
      return "length";
    case FinishReason::cancelled:
      return "cancelled";
  }
  return "";
}

// Tokens after the first over the time after the first: what a reader of the stream sees.
double Generation::tokens_per_s() const {
  if (tokens.size() < 2 || total_ms <= first_token_ms) return 0;
  return static_cast<double>(tokens.size() - 1) / (total_ms - first_token_ms) * 1e3;
}

Generation generate(const LanguageModel& model, const std::vector<TokenId>& prompt, const Sampling& sampling,
                    const OnText& on_text) {
  Generation out;
  BatchEngine engine(model, 1);
  engine.add({prompt, sampling, on_text, [&](const Generation& done) { out = done; }});
  while (engine.step()) {
  }
  return out;
}

std::vector<Generation> generate_batch(const LanguageModel& model, const std::vector<std::vector<TokenId>>& prompts,
                                       const std::vector<Sampling>& sampling) {
  if (sampling.size() != prompts.size())
    fail("{} prompts were given with {} sampling settings; each prompt needs its own", prompts.size(), sampling.size());
  std::vector<Generation> out(prompts.size());
  if (prompts.empty()) return out;
  constexpr std::size_t kMaxSlots = 8;
  BatchEngine engine(model, static_cast<std::int64_t>(std::min(prompts.size(), kMaxSlots)));
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    engine.add({prompts[i], sampling[i], {}, [&out, i](const Generation& done) { out[i] = done; }});
  }
  while (engine.step()) {
  }
  return out;
}

}  // namespace rhetor
