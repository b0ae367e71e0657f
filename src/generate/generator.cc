#include "generate/generator.h"

#include <algorithm>

#include "base/error.h"
#include "generate/batch_engine.h"

namespace rhetor {
namespace {

constexpr std::int64_t kMaxSlots = 8;   // a cache a slot; more rows than this make a step little cheaper a row

}  // namespace

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
  if (sampling.n != 1) fail("generate() gives one answer, and {} were asked for; generate_n() gives them all", sampling.n);
  Generation out;
  BatchEngine engine(model, sampling.beams);
  engine.add({prompt, sampling, on_text, [&](const Generation& done) { out = done; }});
  while (engine.step()) {
  }
  return out;
}

std::vector<Generation> generate_n(const LanguageModel& model, const std::vector<TokenId>& prompt, const Sampling& sampling) {
  std::vector<Generation> out;
  BatchEngine engine(model, sampling.beams > 1 ? sampling.beams : std::min(sampling.n, kMaxSlots));
  engine.add({prompt, sampling, {}, [&](const Generation& done) { out.push_back(done); }});
  while (engine.step()) {
  }
  std::sort(out.begin(), out.end(), [](const Generation& a, const Generation& b) { return a.index < b.index; });
  return out;
}

std::vector<Generation> generate_batch(const LanguageModel& model, const std::vector<std::vector<TokenId>>& prompts,
                                       const std::vector<Sampling>& sampling) {
  if (sampling.size() != prompts.size())
    fail("{} prompts were given with {} sampling settings; each prompt needs its own", prompts.size(), sampling.size());
  std::vector<Generation> out(prompts.size());
  if (prompts.empty()) return out;
  std::int64_t slots = std::min(static_cast<std::int64_t>(prompts.size()), kMaxSlots);
  for (const Sampling& s : sampling) {
    if (s.n != 1) fail("generate_batch() gives one answer a prompt, and {} were asked for", s.n);
    slots = std::max(slots, s.beams);
  }
  BatchEngine engine(model, slots);
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    engine.add({prompts[i], sampling[i], {}, [&out, i](const Generation& done) { out[i] = done; }});
  }
  while (engine.step()) {
  }
  return out;
}

}  // namespace rhetor
