#include "generate/score.h"

#include <algorithm>

#include "base/error.h"
#include "generate/batch_engine.h"

namespace rhetor {

std::vector<Score> score(const LanguageModel& model, std::span<const Continuation> wanted, std::int64_t slots) {
  std::vector<Score> out(wanted.size());
  if (wanted.empty()) return out;
  BatchEngine engine(model, std::min(slots, static_cast<std::int64_t>(wanted.size())));
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (wanted[i].tokens.empty())
      fail("the continuation {} of {} has no tokens; there is nothing to score", i + 1, wanted.size());
    BatchRequest request{.prompt = wanted[i].prompt, .sampling = {.logprobs = true, .top_logprobs = 1}};
    request.forced = wanted[i].tokens;
    request.on_done = [&to = out[i]](const Generation& done) {
      to.tokens = done.logprobs;
      for (const TokenLogprob& token : to.tokens) {
        to.logprob += token.logprob;
        to.greedy = to.greedy && token.top[0].first == token.id;
      }
    };
    engine.add(std::move(request));
  }
  while (engine.step()) {
  }
  return out;
}

Continuation split_continuation(const Tokenizer& tokenizer, std::string_view prompt, std::string_view text) {
  Continuation out;
  out.prompt = tokenizer.encode(prompt);
  out.tokens = tokenizer.encode(std::string(prompt) + std::string(text));
  const auto parted = std::mismatch(out.prompt.begin(), out.prompt.end(), out.tokens.begin(), out.tokens.end());
  out.prompt.erase(parted.first, out.prompt.end());
  out.tokens.erase(out.tokens.begin(), parted.second);
  return out;
}

std::int64_t cut_to_context(Continuation& c, std::int64_t context) {
  const auto tokens = static_cast<std::int64_t>(c.tokens.size());
  // The last token is only predicted; an empty prompt becomes one token.
  const std::int64_t room = context + 1 - tokens;
  if (room < 1) fail("a continuation of {} tokens does not fit the model's context of {}; shorten it", tokens, context);
  const std::int64_t cut = std::max<std::int64_t>(0, static_cast<std::int64_t>(c.prompt.size()) - room);
  c.prompt.erase(c.prompt.begin(), c.prompt.begin() + cut);
  return cut;
}

}  // namespace rhetor
