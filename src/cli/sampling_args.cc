#include "cli/sampling_args.h"

#include <charconv>

#include "base/error.h"

namespace rhetor {
namespace {

// "ID=BIAS"
std::pair<TokenId, double> parse_bias(const std::string& text) {
  TokenId id = 0;
  double bias = 0;
  const char* const end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), end, id);
  if (first.ec == std::errc() && first.ptr != end && *first.ptr == '=') {
    const auto second = std::from_chars(first.ptr + 1, end, bias);
    if (second.ec == std::errc() && second.ptr == end) return {id, bias};
  }
  fail("--logit-bias expects ID=BIAS, as in 50256=-100, found '{}'", text);
}

}  // namespace

void SamplingArgs::add_to(Args& args) {
  Sampling& s = sampling_;
  args.option("--temperature", s.temperature, "0 = always the likeliest token", 0.0, 100.0)
      .option("--top-k", s.top_k, "sample among the k likeliest tokens, 0 = all", 0, 1 << 20)
      .option("--top-p", s.top_p, "sample among the likeliest tokens that make up this probability", 0.0, 1.0)
      .option("--min-p", s.min_p, "leave out tokens less likely than this share of the likeliest, 0 = off", 0.0, 1.0)
      .option("--repetition-penalty", s.repetition_penalty, "divides the logits of tokens seen in prompt and answer (CTRL), 1 = off", 0.1, 10.0)
      .option("--presence-penalty", s.presence_penalty, "taken from the logit of each token that occurs in the answer", -2.0, 2.0)
      .option("--frequency-penalty", s.frequency_penalty, "the same, times how often it occurs", -2.0, 2.0)
      .option("--logit-bias", biases_, "ID=BIAS: added to the logit of a token, -100 bans it (repeatable)")
      .option("--max-tokens", s.max_tokens, "longest answer", 1, 1 << 20)
      .option("--stop", s.stop, "end before this text (repeatable)")
      .option("--seed", seed_, "same seed, same text", 0, std::int64_t{1} << 62);
}

void SamplingArgs::add_answers_to(Args& args) {
  Sampling& s = sampling_;
  args.option("--n", s.n, "answers to give; the prompt is read once", 1, 128)
      .option("--beams", s.beams, "beam search with this many hypotheses instead of sampling, 1 = off", 1, 32)
      .option("--length-penalty", s.length_penalty, "beam search: score = log-probability / tokens ^ this", -10.0, 10.0)
      .flag("--early-stopping", s.early_stopping, "beam search: end once `beams` hypotheses are complete")
      .option("--logprobs", top_logprobs_, "log-probability of each token and of so many likeliest ones, -1 = off", -1, 20);
}

Sampling SamplingArgs::get() const {
  Sampling out = sampling_;
  out.seed = static_cast<std::uint64_t>(seed_);
  out.logprobs = top_logprobs_ >= 0;
  out.top_logprobs = out.logprobs ? top_logprobs_ : 0;
  for (const auto& text : biases_) {
    const auto [id, bias] = parse_bias(text);
    if (!out.logit_bias.emplace(id, bias).second) fail("--logit-bias names the token {} twice", id);
  }
  out.validate();
  return out;
}

}  // namespace rhetor
